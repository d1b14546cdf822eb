//! config-linux.md: "Linux Container Configuration".

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::oci_support::{Bundle, cgroup_file, output};

/// What a script says in a container whose configuration is changed.
fn said(script: &str, pointer: &str, value: Value) -> Option<String> {
    Some(Bundle::sh(script)?.at(pointer, value).run().good())
}

#[track_caller]
fn refused(pointer: &str, value: Value) -> Option<String> {
    let bundle = Bundle::new()?.at(pointer, value);
    let said = bundle.run().refused();
    bundle.assert_gone();
    Some(said)
}

#[test]
fn default_filesystems() {
    let script = "for m in /proc /sys /dev/pts /dev/shm; do grep \" $m \" /proc/self/mountinfo | sed 's/.* - //' | cut -d' ' -f1; done";
    let Some(bundle) = Bundle::sh(script) else { return };
    assert_eq!(bundle.run().good(), "proc\nsysfs\ndevpts\ntmpfs\n");
}

#[test]
fn namespaces_are_new_unless_they_have_a_path() {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let script = "for n in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$n; done";
    let own: Vec<_> =
        kinds.iter().map(|kind| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap()).collect();
    let Some(bundle) = Bundle::sh(script) else { return };
    let text = bundle.run().good();
    for (line, own) in text.lines().zip(&own) {
        assert_ne!(line, own.to_str().unwrap());
    }
    // Those that are not named are the runtime's.
    let Some(bundle) = Bundle::sh(script) else { return };
    let bundle = bundle.without_namespace("ipc").without_namespace("network").without_namespace("cgroup");
    let text = bundle.run().good();
    let lines: Vec<&str> = text.lines().collect();
    for (index, same) in [(0, true), (1, true), (2, false), (3, true), (4, false), (5, false)] {
        assert_eq!(lines[index] == own[index].to_str().unwrap(), same, "{}", kinds[index]);
    }
}

#[test]
fn namespaces_by_path() {
    let Some(first) = Bundle::sleeper() else { return };
    let first = first.at("/hostname", json!("of-the-first"));
    first.up();
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid());
    let Some(second) = Bundle::sh("hostname; ps | grep -c '[w]ait'") else { return };
    let mut second = second.at(
        "/linux/namespaces",
        json!([
            {"type": "mount"}, {"type": "uts", "path": path("uts")}, {"type": "pid", "path": path("pid")},
            {"type": "ipc", "path": path("ipc")}, {"type": "network", "path": path("net")},
        ]),
    );
    second.config.as_object_mut().unwrap().remove("hostname");
    assert_eq!(second.run().good(), "of-the-first\n1\n");
}

#[test]
fn namespaces_that_make_no_sense() {
    for (namespaces, word) in [
        (
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": "/proc/self/ns/net"}]),
            "pid namespace",
        ),
        (
            json!([{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": "/proc/self/ns/uts"}]),
            "namespace",
        ),
        (json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc", "path": "/etc/passwd"}]), "namespace"),
        (json!([{"type": "mount"}, {"type": "uts"}, {"type": "ipc", "path": "relative"}]), "not absolute"),
        (json!([{"type": "mount"}, {"type": "uts"}, {"type": "uts"}]), "twice"),
    ] {
        let Some(text) = refused("/linux/namespaces", namespaces) else { return };
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn user_namespace_mappings() {
    let Some(bundle) =
        Bundle::sh("id -u; cat /proc/self/uid_map /proc/self/gid_map | awk '{print $1, $2, $3}'")
    else {
        return;
    };
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    let owned =
        std::process::Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()).status();
    assert!(owned.unwrap().success());
    let bundle = bundle
        .and("/linux/namespaces", json!({"type": "user"}))
        .at("/linux/uidMappings", mapping.clone())
        .at("/linux/gidMappings", mapping);
    assert_eq!(bundle.run().good(), "0\n0 100000 65536\n0 100000 65536\n");
}

#[test]
fn memory_policy() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        eprintln!("SKIPPED: this kernel has no memory nodes");
        return;
    }
    let script = "head -n 1 /proc/self/numa_maps | cut -d ' ' -f 2";
    for (policy, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0\n"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0\n"),
        (json!({"mode": "MPOL_DEFAULT"}), "default\n"),
    ] {
        let Some(text) = said(script, "/linux/memoryPolicy", policy) else { return };
        assert_eq!(text, expected);
    }
    for wrong in [
        json!({"mode": "MPOL_BIND", "nodes": "1000"}),
        json!({"mode": "MPOL_BIND", "nodes": "0-"}),
        json!({"mode": "MPOL_BIND"}),
        json!({"mode": "MPOL_NONSENSE"}),
    ] {
        let text = refused("/linux/memoryPolicy", wrong.clone()).unwrap();
        assert!(text.contains("emoryPolicy"), "{wrong}: {text}");
    }
}

#[test]
fn seccomp_conditions_are_about_arguments_that_there_are() {
    let rule = |index: u64| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"],
        "action": "SCMP_ACT_ERRNO", "args": [{"index": index, "value": 7, "op": "SCMP_CMP_EQ"}]}]})
    };
    for index in [6, 1 << 29, u64::MAX] {
        let Some(text) = refused("/linux/seccomp", rule(index)) else { return };
        assert!(text.contains("argument"), "{text}");
    }
    assert_eq!(said("echo fine", "/linux/seccomp", rule(5)).unwrap(), "fine\n");
}

#[test]
fn offset_for_time_namespace() {
    let script =
        "awk '{print ($1 > 1000000)}' /proc/uptime; cat /proc/self/timens_offsets | awk '{print $1, $2, $3}'";
    let Some(bundle) = Bundle::sh(script) else { return };
    let bundle = bundle.and("/linux/namespaces", json!({"type": "time"})).at(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000, "nanosecs": 7}, "monotonic": {"secs": 172_800}}),
    );
    assert_eq!(bundle.run().good(), "1\nmonotonic 172800 0\nboottime 1000000 7\n");
    assert!(
        refused("/linux/timeOffsets", json!({"boottime": {"secs": 1}}))
            .is_none_or(|text| text.contains("time namespace"))
    );
}

#[test]
fn devices() {
    let device = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 3, "gid": 4},
        {"path": "/elsewhere/pipe", "type": "p", "fileMode": 0o600}, {"path": "/dev/disk", "type": "b", "major": 7, "minor": 99}]);
    let script = "stat -c '%F %a %u %g %t %T' /dev/fuse /elsewhere/pipe /dev/disk";
    let Some(text) = said(script, "/linux/devices", device) else { return };
    assert_eq!(
        text,
        "character special file 640 3 4 a e5\nfifo 600 0 0 0 0\nblock special file 666 0 0 7 63\n"
    );
    // What is there and is something else is an error.
    let Some(bundle) = Bundle::new() else { return };
    fs::write(bundle.rootfs().join("etc/device"), "a file").unwrap();
    let wrong = json!([{"path": "/etc/device", "type": "c", "major": 1, "minor": 3}]);
    bundle.at("/linux/devices", wrong).run().refused();
}

#[test]
fn default_devices() {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %t %T %a' /dev/$d; done; readlink /dev/ptmx; \
                  head -c 3 /dev/zero | od -An -tx1; echo x > /dev/null && echo good";
    let expected = "/dev/null 1 3 666\n/dev/zero 1 5 666\n/dev/full 1 7 666\n/dev/random 1 8 666\n/dev/urandom 1 9 666\n\
                    /dev/tty 5 0 666\npts/ptmx\n 00 00 00\ngood\n";
    let Some(bundle) = Bundle::sh(script) else { return };
    assert_eq!(bundle.run().good(), expected);
    // Also where a rule is against all devices.
    let none = json!([{"allow": false, "access": "rwm"}]);
    assert_eq!(said(script, "/linux/resources/devices", none).unwrap(), expected);
}

#[test]
fn cgroups_path() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let path = format!("/dormouse-runtime/{}", bundle.id);
    let bundle = bundle.at("/linux/cgroupsPath", json!(path));
    bundle.up();
    let table = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    assert!(table.lines().all(|line| line.ends_with(&path)), "{table}");
    refused("/linux/cgroupsPath", json!("/../x"));
}

#[test]
fn allowed_device_list_in_the_listed_order() {
    let rules = json!([
        {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
        {"allow": false, "type": "c", "major": 1, "minor": 7, "access": "w"},
    ]);
    let script =
        "head -c 1 /dev/full > /dev/null && echo read; (: > /dev/full) 2>/dev/null && echo written; true";
    let Some(bundle) = Bundle::sh(script) else { return };
    assert_eq!(bundle.at("/linux/resources", json!({ "devices": rules })).run().good(), "read\n");
}

#[test]
fn memory() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle =
        bundle.at("/linux/resources", json!({"memory": {"limit": 64 << 20, "reservation": 32 << 20}}));
    bundle.up();
    let limit = cgroup_file(&bundle.id, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit.unwrap(), (64 << 20).to_string());
    let soft = cgroup_file(&bundle.id, "memory", "memory.soft_limit_in_bytes", "memory.low");
    assert_eq!(soft.unwrap(), (32 << 20).to_string());
}

#[test]
fn cpu() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at(
        "/linux/resources",
        json!({"cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0"}}),
    );
    bundle.up();
    let file = |controller: &str, v1: &str, v2: &str| cgroup_file(&bundle.id, controller, v1, v2).unwrap();
    assert!(["512", "20"].contains(&file("cpu", "cpu.shares", "cpu.weight").as_str()));
    assert!(["50000", "50000 100000"].contains(&file("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    assert_eq!(file("cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
}

#[test]
fn pids() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at("/linux/resources", json!({"pids": {"limit": 77}}));
    bundle.up();
    assert_eq!(cgroup_file(&bundle.id, "pids", "pids.max", "pids.max").unwrap(), "77");
}

#[test]
fn unified() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let bundle = bundle.at("/linux/resources", json!({"unified": {"memory.high": "67108864"}}));
    if v2 {
        bundle.up();
        let high = fs::read_to_string(format!("/sys/fs/cgroup/dormouse-runtime/{}/memory.high", bundle.id));
        assert_eq!(high.unwrap().trim(), "67108864");
    } else {
        assert!(bundle.run().refused().contains("cgroup v1"));
    }
    for key in ["nonsense.max", "memory/../cgroup.procs", "cgroup.procs"] {
        refused("/linux/resources", json!({"unified": {key: "1"}}));
    }
}

#[test]
fn intel_rdt() {
    let Some(text) = refused("/linux/intelRdt", json!({"closID": "guaranteed_group"})) else { return };
    assert!(text.contains("linux.intelRdt is not supported"), "{text}");
}

#[test]
fn sysctl() {
    let parameters =
        json!({"net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/forwarding": "1", "kernel.shmmni": "77"});
    let script =
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/lo/forwarding /proc/sys/kernel/shmmni";
    let Some(text) = said(script, "/linux/sysctl", parameters) else { return };
    assert_eq!(text, "1\n1\n77\n");
}

#[test]
fn seccomp() {
    let rule = |action: &str| {
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat", "no_such_call"], "action": action}]})
    };
    let script = "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status";
    let Some(text) = said(script, "/linux/seccomp", rule("SCMP_ACT_ERRNO")) else { return };
    assert_eq!(text, "mkdir: can't create directory '/tmp/x': Operation not permitted\nSeccomp:\t2\n");
    let mut with_errno = rule("SCMP_ACT_ERRNO");
    with_errno["syscalls"][0]["errnoRet"] = json!(28);
    assert!(said(script, "/linux/seccomp", with_errno.clone()).unwrap().contains("No space left"));
    with_errno["syscalls"][0]["action"] = json!("SCMP_ACT_KILL");
    assert!(refused("/linux/seccomp", with_errno).unwrap().contains("no errno"));
    let Some(bundle) = Bundle::sh("mkdir /tmp/x; echo after") else { return };
    let said = bundle.at("/linux/seccomp", rule("SCMP_ACT_KILL_PROCESS")).run();
    assert_eq!(said.out, "after\n", "only the process that makes the call is killed");
    refused(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}),
    );
    let mut flags = rule("SCMP_ACT_ERRNO");
    flags["flags"] =
        json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"]);
    Bundle::new().unwrap().at("/linux/seccomp", flags).run().good();
}

/// What an agent is told: the state, and the descriptor by which it decides.
#[test]
fn seccomp_the_container_process_state() {
    let Some(bundle) = Bundle::sh("mkdir /tmp/x 2>/dev/null; echo went on") else { return };
    let path = bundle.path().join("agent.sock");
    let filter = json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "some words",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]});
    let bundle = bundle.at("/linux/seccomp", filter).at("/annotations", json!({"a": "b"}));
    bundle.create().good();
    assert!(bundle.call(&["start"]).refused().contains("agent"), "nobody listens");
    bundle.call(&["delete", "--force"]).good();
    let listener = UnixListener::bind(&path).unwrap();
    bundle.create().good();
    let agent = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 65536];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
        let received = {
            let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
            rustix::net::recvmsg(&stream, &mut parts, &mut control, flags).unwrap()
        };
        let descriptor = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        buffer.truncate(received.bytes);
        // To the end: one state for each connection.
        stream.read_to_end(&mut buffer).unwrap();
        // Closed by this agent, which answers every call with ENOSYS.
        let descriptor = descriptor.unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
        let name = fs::read_link(format!("/proc/self/fd/{number}"));
        (serde_json::from_slice::<Value>(&buffer).unwrap(), name.unwrap())
    });
    let pid = bundle.pid();
    bundle.call(&["start"]).good();
    let (state, descriptor) = agent.join().unwrap();
    assert_eq!(descriptor.to_str().unwrap(), "anon_inode:seccomp notify");
    assert_eq!((&state["ociVersion"], &state["fds"]), (&json!("1.2.0"), &json!(["seccompFd"])));
    assert_eq!((&state["pid"], &state["metadata"]), (&json!(pid), &json!("some words")));
    assert_eq!(
        (&state["state"]["id"], &state["state"]["annotations"]["a"]),
        (&json!(bundle.id), &json!("b"))
    );
    bundle.until("stopped");
    assert_eq!(bundle.written(), "went on\n");
    let unheard = json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/x"});
    assert!(refused("/linux/seccomp", unheard).unwrap().contains("sendmsg"));
}

#[test]
fn rootfs_mount_propagation() {
    let script = "grep ' / / ' /proc/self/mountinfo | cut -d' ' -f7; true";
    let script =
        format!("{script}; grep -E '^[0-9]+ [0-9]+ [0-9:]+ [^ ]+ / ' /proc/self/mountinfo | cut -d' ' -f7");
    for (kind, expected) in [("shared", "shared:"), ("private", "-"), ("unbindable", "unbindable")] {
        let Some(text) = said(&script, "/linux/rootfsPropagation", json!(kind)) else { return };
        assert!(text.contains(expected), "{kind}: {text}");
    }
    refused("/linux/rootfsPropagation", json!("sideways"));
}

#[test]
fn masked_paths() {
    let script = "cat /etc/passwd; ls -A /etc2; (: > /etc/passwd) 2>/dev/null; echo done";
    let Some(bundle) = Bundle::sh(script) else { return };
    fs::create_dir(bundle.rootfs().join("etc2")).unwrap();
    fs::write(bundle.rootfs().join("etc2/file"), "").unwrap();
    let bundle = bundle.at("/linux/maskedPaths", json!(["/etc/passwd", "/etc2", "/no/such/path"]));
    assert_eq!(bundle.run().good(), "done\n");
    assert!(!fs::read_to_string(bundle.rootfs().join("etc/passwd")).unwrap().is_empty());
    refused("/linux/maskedPaths", json!(["relative"]));
}

#[test]
fn readonly_paths() {
    let script = "touch /etc/x 2>/dev/null && echo written; cat /etc/passwd | wc -l";
    let Some(text) = said(script, "/linux/readonlyPaths", json!(["/etc", "/no/such/path"])) else { return };
    assert_eq!(text, "1\n");
    refused("/linux/readonlyPaths", json!(["relative"]));
}

#[test]
fn mount_label() {
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        refused("/linux/mountLabel", json!("system_u:object_r:svirt_sandbox_file_t:s0:c715,c811"));
    }
}

#[test]
fn personality() {
    let Some(text) = said("uname -m", "/linux/personality", json!({"domain": "LINUX32"})) else { return };
    assert!(["i686\n", "armv8l\n"].contains(&text.as_str()), "{text}");
    assert_ne!(said("uname -m", "/linux/personality", json!({"domain": "LINUX"})).unwrap(), text);
    refused("/linux/personality", json!({"domain": "WINDOWS"}));
}

#[test]
fn network_devices() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let name = format!("oci{}", std::process::id() % 100_000);
    let ip = |words: &[&str]| {
        std::process::Command::new("ip").args(words).output().is_ok_and(|done| done.status.success())
    };
    if !ip(&["link", "add", &name, "type", "dummy"]) {
        eprintln!("SKIPPED: no dummy network device can be made here");
        return;
    }
    assert!(ip(&["address", "add", "198.51.100.7/24", "dev", &name]));
    let missing = Bundle::new().unwrap().at("/linux/netDevices", json!({"no-such-dev": {}}));
    assert!(missing.run().refused().contains("no-such-dev"));
    let bundle = bundle.at("/linux/netDevices", json!({name.clone(): {"name": "inside0"}}));
    let created = bundle.create();
    if created.code != 0 {
        ip(&["link", "delete", &name]);
    }
    created.good();
    bundle.call(&["start"]).good();
    let said = bundle.exec("ip address show dev inside0").good();
    assert!(said.contains("198.51.100.7/24") && said.contains("UP"), "{said}");
    assert!(!ip(&["link", "show", &name]), "it has left the host");
    output(bundle.command(&["kill", &bundle.id, "KILL"])).good();
}
