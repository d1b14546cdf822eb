//! What can't be done is refused with a typed error that says why, and leaves nothing behind.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::io::{Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;

use common::{Host, Leaks, Refusal, assert_refused};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

/// The methods that take the name of a container, with what else they need.
fn methods_of_a_container() -> Vec<(&'static str, Value)> {
    vec![
        ("Container.Start", json!({})),
        ("Container.Stop", json!({})),
        ("Container.Kill", json!({})),
        ("Container.Restart", json!({})),
        ("Container.Pause", json!({})),
        ("Container.Resume", json!({})),
        ("Container.Wait", json!({})),
        ("Container.Remove", json!({})),
        ("Container.Rename", json!({"newName": "new"})),
        ("Container.Inspect", json!({})),
        ("Container.Logs", json!({})),
        ("Container.Exec", json!({"command": ["true"]})),
        ("Container.Resize", json!({"rows": 1, "columns": 1})),
        ("Unit.Status", json!({})),
        ("Unit.List", json!({})),
        ("Unit.Start", json!({"unit": "x"})),
        ("Unit.Journal", json!({})),
    ]
}

#[test]
fn an_unknown_container_is_not_found_whatever_is_asked() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for (method, mut parameters) in methods_of_a_container() {
        parameters["name"] = json!("nobody");
        let refusal = assert_refused(host.call(method, parameters), "NotFound");
        let interface = method.split('.').next().unwrap();
        assert_eq!(refusal.error, format!("io.dormouse.{interface}.NotFound"), "{method}");
        assert_eq!(refusal.parameters["name"], "nobody", "{method}");
        assert!(refusal.reason().contains("nobody"), "{method}: {}", refusal.reason());
    }
    leaks.assert_none_after();
}

#[test]
fn an_unknown_image_is_not_found() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let refusal = assert_refused(host.image("nothing").try_create(), "ImageNotFound");
    assert_eq!(refusal.parameters["image"], "nothing");
    assert_refused(host.call("Image.Inspect", json!({"name": "nothing"})), "NotFound");
    assert_refused(host.call("Image.Remove", json!({"name": "nothing"})), "NotFound");
    leaks.assert_none_after();
}

#[test]
fn what_a_state_does_not_allow_is_refused_and_the_state_is_told() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let refused = |method: &str, container: &common::Container<'_>, more: Value| {
        let refusal = assert_refused(container.call(method, more), "WrongState");
        assert!(
            refusal.parameters["wanted"].as_str().is_some_and(|wanted| !wanted.is_empty()),
            "{refusal:?}"
        );
        refusal.parameters["state"].as_str().unwrap().to_owned()
    };
    let container = host.sleeper().create();
    for method in ["Kill", "Pause", "Resume"] {
        assert_eq!(refused(method, &container, json!({})), "created", "{method}");
    }
    assert_eq!(refused("Exec", &container, json!({"command": ["true"]})), "created");
    container.start().unwrap();
    for method in ["Start", "Resume", "Remove"] {
        assert_eq!(refused(method, &container, json!({})), "running", "{method}");
    }
    container.call("Pause", json!({})).unwrap();
    for method in ["Start", "Pause", "Remove"] {
        assert_eq!(refused(method, &container, json!({})), "paused", "{method}");
    }
    container.call("Resume", json!({})).unwrap();
    container.kill("KILL").unwrap();
    container.exit_code();
    for method in ["Kill", "Pause", "Resume"] {
        assert_eq!(refused(method, &container, json!({})), "exited", "{method}");
    }
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn an_image_in_use_is_not_removed() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit").named("user").create();
    let refusal = assert_refused(host.call("Image.Remove", json!({"name": "busybox"})), "InUse");
    assert!(refusal.parameters["containers"].to_string().contains("user"), "{refusal:?}");
    container.remove().unwrap();
    host.call("Image.Remove", json!({"name": "busybox"})).unwrap();
}

#[test]
fn of_many_creates_of_one_name_at_once_one_wins() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for round in 0..5 {
        let plan = host.sh("exit").named(&format!("web{round}"));
        let answers: Vec<_> = std::thread::scope(|scope| {
            let creators: Vec<_> = (0..8).map(|_| scope.spawn(|| plan.try_create())).collect();
            creators.into_iter().map(|creator| creator.join().unwrap()).collect()
        });
        let (created, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        assert_eq!(created.len(), 1);
        for answer in refused {
            assert_refused(answer, "AlreadyExists");
        }
        host.call("Container.Remove", json!({"name": format!("web{round}")})).unwrap();
    }
    leaks.assert_none_after();
}

#[test]
fn a_taken_name_is_refused_to_create_and_rename() {
    let Some(host) = Host::new() else { return };
    host.sh("exit").named("one").create();
    let two = host.sh("exit").named("two").create();
    assert_refused(host.sh("exit").named("one").try_create(), "AlreadyExists");
    assert_refused(two.call("Rename", json!({"newName": "one"})), "AlreadyExists");
    assert_eq!(host.names(), ["one", "two"]);
}

#[test]
fn a_missing_command_is_told_and_run_takes_the_container_away_again() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for command in ["missing", "/bin/missing", "./missing", "/missing/x"] {
        let refusal = assert_refused(host.command(&[command]).try_run(), "CommandNotFound");
        assert_eq!(refusal.parameters["command"], command);
    }
    assert_eq!(host.names(), [""; 0]);
    leaks.assert_none_after();
}

#[test]
fn a_command_that_cannot_be_executed_is_told() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for command in ["/etc/not-executable", "/etc"] {
        assert_refused(host.command(&[command]).try_run(), "CommandNotExecutable");
    }
    leaks.assert_none_after();
}

#[test]
fn a_created_container_whose_command_is_missing_stays_and_can_be_tried_again() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.command(&["missing"]).create();
    for _ in 0..3 {
        assert_refused(container.start(), "CommandNotFound");
    }
    assert!(["created", "failed"].contains(&container.state().as_str()), "{}", container.state());
    container.remove().unwrap();
    leaks.assert_none_after();
}

/// Imports bytes, and has the refusal.
fn refused_import(host: &Host, bytes: &[u8]) -> Refusal {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    let answer = host.call_with_fds("Image.Import", json!({"name": "bad", "archive": 0}), &[file.as_fd()]);
    let refusal = assert_refused(answer, "InvalidArchive");
    let images = host.call("Image.List", json!({})).unwrap();
    assert!(!images.to_string().contains("bad"), "{images}");
    refusal
}

#[test]
fn an_archive_that_is_none_or_is_cut_short_makes_no_image() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(100_000);
    tar.append_data(&mut header, "etc/big", &vec![b'x'; 100_000][..]).unwrap();
    let whole = tar.into_inner().unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 0x55;
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gzip.extend_from_slice(&[0xff; 100]);
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], &[0xff; 100]].concat();
    let cases: [(&str, &[u8]); 7] = [
        ("empty", b""),
        ("text", &b"this is no archive".repeat(100)),
        ("cut in a file", &whole[..50_000]),
        ("cut in a header", &whole[..300]),
        ("damaged header", &damaged),
        ("damaged gzip", &gzip),
        ("damaged zstd", &zstd),
    ];
    for (what, bytes) in cases {
        assert!(!refused_import(&host, bytes).reason().is_empty(), "{what}");
    }
    leaks.assert_none_after();
}

#[test]
fn an_archive_that_cannot_be_read_is_told_with_its_path() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let import = |path: &str| host.call("Image.Import", json!({"name": "bad", "path": path}));
    let refusal = import("/no/such.tar").unwrap_err();
    assert!(["InvalidSpec", "InvalidArchive"].contains(&refusal.name()), "{refusal:?}");
    assert!(refusal.reason().contains("/no/such.tar"), "{refusal:?}");
    assert_refused(import("/etc"), "InvalidArchive");
    assert_refused(import("relative.tar"), "InvalidSpec");
    assert_refused(host.call("Image.Import", json!({"name": "bad"})), "InvalidSpec");
    leaks.assert_none_after();
}

#[test]
fn an_import_whose_client_leaves_is_given_up() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(1_000_000);
    tar.append_data(&mut header, "etc/big", &vec![b'x'; 1_000_000][..]).unwrap();
    let bytes = tar.into_inner().unwrap();
    let (read, write) = nix::unistd::pipe().unwrap();
    let mut connection = host.connect();
    let parameters = json!({"name": "late", "archive": 0});
    let replies = connection.call_more("io.dormouse.Image.Import", parameters, &[read.as_fd()]).unwrap();
    drop(read);
    let mut write = std::fs::File::from(write);
    write.write_all(&bytes[..500_000]).unwrap();
    drop(replies);
    drop(connection);
    leaks.assert_none_after();
    let error = write.write_all(&bytes[500_000..]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "nobody reads any more");
}

/// A small file system on a host's state directory; unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn on(dir: &'a Path, bytes: u64) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let options = format!("size={bytes},mode=700");
        mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_told_and_everything_that_was_there_goes_on() {
    let Some(mut host) = Host::empty() else { return };
    host.crash();
    let state_dir = host.state_dir();
    let _ = std::fs::remove_dir_all(&state_dir);
    let disk = SmallDisk::on(&state_dir, 8 << 20);
    host.wake();
    host.import_busybox();
    let container = host.sh("exit 7").named("early").create();
    let leaks = Leaks::before(&host);

    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(16 << 20);
    tar.append_data(&mut header, "big", &vec![b'x'; 16 << 20][..]).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&tar.into_inner().unwrap()).unwrap();
    file.rewind().unwrap();
    let answer = host.call_with_fds("Image.Import", json!({"name": "big", "archive": 0}), &[file.as_fd()]);
    assert_eq!(assert_refused(answer, "StorageFull").error, "io.dormouse.Image.StorageFull");
    leaks.assert_none_after();

    // Nothing at all is left now.
    let filler = state_dir.join("filler");
    let mut fill = std::fs::File::create(&filler).unwrap();
    while fill.write_all(&[0; 4096]).is_ok() {}
    let refusal = (0..1000).find_map(|_| host.sh("exit").try_create().err()).expect("the disk is full");
    assert_eq!(refusal.name(), "StorageFull", "{refusal:?}");
    assert!(host.names().contains(&"early".to_owned()), "what was there is still told");
    drop(fill);
    std::fs::remove_file(&filler).unwrap();

    container.start().unwrap();
    assert_eq!(container.exit_code(), Some(7));
    for name in host.names() {
        host.call("Container.Remove", json!({"name": name, "force": true})).unwrap();
    }
    host.crash();
    drop(disk);
    host.wake();
}

#[test]
fn a_mount_that_cannot_be_is_refused_with_its_field() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let cases = [
        (json!({"kind": "bind", "source": "/no/such/source", "target": "/data"}), "spec.mounts[0].source"),
        (json!({"kind": "bind", "source": "relative", "target": "/data"}), "spec.mounts[0].source"),
        (json!({"kind": "bind", "target": "/data"}), "spec.mounts[0].source"),
        (json!({"kind": "bind", "source": "/tmp", "target": "data"}), "spec.mounts[0].target"),
        (json!({"kind": "bind", "source": "/tmp", "target": "/"}), "spec.mounts[0].target"),
        (json!({"kind": "tmpfs", "target": "/proc"}), "spec.mounts[0].target"),
        (json!({"kind": "bind", "source": "/tmp", "target": "/proc/sys"}), "spec.mounts[0].target"),
        (json!({"kind": "bind", "source": "/tmp", "target": "/usr/../proc"}), "spec.mounts[0].target"),
        (json!({"kind": "tmpfs", "target": "/data", "source": "/tmp"}), "spec.mounts[0].source"),
        (json!({"kind": "tmpfs", "target": "/data", "flags": ["suid"]}), "spec.mounts[0].flags"),
    ];
    for (mount, field) in cases {
        let refusal =
            assert_refused(host.sh("exit").with(json!({"mounts": [mount]})).try_create(), "InvalidSpec");
        assert_eq!(refusal.parameters["field"], field, "{mount}: {}", refusal.reason());
    }
    leaks.assert_none_after();
}

#[test]
fn a_mount_onto_proc_by_a_link_is_refused_at_the_start() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container =
        host.sh("exit").with(json!({"mounts": [{"kind": "tmpfs", "target": "/link/sys"}]})).create();
    let upper = container.inspect()["upperDirectory"].as_str().unwrap().to_owned();
    std::os::unix::fs::symlink("/proc", Path::new(&upper).join("link")).unwrap();
    assert_refused(container.start(), "LaunchFailed");
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_source_that_has_gone_since_is_told_at_the_start() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let source = host.path().join("gone");
    std::fs::create_dir(&source).unwrap();
    let mounts = json!({"mounts": [{"kind": "bind", "source": source, "target": "/data"}]});
    let container = host.sh("exit").with(mounts).create();
    std::fs::remove_dir(&source).unwrap();
    let refusal = container.start().unwrap_err();
    assert!(["LaunchFailed", "InvalidSpec"].contains(&refusal.name()), "{refusal:?}");
    assert!(refusal.reason().contains("gone"), "{refusal:?}");
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_parameter_that_the_interface_does_not_know_is_told_with_its_path() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let mount = |fields: Value| json!({"spec": {"image": "busybox", "mounts": [{"kind": "tmpfs", "target": "/a"}, fields]}});
    let cases = [
        ("Container.Create", json!({}), "spec"),
        ("Container.Create", json!({"spec": 7}), "spec"),
        ("Container.Create", json!({"spec": {}, "more": 1}), "more"),
        ("Container.Create", json!({"spec": {"imgae": "busybox"}}), "spec.imgae"),
        ("Container.Create", json!({"spec": {"image": 7}}), "spec.image"),
        ("Container.Create", json!({"spec": {"command": "sh"}}), "spec.command"),
        ("Container.Create", json!({"spec": {"command": ["sh", 7]}}), "spec.command[1]"),
        ("Container.Create", json!({"spec": {"systemd": "maybe"}}), "spec.systemd"),
        ("Container.Create", json!({"spec": {"restart": {"mode": "sometimes"}}}), "spec.restart.mode"),
        ("Container.Create", json!({"spec": {"restart": {}}}), "spec.restart.mode"),
        ("Container.Create", json!({"spec": {"env": {"A": 1}}}), "spec.env.A"),
        ("Container.Create", mount(json!({"kind": "nfs", "target": "/b"})), "spec.mounts[1].kind"),
        ("Container.Create", mount(json!({"kind": "tmpfs"})), "spec.mounts[1].target"),
        (
            "Container.Create",
            mount(json!({"kind": "tmpfs", "target": "/b", "size": 1})),
            "spec.mounts[1].size",
        ),
        ("Container.Start", json!({}), "name"),
        ("Container.Start", json!({"name": "web", "wait": "later"}), "wait"),
        ("Container.List", json!({"states": ["running", "asleep"]}), "states[1]"),
        ("Container.Logs", json!({"name": "web", "tail": "all"}), "tail"),
    ];
    for (method, parameters, path) in cases {
        let refusal = host.call(method, parameters.clone()).unwrap_err();
        assert_eq!(refusal.error, "org.varlink.service.InvalidParameter", "{parameters}");
        assert_eq!(refusal.parameters["parameter"], path, "{parameters}");
    }
    leaks.assert_none_after();
}

#[test]
fn a_method_or_interface_that_is_not_there_is_told() {
    let Some(host) = Host::empty() else { return };
    let method = host.call("io.dormouse.Container.Fly", json!({})).unwrap_err();
    assert_eq!(method.error, "org.varlink.service.MethodNotFound");
    let interface = host.call("io.dormouse.Cat.Purr", json!({})).unwrap_err();
    assert_eq!(interface.error, "org.varlink.service.InterfaceNotFound");
}

#[test]
fn a_value_that_cannot_be_used_is_refused_with_its_field() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let cases = [
        (json!({"name": "no/slash"}), "spec.name"),
        (json!({"name": ""}), "spec.name"),
        (json!({"name": "x".repeat(65)}), "spec.name"),
        (json!({"command": ["a\0b"]}), "spec.command"),
        (json!({"env": {"A=B": "c"}}), "spec.env"),
        (json!({"workdir": "relative"}), "spec.workdir"),
        (json!({"capabilitiesAdd": ["FLY"]}), "spec.capabilitiesAdd"),
        (json!({"capabilitiesDrop": ["FLY"]}), "spec.capabilitiesDrop"),
        (json!({"stopSignal": "SIGFOO"}), "spec.stopSignal"),
        (json!({"resources": {"memoryBytes": -5}}), "spec.resources.memoryBytes"),
        (json!({"resources": {"cpuShares": 100, "cpuWeight": 100}}), "spec.resources.cpuWeight"),
        (
            json!({"resourceLimits": [{"name": "cheese", "soft": 1, "hard": 1}]}),
            "spec.resourceLimits[0].name",
        ),
        (
            json!({"resourceLimits": [{"name": "nofile", "soft": 2, "hard": 1}]}),
            "spec.resourceLimits[0].soft",
        ),
        (json!({"devices": [{"path": "/dev/none"}]}), "spec.devices"),
        (json!({"rootfs": "/"}), "spec.rootfs"),
        (json!({"seccomp": {"kind": "profile"}}), "spec.seccomp.profile"),
        (
            json!({"seccomp": {"kind": "profile", "profile": {"defaultAction": "SCMP_ACT_PLAY"}}}),
            "spec.seccomp.profile",
        ),
        (json!({"pidNamespace": {"kind": "container", "container": "nobody"}}), "spec.pidNamespace"),
        (json!({"networkNamespace": {"kind": "container"}}), "spec.networkNamespace"),
        (json!({"init": true, "systemd": "always"}), "spec.init"),
        (json!({"oomScoreAdjust": 5000}), "spec.oomScoreAdjust"),
        (json!({"stopTimeoutUSec": -1}), "spec.stopTimeoutUSec"),
    ];
    for (fields, field) in cases {
        let refusal = host.sh("exit").with(fields.clone()).try_create();
        let refusal = assert_refused(refusal, "InvalidSpec");
        let told = refusal.parameters["field"].as_str().unwrap();
        assert!(told.starts_with(field), "{fields}: {told}: {}", refusal.reason());
    }
    assert_eq!(host.names(), [""; 0]);
    leaks.assert_none_after();
}

#[test]
fn an_unknown_user_or_group_is_refused_at_the_start() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for fields in [
        json!({"user": "nobody-knows"}),
        json!({"user": "root:nobody-knows"}),
        json!({"groups": ["nobody-knows"]}),
    ] {
        let refusal = assert_refused(host.sh("exit").with(fields).try_run(), "InvalidSpec");
        assert!(refusal.reason().contains("nobody-knows"), "{refusal:?}");
    }
    leaks.assert_none_after();
}

#[test]
fn a_descriptor_that_was_not_passed_is_told() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let spec = host.sh("exit").spec;
    for index in [0, 7, -1] {
        let refusal = host.call("Container.Run", json!({"spec": spec, "stdout": index})).unwrap_err();
        assert!(["InvalidSpec", "InvalidParameter"].contains(&refusal.name()), "{refusal:?}");
    }
    leaks.assert_none_after();
}

#[test]
fn a_descriptor_that_is_open_for_the_other_direction_is_told() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    host.call("Volume.Create", json!({"name": "data"})).unwrap();
    let leaks = Leaks::before(&host);
    let (reader, writer) = std::io::pipe().unwrap();
    let directory = std::fs::File::open("/").unwrap();
    let (name, spec) = (&container.name, host.sh("exit").spec);
    for (method, parameters, field) in [
        ("Container.Run", json!({"spec": spec, "stdout": 0}), "stdout"),
        ("Container.Exec", json!({"name": name, "command": ["true"], "stderr": 0}), "stderr"),
        ("Container.Attach", json!({"name": name, "stdout": 0}), "stdout"),
        ("Container.Export", json!({"name": name, "archive": 0}), "archive"),
        ("Container.CopyOut", json!({"name": name, "path": "/etc", "archive": 0}), "archive"),
        ("Image.Save", json!({"names": ["busybox"], "archive": 0}), "archive"),
        ("Volume.Export", json!({"name": "data", "archive": 0}), "archive"),
    ] {
        for useless in [reader.as_fd(), directory.as_fd()] {
            let refusal = host.call_with_fds(method, parameters.clone(), &[useless]).unwrap_err();
            let told = (refusal.name(), refusal.parameters["parameter"].as_str());
            assert_eq!(told, ("InvalidParameter", Some(field)), "{method}");
        }
    }
    for (method, parameters, field) in [
        ("Container.Exec", json!({"name": name, "command": ["true"], "stdin": 0}), "stdin"),
        ("Container.CopyIn", json!({"name": name, "path": "/tmp", "archive": 0}), "archive"),
        ("Image.Import", json!({"name": "other", "archive": 0}), "archive"),
        ("Image.Load", json!({"archive": 0}), "archive"),
        ("Volume.Import", json!({"name": "data", "archive": 0}), "archive"),
        ("Secret.Create", json!({"name": "key", "descriptor": 0}), "descriptor"),
    ] {
        let refusal = host.call_with_fds(method, parameters, &[writer.as_fd()]).unwrap_err();
        let told = (refusal.name(), refusal.parameters["parameter"].as_str());
        assert_eq!(told, ("InvalidParameter", Some(field)), "{method}");
    }
    leaks.assert_none_after();
}

#[test]
fn a_terminal_that_nobody_reads_holds_no_thread_of_the_service() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let leaks = Leaks::before(&host);
    let pty = nix::pty::openpty(None, None).unwrap();
    for (method, parameters) in [
        ("io.dormouse.Container.Export", json!({"name": container.name, "archive": 0})),
        ("io.dormouse.Image.Save", json!({"names": ["busybox"], "archive": 0})),
    ] {
        for side in [&pty.slave, &pty.master] {
            let mut connection = host.connect();
            connection.set_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
            let refused = connection.call(method, parameters.clone(), &[side.as_fd()]);
            assert!(refused.is_err(), "more goes into a terminal than expected");
        }
    }
    // Who has called has left, and keeps both sides of the terminal.
    leaks.assert_none_after();
}

#[test]
fn a_wait_that_nobody_hears_of_keeps_nothing_awake() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let leaks = Leaks::before(&host);
    let mut connection = host.connect();
    for condition in ["exited", "ready"] {
        let parameters = json!({"name": container.name, "condition": condition});
        connection.call_oneway("io.dormouse.Container.Wait", parameters, &[]).unwrap();
    }
    // Calls of a connection are done one after the other.
    connection.call("org.varlink.service.GetInfo", json!({}), &[]).unwrap();
    drop(connection);
    leaks.assert_none_after();
}
