//! The library of Podman's project for Python, driven through all its objects. `cargo xtask test` installs it below
//! target/clients.

use std::path::Path;
use std::process::Command;

use crate::common::*;
use crate::image_registry::{Config, Registry};

#[test]
fn the_library_for_python_drives_all_its_objects() {
    let target = Path::new(env!("CARGO_BIN_EXE_dormouse")).ancestors().nth(2).unwrap();
    let python = target.join("clients/bin/python");
    if !target.join("clients/lib").exists() || !has_library(&python) {
        eprintln!("SKIPPED: the package podman is missing (cargo xtask clients)");
        return;
    }
    let Some(registry) = Registry::plain() else { return };
    let Some(host) = Config::insecure(&[&registry.address]).host_kept() else { return };
    let (host, _config) = host;
    host.import_busybox();
    let leaks = Leaks::before(&host);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/io_podman/objects.py");
    let output = Command::new(&python)
        .args([script, &host.address(), &host.path().display().to_string(), &registry.address])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for line in said.lines().filter(|line| line.starts_with("SKIPPED:")) {
        eprintln!("{line}");
    }
    leaks.assert_none_after();
}

fn has_library(python: &Path) -> bool {
    let looked = Command::new(python)
        .args(["-c", "import importlib.util, sys; sys.exit(importlib.util.find_spec('podman') is None)"])
        .status();
    looked.is_ok_and(|status| status.success())
}
