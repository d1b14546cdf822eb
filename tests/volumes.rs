//! Volumes, as their users see them: what lives in them outlives containers, and nothing of them is left behind.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};

use common::{Host, Leaks, Plan, assert_refused, wait_until};
use serde_json::{Value, json};

fn volume(source: &str, target: &str) -> Value {
    json!({"kind": "volume", "source": source, "target": target})
}

fn with<'a>(plan: Plan<'a>, mounts: &[Value]) -> Plan<'a> {
    plan.with(json!({ "mounts": mounts }))
}

fn volumes(host: &Host) -> Vec<Value> {
    host.call("Volume.List", json!({})).unwrap()["volumes"].as_array().unwrap().clone()
}

/// Containers that remove themselves do so after their end was told.
fn until_only(host: &Host, names: &[&str]) {
    wait_until("those that remove themselves are gone", || host.names() == names);
}

fn inspect(host: &Host, name: &str) -> Value {
    host.call("Volume.Inspect", json!({"name": name})).unwrap()["volume"].take()
}

/// busybox with something at the places where volumes will be, and two paths that want volumes.
fn image(host: &Host, name: &str, config: Value) {
    let script = "mkdir -p /data/sub && echo text > /data/file && ln -s file /data/link && mkfifo /data/fifo
                  echo deep > /data/sub/deep && ln /data/file /data/hard && chown -R 1000:1000 /data
                  chmod 2750 /data && chmod 4755 /data/sub/deep && chown 70000:5 /data/sub && mkdir -p /cache /empty";
    let base = host.sh(script).create();
    base.start().unwrap();
    assert_eq!(base.exit_code(), Some(0));
    // The kernel's attributes are copied too.
    let upper = base.inspect()["upperDirectory"].as_str().unwrap().to_owned();
    rustix::fs::setxattr(format!("{upper}/data/file"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
        .unwrap();
    base.call("Commit", json!({"image": name, "config": config})).unwrap();
    base.remove().unwrap();
}

fn dormouse(host: &Host, arguments: &[&str]) -> Output {
    dormouse_reading(host, arguments, Stdio::null())
}

fn dormouse_reading(host: &Host, arguments: &[&str], stdin: impl Into<Stdio>) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address()])
        .args(arguments)
        .stdin(stdin)
        .current_dir(host.path())
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
fn what_is_in_a_volume_outlives_containers_and_is_shared() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let mounts = [volume("data", "/data")];
    with(host.sh("echo first > /data/file"), &mounts).output();
    let reader = with(host.sleeper(), &mounts).named("reader").run();
    assert_eq!(reader.exec_output("cat /data/file"), "first\n");
    with(host.sh("echo second >> /data/file"), &mounts).output();
    assert_eq!(reader.exec_output("cat /data/file"), "first\nsecond\n");
    assert_eq!(
        reader.exec_output(
            "grep ' /data ' /proc/mounts | cut -d' ' -f4 | tr , '\\n' | grep -cE '^(rw|nosuid|nodev)$'"
        ),
        "3\n"
    );

    until_only(&host, &["reader"]);
    let details = inspect(&host, "data");
    assert_eq!((&details["anonymous"], &details["fresh"]), (&json!(false), &json!(false)));
    assert_eq!(details["containers"][0]["name"], "reader");
    let place = details["mountPoint"].as_str().unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("{place}/file")).unwrap(), "first\nsecond\n");
    let listed = reader.inspect()["mounts"].clone();
    assert_eq!(listed[0]["name"], "data");
    assert_eq!(listed[0]["source"], json!(place));
    // Read-only is for this container alone, and for all below.
    let plan = with(
        host.sh("echo x > /data/file || echo refused"),
        &[json!({"kind": "volume", "source": "data", "target": "/data", "readOnly": true})],
    );
    assert!(plan.output().contains("refused"));

    until_only(&host, &["reader"]);
    // It is protected as long as a container's record has it, and goes with force.
    let refusal = assert_refused(host.call("Volume.Remove", json!({"name": "data"})), "InUse");
    assert_eq!(refusal.parameters["containers"], json!(["reader"]));
    reader.kill("KILL").unwrap();
    reader.exit_code();
    assert_refused(host.call("Volume.Remove", json!({"name": "data"})), "InUse");
    reader.start().unwrap();
    host.call("Volume.Remove", json!({"name": "data", "force": true})).unwrap();
    assert!(host.names().is_empty() && !fs::exists(&place).unwrap());
    assert_refused(host.call("Volume.Inspect", json!({"name": "data"})), "NotFound");
    leaks.assert_none_after();
}

#[test]
fn a_fresh_volume_gets_what_the_image_has_with_all_its_attributes() {
    let Some(host) = Host::new() else { return };
    image(&host, "base", json!({}));
    let leaks = Leaks::before(&host);
    let look =
        "cd /data && find . | sort | xargs stat -c '%n %F %a %u %g' && cat link sub/deep && stat -c %h file";
    let plain = host.sh(look).with(json!({"image": "base"})).output();
    assert!(
        plain.contains("./sub/deep regular file 4755 1000 1000")
            && plain.contains(". directory 2750 1000 1000")
    );
    assert_eq!(with(host.sh(look), &[volume("one", "/data")]).with(json!({"image": "base"})).output(), plain);
    let place = inspect(&host, "one")["mountPoint"].as_str().unwrap().to_owned();
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(format!("{place}/file"), "user.note", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"kept");
    assert_eq!(
        fs::metadata(format!("{place}/file")).unwrap().ino(),
        fs::metadata(format!("{place}/hard")).unwrap().ino()
    );

    // Only once: what was taken away stays away, also if all of it was.
    with(host.sh("rm -r /data/* && ls -A /data | wc -l"), &[volume("one", "/data")]).output();
    let count =
        with(host.sh("ls -A /data | wc -l"), &[volume("one", "/data")]).with(json!({"image": "base"}));
    assert_eq!(count.output(), "0\n");
    // Not if it is not wanted, and not over what somebody has put there.
    let no_copy = json!({"kind": "volume", "source": "two", "target": "/data", "noCopy": true});
    let count = |mount: Value| with(host.sh("ls -A /data | wc -l"), &[mount]).with(json!({"image": "base"}));
    assert_eq!(count(no_copy).output(), "0\n");
    let made = host.call("Volume.Create", json!({"name": "three"})).unwrap();
    fs::write(format!("{}/own", made["volume"]["mountPoint"].as_str().unwrap()), "mine").unwrap();
    assert_eq!(count(volume("three", "/data")).output(), "1\n");
    // Through a link of the image, which can't lead out of it.
    let script = "ln -s /data /way; mkdir /etc/way; ln -s /../../../../../../etc/way /out";
    let links = host.sh(script).with(json!({"image": "base"})).create();
    links.start().unwrap();
    links.exit_code();
    links.call("Commit", json!({"image": "links"})).unwrap();
    let through = |name: &str, target: &str| {
        with(host.sh(&format!("ls {target} | wc -l")), &[volume(name, target)])
            .with(json!({"image": "links"}))
    };
    assert_eq!(through("four", "/way").output(), "5\n");
    assert_eq!(through("five", "/out").output(), "0\n");
    // A place that the image has not belongs to who runs.
    let alice =
        with(host.sh("echo x > /new/place/file && stat -c %u /new/place"), &[volume("six", "/new/place")]);
    assert_eq!(alice.with(json!({"user": "alice"})).output(), "1000\n");
    links.remove().unwrap();
    host.call("Image.Remove", json!({"name": "links"})).unwrap();
    until_only(&host, &[]);
    assert_eq!(host.call("Volume.Prune", json!({})).unwrap()["removed"].as_array().unwrap().len(), 6);
    leaks.assert_none_after();
}

#[test]
fn volumes_without_a_name_go_with_their_container_when_that_is_wanted() {
    let Some(host) = Host::new() else { return };
    image(&host, "base", json!({}));
    // What an image wants is in its configuration, which no call here sets: by way of an archive.
    let archive = host.path().join("image.tar");
    host.call("Image.Save", json!({"names": ["base"], "format": "ociArchive", "path": archive})).unwrap();
    assert!(
        Command::new("sh")
            .current_dir(host.path())
            .args(["-c", include_str!("volumes/with_volumes.sh")])
            .status()
            .unwrap()
            .success()
    );
    host.call("Image.Load", json!({"path": archive})).unwrap();
    let leaks = Leaks::before(&host);
    let plan = host.sh("cat /data/file").with(json!({"image": "wanting"}));
    assert_eq!(plan.output(), "text\n");
    until_only(&host, &[]);
    assert!(volumes(&host).is_empty(), "one that removes itself takes them along");

    let container = plan.named("web").create();
    let listed = volumes(&host);
    assert_eq!(listed.len(), 2, "/data and /cache, and not /sys/fs/cgroup: {listed:?}");
    assert!(listed.iter().all(|volume| volume["anonymous"] == json!(true) && volume["name"] == volume["id"]));
    let targets: Vec<Value> = container.inspect()["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["target"].clone())
        .collect();
    assert_eq!(targets, ["/cache", "/data"]);
    // Another one takes them over, and keeps them alive.
    let other = host
        .sh("cat /data/file && ! touch /data/new")
        .with(json!({"volumesFrom": [{"container": "web", "readOnly": true}]}))
        .create();
    container.call("Remove", json!({"volumes": true})).unwrap();
    assert_eq!(volumes(&host).len(), 2);
    other.start().unwrap();
    assert_eq!(other.exit_code(), Some(1), "nobody has filled it, for its own image has nothing there");
    other.remove().unwrap();
    assert_eq!(volumes(&host).len(), 2, "nobody wanted them to go");
    let pruned = host.call("Volume.Prune", json!({"anonymous": true})).unwrap();
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 2);
    // The caller's own at the place of the image's.
    let own = host.sh("cat /data/file").with(json!({"image": "wanting"}));
    let own = with(own, &[volume("named", "/data"), json!({"kind": "tmpfs", "target": "/cache"})]).create();
    assert_eq!(volumes(&host).len(), 1);
    own.call("Remove", json!({"volumes": true})).unwrap();
    assert_eq!(volumes(&host)[0]["name"], "named", "one with a name stays");
    host.call("Volume.Remove", json!({"name": "named"})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn options_are_those_of_the_local_driver() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let create = |name: &str, options: Value| {
        host.call("Volume.Create", json!({"name": name, "options": options})).unwrap()["volume"].take()
    };
    create("owned", json!({"o": "uid=1000,gid=2000"}));
    let owner = with(host.sh("stat -c '%u %g' /etc"), &[volume("owned", "/etc")]);
    assert_eq!(owner.output(), "1000 2000\n");

    let shared = host.path().join("shared");
    fs::create_dir(&shared).unwrap();
    create("bound", json!({"type": "none", "o": "bind", "device": shared}));
    with(host.sh("echo x > /data/file"), &[volume("bound", "/data")]).output();
    assert_eq!(fs::read_to_string(shared.join("file")).unwrap(), "x\n");

    // One file system for all who have it, as long as one of them runs.
    let memory = create("memory", json!({"type": "tmpfs", "o": "size=1m,mode=700,noexec"}));
    let place = memory["mountPoint"].as_str().unwrap().to_owned();
    let mounts = [volume("memory", "/data")];
    let first = with(host.sleeper(), &mounts).named("first").run();
    first.exec_output("echo shared > /data/file; ! dd if=/dev/zero of=/data/big bs=1M count=2 2> /dev/null");
    assert_eq!(
        with(host.sh("cat /data/file; stat -f -c %T /data; grep -c ' /data .*noexec' /proc/mounts"), &mounts)
            .output(),
        "shared\ntmpfs\n1\n"
    );
    assert_eq!(first.exec_output("cat /data/file"), "shared\n", "the end of the other one has left it alone");
    assert!(fs::exists(format!("{place}/file")).unwrap());
    first.kill("KILL").unwrap();
    first.exit_code();
    wait_until("nothing of it is mounted any more", || !fs::exists(&place).unwrap());
    first.start().unwrap();
    assert_eq!(first.exec_output("ls /data | wc -l"), "0\n");
    first.remove_by_force().unwrap();
    assert!(!fs::exists(&place).unwrap());

    // What can't be mounted is told at the start, in the kernel's words, and leaves nothing.
    create("wrong", json!({"type": "tmpfs", "o": "colour=red"}));
    let refusal =
        assert_refused(with(host.sleeper(), &[volume("wrong", "/data")]).try_run(), "VolumeUnusable");
    assert!(refusal.reason().contains("colour"), "{}", refusal.reason());
    create("gone", json!({"type": "none", "o": "bind", "device": shared.join("absent")}));
    assert_refused(with(host.sleeper(), &[volume("gone", "/data")]).try_run(), "VolumeUnusable");
    fs::remove_dir_all(&shared).unwrap();
    until_only(&host, &[]);
    for name in ["owned", "bound", "memory", "wrong", "gone"] {
        host.call("Volume.Remove", json!({"name": name})).unwrap();
    }
    leaks.assert_none_after();
}

#[test]
fn bad_input_is_refused_and_makes_nothing() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let long = "x".repeat(65);
    for name in ["", "a/b", "../x", "-x", ".", "a b", "é", &long] {
        let refusal = assert_refused(host.call("Volume.Create", json!({"name": name})), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], "name");
        let refusal =
            assert_refused(with(host.sleeper(), &[volume(name, "/data")]).try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], "spec.mounts[0].source");
    }
    let options = |options: Value| host.call("Volume.Create", json!({"name": "v", "options": options}));
    assert_refused(options(json!({"colour": "red"})), "InvalidSpec");
    assert_refused(options(json!({"type": "nfs", "device": "server:/x"})), "Unsupported");
    assert_refused(options(json!({"type": "zonkfs", "device": "/dev/null"})), "Unsupported");
    assert_refused(options(json!({"type": "overlay", "device": "x"})), "InvalidSpec");
    for target in ["data", "/", "/proc/x", "/a/../proc"] {
        let refusal =
            assert_refused(with(host.sleeper(), &[volume("v", target)]).try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], "spec.mounts[0].target");
    }
    let twice = with(host.sleeper(), &[volume("v", "/data"), volume("w", "/data/./")]);
    assert_refused(twice.try_create(), "InvalidSpec");
    assert_refused(with(host.sleeper(), &[volume(&"ab".repeat(32), "/data")]).try_create(), "VolumeNotFound");
    let from = host.sleeper().with(json!({"volumesFrom": [{"container": "absent"}]}));
    let refusal = assert_refused(from.try_create(), "InvalidSpec");
    assert_eq!(refusal.parameters["field"], "spec.volumesFrom[0].container");
    // Nothing of a container that could not be made.
    let image =
        with(host.sleeper(), &[volume("v", "/data")]).with(json!({"secrets": [{"secret": "absent"}]}));
    assert_refused(image.try_create(), "SecretNotFound");
    assert!(volumes(&host).is_empty());

    host.call("Volume.Create", json!({"name": "v"})).unwrap();
    assert_refused(host.call("Volume.Create", json!({"name": "v"})), "AlreadyExists");
    let id = inspect(&host, "v")["id"].as_str().unwrap().to_owned();
    // Few digits are a name that somebody may have meant, and no id.
    assert_refused(host.call("Volume.Remove", json!({"name": &id[..11]})), "NotFound");
    for method in ["Inspect", "Remove", "Export", "Import"] {
        let parameters = match method {
            "Export" | "Import" => json!({"name": "absent", "path": "/nowhere"}),
            _ => json!({"name": "absent"}),
        };
        assert_refused(host.call(&format!("Volume.{method}"), parameters), "NotFound");
    }
    assert_refused(host.call("Volume.Export", json!({"name": "v"})), "InvalidSpec");
    assert_refused(host.call("Volume.Export", json!({"name": "v", "path": "relative"})), "InvalidSpec");
    assert_refused(host.call("Volume.Import", json!({"name": "v", "path": "/absent"})), "InvalidSpec");
    host.call("Volume.Remove", json!({"name": &id[..12]})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn archives_go_out_and_in_and_never_beside() {
    let Some(host) = Host::new() else { return };
    image(&host, "base", json!({}));
    let leaks = Leaks::before(&host);
    with(host.sh("true"), &[volume("one", "/data")]).with(json!({"image": "base"})).output();
    let path = host.path().join("one.tar");
    let written =
        host.call("Volume.Export", json!({"name": "one", "path": path})).unwrap()["bytesWritten"].clone();
    assert_eq!(written, fs::metadata(&path).unwrap().len());
    host.call("Volume.Create", json!({"name": "two"})).unwrap();
    host.call("Volume.Import", json!({"name": "two", "path": path})).unwrap();
    let look = "cd /x && find . | sort | tail -n +2 | xargs stat -c '%n %F %a %u %g %Y' && cat hard";
    let seen = |name: &str| {
        let mount = json!({"kind": "volume", "source": name, "target": "/x", "noCopy": true});
        with(host.sh(look), &[mount]).output()
    };
    assert_eq!(seen("one"), seen("two"));

    // A hostile archive stays in the volume, whatever links it makes.
    let outside = host.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let mut tar = tar::Builder::new(tempfile::tempfile().unwrap());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    link.set_mode(0o777);
    tar.append_link(&mut link, "way", &outside).unwrap();
    let mut file = tar::Header::new_gnu();
    file.set_size(4);
    file.set_mode(0o644);
    tar.append_data(&mut file, "way/file", &b"evil"[..]).unwrap();
    let mut archive = tar.into_inner().unwrap();
    archive.rewind().unwrap();
    let _ = host.call_with_fds("Volume.Import", json!({"name": "two", "archive": 0}), &[archive.as_fd()]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    let mut garbage = tempfile::tempfile().unwrap();
    garbage.write_all(&[7; 4096]).unwrap();
    garbage.rewind().unwrap();
    let refused =
        host.call_with_fds("Volume.Import", json!({"name": "two", "archive": 0}), &[garbage.as_fd()]);
    assert_refused(refused, "InvalidArchive");
    fs::remove_file(&path).unwrap();
    fs::remove_dir(&outside).unwrap();
    until_only(&host, &[]);
    host.call("Volume.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_list_of_volumes_follows_their_changes() {
    let Some(host) = Host::new() else { return };
    host.call("Volume.Create", json!({"name": "old", "labels": {"a": "b"}})).unwrap();
    let mut connection = host.connect();
    let mut replies = connection.call_more("io.dormouse.Volume.List", json!({}), &[]).unwrap();
    let mut next = || common::answer(replies.next().unwrap()).unwrap();
    assert_eq!(next()["volumes"][0]["name"], "old");
    let container = with(host.sleeper(), &[volume("new", "/data")]).named("web").create();
    let mut seen = next();
    while seen["volumes"][0]["containers"][0].is_null() {
        seen = next();
    }
    assert_eq!(
        (&seen["volumes"][0]["name"], &seen["volumes"][0]["containers"][0]["name"]),
        (&json!("new"), &json!("web"))
    );
    let id = seen["volumes"][0]["id"].clone();
    container.remove().unwrap();
    assert_eq!(next()["volumes"][0]["containers"], json!([]));
    host.call("Volume.Remove", json!({"name": "new"})).unwrap();
    assert_eq!(next()["gone"], json!([id]));
    let filtered = |parameters: Value| {
        host.call("Volume.List", parameters).unwrap()["volumes"].as_array().unwrap().len()
    };
    assert_eq!(filtered(json!({"labels": {"a": ""}})), 1);
    assert_eq!(filtered(json!({"labels": {"a": "c"}})), 0);
    assert_eq!(filtered(json!({"unused": true})), 1);
    assert_eq!(filtered(json!({"unused": false})), 0);
    let events = host.call("Manager.Events", json!({"names": ["new"]})).unwrap();
    let actions: Vec<&str> =
        events["events"].as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["create", "remove"]);
}

#[test]
fn the_disk_that_volumes_take_is_told_and_given_back() {
    let Some(host) = Host::new() else { return };
    let mounts = [volume("used", "/data")];
    with(host.sh("dd if=/dev/urandom of=/data/big bs=1M count=3 2> /dev/null"), &mounts)
        .named("user")
        .create()
        .start()
        .unwrap();
    with(host.sh("dd if=/dev/urandom of=/data/big bs=1M count=2 2> /dev/null"), &[volume("unused", "/data")])
        .output();
    wait_until("both have written", || {
        let usage = host.call("Manager.DiskUsage", json!({})).unwrap()["volumes"].clone();
        usage["bytes"].as_i64().unwrap() > 5 << 20
    });
    until_only(&host, &["user"]);
    let usage = host.call("Manager.DiskUsage", json!({})).unwrap()["volumes"].clone();
    assert_eq!((&usage["count"], &usage["inUse"]), (&json!(2), &json!(1)));
    let reclaimable = usage["reclaimableBytes"].as_i64().unwrap();
    assert!((2 << 20..3 << 20).contains(&reclaimable), "{usage}");
    let pruned = host.call("Manager.Prune", json!({})).unwrap();
    assert_eq!(pruned["volumesRemoved"], json!([]));
    let pruned = host.call("Manager.Prune", json!({"volumes": true})).unwrap();
    assert_eq!(pruned["volumesRemoved"], json!(["unused"]));
    assert!(pruned["freedBytes"].as_i64().unwrap() >= 2 << 20);
}

#[test]
fn the_commands_are_those_that_people_know() {
    let Some(host) = Host::new() else { return };
    assert_eq!(said(&host, &["volume", "create", "-l", "a=b", "data"]), "data\n");
    assert_eq!(said(&host, &["volume", "create", "--ignore", "data"]), "data\n");
    let output = dormouse(&host, &["volume", "create", "data"]);
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("exists"));
    let run = |arguments: &[&str]| {
        let all = [&["run", "--rm", "--network", "none"], arguments].concat();
        said(&host, &all)
    };
    run(&["-v", "data:/x", "busybox", "sh", "-c", "echo words > /x/file"]);
    assert_eq!(run(&["-v", "data:/x:ro,z,nocopy", "busybox", "cat", "/x/file"]), "words\n");
    assert_eq!(run(&["--mount", "type=volume,src=data,dst=/x,ro", "busybox", "cat", "/x/file"]), "words\n");
    assert_eq!(run(&["-v", "/x", "busybox", "sh", "-c", "ls /x | wc -l"]), "0\n");
    run(&["-v", "data:/x:U", "-u", "1000", "busybox", "sh", "-c", "echo more >> /x/file"]);
    said(&host, &["create", "--name", "keeper", "-v", "data:/x", "-v", "/y", "busybox", "true"]);
    assert_eq!(run(&["--volumes-from", "keeper:ro", "busybox", "cat", "/x/file"]), "words\nmore\n");
    let table = said(&host, &["volume", "ls"]);
    assert!(table.starts_with("NAME ") && table.contains("data ") && table.contains("keeper"), "{table}");
    assert_eq!(said(&host, &["volume", "ls", "-q", "-f", "label=a=b"]), "data\n");
    let told: Value = serde_json::from_str(&said(&host, &["volume", "inspect", "data"])).unwrap();
    assert_eq!(told[0]["labels"], json!({"a": "b"}));
    let tar = host.path().join("data.tar");
    said(&host, &["volume", "export", "-o", "data.tar", "data"]);
    said(&host, &["volume", "create", "copy"]);
    assert!(
        dormouse_reading(&host, &["volume", "import", "copy", "-"], File::open(&tar).unwrap())
            .status
            .success()
    );
    assert_eq!(run(&["-v", "copy:/x", "busybox", "cat", "/x/file"]), "words\nmore\n");
    until_only(&host, &["keeper"]);
    let refused = dormouse(&host, &["volume", "rm", "data"]);
    assert!(refused.status.code() == Some(1), "{refused:?}");
    assert_eq!(said(&host, &["rm", "-v", "keeper"]), "keeper\n");
    assert_eq!(volumes(&host).len(), 2, "the one without a name is gone");
    assert!(said(&host, &["volume", "prune"]).starts_with("removed data\nremoved copy\nfreed "));
}
