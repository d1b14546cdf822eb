//! Out of containers: their changes, their root file systems, and images of them.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod image_support;
mod image_tools;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use common::{Host, Leaks, assert_refused};
use image_tools::{Tools, run};
use serde_json::{Value, json};

const CHANGES: &str = "
    echo new > /new
    mkdir -p /deep/er && ln -s /nowhere /deep/er/link && ln /new /deep/hard
    echo changed > /etc/motd
    rm /etc/passwd
    rm -r /tmp && mkdir /tmp && echo x > /tmp/x && chmod 1777 /tmp
    mkfifo /fifo
    chown 1000:70000 /new
    chmod 4755 /deep/er";

/// busybox with something to change.
fn host() -> Option<Host> {
    let host = Host::new()?;
    let base = host.sh("echo first > /etc/motd; echo old > /tmp/old").create();
    base.start().unwrap();
    base.exit_code();
    base.call("Commit", json!({"image": "base"})).unwrap();
    base.remove().unwrap();
    Some(host)
}

fn changed(host: &Host) -> common::Container<'_> {
    let container = host.sh(CHANGES).with(json!({"image": "base"})).create();
    container.start().unwrap();
    assert_eq!(container.exit_code(), Some(0));
    container
}

fn unpacked(tar: &Path, into: &Path) {
    fs::create_dir(into).unwrap();
    run(Command::new("tar")
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
        .arg(tar)
        .arg("-C")
        .arg(into));
}

#[test]
fn what_a_container_has_changed_is_told() {
    let Some(host) = host() else { return };
    let container = changed(&host);
    let changes = container.call("Diff", json!({})).unwrap()["changes"].clone();
    let lines: Vec<String> = changes
        .as_array()
        .unwrap()
        .iter()
        .map(|change| format!("{} {}", change["kind"].as_str().unwrap(), change["path"].as_str().unwrap()))
        .collect();
    assert_eq!(
        lines,
        [
            "added /deep",
            "added /deep/er",
            "added /deep/er/link",
            "added /deep/hard",
            "modified /etc",
            "modified /etc/motd",
            "deleted /etc/passwd",
            "added /fifo",
            "added /new",
            "modified /tmp",
            "deleted /tmp/old",
            "added /tmp/x",
        ]
    );
    let idle = host.sh("true").create();
    assert_eq!(idle.call("Diff", json!({})).unwrap()["changes"], json!([]));
    assert_refused(host.call("Container.Diff", json!({"name": "absent"})), "NotFound");
    let rootfs = tempfile::tempdir().unwrap();
    let spec = json!({"spec": {"rootfs": rootfs.path(), "command": ["true"], "name": "bare"}});
    host.call("Container.Create", spec).unwrap();
    assert_refused(host.call("Container.Diff", json!({"name": "bare"})), "Unsupported");
    assert_refused(host.call("Container.Commit", json!({"name": "bare"})), "Unsupported");
    host.call("Container.Export", json!({"name": "bare", "path": host.path().join("bare.tar")})).unwrap();
}

#[test]
fn an_image_of_a_container_has_its_tree_and_its_history() {
    let Some(host) = host() else { return };
    let container = changed(&host);
    let leaks = Leaks::before(&host);
    let config = json!({"command": ["cat", "/etc/motd"], "env": {"A": "1"}, "labels": {"made": "here"}});
    let parameters = json!({"image": "patched:2", "config": config, "author": "Alice", "comment": "a test"});
    let id = container.call("Commit", parameters).unwrap()["id"].clone();
    assert_eq!(host.image("patched:2").output(), "changed\n");
    let export = |name: &str, file: &str| {
        let path = host.path().join(file);
        host.call("Container.Export", json!({"name": name, "path": path})).unwrap();
        unpacked(&path, &host.path().join(format!("{file}.d")));
        image_support::tree(&host.path().join(format!("{file}.d")))
    };
    let fresh = host.image("patched:2").create();
    let (before, after) = (export(&container.name, "before.tar"), export(&fresh.name, "after.tar"));
    let known =
        |tree: &std::collections::BTreeMap<_, _>| tree.keys().cloned().collect::<Vec<std::path::PathBuf>>();
    let places = ["dev", "proc", "sys", "run"].map(Path::new);
    let names = |tree| {
        known(tree)
            .into_iter()
            .filter(|name| !places.iter().any(|place| name.starts_with(place)))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
    for name in names(&before).iter().filter(|name| !name.as_os_str().is_empty() && !name.starts_with("etc"))
    {
        assert_eq!(before[name], after[name], "{name:?}");
    }
    assert!(!after.contains_key(Path::new("etc/passwd")) && !after.contains_key(Path::new("tmp/old")));
    let steps = host.call("Image.History", json!({"name": id})).unwrap()["steps"].clone();
    assert_eq!(steps[0]["comment"], "a test");
    assert_eq!(steps.as_array().unwrap().len(), 3);
    let image = host.call("Image.Inspect", json!({"name": id})).unwrap()["image"].clone();
    assert_eq!(image["config"]["labels"], json!({"made": "here"}));
    assert_eq!(image["config"]["env"], json!({"A": "1"}));
    assert_eq!(image["layers"].as_array().unwrap().len(), 3);
    // Others take it.
    if let Some(tools) = Tools::new() {
        let saved = tools.path("saved.tar");
        host.call("Image.Save", json!({"names": ["patched:2"], "path": saved})).unwrap();
        tools.podman(&["load", "--quiet", "--input", saved.to_str().unwrap()]);
        assert_eq!(json!(tools.id("localhost/patched:2")), id);
    }
    common::wait_until("the container is removed", || host.names().len() == 2);
    fresh.remove().unwrap();
    host.call("Image.Remove", json!({"name": "patched:2"})).unwrap();
    leaks.assert_none_after();
    assert_refused(container.call("Commit", json!({"image": "No Name"})), "InvalidSpec");
}

#[test]
fn a_running_container_is_exported_without_what_is_mounted_in_it() {
    let Some(host) = host() else { return };
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("secret"), "of the host").unwrap();
    let mounts = json!([{"kind": "bind", "source": shared, "target": "/mnt"}]);
    let container = host.sleeper().with(json!({"image": "base", "mounts": mounts})).run_until_stoppable();
    container.exec("echo inside > /inside; ln -s /mnt/secret /link; echo more > /mnt/more");
    let tar = host.path().join("running.tar");
    let file = File::create(&tar).unwrap();
    let parameters = json!({"name": container.name, "archive": 0});
    let reply = host.call_with_fds("Container.Export", parameters, &[file.as_fd()]).unwrap();
    assert_eq!(reply["bytesWritten"], fs::metadata(&tar).unwrap().len());
    let listing = run(Command::new("tar").arg("-tf").arg(&tar));
    assert!(
        listing.contains("\ninside\n") && listing.contains("\nlink\n") && listing.contains("\nmnt/\n"),
        "{listing}"
    );
    assert!(
        !listing.contains("secret") && !listing.contains("mnt/more") && !listing.contains("proc/1"),
        "{listing}"
    );
    // It can be imported again.
    let id = host.call("Image.Import", json!({"name": "flat", "path": tar})).unwrap()["id"].clone();
    assert!(id.is_string());
    assert_eq!(host.sh("cat /inside").with(json!({"image": "flat"})).output(), "inside\n");
    // And committed while it runs.
    container.call("Commit", json!({"image": "live"})).unwrap();
    assert_eq!(host.sh("cat /inside; ls /mnt").with(json!({"image": "live"})).output(), "inside\n");
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    let refusal = assert_refused(
        host.call_with_fds(
            "Container.Export",
            json!({"name": container.name, "archive": 0}),
            &[full.as_fd()],
        ),
        "Failed",
    );
    assert!(refusal.reason().contains("no space"), "{}", refusal.reason());
    use std::io::Write as _;
    assert!(full.write(b"x").is_err());
    let path = host.path().join("absent/x.tar");
    assert_refused(
        host.call("Container.Export", json!({"name": container.name, "path": path})),
        "InvalidSpec",
    );
}

#[test]
fn a_hostile_tree_leads_nowhere() {
    let Some(host) = host() else { return };
    let deep = "d=/x; i=0; mkdir $d; cd $d; while [ $i -lt 1200 ]; do mkdir d; cd d; i=$((i+1)); done; echo x > file";
    let container = host
        .sh(&format!("ln -s / /root-link; ln -s ../../../../etc /up; mkdir /.wh.x 2>/dev/null; truncate -s 256M /sparse; {deep}"))
        .with(json!({"image": "base"}))
        .create();
    container.start().unwrap();
    assert_eq!(container.exit_code(), Some(0));
    container.call("Diff", json!({})).unwrap();
    let reply = container.call("Commit", json!({"image": "hostile"})).unwrap();
    let image = host.call("Image.Inspect", json!({"name": reply["id"]})).unwrap();
    assert!(image["image"]["summary"]["sizeBytes"].as_i64().unwrap() >= 1 << 28);
    let usage: Value = host.call("Manager.DiskUsage", json!({})).unwrap();
    assert!(usage["images"]["bytes"].as_i64().unwrap() < 1 << 26, "holes stay holes: {usage}");
    assert_eq!(host.sh("readlink /up").with(json!({"image": "hostile"})).output(), "../../../../etc\n");
}
