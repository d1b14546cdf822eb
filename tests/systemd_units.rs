//! The units that a package installs, as systemd itself reads them.

#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::path::Path;
use std::process::Command;

/// Verifies the units of a folder, with the program where it is and not where a package would put it.
fn verify(folder: &str, options: &[&str]) {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no systemd-analyze");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd-units").join(folder);
    let mut units = Vec::new();
    for entry in std::fs::read_dir(&source).unwrap() {
        let name = entry.unwrap().file_name();
        let text = std::fs::read_to_string(source.join(&name)).unwrap();
        let unit = dir.path().join(&name);
        std::fs::write(&unit, text.replace("/usr/bin/dormouse", env!("CARGO_BIN_EXE_dormouse"))).unwrap();
        units.push(unit);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--generators=no"])
        .args(options)
        .args(&units)
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Other units of the host may have faults of their own.
    let faults: Vec<&str> = said.lines().filter(|line| line.contains("dormouse")).collect();
    assert_eq!(faults, Vec::<&str>::new());
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_units_of_the_system_are_in_order() {
    verify("system", &[]);
}

#[test]
fn the_units_of_a_user_are_in_order() {
    verify("user", &["--user"]);
}

#[test]
fn stopping_the_service_does_not_stop_containers_and_calls_may_come_as_often_as_they_like() {
    for folder in ["system", "user"] {
        let read = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd-units").join(folder).join(name);
            std::fs::read_to_string(path).unwrap()
        };
        let (service, socket) = (read("dormouse.service"), read("dormouse.socket"));
        for line in ["Type=notify", "KillMode=process", "Delegate=yes", "StartLimitIntervalSec=0"] {
            assert!(service.lines().any(|given| given == line), "{folder}: {line}");
        }
        for line in ["FileDescriptorName=varlink", "SocketMode=0600", "TriggerLimitIntervalSec=0"] {
            assert!(socket.lines().any(|given| given == line), "{folder}: {line}");
        }
    }
}
