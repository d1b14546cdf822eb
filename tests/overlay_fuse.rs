//! Layers that fuse-overlayfs puts together, as it does for users whom the kernel refuses overlayfs.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::path::Path;

use common::{Host, Leaks, assert_refused, wait_until};
use serde_json::{Value, json};

/// A service that is told to use the program, with the image busybox.
fn host() -> Option<Host> {
    if dormouse::runtime::overlay::program().is_none() || !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: fuse-overlayfs or /dev/fuse is missing (apt install fuse-overlayfs)");
        return None;
    }
    let host = Host::with_environment(&[("DORMOUSE_OVERLAY", Path::new("fuse"))])?;
    host.import_busybox();
    Some(host)
}

/// Processes that serve layers of this host.
fn servers(host: &Host) -> Vec<i32> {
    let own = host.state_dir().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).into_owned();
            command.contains("fuse-overlayfs") && command.contains(&own)
        })
        .collect()
}

#[test]
fn a_container_lives_on_it_and_leaves_no_process() {
    let Some(host) = host() else { return };
    let leaks = Leaks::before(&host);
    let script = "grep -o ' / / .*' /proc/self/mountinfo | cut -c 4-; echo new > /new; rm /etc/not-executable; rm -r /tmp; mkdir /tmp; echo x > /tmp/x; \
                  trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let container = host.sh(script).named("fused").run_until_stoppable();
    let root = &container.log()[0];
    assert!(root.contains(" - fuse.fuse-overlayfs "), "{root}");
    assert_eq!(servers(&host).len(), 1);
    // Nothing of it is seen on the host, and nothing inside: not its process, nor a descriptor.
    assert!(!std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains("fuse-overlayfs"));
    assert!(!container.exec_output("ps").contains("fuse"));
    assert_eq!(
        container.exec_output("cat /new; ls /tmp; ls /etc/not-executable 2>/dev/null; true"),
        "new\nx\n"
    );
    container.stop().unwrap();
    wait_until("its process is gone", || servers(&host).is_empty());

    // What it has written is there at the next start, and told as a change, with what an opaque directory hides.
    container.start().unwrap();
    assert_eq!(container.exec_output("cat /new; ls /tmp"), "new\nx\n");
    container.call("Stop", json!({"timeoutUSec": 0})).unwrap();
    let changes = container.call("Diff", json!({})).unwrap()["changes"].clone();
    let paths: Vec<&str> =
        changes.as_array().unwrap().iter().filter_map(|change| change["path"].as_str()).collect();
    assert!(paths.contains(&"/new") && paths.contains(&"/tmp/x"), "{changes}");
    assert!(paths.contains(&"/etc/not-executable"), "{changes}");
    assert!(!changes.to_string().contains(".wh."), "{changes}");
    let stat = container.call("StatPath", json!({"path": "/new"})).unwrap();
    assert_eq!(stat["info"]["sizeBytes"], 4, "{stat}");
    container.call("Commit", json!({"image": "changed"})).unwrap();
    container.remove().unwrap();
    wait_until("no process is left", || servers(&host).is_empty());
    let again = "cat /new; ls -A /tmp; test ! -e /etc/not-executable && find / -xdev -name '.wh.*'";
    assert_eq!(host.sh(again).with(json!({"image": "changed"})).output(), "new\nx\n");
    // Its last container removes itself.
    wait_until("the image can go", || host.call("Image.Remove", json!({"name": "changed"})).is_ok());
    wait_until("no process is left", || servers(&host).is_empty());
    leaks.assert_none_after();
}

#[test]
fn restarts_and_a_killed_monitor_leave_it_as_any_other() {
    let Some(mut host) = host() else { return };
    let plan = host.sh("echo run >> /runs; cat /runs; exit 1");
    let restarted = plan.with(json!({"restart": {"mode": "onFailure", "retriesMax": 2}})).run();
    wait_until("it has run three times", || restarted.log().len() == 6);
    assert_eq!(restarted.exit_code(), Some(1));
    wait_until("no process is left", || servers(&host).is_empty());
    restarted.remove().unwrap();

    let name = host.sleeper().named("lasting").run_until_stoppable().name;
    host.crash();
    host.wake();
    let lasting = common::Container { host: &host, name, reply: Value::Null };
    assert_eq!(lasting.exec_output("echo in > /file; cat /file"), "in\n");
    lasting.remove_by_force().unwrap();
    wait_until("no process is left", || servers(&host).is_empty());
}

#[test]
fn an_external_runtime_gets_it_as_well() {
    let Some(host) = host() else { return };
    if !Path::new("/usr/bin/crun").exists() {
        eprintln!("SKIPPED: crun is missing (apt install crun)");
        return;
    }
    let plan = host.sh("echo x > /file; cat /file").with(json!({"runtime": "crun"}));
    assert_eq!(plan.output(), "x\n");
    wait_until("no process is left", || servers(&host).is_empty());
}

#[test]
fn what_only_the_kernel_can_do_is_refused_by_name() {
    let Some(host) = host() else { return };
    let refusal = assert_refused(
        host.sh("true").with(json!({"userNamespace": {"kind": "auto"}, "autoRemove": true})).try_run(),
        "Unsupported",
    );
    assert!(refusal.reason().contains("fuse-overlayfs"), "{refusal:?}");
    let container = host.sleeper().named("seen").create();
    let refusal = assert_refused(container.call("Mount", json!({})), "Unsupported");
    assert!(refusal.reason().contains("fuse-overlayfs"), "{refusal:?}");
}
