//! The root of a container on the host, and files of containers that do not run where something would be mounted.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};

use common::{Container, Host, Leaks, assert_refused, wait_until};
use serde_json::{Value, json};

fn mount(container: &Container<'_>) -> String {
    container.call("Mount", json!({})).unwrap()["path"].as_str().unwrap().to_owned()
}

fn dormouse(host: &Host, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address()])
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir(host.path())
        .output()
        .unwrap()
}

#[test]
fn a_root_on_the_host_is_the_containers_own_over_ends_and_starts() {
    let Some(mut host) = Host::new() else { return };
    let leaks = Leaks::before(&host).kept();
    let id = {
        let web = host
            .sleeper()
            .named("web")
            .with(json!({"mounts": [{"kind": "tmpfs", "target": "/hidden"}]}))
            .create();
        let path = mount(&web);
        assert_eq!(mount(&web), path, "it stays where it is");
        assert_eq!(web.inspect()["rootMountPoint"], json!(path));
        fs::write(format!("{path}/before"), "before").unwrap();
        // Started, it is the same root: both see at once what the other does.
        web.start().unwrap();
        assert_eq!(web.exec_output("cat /before; echo inside > /inside; echo x > /hidden/x"), "before");
        assert_eq!(fs::read_to_string(format!("{path}/inside")).unwrap(), "inside\n");
        assert_eq!(
            fs::read_dir(format!("{path}/hidden")).unwrap().count(),
            0,
            "without what is mounted in it"
        );
        fs::write(format!("{path}/outside"), "outside").unwrap();
        assert_eq!(web.exec_output("cat /outside"), "outside");
        // It lends no rights on the host, and keeps them inside.
        let table = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = table.lines().find(|line| line.contains(&path)).unwrap().to_owned();
        assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
        assert!(
            web.exec_output("grep '^overlay / ' /proc/mounts").lines().all(|line| !line.contains("nosuid"))
        );
        web.kill("KILL").unwrap();
        web.exit_code();
        web.start().unwrap();
        assert_eq!(web.exec_output("echo again > /again; cat /inside"), "inside\n");
        assert_eq!(fs::read_to_string(format!("{path}/again")).unwrap(), "again\n");
        web.id().to_owned()
    };
    host.crash();
    host.wake();
    let details = host.call("Container.Inspect", json!({"name": "web"})).unwrap()["container"].take();
    let path = details["rootMountPoint"].as_str().unwrap().to_owned();
    // Who works there is not disturbed, unless that is wanted.
    let mut worker = Command::new("sleep").arg("1000").current_dir(&path).spawn().unwrap();
    let refusal = assert_refused(host.call("Container.Unmount", json!({"name": "web"})), "MountBusy");
    assert_eq!(refusal.parameters["path"], json!(path));
    host.call("Container.Unmount", json!({"name": "web", "force": true})).unwrap();
    worker.kill().unwrap();
    worker.wait().unwrap();
    host.call("Container.Unmount", json!({"name": "web"})).unwrap();
    assert!(!fs::exists(&path).unwrap());
    // Of one that runs.
    host.call("Container.Mount", json!({"name": id})).unwrap();
    assert_eq!(fs::read_to_string(format!("{path}/again")).unwrap(), "again\n");
    fs::write(format!("{path}/late"), "late").unwrap();
    let reply = host.call("Container.Exec", json!({"name": "web", "command": ["cat", "/late"]})).unwrap();
    assert_eq!(reply["stdout"], "late");
    // A removal takes it along.
    host.call("Container.Remove", json!({"name": "web", "force": true})).unwrap();
    assert!(!fs::exists(&path).unwrap());
    Leaks::since(&host, leaks).assert_none_after();
}

#[test]
fn a_restart_by_the_monitor_keeps_the_root_on_the_host() {
    let Some(host) = Host::new() else { return };
    let script = "echo x >> /starts; exec sleep 1000";
    let web = host.sh(script).with(json!({"restart": {"mode": "always"}})).run();
    let starts = || fs::read_to_string(format!("{}/starts", mount(&web))).unwrap_or_default();
    wait_until("it has begun", || starts() == "x\n");
    let pid = web.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the next one writes to the same root", || starts() == "x\nx\n");
    web.remove_by_force().unwrap();
}

#[test]
fn what_can_not_be_mounted_is_told() {
    let Some(host) = Host::new() else { return };
    assert_refused(host.call("Container.Mount", json!({"name": "absent"})), "NotFound");
    assert_refused(host.call("Container.Unmount", json!({"name": "absent"})), "NotFound");
    let own_users = host.sleeper().with(json!({"userNamespace": {"kind": "auto"}})).create();
    assert_refused(own_users.call("Mount", json!({})), "Unsupported");
}

#[test]
fn the_commands_mount_list_and_unmount() {
    let Some(host) = Host::new() else { return };
    host.sleeper().named("web").create();
    let said = |arguments: &[&str]| {
        let output = dormouse(&host, arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = said(&["mount", "web"]);
    assert!(fs::exists(format!("{}/bin/busybox", path.trim())).unwrap());
    assert!(said(&["mount"]).contains(path.trim()));
    assert_eq!(said(&["umount", "--all"]), "web\n");
    assert!(!said(&["mount"]).contains(path.trim()));
}

/// What CopyOut writes, as text: each entry's name, and the content of files.
fn copied_out(container: &Container<'_>, path: &str) -> Result<String, common::Refusal> {
    let mut archive = tempfile::tempfile().unwrap();
    let parameters = json!({"name": container.name, "path": path, "archive": 0});
    container.host.call_with_fds("Container.CopyOut", parameters, &[archive.as_fd()])?;
    archive.rewind().unwrap();
    let mut text = String::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        text += &format!("{}\n", entry.path().unwrap().display());
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            text += &String::from_utf8_lossy(&bytes);
        }
    }
    Ok(text)
}

#[test]
fn files_of_one_that_does_not_run_are_copied_where_something_would_be_mounted() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let bound = host.path().join("bound");
    fs::create_dir(&bound).unwrap();
    fs::write(bound.join("file"), "bound\n").unwrap();
    let mounts = json!([
        {"kind": "volume", "source": "data", "target": "/data/deep", "readOnly": true},
        {"kind": "volume", "source": "etc", "target": "/etc"},
        {"kind": "bind", "source": bound, "target": "/data/bound"},
        {"kind": "image", "source": "busybox", "target": "/image"},
        {"kind": "tmpfs", "target": "/memory"}, {"kind": "volume", "source": "kept", "target": "/memory/kept"}]);
    let idle = host
        .sh("cat /data/deep/new /etc/new /memory/kept/new; ln -s /data/bound /way")
        .with(json!({ "mounts": mounts }))
        .create();
    let cp = |from: &str, to: &str| dormouse(&host, &["cp", from, to]);
    let name = &idle.name;
    fs::write(host.path().join("new"), "new\n").unwrap();
    assert!(copied_out(&idle, "/etc").unwrap().contains("etc/passwd"), "a first use fills it from the image");
    assert_refused(idle.call("StatPath", json!({"path": "/data/absent"})), "PathNotFound");
    assert_eq!(idle.call("Diff", json!({})).unwrap()["changes"], json!([]), "to look leaves no trace");
    for place in ["/data/deep", "/etc", "/data/bound", "/memory/kept"] {
        let output = cp("new", &format!("{name}:{place}/"));
        assert!(output.status.success(), "{place}: {output:?}");
        assert_eq!(copied_out(&idle, &format!("{place}/new")).unwrap(), "new\nnew\n");
    }
    assert_eq!(fs::read_to_string(bound.join("new")).unwrap(), "new\n");
    assert!(
        copied_out(&idle, "/image/bin/busybox").is_ok()
            && !cp("new", &format!("{name}:/image/")).status.success()
    );
    assert_refused(idle.call("StatPath", json!({"path": "/memory/x"})), "Unsupported");
    // It finds all of it when it runs, and links lead there when it does not.
    idle.start().unwrap();
    assert_eq!(idle.exit_code(), Some(0));
    assert_eq!(idle.log(), ["new", "new", "new"]);
    assert_eq!(copied_out(&idle, "/way/file").unwrap(), "file\nbound\n");
    // While its root is on the host, that is where things are put.
    let path = mount(&idle);
    assert!(cp("new", &format!("{name}:/root/")).status.success());
    assert_eq!(fs::read_to_string(format!("{path}/root/new")).unwrap(), "new\n");
    assert!(cp("new", &format!("{name}:/data/deep/more")).status.success());
    assert_eq!(copied_out(&idle, "/data/deep/more").unwrap(), "more\nnew\n");
    idle.call("Remove", json!({})).unwrap();
    fs::remove_dir_all(&bound).unwrap();
    for volume in ["data", "etc", "kept"] {
        host.call("Volume.Remove", json!({"name": volume})).unwrap();
    }
    let _: Value = host.call("Container.List", json!({})).unwrap();
    leaks.assert_none_after();
}
