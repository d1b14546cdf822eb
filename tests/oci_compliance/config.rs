//! config.md: "Configuration".

use std::fs;

use serde_json::{Value, json};

use crate::oci_support::{Bundle, output};

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
fn specification_version() {
    for good in ["1.0.0", "1.0.2-dev", "1.1.0", "1.2.0"] {
        let Some(bundle) = Bundle::new() else { return };
        bundle.at("/ociVersion", json!(good)).run().good();
    }
    for bad in [json!("2.0.0"), json!("0.1.0"), json!("one"), json!(1), json!(null)] {
        if refused("/ociVersion", bad).is_none() {
            return;
        }
    }
}

#[test]
fn root_path() {
    let Some(bundle) = Bundle::sh("echo here") else { return };
    let absolute = json!(bundle.rootfs());
    assert_eq!(bundle.at("/root/path", absolute).run().good(), "here\n");
    refused("/root/path", json!("not-there"));
    refused("/root", json!(null));
}

#[test]
fn root_readonly() {
    let script = "touch /x 2>/dev/null && echo written; touch /dev/shm/x && echo mounts stay writable";
    let Some(text) = said(script, "/root/readonly", json!(true)) else { return };
    assert_eq!(text, "mounts stay writable\n");
    assert_eq!(said(script, "/root/readonly", json!(false)).unwrap(), "written\nmounts stay writable\n");
}

#[test]
fn mounts_are_made_in_the_listed_order() {
    let Some(bundle) = Bundle::sh("ls /a; ls /a/b") else { return };
    let source = bundle.dir().join("source");
    fs::create_dir_all(&source).unwrap();
    fs::write(source.join("file"), "").unwrap();
    let bundle = bundle
        .and("/mounts", json!({"destination": "/a", "type": "tmpfs", "source": "tmpfs"}))
        // Relative: to the bundle, and to the root.
        .and("/mounts", json!({"destination": "a/b", "source": "source", "options": ["bind"]}));
    assert_eq!(bundle.run().good(), "b\nfile\n");
}

#[test]
fn linux_mount_options() {
    let shown = |options: &[&str]| -> Option<String> {
        let bundle = Bundle::sh("grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6")?;
        let mount = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options});
        Some(bundle.and("/mounts", mount).run().good().trim().to_owned())
    };
    for (options, expected) in [
        (&["ro", "nosuid", "nodev", "noexec"][..], "ro,nosuid,nodev,noexec,relatime"),
        (&["ro", "rw", "nosuid", "suid"], "rw,relatime"),
        (&["noatime", "nodiratime"], "rw,noatime,nodiratime"),
        (&["strictatime"], "rw"),
        (&["strictatime", "nostrictatime"], "rw,relatime"),
        (&["nosymfollow"], "rw,nosymfollow,relatime"),
        (
            &["defaults", "async", "silent", "loud", "nolazytime", "noiversion", "sync", "mode=700"],
            "rw,relatime",
        ),
    ] {
        let Some(found) = shown(options) else { return };
        let sorted = |list: &str| {
            let mut list: Vec<String> = list.split(',').map(str::to_owned).collect();
            list.sort();
            list
        };
        assert_eq!(sorted(&found), sorted(expected), "{options:?}");
    }
}

#[test]
fn linux_mount_options_of_bind_mounts_and_recursive_ones() {
    let script = "grep -E ' /m(/sub)? ' /proc/self/mountinfo | cut -d' ' -f5,6 | cut -d, -f1";
    let Some(bundle) = Bundle::new() else { return };
    let source = bundle.path().join("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    drop(bundle);
    for (options, expected) in
        [(&["rbind", "ro"][..], "/m ro\n/m/sub rw\n"), (&["rbind", "rro"], "/m ro\n/m/sub ro\n")]
    {
        let Some(bundle) = Bundle::sh(script) else { return };
        let source = bundle.path().join("source");
        fs::create_dir_all(source.join("sub")).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(source.join("sub"))
            .status();
        assert!(mounted.unwrap().success());
        let bundle =
            bundle.and("/mounts", json!({"destination": "/m", "source": source, "options": options}));
        let said = bundle.run();
        let unmounted = std::process::Command::new("umount").arg(source.join("sub")).status();
        assert!(unmounted.unwrap().success());
        assert_eq!(said.good(), expected, "{options:?}");
    }
}

#[test]
fn linux_mount_options_propagation_and_remount() {
    let script = "grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6,7";
    for (option, expected) in [("shared", "shared:"), ("private", "-"), ("unbindable", "unbindable")] {
        let Some(bundle) = Bundle::sh(script) else { return };
        let mount = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": [option]});
        let said = bundle.and("/mounts", mount).run().good();
        assert!(said.contains(expected), "{option}: {said}");
    }
    let Some(bundle) = Bundle::sh(script) else { return };
    let mount = |options: &[&str]| json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options});
    let said = bundle.and("/mounts", mount(&[])).and("/mounts", mount(&["remount", "ro"])).run().good();
    assert!(said.starts_with("ro,"), "{said}");
}

#[test]
fn posix_mounts_unknown_options_are_the_file_systems() {
    let Some(bundle) = Bundle::sh("stat -c %a /m; stat -f -c %b /m") else { return };
    let options = ["mode=711", "size=8192", "nr_inodes=10"];
    let bundle = bundle
        .and("/mounts", json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": options}));
    assert_eq!(bundle.run().good(), "711\n2\n");
    let wrong =
        json!([{"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["no-such-option"]}]);
    refused("/mounts", wrong);
}

#[test]
fn posix_mounts_id_mappings_come_in_pairs() {
    let mapping = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mount = json!([{"destination": "/m", "source": "/tmp", "options": ["bind", "idmap"], "uidMappings": mapping}]);
    let Some(said) = refused("/mounts", mount) else { return };
    assert!(said.contains("gidMappings"), "{said}");
    let unmapped = json!([{"destination": "/m", "source": "/tmp", "options": ["bind", "idmap"]}]);
    refused("/mounts", unmapped);
}

#[test]
fn posix_mounts_are_id_mapped_without_a_user_namespace() {
    let mapping =
        json!([{"containerID": 0, "hostID": 1000, "size": 10}, {"containerID": 10, "hostID": 0, "size": 1}]);
    // Who is 0 on the disk is 1000 inside, and what 0 writes inside belongs to 10 on the disk.
    let script = "stat -c %u:%g /m/file; id -u; touch /m/new && stat -c %u /m/new";
    for (options, mapped) in [
        (json!(["bind"]), true),
        (json!(["rbind", "ridmap"]), true),
        (json!(["bind", "idmap=uids=0-1000-10#10-0-1;gids=0-1000-10#10-0-1"]), false),
    ] {
        let Some(bundle) = Bundle::sh(script) else { return };
        let data = bundle.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("file"), "").unwrap();
        std::os::unix::fs::chown(&data, Some(10), Some(10)).unwrap();
        let mut mount = json!({"destination": "/m", "type": "bind", "source": data, "options": options});
        if mapped {
            mount["uidMappings"] = mapping.clone();
            mount["gidMappings"] = mapping.clone();
        }
        let bundle = bundle.and("/mounts", mount);
        assert_eq!(bundle.run().good(), "1000:1000\n0\n0\n", "{options}");
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(data.join("new")).unwrap());
        assert_eq!(owner, 10, "{options}");
    }
    // A new file system can be mapped as well, where its kind can be.
    let Some(bundle) = Bundle::sh("stat -c %u /m") else { return };
    let mount = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["uid=7", "gid=7"],
        "uidMappings": mapping, "gidMappings": mapping});
    assert_eq!(bundle.and("/mounts", mount).run().good(), "1007\n");
    let wrong = json!([{"destination": "/m", "source": "/tmp", "options": ["bind", "idmap=uids=0-1"]}]);
    assert!(refused("/mounts", wrong).is_none_or(|said| said.contains("uids=FROM-TO-COUNT")));
    let proc = json!([{"destination": "/m", "type": "proc", "source": "proc", "options": [],
        "uidMappings": mapping, "gidMappings": mapping}]);
    assert!(refused("/mounts", proc).is_none_or(|said| said.contains("owners")));
}

#[test]
fn process_terminal_and_console_size() {
    let Some(bundle) = Bundle::sh("stty size; test -t 0 && echo terminal") else { return };
    let bundle = bundle
        .at("/process/terminal", json!(true))
        .at("/process/consoleSize", json!({"height": 20, "width": 70}));
    assert_eq!(bundle.run().good(), "20 70\r\nterminal\r\n");
    let Some(bundle) = Bundle::sh("test -t 0 || echo none") else { return };
    assert_eq!(bundle.at("/process/consoleSize", json!({"height": 20, "width": 70})).run().good(), "none\n");
}

#[test]
fn process_cwd() {
    assert!(said("pwd", "/process/cwd", json!("/etc")).is_none_or(|text| text == "/etc\n"));
    refused("/process/cwd", json!("relative"));
}

#[test]
fn process_env_is_exactly_what_it_says() {
    let Some(text) = said("env | sort", "/process/env", json!(["PATH=/bin", "A=b=c", "EMPTY="])) else {
        return;
    };
    let own = |line: &&str| !["SHLVL=", "PWD="].iter().any(|shell| line.starts_with(shell));
    assert_eq!(text.lines().filter(own).collect::<Vec<_>>(), ["A=b=c", "EMPTY=", "PATH=/bin"]);
}

#[test]
fn process_args() {
    let Some(bundle) = Bundle::new() else { return };
    assert_eq!(bundle.at("/process/args", json!(["echo", "a b", ""])).run().good(), "a b \n");
    refused("/process/args", json!([]));
    refused("/process/args", json!(null));
}

#[test]
fn posix_process_rlimits() {
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let script = "grep -E 'open files|core file' /proc/self/limits | awk '{print $(NF-2), $(NF-1)}'";
    let Some(text) = said(script, "/process/rlimits", limits) else { return };
    assert_eq!(text, "0 0\n100 200\n");
    refused("/process/rlimits", json!([{"type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1}]));
    let twice =
        json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    assert!(refused("/process/rlimits", twice).unwrap().contains("twice"));
}

#[test]
fn linux_process_capabilities() {
    let sets = json!({"bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_KILL"], "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"]});
    let bundle = Bundle::new();
    let Some(bundle) = bundle else { return };
    let bundle = bundle
        .at("/process/capabilities", sets)
        .at("/process/user", json!({"uid": 7, "gid": 7}))
        .at("/process/args", json!(["grep", "Cap", "/proc/self/status"]));
    let line = |name: &str, mask: u64| format!("{name}:\t{mask:016x}\n");
    // What execve(2) makes of it for who is not root: the ambient ones stay.
    let expected = line("CapInh", 1)
        + &line("CapPrm", 1)
        + &line("CapEff", 1)
        + &line("CapBnd", 1 | 1 << 5 | 1 << 13)
        + &line("CapAmb", 1);
    assert_eq!(bundle.run().good(), expected);
    // What nobody knows is a warning.
    let Some(bundle) = Bundle::new() else { return };
    let said = bundle.at("/process/capabilities/bounding", json!(["CAP_KILL", "CAP_FLY"])).run();
    assert!(said.code == 0 && said.err.contains("CAP_FLY"), "{said:?}");
}

#[test]
fn linux_process_no_new_privileges() {
    let script = "grep NoNewPrivs /proc/self/status";
    let Some(text) = said(script, "/process/noNewPrivileges", json!(true)) else { return };
    assert_eq!(text, "NoNewPrivs:\t1\n");
    assert_eq!(said(script, "/process/noNewPrivileges", json!(false)).unwrap(), "NoNewPrivs:\t0\n");
}

#[test]
fn linux_process_oom_score_adj() {
    let script = "cat /proc/self/oom_score_adj";
    let Some(text) = said(script, "/process/oomScoreAdj", json!(321)) else { return };
    assert_eq!(text, "321\n");
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    assert_eq!(Bundle::sh(script).unwrap().run().good(), own, "unset, it is left as it is");
}

#[test]
fn linux_process_scheduler() {
    // Fields of stat, after the name: nice is the 17th, the policy the 39th.
    let script = "sed 's/.*) //' /proc/self/stat | cut -d' ' -f17,39";
    let Some(text) = said(script, "/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5})) else {
        return;
    };
    assert_eq!(text, "5 3\n");
    let flags = json!({"policy": "SCHED_IDLE", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    let Some(bundle) = Bundle::new() else { return };
    let stat = bundle
        .at("/process/scheduler", flags)
        .at("/process/args", json!(["cat", "/proc/self/stat"]))
        .run()
        .good();
    assert_eq!(stat.rsplit_once(") ").unwrap().1.split(' ').nth(38), Some("5"));
    refused("/process/scheduler", json!({"policy": "SCHED_NONSENSE"}));
    refused("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1000}));
}

#[test]
fn linux_process_io_priority() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    bundle.up();
    let said = std::process::Command::new("ionice").arg("-p").arg(bundle.pid().to_string()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "idle\n");
    refused("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}));
}

#[test]
fn linux_process_exec_cpu_affinity() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    let file = bundle.path().join("process.json");
    let process = |affinity: Value| {
        json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0}, "execCPUAffinity": affinity})
    };
    let run = |affinity: Value| {
        fs::write(&file, process(affinity).to_string()).unwrap();
        output(bundle.command(&["exec", "--process", file.to_str().unwrap(), &bundle.id]))
    };
    assert_eq!(run(json!({"initial": "0", "final": "0"})).good(), "Cpus_allowed_list:\t0\n");
    let all = bundle.exec("grep Cpus_allowed_list /proc/self/status").good();
    assert_eq!(run(json!({"initial": "0"})).good(), all, "the cgroup alone decides about what is not told");
    run(json!({"final": "nonsense"})).refused();
}

#[test]
fn linux_process_labels_need_their_modules() {
    for (field, module) in
        [("apparmorProfile", "/sys/module/apparmor"), ("selinuxLabel", "/sys/fs/selinux/enforce")]
    {
        if !std::path::Path::new(module).exists() {
            refused(&format!("/process/{field}"), json!("some_label"));
        }
    }
}

#[test]
fn posix_user() {
    let user = json!({"uid": 1000, "gid": 1001, "umask": 0o077, "additionalGids": [5, 6]});
    let script = "id -u; id -g; grep Groups /proc/self/status; umask";
    let Some(text) = said(script, "/process/user", user) else { return };
    assert_eq!(text, "1000\n1001\nGroups:\t5 6 \n0077\n");
}

#[test]
fn hostname_and_domainname() {
    let Some(bundle) = Bundle::sh("hostname; cat /proc/sys/kernel/domainname") else { return };
    let bundle = bundle.at("/hostname", json!("mrsdalloway")).at("/domainname", json!("foobarbaz.test"));
    assert_eq!(bundle.run().good(), "mrsdalloway\nfoobarbaz.test\n");
    let Some(bundle) = Bundle::new() else { return };
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    bundle.without_namespace("uts").run().refused();
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), own);
}

#[test]
fn posix_hooks() {
    let Some(bundle) = Bundle::new() else { return };
    let seen = bundle.path().join("seen");
    let script = format!("/bin/echo \"$0 $A\" > {0}; /bin/cat >> {0}", seen.display());
    let hook =
        json!({"path": "/bin/sh", "args": ["a-name", "-c", script, "zero"], "env": ["A=b"], "timeout": 10});
    let bundle = bundle.at("/hooks/poststop", json!([hook]));
    bundle.run().good();
    let text = fs::read_to_string(&seen).unwrap();
    let (first, state) = text.split_once('\n').unwrap();
    assert_eq!(first, "zero b");
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!((&state["id"], &state["bundle"]), (&json!(bundle.id), &json!(bundle.dir())));
    for (pointer, value) in [
        ("/hooks/createRuntime", json!([{"path": "true"}])),
        ("/hooks/createRuntime", json!([{"path": "/bin/true", "timeout": 0}])),
        ("/hooks/createRuntime", json!([{"path": "/no/such/hook"}])),
    ] {
        refused(pointer, value);
    }
}

/// Hooks of the container's side see its namespaces, and the pid that it has there.
#[test]
fn posix_hooks_namespaces() {
    let Some(bundle) = Bundle::new() else { return };
    let shared = bundle.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let note = |file: &str| {
        let script = format!("readlink /proc/self/ns/uts > {file}; cat >> {file}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let at = |name: &str| shared.join(name).to_str().unwrap().to_owned();
    let bundle = bundle
        .and("/mounts", json!({"destination": "/shared", "source": shared, "options": ["bind"]}))
        .at("/hooks/createRuntime", note(&at("createRuntime")))
        .at("/hooks/createContainer", note(&at("createContainer")))
        .at("/hooks/startContainer", note("/shared/startContainer"));
    bundle.run().good();
    let read = |name: &str| {
        let text = fs::read_to_string(at(name)).unwrap();
        let (namespace, state) = text.split_once('\n').unwrap();
        let state: Value = serde_json::from_str(state).unwrap();
        (namespace.to_owned(), state["pid"].as_i64().unwrap())
    };
    let own = fs::read_link("/proc/self/ns/uts").unwrap().display().to_string();
    let (outside, pid) = read("createRuntime");
    assert!(outside == own && pid > 1, "{outside} {pid}");
    for inside in ["createContainer", "startContainer"] {
        let (namespace, pid) = read(inside);
        assert!(namespace != own && pid == 1, "{inside}: {namespace} {pid}");
    }
}

#[test]
fn annotations() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at("/annotations", json!({"com.example.gpu-cores": "2", "empty": ""}));
    bundle.create().good();
    assert_eq!(bundle.state()["annotations"], json!({"com.example.gpu-cores": "2", "empty": ""}));
    refused("/annotations", json!({"key": 7}));
}

/// "Runtimes … MUST NOT generate an error if they encounter an unknown property."
#[test]
fn extensibility() {
    let Some(bundle) = Bundle::new() else { return };
    bundle
        .at("/unknown", json!({"a": 1}))
        .at("/linux/unknown", json!([]))
        .at("/process/unknown", json!("x"))
        .run()
        .good();
}

/// "Valid values": what is no value of a property is an error.
#[test]
fn valid_values() {
    for (pointer, value) in [
        ("/linux/namespaces", json!([{"type": "nonsense"}])),
        ("/process/user", json!({"uid": -1, "gid": 0})),
        ("/root/readonly", json!("yes")),
    ] {
        refused(pointer, value);
    }
}
