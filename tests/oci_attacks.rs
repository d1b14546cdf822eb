//! What an attacker tries: inside a container, in its image, in its volumes, or in a bundle that somebody else is to run.
//! Each test asserts the invariant that holds against it.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod oci_support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use oci_support::{Bundle, output, wait_until};
use serde_json::json;

fn capabilities(bundle: Bundle, names: &[&str]) -> Bundle {
    let sets = json!({"bounding": names, "effective": names, "permitted": names});
    bundle.at("/process/capabilities", sets)
}

/// CVE-2019-5736.
#[test]
fn the_runtimes_binary_cannot_be_written_to_through_proc_exe() {
    let binary = env!("CARGO_BIN_EXE_dormouse");
    let stamp = || {
        let found = fs::metadata(binary).unwrap();
        (found.len(), found.mtime(), found.mtime_nsec(), found.ino())
    };
    let before = stamp();
    // With every right over its processes: only the mount is left to say no.
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = capabilities(bundle, &["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SYS_ADMIN"]);
    bundle.create().good();
    let said = bundle.exec("readlink /proc/1/exe >/dev/null && : > /proc/1/exe");
    assert!(said.code != 0 && said.err.contains("Read-only file system"), "{said:?}");
    // Without them the first process does not even tell what it is.
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.create().good();
    let said =
        bundle.exec("readlink /proc/1/exe; readlink /proc/1/fd/*; cat /proc/1/environ; : > /proc/1/exe");
    assert!(said.code != 0 && said.out.is_empty(), "{said:?}");
    // A program that is the runtime itself, as an image may name it.
    let Some(bundle) = Bundle::new() else { return };
    fs::write(bundle.rootfs().join("evil"), "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(bundle.rootfs().join("evil"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.at("/process/args", json!(["/evil"])).run();
    assert_eq!(stamp(), before);
}

/// CVE-2016-9962, CVE-2024-21626.
#[test]
fn no_descriptor_and_no_working_directory_of_the_host_leaks() {
    let listing = "for fd in /proc/self/fd/*; do readlink $fd || true; done";
    let Some(bundle) = Bundle::sh(listing) else { return };
    let foreign = |text: &str| {
        let known =
            |line: &&str| line.starts_with("pipe:") || line.starts_with("/proc/") || *line == "/dev/null";
        text.lines().filter(|line| !known(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(foreign(&bundle.run().good()), Vec::<String>::new());
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    assert_eq!(foreign(&bundle.exec(listing).good()), Vec::<String>::new());
    for number in 0..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let said =
            output(bundle.command(&["exec", "--cwd", &cwd, &bundle.id, "cat", "../../../etc/hostname"]));
        assert!(said.refused().contains("working directory"));
        let Some(other) = Bundle::sh("pwd") else { return };
        let said = other.at("/process/cwd", json!(cwd)).run();
        assert!(said.refused().contains("working directory"));
    }
}

/// CVE-2019-19921, CVE-2021-30465, CVE-2023-27561: links in place of what is mounted on.
#[test]
fn mount_targets_that_are_links_stay_inside() {
    let outside = tempfile::tempdir().unwrap();
    let Some(bundle) = Bundle::sh("ls /marked; cat /etc/inside/file") else { return };
    symlink(outside.path(), bundle.rootfs().join("escape")).unwrap();
    symlink("../../../../../../../../etc/inside", bundle.rootfs().join("marked")).unwrap();
    let data = bundle.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), "of the volume\n").unwrap();
    let mount = |at: &str| json!({"destination": at, "type": "bind", "source": data, "options": ["bind"]});
    fs::create_dir_all(bundle.rootfs().join("etc/inside")).unwrap();
    let bundle = bundle.and("/mounts", mount("/marked")).and("/mounts", mount("/escape/deep"));
    let said = bundle.run();
    // The second link leads nowhere inside, which is an error or a directory inside; never the host's.
    if said.code == 0 {
        assert_eq!(said.out, "file\nof the volume\n");
    }
    assert!(fs::read_dir(outside.path()).unwrap().next().is_none(), "something was made outside");
}

/// The same, while the links change.
#[test]
fn mount_targets_that_change_all_the_time_stay_inside() {
    let Some(bundle) = Bundle::sh("ls -A /vol/a/ /vol/b/ 2>/dev/null; ls /canary 2>/dev/null; true") else {
        return;
    };
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("host-canary"), "").unwrap();
    let volume = bundle.path().join("volume");
    fs::create_dir_all(volume.join("a")).unwrap();
    symlink(outside.path(), volume.join("b")).unwrap();
    let bind = |at: &str, from: &Path| json!({"destination": at, "type": "bind", "source": from, "options": ["rbind"]});
    let bundle = bundle
        .and("/mounts", bind("/vol", &volume))
        .and("/mounts", json!({"destination": "/vol/a", "type": "tmpfs", "source": "tmpfs"}))
        .and("/mounts", json!({"destination": "/vol/a/deeper", "type": "tmpfs", "source": "tmpfs"}));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let at = |name: &str| std::ffi::CString::new(volume.join(name).to_str().unwrap()).unwrap();
            let (a, b) = (at("a"), at("b"));
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, &*a, rustix::fs::CWD, &*b, flags);
            }
        });
        for _ in 0..40 {
            let said = bundle.run();
            assert!(!said.out.contains("host-canary"), "{said:?}");
            assert!(!said.err.contains("panicked"), "{said:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let found: Vec<_> =
        fs::read_dir(outside.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(found, ["host-canary"], "something was made outside");
}

/// CVE-2025-31133: what is shown in place of a masked path.
#[test]
fn masked_paths_are_hidden_by_a_true_dev_null_only() {
    let Some(bundle) = Bundle::sh("cat /secret") else { return };
    let mut bundle = bundle.at("/linux/maskedPaths", json!(["/secret"]));
    fs::write(bundle.rootfs().join("secret"), "secret\n").unwrap();
    assert_eq!(bundle.run().good(), "");
    // Without a file system of its own on /dev, the image has a say there.
    bundle.config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    for evil in ["link", "file"] {
        let null = bundle.rootfs().join("dev/null");
        let _ = fs::remove_file(&null);
        if evil == "link" {
            symlink("/proc/sysrq-trigger", &null).unwrap();
        } else {
            fs::write(&null, "not null\n").unwrap();
        }
        bundle.run().refused();
    }
    // A link as the path itself is followed inside only.
    fs::remove_file(bundle.rootfs().join("dev/null")).unwrap();
    fs::remove_file(bundle.rootfs().join("secret")).unwrap();
    symlink("/proc/../../../etc/hostname", bundle.rootfs().join("secret")).unwrap();
    bundle.run();
    assert!(!fs::read_to_string("/etc/hostname").unwrap().is_empty());
}

/// CVE-2025-52565: /dev/console in an image.
#[test]
fn a_console_that_is_a_link_leads_nowhere_outside() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let Some(bundle) = Bundle::sh("echo written > /dev/console") else { return };
    let mut bundle = bundle.at("/process/terminal", json!(true));
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev");
    symlink(&victim, bundle.rootfs().join("dev/console")).unwrap();
    bundle.run();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

/// CVE-2019-16884, CVE-2025-52881: something else in procfs's place, or over a part of it.
#[test]
fn nothing_is_mounted_over_procfs_and_parameters_go_to_the_true_one() {
    let Some(bundle) = Bundle::sh("cat /proc/sys/net/ipv4/ip_forward") else { return };
    let fake = bundle.path().join("fake");
    fs::create_dir_all(fake.join("sys/net/ipv4")).unwrap();
    fs::write(fake.join("sys/net/ipv4/ip_forward"), "fake").unwrap();
    let over = |at: &str| json!({"destination": at, "type": "bind", "source": fake, "options": ["rbind"]});
    let Some(other) = Bundle::new() else { return };
    assert!(other.and("/mounts", over("/proc/sys")).run().refused().contains("procfs"));
    let Some(other) = Bundle::new() else { return };
    symlink("proc/sys", other.rootfs().join("innocent")).unwrap();
    assert!(other.and("/mounts", over("/innocent")).run().refused().contains("procfs"));
    let mut bundle = bundle.at("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    assert_eq!(bundle.run().good(), "1\n");
    // A volume in place of the whole: what is set does not go into it.
    bundle.config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/proc");
    let bundle = bundle.and("/mounts", over("/proc"));
    bundle.run();
    assert_eq!(fs::read_to_string(fake.join("sys/net/ipv4/ip_forward")).unwrap(), "fake");
}

/// CVE-2022-0811: a parameter that is the host's, however it is written.
#[test]
fn parameters_of_the_host_are_refused() {
    let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for name in [
        "kernel.core_pattern",
        "net/../kernel/core_pattern",
        "kernel.shm_rmid_forced+kernel.core_pattern",
        "vm.panic_on_oom",
    ] {
        let Some(bundle) = Bundle::new() else { return };
        assert!(bundle.at("/linux/sysctl", json!({name: "|/evil"})).run().refused().contains("sysctl"));
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[test]
fn a_process_that_enters_is_not_to_be_looked_into() {
    // It looks at all processes, all the time, and tells what it finds of one that has not become its program yet.
    let spy = "while :; do for p in /proc/[0-9]*; do t=$(readlink $p/exe); case $t in *dormouse*) echo exe $t;; esac; \
               case $(tr '\\0' ' ' 2>/dev/null < $p/environ) in *SECRET*) echo environment;; esac; \
               for f in $p/fd/*; do case $(readlink $f) in /sys/fs/cgroup/*|*/state/*) echo descriptor;; esac; done; done; done 2>/dev/null";
    let Some(bundle) = Bundle::sh(spy) else { return };
    bundle.up();
    for _ in 0..30 {
        let mut command = bundle.command(&["exec", &bundle.id, "true"]);
        command.env("SECRET", "of the host");
        output(command).good();
    }
    assert_eq!(bundle.written(), "");
}

/// CVE-2019-14271: what an image has in place of libraries, and of what their loader reads.
#[test]
fn nothing_of_an_image_is_loaded_into_the_process_that_enters() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let root = bundle.rootfs();
    let places = ["lib", "lib64", "usr/lib/x86_64-linux-gnu", "etc", "lib/x86_64-linux-gnu"];
    for place in places {
        fs::create_dir_all(root.join(place)).unwrap();
    }
    fs::write(root.join("etc/ld.so.preload"), "/lib/evil.so\n").unwrap();
    fs::write(root.join("etc/nsswitch.conf"), "passwd: evil\ngroup: evil\n").unwrap();
    let evil = [
        "lib/evil.so",
        "lib/libnss_evil.so.2",
        "lib64/ld-linux-x86-64.so.2",
        "lib/x86_64-linux-gnu/libc.so.6",
        "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
        "etc/ld.so.cache",
    ];
    for file in evil {
        fs::write(root.join(file), "\x7fELF of an attacker").unwrap();
        fs::set_permissions(root.join(file), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let watched = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
    for place in places {
        watched.add_watch(&root.join(place), AddWatchFlags::IN_OPEN | AddWatchFlags::IN_ACCESS).unwrap();
    }
    // busybox is linked statically, so whatever is opened is opened by the runtime.
    let bundle = bundle
        .and("/process/env", json!("LD_PRELOAD=/lib/evil.so"))
        .at("/process/user", json!({"uid": 7, "gid": 7}));
    bundle.create().good();
    bundle.call(&["start"]).good();
    let command = |user: &str| {
        let env = ["LD_PRELOAD=/lib/evil.so", "LD_LIBRARY_PATH=/lib", "GCONV_PATH=/lib", "HOME=/etc"];
        let mut words = vec!["exec", "--user", user];
        env.iter().for_each(|variable| words.extend(["--env", variable]));
        words.extend([bundle.id.as_str(), "true"]);
        output(bundle.command(&words))
    };
    command("0:0").good();
    command("1000:1000").good();
    let opened: Vec<_> = match watched.read_events() {
        Err(nix::errno::Errno::EAGAIN) => Vec::new(),
        events => events.unwrap().into_iter().map(|event| (event.mask, event.name)).collect(),
    };
    assert!(opened.is_empty(), "{opened:?}");
    // The watch sees what it should.
    bundle.exec("cat /etc/ld.so.preload").good();
    assert!(!watched.read_events().unwrap().is_empty());
}

/// CVE-2022-24769, CVE-2022-29162, and groups of the caller.
#[test]
fn neither_groups_nor_capabilities_of_the_caller_are_left() {
    let script = "grep -E '^(Groups|CapInh|CapAmb):' /proc/self/status";
    let expected = "Groups:\t \nCapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let Some(bundle) = Bundle::sh(script) else { return };
    assert_eq!(bundle.run().good(), expected);
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    assert_eq!(bundle.exec(script).good(), expected);
    let said = output(bundle.command(&["exec", "--user", "1000:1000", &bundle.id, "sh", "-c", script]));
    assert_eq!(said.good(), expected);
}

/// CVE-2022-0492.
#[test]
fn cgroups_are_no_way_out() {
    let script = "for f in $(find /sys/fs/cgroup -name release_agent); do echo /evil > $f && echo written $f; done; \
                  for f in $(find /sys/fs/cgroup -name cgroup.procs); do echo 1 > $f && echo moved $f; done; \
                  mkdir /m && mount -t cgroup -o memory none /m && echo mounted; \
                  mount -t cgroup2 none /m && echo mounted; unshare -C true && echo unshared; cat /proc/self/cgroup";
    let Some(bundle) = Bundle::sh(&format!("{{ {script}; }} 2>/dev/null")) else { return };
    let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]});
    let said = bundle.and("/mounts", cgroup).run().good();
    for line in said.lines() {
        let path = line.splitn(3, ':').nth(2);
        assert_eq!(
            path,
            Some("/"),
            "its own cgroup is the root of what it sees, and nothing else came of it: {said}"
        );
    }
}

/// Without a namespace for it, what others have is still not to be seen.
#[test]
fn without_a_cgroup_namespace_only_the_own_cgroup_is_shown() {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        eprintln!("SKIPPED: with cgroup v2 alone, no cgroup namespace means the host's");
        return;
    }
    let script = "for h in /sys/fs/cgroup/*; do test -e $h/cgroup.procs || echo none in $h; \
                  test ! -e $h/release_agent || echo root in $h; done; find /sys/fs/cgroup -mindepth 2 -type d; \
                  { mkdir /sys/fs/cgroup/memory/x || mkdir /sys/fs/cgroup/systemd/x; } 2>/dev/null && echo made; \
                  grep -qx $$ /sys/fs/cgroup/memory/cgroup.procs && echo it is in its own";
    let Some(bundle) = Bundle::sh(script) else { return };
    let cgroup = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]});
    let bundle = bundle.without_namespace("cgroup").and("/mounts", cgroup);
    assert_eq!(bundle.run().good(), "it is in its own\n");
}

#[test]
fn proc_and_sys_are_not_for_writing() {
    let script = "for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/vm/drop_caches /sys/kernel/uevent_helper; do \
                  echo x 2>/dev/null > $f && echo written $f; done; true";
    let Some(bundle) = Bundle::sh(&format!("{{ {script}; }} 2>/dev/null")) else { return };
    let bundle = bundle.at("/linux/readonlyPaths", json!(["/proc/sys", "/proc/sysrq-trigger", "/proc/bus"]));
    assert_eq!(capabilities(bundle, &["CAP_DAC_OVERRIDE"]).run().good(), "");
}

#[test]
fn bombs_stay_within_their_limits() {
    let Some(bundle) = Bundle::sh("i=0; while [ $i -lt 200 ]; do sleep 100 & i=$((i+1)); done; echo all")
    else {
        return;
    };
    let bundle = bundle.at("/linux/resources", json!({"pids": {"limit": 20}}));
    let said = bundle.run();
    assert!(!said.out.contains("all") && said.err.contains("fork"), "{said:?}");
    bundle.assert_gone();
    let Some(bundle) = Bundle::sh("dd if=/dev/zero of=/dev/null bs=200M count=1; echo code $?") else {
        return;
    };
    let bundle = bundle.at("/linux/resources", json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}}));
    let said = bundle.run();
    assert!(said.code != 0 || !said.out.contains("code 0"), "{said:?}");
    bundle.assert_gone();
}

#[test]
fn hooks_and_console_sockets_have_their_limits() {
    let hook = |script: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1}]);
    let Some(bundle) = Bundle::new() else { return };
    let said = bundle.at("/hooks/createRuntime", hook("sleep 100")).run();
    assert!(said.refused().contains("within 1 s"));
    let Some(bundle) = Bundle::new() else { return };
    let said = bundle.at("/hooks/prestart", json!([{"path": "../../bin/sh"}])).run();
    assert!(said.refused().contains("not absolute"));
    // A hook gets nothing of the runtime's own descriptors and environment.
    let Some(bundle) = Bundle::new() else { return };
    let seen = bundle.path().join("seen");
    let script =
        format!("ls -l /proc/self/fd | /bin/grep -c cgroup > {0}; /usr/bin/env >> {0}", seen.display());
    bundle.at("/hooks/createRuntime", hook(&script)).run().good();
    let seen = fs::read_to_string(seen);
    // The bundle's directory has gone with the bundle, unless the hook has failed.
    assert!(seen.is_err() || seen.unwrap().starts_with("0\n"));
    for bad in ["file", "directory", "nothing"] {
        let Some(bundle) = Bundle::new() else { return };
        let path = bundle.path().join("console");
        match bad {
            "file" => fs::write(&path, "").unwrap(),
            "directory" => fs::create_dir(&path).unwrap(),
            _ => {}
        }
        let bundle = bundle.at("/process/terminal", json!(true));
        assert!(
            bundle
                .create_with(&["--console-socket", path.to_str().unwrap()])
                .refused()
                .contains("console socket")
        );
        bundle.assert_gone();
    }
}

#[test]
fn the_gate_and_the_state_are_the_owners_alone() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.create().good();
    for path in [bundle.state_root(), bundle.state_root().join(&bundle.id)] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
    }
    // Who knocks and says nothing does not start it, and does not keep others from it.
    let gate =
        rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET, None)
            .unwrap();
    let path = bundle.state_root().join(&bundle.id).join("start.sock");
    rustix::net::connect(&gate, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::send(&gate, b"nonsense", rustix::net::SendFlags::empty()).unwrap();
    drop(gate);
    assert_eq!(bundle.status(), "created");
    bundle.call(&["start"]).good();
    assert_eq!(bundle.status(), "running");
}

#[test]
fn hostile_bundles_are_errors() {
    let Some(bundle) = Bundle::new() else { return };
    let config = bundle.dir().join("config.json");
    let run = || output(bundle.command(&["run", "--bundle", bundle.dir().to_str().unwrap(), &bundle.id]));
    run().refused();
    fs::create_dir(&config).unwrap();
    run().refused();
    fs::remove_dir(&config).unwrap();
    // A FIFO, for which one would wait for ever.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &config,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    run().refused();
    fs::remove_file(&config).unwrap();
    symlink("/dev/zero", &config).unwrap();
    assert!(run().refused().contains("MiB"));
    fs::remove_file(&config).unwrap();
    fs::write(&config, "[".repeat(100_000)).unwrap();
    run().refused();
    for (pointer, value) in [
        ("/root/path", json!("nowhere")),
        ("/root/path", json!("config.json")),
        ("/root/path", json!("")),
        ("/linux/cgroupsPath", json!("/../../escape")),
        ("/linux/cgroupsPath", json!("/")),
        ("/ociVersion", json!("2.0.0")),
    ] {
        let Some(bundle) = Bundle::new() else { return };
        bundle.at(pointer, value).run().refused();
    }
    for id in ["../escape", "a/b", ".", "", "x\ny"] {
        let dir = bundle.dir();
        let words = ["run", "--bundle", dir.to_str().unwrap(), id];
        assert!(output(bundle.command(&words)).refused().contains("no id"));
    }
    bundle.assert_gone();
}

#[test]
fn a_cgroup_with_processes_of_others_is_left_alone() {
    let Some(victim) = Bundle::sleeper() else { return };
    let path = format!("/dormouse-runtime/{}", victim.id);
    victim.up();
    let Some(attacker) = Bundle::new() else { return };
    assert!(attacker.at("/linux/cgroupsPath", json!(path)).run().refused().contains("in use"));
    assert_eq!(victim.status(), "running");
}

#[test]
fn a_payload_that_ignores_signals_is_deleted_by_force() {
    let Some(bundle) = Bundle::sh(
        "trap '' TERM INT HUP; (trap '' TERM; while :; do sleep 1; done) & while :; do sleep 1; done",
    ) else {
        return;
    };
    let bundle = bundle.without_namespace("pid");
    bundle.up();
    output(bundle.command(&["kill", &bundle.id, "KILL"])).good();
    bundle.until("stopped");
    // Its child lives on: it has no pid namespace that would end with its first process.
    wait_until("a process is left", || {
        oci_support::cgroups_of(&bundle.id)
            .iter()
            .any(|cgroup| !fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().is_empty())
    });
    bundle.call(&["delete"]).good();
    bundle.assert_gone();
}

/// Neither a peer that takes no connections nor one that reads nothing holds anybody for ever.
#[test]
fn peers_that_do_nothing_do_not_hold_a_start() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at("/process/terminal", json!(true));
    let path = bundle.path().join("deaf");
    let listener = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&listener, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    // The one connection that waits is ours, so that there is room for nobody else.
    let first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let console = ["--console-socket", path.to_str().unwrap()];
    assert!(bundle.create_with(&console).refused().contains("console socket"));
    bundle.assert_gone();
    let Some(other) = Bundle::sleeper() else { return };
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
    assert!(other.at("/linux/seccomp", seccomp).run().refused().contains("agent"));
    // One that never reads has what it was sent in its queue.
    drop((first, listener));
    fs::remove_file(&path).unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    bundle.create_with(&console).good();
    bundle.call(&["start"]).good();
    assert_eq!(bundle.status(), "running");
}
