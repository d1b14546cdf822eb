//! Files into containers and out of them, running and stopped, also where what is inside means harm.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Answer, Container, Host, Leaks, assert_refused};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// An archive of files with these contents; a name with a slash at its end is a directory, `a -> b` a link.
fn archive(entries: &[(&str, &str)]) -> File {
    let mut tar = Builder::new(tempfile::tempfile().unwrap());
    for (name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_mode(0o640);
        header.set_uid(1234);
        header.set_gid(5678);
        header.set_mtime(1_000_000_000);
        // Set by hand: the crate refuses the names that matter here.
        let (name, kind) = match name.split_once(" -> ") {
            Some((name, target)) => {
                header.set_link_name_literal(target).unwrap();
                (name, EntryType::Symlink)
            }
            None if name.ends_with('/') => (*name, EntryType::Directory),
            None => (*name, EntryType::Regular),
        };
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    let mut file = tar.into_inner().unwrap();
    file.rewind().unwrap();
    file
}

fn copy_in(container: &Container<'_>, path: &str, entries: &[(&str, &str)]) -> Answer {
    let parameters = json!({"name": container.name, "path": path, "archive": 0});
    container.host.call_with_fds("Container.CopyIn", parameters, &[archive(entries).as_fd()])
}

fn copy_out(
    container: &Container<'_>,
    parameters: Value,
) -> Result<BTreeMap<String, String>, common::Refusal> {
    let mut file = tempfile::tempfile().unwrap();
    let mut all = json!({"name": container.name, "archive": 0});
    all.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
    let reply = container.host.call_with_fds("Container.CopyOut", all, &[file.as_fd()])?;
    assert_eq!(reply["bytesWritten"].as_u64(), Some(file.metadata().unwrap().len()));
    file.rewind().unwrap();
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = match entry.link_name().unwrap() {
            Some(target) => format!("-> {}", target.display()),
            None => String::new(),
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        content.push_str(&String::from_utf8_lossy(&bytes));
        (name, content)
    });
    Ok(entries.collect())
}

fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

const TREE: &[(&str, &str)] = &[
    ("d/", ""),
    ("d/file", "content"),
    ("d/.wh.kept", "an ordinary name"),
    ("d/link -> file", ""),
    ("new/a/b", "deep"),
];

#[test]
fn what_is_copied_in_comes_out_again_and_is_what_it_was() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let running = host.sleeper().named("running").run();
    let stopped = host.sleeper().named("stopped").create();
    for container in [&running, &stopped] {
        let reply = copy_in(container, "/tmp", TREE).unwrap();
        assert!(reply["bytesRead"].as_u64().unwrap() >= 4096 && reply["warnings"] == json!([]));
        // Once more: what is there is replaced.
        copy_in(container, "/tmp", TREE).unwrap();
        copy_in(container, "/tmp", &[("./", ""), ("d/file", "newer")]).unwrap();
        let expected = map(&[
            ("d/", ""),
            ("d/file", "newer"),
            ("d/.wh.kept", "an ordinary name"),
            ("d/link", "-> file"),
        ]);
        assert_eq!(copy_out(container, json!({"path": "/tmp/d"})).unwrap(), expected);
        assert_eq!(copy_out(container, json!({"path": "/tmp/d/link"})).unwrap(), map(&[("link", "newer")]));
        let named = copy_out(container, json!({"path": "/tmp/new", "topName": "x/y"})).unwrap();
        assert_eq!(named, map(&[("x/y/", ""), ("x/y/a/", ""), ("x/y/a/b", "deep")]));
        let info = |path: &str| container.call("StatPath", json!({ "path": path })).unwrap()["info"].clone();
        let file = info("/tmp/d/file");
        assert_eq!(
            (
                &file["kind"],
                &file["mode"],
                &file["uid"],
                &file["gid"],
                &file["sizeBytes"],
                &file["modifiedUSec"]
            ),
            (
                &json!("file"),
                &json!(0o640),
                &json!(1234),
                &json!(5678),
                &json!(5),
                &json!(1_000_000_000_000_000_i64)
            )
        );
        // The directory that it went to is as it was; one that no entry speaks of is root's.
        assert_eq!((&info("/tmp")["mode"], &info("/tmp/new")["uid"]), (&json!(0o1777), &json!(0)));
    }
    stopped.start().unwrap();
    for container in [&running, &stopped] {
        assert_eq!(container.exec_output("cat /tmp/d/link; stat -c '%u %a' /tmp/d/file"), "newer1234 640\n");
        container.remove_by_force().unwrap();
    }
    leaks.assert_none_after();
}

#[test]
fn what_can_not_be_copied_is_told() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    container.exec_output("mkdir /tmp/d /tmp/full && touch /tmp/f /tmp/full/x && ln -s loop /tmp/loop");
    let refused = |path: &str, error: &str| {
        let refusal = assert_refused(copy_in(&container, path, TREE), error);
        assert_refused(
            container.call("StatPath", json!({"path": path})).and_then(|_| copy_in(&container, path, TREE)),
            error,
        );
        refusal
    };
    assert_eq!(refused("/absent", "PathNotFound").parameters["path"], "/absent");
    refused("tmp", "InvalidSpec");
    refused("/tmp/../tmp", "InvalidSpec");
    refused("/tmp/f", "InvalidSpec");
    refused("/tmp/loop", "InvalidSpec");
    assert_refused(copy_in(&container, "/tmp", &[("../out", "x")]), "InvalidArchive");
    assert_refused(copy_in(&container, "/tmp", &[("full", "a file for a directory")]), "InvalidArchive");
    assert_refused(copy_in(&container, "/tmp", &[("f/", "")]), "InvalidArchive");
    assert_eq!(container.exec_output("ls /tmp/full"), "x\n");
    let text = tempfile::tempfile().unwrap();
    (&text).write_all(&[b'x'; 2048]).unwrap();
    (&text).rewind().unwrap();
    let parameters = json!({"name": container.name, "path": "/tmp", "archive": 0});
    assert_refused(
        host.call_with_fds("Container.CopyIn", parameters.clone(), &[text.as_fd()]),
        "InvalidArchive",
    );
    let refusal = host.call("Container.CopyIn", parameters).unwrap_err();
    assert_eq!(refusal.error, "org.varlink.service.InvalidParameter");
    assert_refused(copy_out(&container, json!({"path": "/absent"})).map(|_| json!({})), "PathNotFound");
    for name in ["", "/x", "a/../../b"] {
        let answer = copy_out(&container, json!({"path": "/tmp/f", "topName": name})).map(|_| json!({}));
        assert_refused(answer, "InvalidSpec");
    }
    assert_refused(host.call("Container.StatPath", json!({"name": "absent", "path": "/"})), "NotFound");
}

#[test]
fn what_is_mounted_is_there_while_the_container_runs() {
    let Some(host) = Host::new() else { return };
    let outside = host.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("a"), "host").unwrap();
    let mounts = json!([
        {"kind": "tmpfs", "target": "/memory"},
        {"kind": "bind", "source": outside, "target": "/data/deep"},
        {"kind": "bind", "source": outside, "target": "/fixed", "readOnly": true},
    ]);
    let container = host.sleeper().with(json!({ "mounts": mounts })).run();
    copy_in(&container, "/memory", &[("x", "1")]).unwrap();
    copy_in(&container, "/data", &[("deep/b", "2")]).unwrap();
    assert_eq!(container.exec_output("cat /memory/x /data/deep/b"), "12");
    assert_eq!(std::fs::read_to_string(outside.join("b")).unwrap(), "2");
    let refusal = copy_in(&container, "/fixed", &[("c", "3")]).unwrap_err();
    assert!(refusal.reason().contains("ead-only"), "{refusal:?}");
    let data = copy_out(&container, json!({"path": "/data"})).unwrap();
    assert_eq!(
        data,
        map(&[("data/", ""), ("data/deep/", ""), ("data/deep/a", "host"), ("data/deep/b", "2")])
    );
    // All of it, without the file systems that show the kernel.
    let all = copy_out(&container, json!({"path": "/", "topName": "all"})).unwrap();
    assert_eq!(all["all/memory/x"], "1");
    assert!(!all.keys().any(|name| name.starts_with("all/proc/") || name.starts_with("all/sys/")), "{all:?}");
    container.call("Stop", json!({"timeoutUSec": 0})).unwrap();
    let refusal = assert_refused(copy_in(&container, "/memory", &[("x", "1")]), "Unsupported");
    assert!(refusal.reason().contains("start it first"), "{refusal:?}");
    copy_in(&container, "/data", &[("y", "1"), ("deep/c", "3")]).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("c")).unwrap(), "3");
}

#[test]
fn no_link_in_a_container_leads_to_the_host() {
    let Some(host) = Host::new() else { return };
    let outside = host.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "of the host").unwrap();
    let outside = outside.to_str().unwrap();
    let script = format!(
        "ln -s / /root-link; ln -s ../../../../../../../../.. /up; ln -s {outside} /there; ln -s {outside}/secret /file;
         ln -s /proc/1/root /magic; ln -s /proc/1/cwd /cwd; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"
    );
    let running = host.sh(&script).named("running").run_until_stoppable();
    let stopped = host.sh(&script).named("stopped").run_until_stoppable();
    stopped.stop().unwrap();
    for container in [&running, &stopped] {
        // Inside the container there is nothing at these places.
        for path in ["/there", "/file", &format!("/root-link{outside}"), &format!("/up{outside}/secret")] {
            assert_refused(container.call("StatPath", json!({ "path": path })), "PathNotFound");
            assert_refused(copy_out(container, json!({ "path": path })).map(|_| json!({})), "PathNotFound");
            assert_refused(copy_in(container, path, &[("x", "1")]), "PathNotFound");
        }
        copy_in(container, "/", &[("root-link/tmp/one", "1"), ("up/tmp/two", "2"), ("tmp/", "")]).unwrap();
        let inside = copy_out(container, json!({"path": "/up/tmp"})).unwrap();
        assert_eq!((inside["tmp/one"].as_str(), inside["tmp/two"].as_str()), ("1", "2"));
        // A link that dangles is no way to make what it names.
        let refusal = copy_in(container, "/", &[("there/x", "1")]).unwrap_err();
        assert!(["InvalidArchive", "Failed"].contains(&refusal.name()), "{refusal:?}");
        copy_in(container, "/", &[("file", "replaces the link")]).unwrap();
        // The archive brings its own.
        let own =
            [("own -> /", ""), ("own/tmp/three", "3"), ("far -> ../../../../..", ""), ("far/tmp/four", "4")];
        copy_in(container, "/tmp", &own).unwrap();
        let inside = copy_out(container, json!({"path": "/tmp"})).unwrap();
        assert_eq!((inside["tmp/three"].as_str(), inside["tmp/four"].as_str()), ("3", "4"));
    }
    for path in ["/magic", "/magic/tmp", "/cwd"] {
        assert_refused(running.call("StatPath", json!({ "path": path })), "InvalidSpec");
        assert_refused(copy_in(&running, path, &[("x", "1")]), "InvalidSpec");
    }
    let names: Vec<_> = std::fs::read_dir(outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    for name in ["one", "two", "three", "four"] {
        assert!(!Path::new("/tmp").join(name).exists(), "{name} is on the host");
    }
}

#[test]
fn a_container_that_changes_its_tree_all_the_time_gets_nothing_out_of_itself() {
    let Some(host) = Host::new() else { return };
    let outside = host.path().join("race");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "of the host").unwrap();
    let outside = outside.to_str().unwrap().to_owned();
    // The same path inside, so that a link to it leads somewhere on both sides.
    let script = format!(
        "mkdir -p {outside} /a; while :; do mkdir /a/d 2>/dev/null; mv /a/d /a/e; ln -s {outside} /a/d; rm /a/d; mv /a/e /a/d; \
         rm -rf /a/d; done"
    );
    let container = host.sh(&script).run();
    let until = Instant::now() + Duration::from_secs(4);
    let mut done = 0;
    while Instant::now() < until {
        // Both may fail at any moment: what they name is not there, or is something else by now.
        if copy_in(&container, "/", &[("a/d/", ""), ("a/d/raced", "x"), ("a/d/sub/", ""), ("a/d/sub/y", "x")])
            .is_ok()
        {
            done += 1;
        }
        for path in ["/a", "/a/d"] {
            if let Ok(entries) = copy_out(&container, json!({ "path": path })) {
                assert!(!entries.values().any(|content| content.contains("of the host")), "{entries:?}");
            }
        }
    }
    assert!(done > 0, "some of it was done");
    let names: Vec<_> =
        std::fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["secret"]);
    let metadata = std::fs::metadata(&outside).unwrap();
    assert_eq!((metadata.uid(), metadata.permissions().mode() & 0o777), (0, 0o755));
}

fn dormouse(host: &Host, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    command
        .env("DORMOUSE_ADDRESS", host.address())
        .args(arguments)
        .stdin(Stdio::null())
        .current_dir(host.path());
    command
}

#[track_caller]
fn cp(host: &Host, from: &str, to: &str) -> Output {
    let output = dormouse(host, &["cp", from, to]).output().unwrap();
    assert!(output.status.success(), "cp {from} {to}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    output
}

#[test]
fn the_command_copies_as_cp_does() {
    let Some(host) = Host::new() else { return };
    let web = host.sleeper().named("web").run();
    host.sleeper().named("idle").create();
    let local = |name: &str| host.path().join(name);
    let read = |name: &str| std::fs::read_to_string(local(name)).unwrap();
    std::fs::create_dir_all(local("tree/sub")).unwrap();
    std::fs::write(local("tree/sub/file"), vec![b'x'; 3_000_000]).unwrap();
    std::os::unix::fs::symlink("sub/file", local("tree/link")).unwrap();
    std::os::unix::fs::chown(local("tree/sub/file"), Some(4321), Some(4321)).unwrap();
    // After the change of owner, which takes it away.
    std::fs::set_permissions(local("tree/sub/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();

    cp(&host, "tree", "web:/tmp");
    assert_eq!(
        web.exec_output("stat -c '%u %a %s' /tmp/tree/sub/file; readlink /tmp/tree/link"),
        "0 4755 3000000\nsub/file\n"
    );
    cp(&host, "tree", "web:/tmp/other");
    cp(&host, "tree/.", "web:tmp/other");
    assert_eq!(web.exec_output("cd /tmp/other; find . | sort"), ".\n./link\n./sub\n./sub/file\n");
    cp(&host, "tree/sub/file", "web:/tmp/renamed");
    assert_eq!(web.exec_output("stat -c %s /tmp/renamed"), "3000000\n");

    // Out again, and across, also to and from one that does not run.
    cp(&host, "web:/tmp/tree", "idle:/root");
    cp(&host, "idle:/root/tree/.", "web:/root");
    cp(&host, "web:/root/sub", "back");
    assert_eq!(read("back/file").len(), 3_000_000);
    let metadata = std::fs::metadata(local("back/file")).unwrap();
    assert_eq!(
        (metadata.uid(), metadata.permissions().mode() & 0o7777),
        (0, 0o755),
        "no set-id bit comes out"
    );
    web.exec_output("chown 4321 /tmp/renamed; echo words > /tmp/words; ln -s words /tmp/link");
    let output = dormouse(&host, &["cp", "--archive", "web:/tmp/renamed", "kept"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::metadata(local("kept")).unwrap().uid(), 4321);
    cp(&host, "web:/tmp/link", ".");
    assert_eq!(read("link"), "words\n");

    // As streams.
    let stream = cp(&host, "web:/tmp/words", "-").stdout;
    let mut back = dormouse(&host, &["cp", "-", "idle:/root"]).stdin(Stdio::piped()).spawn().unwrap();
    back.stdin.take().unwrap().write_all(&stream).unwrap();
    assert!(back.wait().unwrap().success());
    cp(&host, "idle:/root/words", "words");
    assert_eq!(read("words"), "words\n");

    let refused = |from: &str, to: &str, code: i32, text: &str| {
        let output = dormouse(&host, &["cp", from, to]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(text), "{output:?}");
    };
    refused("words", "elsewhere", 2, "neither is in a container");
    refused("absent", "web:/tmp", 1, "no such file");
    refused("web:/absent", "here", 1, "nothing at");
    refused("words", "web:/absent/", 1, "no such directory");
    refused("words", "web:/absent/x", 1, "nothing at");
    refused("tree", "web:/tmp/words", 1, "destination is not");
    refused("words", "absent:/tmp", 1, "no container");
}
