//! Varlink clients that none of us wrote drive the service: the `varlink` package of PyPI, and the `varlink` command.
//!
//! `cargo xtask test` installs both below target/clients. systemd's varlinkctl, which Debian 12 does not have, is
//! checked in the virtual host (tests/vm).

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

#[path = "../common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::*;
use serde_json::{Value, json};

/// One of the clients that `cargo xtask clients` installs.
fn client(name: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_BIN_EXE_dormouse")).ancestors().nth(2).unwrap();
    let program = target.join("clients/bin").join(name);
    if !program.exists() {
        eprintln!("SKIPPED: {} is missing (cargo xtask clients)", program.display());
        return None;
    }
    Some(program)
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap()
}

fn text(output: &Output) -> (String, String) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn the_package_of_pypi_drives_the_life_of_a_container() {
    let Some(python) = client("python") else { return };
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_clients/life.py");
    let output = run(&python, &[script, &host.address()]);
    assert!(output.status.success(), "{:?}", text(&output));
    leaks.assert_none_after();
}

#[test]
fn the_varlink_command_asks_and_orders() {
    let Some(varlink) = client("varlink") else { return };
    let Some(host) = Host::new() else { return };
    let address = host.address();

    let (told, _) = text(&run(&varlink, &["info", &address]));
    assert!(told.contains("io.dormouse.Container"), "{told}");
    let (interface, _) = text(&run(&varlink, &["help", &format!("{address}/io.dormouse.Unit")]));
    assert!(interface.contains("method Journal"), "{interface}");

    let call = |options: &[&str], method: &str, parameters: Value| {
        let target = format!("{address}/io.dormouse.{method}");
        let output =
            run(&varlink, &[&["call"], options, &[target.as_str(), &parameters.to_string()]].concat());
        (output.status.success(), text(&output))
    };
    let spec = json!({"name": "cli", "image": "busybox", "command": ["echo", "heard"],
                      "networkNamespace": {"kind": "private"}});
    let (done, said) = call(&[], "Container.Run", json!({"spec": spec}));
    assert!(done, "{said:?}");
    let (done, said) = call(&["-m"], "Container.Logs", json!({"name": "cli", "follow": true}));
    assert!(done && said.0.contains("heard"), "{said:?}");
    let (done, said) = call(&[], "Container.Inspect", json!({"name": "nobody"}));
    assert!(!done && said.1.contains("io.dormouse.Container.NotFound"), "{said:?}");
    let (done, said) = call(&[], "Container.Remove", json!({"name": "cli", "force": true}));
    assert!(done, "{said:?}");
}
