//! Overlays over what is shared, parts of volumes, and volumes with options made on the way.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs;
use std::process::{Command, Output, Stdio};

use common::{Host, Leaks, assert_refused, wait_until};
use serde_json::json;

fn dormouse(host: &Host, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[track_caller]
fn said(host: &Host, arguments: &[&str]) -> String {
    let output = dormouse(host, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_written_over_an_overlay_is_the_containers_and_lasts_until_its_next_start() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let source = tempfile::Builder::new().prefix("with : and \\ ").tempdir().unwrap();
    fs::write(source.path().join("file"), "host\n").unwrap();
    fs::write(source.path().join("other"), "host\n").unwrap();
    let bound = json!({"kind": "bind", "source": source.path(), "target": "/bound", "overlay": true});
    let volume = json!({"kind": "volume", "source": "data", "target": "/volume", "overlay": true});
    said(&host, &["volume", "create", "data"]);
    let script =
        "for at in /bound /volume; do cat $at/new 2>/dev/null; echo own > $at/new; done; rm /bound/other
                  echo changed >> /bound/file; cat /bound/file";
    let plan = host.sh(script).with(json!({"mounts": [bound, volume]})).named("writer");
    let writer = plan.create();
    for _ in 0..2 {
        writer.start().unwrap();
        assert_eq!(writer.exit_code(), Some(0), "{:?}", writer.log());
    }
    assert_eq!(writer.log(), ["host", "changed", "host", "changed"]);
    assert_eq!(fs::read_to_string(source.path().join("file")).unwrap(), "host\n");
    assert!(source.path().join("other").exists() && !source.path().join("new").exists());
    assert_eq!(writer.inspect()["spec"]["mounts"][0]["overlay"], true);
    // Nothing is written past it while the container does not run.
    let refused = dormouse(&host, &["cp", "/etc/hostname", "writer:/bound/hostname"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("overlay"), "{refused:?}");
    writer.remove().unwrap();

    let flag = "data:/data:O,ro";
    let text = said(
        &host,
        &[
            "run",
            "--rm",
            "--net",
            "none",
            "-v",
            flag,
            "busybox",
            "sh",
            "-c",
            "echo x > /data/x || echo refused",
        ],
    );
    assert_eq!(text, "refused\n");
    wait_until("it is removed", || host.names().is_empty());

    let refuse = |mount: serde_json::Value| host.sh("true").with(json!({ "mounts": [mount] })).try_create();
    let wrong =
        assert_refused(refuse(json!({"kind": "tmpfs", "target": "/t", "overlay": true})), "InvalidSpec");
    assert_eq!(wrong.parameters["field"], "spec.mounts[0].overlay");
    let file = json!({"kind": "bind", "source": source.path().join("file"), "target": "/f", "overlay": true});
    let of_a_file = host.sh("true").with(json!({"mounts": [file]})).create();
    assert!(assert_refused(of_a_file.start(), "Unsupported").reason().contains("no directory"));
    of_a_file.remove().unwrap();
    host.call("Volume.Remove", json!({"name": "data"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_part_of_a_volume_is_all_that_is_seen_and_nothing_leads_out_of_it() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let all = json!({"mounts": [{"kind": "volume", "source": "data", "target": "/data"}]});
    let fill =
        "mkdir -p /data/a/b && echo deep > /data/a/b/file && echo top > /data/file && ln -s a /data/inside
                ln -s /etc /data/outside && ln -s ../../.. /data/a/above";
    host.sh(fill).with(all).output();
    wait_until("it is removed", || host.names().is_empty());
    let mount = |path: &str| format!("type=volume,src=data,target=/part,volume-subpath={path}");
    let run = |path: &str, script: &str| {
        dormouse(
            &host,
            &["run", "--rm", "--net", "none", "--mount", &mount(path), "busybox", "sh", "-c", script],
        )
    };
    for (path, expected) in [("a/b", "file\n"), ("inside/b", "file\n"), ("a", "above\nb\n")] {
        let output = run(path, "ls /part");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{path}: {output:?}");
    }
    assert_eq!(run("file", "cat /part").stdout, b"top\n", "a file is a part too");
    for path in ["outside", "a/above", "nothing"] {
        let output = run(path, "ls /part");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && complaint.contains("/part"), "{path}: {complaint}");
        assert_eq!(output.stdout, b"", "{path}");
    }
    for path in ["..", "a/../../b", "/etc", ""] {
        let spec =
            json!({"mounts": [{"kind": "volume", "source": "data", "target": "/part", "subpath": path}]});
        let wrong = assert_refused(host.sh("true").with(spec).try_create(), "InvalidSpec");
        assert_eq!(wrong.parameters["field"], "spec.mounts[0].subpath", "{path:?}");
    }
    let other = json!({"runtime": "crun", "mounts": [{"kind": "volume", "source": "data", "target": "/p", "subpath": "a"}]});
    assert_refused(host.sh("true").with(other).try_create(), "Unsupported");
    wait_until("they are removed", || host.names().is_empty());
    host.call("Volume.Remove", json!({"name": "data"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_volume_that_a_mount_asks_for_is_made_with_its_options() {
    let Some(host) = Host::new() else { return };
    let mount =
        "type=volume,src=scratch,target=/s,volume-driver=local,volume-opt=type=tmpfs,volume-opt=o=size=1m";
    let run = |mount: &str| {
        dormouse(
            &host,
            &["run", "--rm", "--net", "none", "--mount", mount, "busybox", "sh", "-c", "df -k /s | tail -1"],
        )
    };
    let output = run(mount);
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(line.contains(" 1024 "), "{output:?}");
    let volume = host.call("Volume.Inspect", json!({"name": "scratch"})).unwrap()["volume"].clone();
    assert_eq!(volume["options"], json!({"type": "tmpfs", "o": "size=1m"}));
    let wrong = json!({"mounts": [{"kind": "volume", "source": "x", "target": "/x", "volumeOptions": {"color": "red"}}]});
    let wrong = assert_refused(host.sh("true").with(wrong).try_create(), "InvalidSpec");
    assert_eq!(wrong.parameters["field"], "spec.mounts[0].volumeOptions.color");
    assert_refused(host.call("Volume.Inspect", json!({"name": "x"})), "NotFound");
    let output = run("type=volume,src=y,target=/y,volume-driver=nfs");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
