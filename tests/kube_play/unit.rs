//! `kube play --wait`, as the main process of a unit.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Host, Leaks, PATIENCE};
use crate::{exec, pod, write};

/// A unit's main process, for which a service manager waits.
fn as_unit(host: &Host, arguments: &[&str], notify: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["kube", "play", "--network", "none", "--replace", "--wait"])
        .args(arguments)
        .env("DORMOUSE_ADDRESS", host.address())
        .env("NOTIFY_SOCKET", notify)
        .current_dir(host.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_unit_is_ready_when_the_pod_runs_and_ends_with_it() {
    let Some(mut host) = Host::new() else { return };
    let leaks = Leaks::before(&host).kept();
    let path = host.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let hear = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).expect("a message comes");
        String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned()
    };
    write(&host, "long.yaml", &pod("long", "", "  restartPolicy: Never"));
    let mut unit = as_unit(&host, &["long.yaml"], &path);
    assert_eq!(hear(), "READY=1");
    assert_eq!(exec(&host, "long-main", "echo runs"), "runs");
    // An upgrade of the service is no end of the pod.
    host.crash();
    host.wake();
    assert_eq!(exec(&host, "long-main", "echo runs"), "runs");
    assert_eq!(unit.try_wait().unwrap(), None);
    kill(Pid::from_raw(i32::try_from(unit.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert_eq!(unit.wait().unwrap().code(), Some(0));
    assert_eq!(host.names(), [""; 0]);

    let ends = |code: u8, wait: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: short}}\nspec:\n  restartPolicy: Never\n  containers:\n  - {{name: a, image: busybox, command: [sh, -c, 'sleep 0.2; exit {code}']}}\n  - {{name: b, image: busybox, command: [sh, -c, '{wait}']}}\n"
        )
    };
    for (propagation, code, expected) in [("none", 3, 0), ("any", 3, 1), ("all", 3, 0), ("any", 0, 0)] {
        write(&host, "short.yaml", &ends(code, "true"));
        let mut unit = as_unit(&host, &["--service-exit-code-propagation", propagation, "short.yaml"], &path);
        assert_eq!(hear(), "READY=1");
        assert_eq!(hear(), "STOPPING=1");
        assert_eq!(unit.wait().unwrap().code(), Some(expected), "{propagation} {code}");
        assert_eq!(host.names(), [""; 0]);
    }
    write(&host, "short.yaml", &ends(3, "exit 4"));
    let mut unit = as_unit(&host, &["--service-exit-code-propagation", "all", "short.yaml"], &path);
    assert_eq!(unit.wait().unwrap().code(), Some(1));
    // What can't be played never was ready.
    while hear() != "STOPPING=1" {}
    write(&host, "bad.yaml", "kind: Pod\n");
    assert_eq!(as_unit(&host, &["bad.yaml"], &path).wait().unwrap().code(), Some(1));
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 16]).is_err());
    Leaks::since(&host, leaks).assert_none_after();
}
