//! What can be mounted beside volumes, and how: images, owners as they are seen, the order of mounts, propagation.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Host, Leaks, Plan, assert_refused, wait_until};
use serde_json::{Value, json};

fn with<'a>(plan: Plan<'a>, mounts: Value) -> Plan<'a> {
    plan.with(json!({ "mounts": mounts }))
}

/// An image of two layers named `tools`.
fn tools(host: &Host) {
    let base = host.sh("mkdir /tools && echo one > /tools/file").create();
    base.start().unwrap();
    base.exit_code();
    base.call("Commit", json!({"image": "tools"})).unwrap();
    base.remove().unwrap();
}

#[test]
fn the_tree_of_an_image_is_mounted() {
    let Some(host) = Host::new() else { return };
    tools(&host);
    let leaks = Leaks::before(&host);
    let image = |more: Value| {
        let mut mount = json!({"kind": "image", "source": "tools", "target": "/t"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([mount])
    };
    let look = "cat /t/tools/file; ls /t/bin/busybox; touch /t/new 2>&1 | grep -c Read-only";
    assert_eq!(with(host.sh(look), image(json!({}))).output(), "one\n/t/bin/busybox\n1\n");
    let one_layer = json!([{"kind": "image", "source": "busybox", "target": "/t"}]);
    assert_eq!(with(host.sh("ls /t/bin/sh; ! touch /t/x 2> /dev/null"), one_layer).output(), "/t/bin/sh\n");

    // What is written is the container's, over its starts, and the image stays what it is.
    let script = "cat /t/tools/own 2> /dev/null; echo mine > /t/tools/own; rm -f /t/tools/file";
    let writer = with(host.sh(script), image(json!({"readOnly": false}))).create();
    for _ in 0..2 {
        writer.start().unwrap();
        assert_eq!(writer.exit_code(), Some(0));
    }
    assert_eq!(writer.log(), ["mine"]);
    assert_eq!(with(host.sh("ls /t/tools"), image(json!({}))).output(), "file\n");
    // It is in use as a container's own image is.
    let refusal = assert_refused(host.call("Image.Remove", json!({"name": "tools"})), "InUse");
    assert!(refusal.reason().contains(&writer.name), "{refusal:?}");
    assert_eq!(host.call("Image.Prune", json!({"all": true})).unwrap()["removed"], json!([]));
    writer.remove().unwrap();
    assert_refused(
        with(host.sh(""), json!([{"kind": "image", "source": "absent", "target": "/t"}])).try_create(),
        "ImageNotFound",
    );
    wait_until("those that remove themselves are gone", || host.names().is_empty());
    leaks.assert_none_after();
    host.call("Image.Remove", json!({"name": "tools"})).unwrap();
}

#[test]
fn what_lies_deeper_is_mounted_later_whatever_the_order() {
    let Some(host) = Host::new() else { return };
    let outer = host.path().join("outer");
    fs::create_dir(&outer).unwrap();
    fs::write(outer.join("file"), "outer").unwrap();
    let mounts = json!([
        {"kind": "volume", "source": "deep", "target": "/a/b/c"},
        {"kind": "tmpfs", "target": "/a/b", "sizeBytes": 65536, "mode": 448, "flags": ["noexec"]},
        {"kind": "bind", "source": outer, "target": "/a"}]);
    let seen = with(
        host.sh("cat /a/file; stat -f -c %T /a/b; stat -c %a /a/b; ls -d /a/b/c; echo x > /a/b/c/y"),
        mounts,
    );
    assert_eq!(seen.output(), "outertmpfs\n700\n/a/b/c\n");
    assert!(outer.join("b").is_dir(), "a place for a mount is made in what lies there");
    // A tmpfs begins with what the image has, or empty.
    let count = |more: Value| {
        let mut mount = json!({"kind": "tmpfs", "target": "/etc"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(host.sh("ls /etc | grep -c passwd"), json!([mount])).finish().1
    };
    assert_eq!((count(json!({})), count(json!({"noCopy": true}))), ("1\n".to_owned(), "0\n".to_owned()));
}

#[test]
fn owners_are_seen_as_others_through_a_mapped_mount() {
    let Some(host) = Host::new() else { return };
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "x").unwrap();
    let range = |source: u32, target: u32| json!([{"source": source, "target": target, "count": 1}]);
    let map = json!({"uids": range(0, 1000), "gids": range(0, 2000)});
    let mounts = json!([{"kind": "bind", "source": shared, "target": "/s", "idMap": map}]);
    let script = "stat -c '%u %g' /s/file; echo y > /s/new";
    let seen = with(host.sh(script), mounts).with(json!({"user": "1000:2000"})).output();
    assert_eq!(seen, "1000 2000\n");
    let new = fs::metadata(shared.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid()), (0, 0));
    // The same of a volume, and with a change of owners that fits.
    let mount = json!([{"kind": "volume", "source": "v", "target": "/v", "idMap": map, "chown": true}]);
    let seen =
        with(host.sh("echo x > /v/f && stat -c '%u %g' /v/f"), mount).with(json!({"user": "1000:2000"}));
    assert_eq!(seen.output(), "1000 2000\n");
    let place = host.call("Volume.Inspect", json!({"name": "v"})).unwrap()["volume"]["mountPoint"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = fs::metadata(format!("{place}/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (0, 0));

    let refused = |map: Value| {
        let mounts = json!([{"kind": "bind", "source": shared, "target": "/s", "idMap": map}]);
        let refusal = assert_refused(with(host.sh(""), mounts).try_create(), "InvalidSpec");
        assert!(
            refusal.parameters["field"].as_str().unwrap().starts_with("spec.mounts[0].idMap"),
            "{refusal:?}"
        );
    };
    refused(json!({"uids": range(0, 1), "gids": []}));
    refused(json!({"uids": [{"source": 0, "target": 4_294_967_295_u32, "count": 9}], "gids": range(0, 0)}));
    refused(json!({"uids": [{"source": 0, "target": 0, "count": 0}], "gids": range(0, 0)}));
    refused(json!({"uids": [{"source": -1, "target": 0, "count": 1}], "gids": range(0, 0)}));
    // Of the container's user namespace, which it has not.
    refused(json!({"uids": [], "gids": []}));
}

#[test]
fn in_a_user_namespace_a_volume_belongs_to_the_containers_users() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    host.call("Secret.Create", json!({"name": "key", "data": "c2VjcmV0"})).unwrap();
    let own = json!({"userNamespace": {"kind": "auto"}});
    let volume = |more: Value| {
        let mut mount = json!({"kind": "volume", "source": "data", "target": "/etc"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([mount])
    };
    let secrets = json!({"secrets": [{"secret": "key", "mode": 256}, {"secret": "key", "target": "theirs", "uid": 1000, "mode": 256}]});
    let script = "stat -c '%u %g' /etc/passwd; echo x > /etc/mine && chown 1000 /etc/mine; cat /run/secrets/key; stat -c %u /run/secrets/theirs";
    assert_eq!(
        with(host.sh(script), volume(json!({}))).with(own.clone()).with(secrets).output(),
        "0 0\nsecret1000\n"
    );
    // Whoever its users are outside, another container, with or without a namespace, sees the same owners.
    for more in [own.clone(), json!({})] {
        assert_eq!(with(host.sh("stat -c %u /etc/mine"), volume(json!({}))).with(more).output(), "1000\n");
    }
    let given = with(host.sh("stat -c %u /etc/passwd"), volume(json!({"chown": true})));
    assert_eq!(given.with(own.clone()).with(json!({"user": "1000"})).output(), "1000\n");
    // A bind shows the host's owners, unless it is told to be as a volume.
    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let look = |more: Value| {
        let mut mount = json!({"kind": "bind", "source": shared, "target": "/s"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        with(host.sh("stat -c %u /s"), json!([mount])).with(own.clone()).output()
    };
    assert_eq!(look(json!({})), "65534\n");
    assert_eq!(look(json!({"idMap": {"uids": [], "gids": []}})), "0\n");
    let image = json!([{"kind": "image", "source": "busybox", "target": "/t"}]);
    assert_eq!(with(host.sh("stat -c %u /t/bin/busybox"), image).with(own.clone()).output(), "0\n");
    fs::remove_dir(&shared).unwrap();
    wait_until("those that remove themselves are gone", || host.names().is_empty());
    host.call("Volume.Remove", json!({"name": "data"})).unwrap();
    host.call("Secret.Remove", json!({"name": "key"})).unwrap();
    leaks.assert_none_after();
}
