//! What a container can see and do, and what it can't.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::os::unix::fs::MetadataExt as _;

use common::{Host, Leaks, Plan, assert_refused};
use serde_json::json;

/// A field of /proc/self/status in a container.
fn status(plan: &Plan<'_>, field: &str) -> String {
    let text = plan.output();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).trim().to_owned()
}

fn capabilities(plan: &Plan<'_>, set: &str) -> u64 {
    u64::from_str_radix(&status(plan, set), 16).unwrap()
}

/// Podman's default set (containers-common, containers.conf: default_capabilities), as bits.
const DEFAULT_CAPABILITIES: u64 = 1 // chown
    | 1 << 1 // dac_override
    | 1 << 3 // fowner
    | 1 << 4 // fsetid
    | 1 << 5 // kill
    | 1 << 6 // setgid
    | 1 << 7 // setuid
    | 1 << 8 // setpcap
    | 1 << 10 // net_bind_service
    | 1 << 18 // sys_chroot
    | 1 << 31; // setfcap

#[test]
fn the_default_capabilities_are_podmans_and_none_is_inheritable() {
    let Some(host) = Host::new() else { return };
    let plan = host.command(&["cat", "/proc/self/status"]);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(capabilities(&plan, set), DEFAULT_CAPABILITIES, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(capabilities(&plan, set), 0, "{set}");
    }
}

#[test]
fn capabilities_are_added_and_taken_away_by_name() {
    let Some(host) = Host::new() else { return };
    let plan = host.command(&["cat", "/proc/self/status"]);
    let changed =
        plan.clone().with(json!({"capabilitiesAdd": ["NET_RAW"], "capabilitiesDrop": ["CAP_CHOWN"]}));
    assert_eq!(capabilities(&changed, "CapEff"), (DEFAULT_CAPABILITIES & !1) | 1 << 13);
    let one = plan.clone().with(json!({"capabilitiesAdd": ["kill"], "capabilitiesDrop": ["ALL"]}));
    assert_eq!(capabilities(&one, "CapBnd"), 1 << 5);
    let user = plan.with(json!({"user": "alice"}));
    assert_eq!(capabilities(&user, "CapEff"), 0, "another user has none, as with execve(2)");
}

#[test]
fn system_calls_are_filtered_unless_unconfined() {
    let Some(host) = Host::new() else { return };
    let plan = host.command(&["cat", "/proc/self/status"]);
    assert_eq!(status(&plan, "Seccomp"), "2");
    let unconfined = plan.with(json!({"seccomp": {"kind": "unconfined"}}));
    assert_eq!(status(&unconfined, "Seccomp"), "0");
}

#[test]
fn a_profile_of_the_callers_own_filters_what_it_says() {
    let Some(host) = Host::new() else { return };
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]});
    let plan = host.sh("mkdir /x").with(json!({"seccomp": {"kind": "profile", "profile": profile}}));
    let (code, text) = plan.finish();
    assert!(code != 0 && text.contains("Operation not permitted"), "{code} {text}");
}

#[test]
fn no_new_privileges_is_set_only_when_asked_for() {
    let Some(host) = Host::new() else { return };
    let plan = host.command(&["cat", "/proc/self/status"]);
    assert_eq!(status(&plan, "NoNewPrivs"), "0");
    assert_eq!(status(&plan.with(json!({"noNewPrivileges": true})), "NoNewPrivs"), "1");
}

#[test]
fn a_privileged_container_has_all_that_the_service_has() {
    let Some(host) = Host::new() else { return };
    let plan = host
        .sh("cat /proc/self/status; test -w /proc/sys/kernel/hostname && echo open: yes")
        .with(json!({"privileged": true}));
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    assert_eq!(status(&plan, "CapEff"), own);
    assert_eq!(status(&plan, "Seccomp"), "0");
    assert_eq!(status(&plan, "open"), "yes");
}

#[test]
fn the_kernels_secrets_are_masked() {
    let Some(host) = Host::new() else { return };
    // A file is hidden by /dev/null, a directory by an empty one.
    let script = "for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts; do \
        test ! -e $path || test \"$(head -c 1 $path | wc -c)\" = 0 || echo $path; done; \
        for path in /proc/acpi /proc/scsi /sys/firmware /sys/dev/block; do \
        test ! -e $path || test -z \"$(ls -A $path)\" || echo $path; done";
    assert_eq!(host.sh(script).output(), "");
    let open = host.sh("ls -A /sys/dev/block | wc -l").with(json!({"unmasked": ["/sys/dev/block"]})).output();
    let count = std::fs::read_dir("/sys/dev/block").unwrap().count();
    assert_eq!(open.trim(), count.to_string());
    let hidden = host.sh("cat /etc/group").with(json!({"masked": ["/etc/group"]})).output();
    assert_eq!(hidden, "");
}

#[test]
fn the_kernels_settings_are_read_only() {
    let Some(host) = Host::new() else { return };
    let script = "for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs; do \
        test -e $path || continue; \
        grep -q \" $(echo $path | sed 's,/proc/sys/.*,/proc/sys,') proc ro\" /proc/self/mounts || echo $path; done; \
        grep -q ' /sys sysfs ro' /proc/self/mounts || echo /sys; \
        { echo x > /proc/sys/kernel/hostname; } 2>/dev/null && echo written; true";
    assert_eq!(host.sh(script).output(), "");
}

#[test]
fn the_root_is_read_only_when_asked_for_and_mounts_below_are_not() {
    let Some(host) = Host::new() else { return };
    let plan = host
        .sh("touch /x; touch /tmp/x && touch /dev/shm/x && echo done")
        .with(json!({"readOnlyRoot": true, "mounts": [{"kind": "tmpfs", "target": "/tmp"}]}));
    let text = plan.output();
    assert!(text.contains("Read-only file system") && text.contains("done\n"), "{text}");
}

#[test]
fn containers_do_not_see_what_others_write() {
    let Some(host) = Host::new() else { return };
    assert_eq!(host.sh("echo mine > /etc/passwd; rm /etc/group; cat /etc/passwd").output(), "mine\n");
    let text = host.sh("cat /etc/passwd; ls /etc").output();
    assert!(text.contains("alice") && text.contains("group"), "{text}");
}

#[test]
fn more_memory_than_the_limit_is_not_to_be_had() {
    let Some(host) = Host::new() else { return };
    let limit = json!({"resources": {"memoryBytes": 32 << 20, "memorySwapBytes": 32 << 20}});
    let container = host.sh("x=x; while :; do x=$x$x; done").with(limit).run_until("exited");
    assert_eq!(container.reply["exitCode"], 137);
    let details = container.inspect();
    assert_eq!(details["oomKilled"], true);
    let events = host.call("Manager.Events", json!({"actions": ["oom"]})).unwrap();
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    let modest =
        host.sh("echo small").with(json!({"resources": {"memoryBytes": 32 << 20}})).run_until("exited");
    assert_eq!(modest.inspect()["oomKilled"], false);
}

#[test]
fn the_oom_killers_work_is_told_while_the_container_goes_on() {
    let Some(host) = Host::new() else { return };
    let limit = json!({"resources": {"memoryBytes": 32 << 20, "memorySwapBytes": 32 << 20}});
    let script = "while :; do read -r _ < /tmp/go; sh -c 'x=x; while :; do x=$x$x; done'; done";
    let container = host.sh(&format!("mkfifo /tmp/go; {script}")).with(limit).named("greedy").run();
    assert_eq!(container.inspect()["oomKilled"], false);
    let events = || {
        let reply = host.call("Manager.Events", json!({"actions": ["oom"], "names": ["greedy"]})).unwrap();
        reply["events"].as_array().unwrap().len()
    };
    container.exec_output("until test -p /tmp/go; do sleep 0.1; done; echo > /tmp/go");
    common::wait_until("the first is told", || events() == 1 && container.inspect()["oomKilled"] == true);
    assert_eq!(container.state(), "running");
    container.exec_output("echo > /tmp/go");
    common::wait_until("the second is told", || events() == 2);
    container.kill("KILL").unwrap();
    assert_eq!(container.exit_code(), Some(137));
    assert_eq!(events(), 2, "its own end was no matter of memory");
    assert_eq!(container.inspect()["oomKilled"], true);
    container.start().unwrap();
    assert_eq!(container.inspect()["oomKilled"], false, "that was the run before");
}

#[test]
fn more_processes_than_the_limit_are_not_to_be_had() {
    let Some(host) = Host::new() else { return };
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done; jobs | wc -l";
    let (code, text) = host.sh(script).with(json!({"resources": {"pidsMax": 5}})).finish();
    assert!(code != 0 && text.contains("can't fork"), "{code} {text}");
    let (code, text) = host.sh(script).with(json!({"resources": {"pidsMax": 20}})).finish();
    assert_eq!((code, text.trim()), (0, "10"));
}

#[test]
fn a_tmpfs_has_the_size_and_mode_that_it_is_given() {
    let Some(host) = Host::new() else { return };
    let mount = json!({"kind": "tmpfs", "target": "/data", "sizeBytes": 1 << 20, "mode": 0o700});
    let script = "stat -c %a /data; grep ' /data ' /proc/self/mounts; head -c 2000000 /dev/zero > /data/big || echo full";
    let text = host.sh(script).with(json!({"mounts": [mount]})).output();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("700"));
    let options = lines.next().unwrap();
    for option in ["tmpfs", "size=1024k", "nosuid", "nodev"] {
        assert!(options.contains(option), "{options}");
    }
    assert!(text.contains("full\n"), "{text}");
    let plain =
        host.sh("stat -c %a /data").with(json!({"mounts": [{"kind": "tmpfs", "target": "/data"}]})).output();
    assert_eq!(plain, "1777\n");
}

#[test]
fn a_bind_mount_shows_the_hosts_directory() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let source = host.path().join("shared");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("in"), "from the host").unwrap();
    let bind = |read_only: bool| json!({"mounts": [{"kind": "bind", "source": source, "target": "/deep/er/data", "readOnly": read_only}]});
    let text = host.sh("cat /deep/er/data/in; echo answer > /deep/er/data/out").with(bind(false)).output();
    assert_eq!(text, "from the host");
    assert_eq!(std::fs::read_to_string(source.join("out")).unwrap(), "answer\n");
    let (code, text) = host.sh("echo again > /deep/er/data/out").with(bind(true)).finish();
    assert!(code != 0 && text.contains("Read-only file system"), "{code} {text}");
    leaks.assert_none_after();
}

#[test]
fn a_file_can_be_bound_too() {
    let Some(host) = Host::new() else { return };
    let source = host.path().join("motd");
    std::fs::write(&source, "hello\n").unwrap();
    let mount =
        json!({"mounts": [{"kind": "bind", "source": source, "target": "/etc/motd", "readOnly": true}]});
    assert_eq!(host.command(&["cat", "/etc/motd"]).with(mount).output(), "hello\n");
}

#[test]
fn a_read_only_bind_is_so_all_the_way_down() {
    let Some(host) = Host::new() else { return };
    // The proc file system has mounts below it nowhere; the cgroup directory has, on every layout that we know.
    let mount =
        json!({"mounts": [{"kind": "bind", "source": "/sys/fs/cgroup", "target": "/mnt", "readOnly": true}]});
    let text = host.sh("grep ' /mnt' /proc/self/mounts | grep -v ' ro[ ,]'; true").with(mount).output();
    assert_eq!(text, "");
}

#[test]
fn links_in_a_mounts_target_stay_in_the_container() {
    let Some(host) = Host::new() else { return };
    let rootfs = host.path().join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    let outside = host.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::create_dir_all(rootfs.join(outside.strip_prefix("/").unwrap())).unwrap();
    std::os::unix::fs::symlink(&outside, rootfs.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../../../../..", rootfs.join("up")).unwrap();
    let mut plan = host.command(&["/bin/busybox", "sh", "-c", "/bin/busybox touch /link/data/x /up/made/y"]);
    plan.spec.as_object_mut().unwrap().remove("image");
    let mounts = json!([{"kind": "tmpfs", "target": "/link/data"}, {"kind": "tmpfs", "target": "/up/made"}]);
    plan.with(json!({"rootfs": rootfs, "mounts": mounts})).output();
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "nothing is made outside");
    assert!(!std::path::Path::new("/made").exists());
    assert!(rootfs.join("made").exists());
}

#[test]
fn the_user_is_looked_up_in_the_container() {
    let Some(host) = Host::new() else { return };
    let id =
        |user: &str| host.sh("echo $(id -u):$(id -g) $(id -G) $HOME").with(json!({"user": user})).output();
    assert_eq!(id("alice"), "1000:1000 1000 2000 /home/alice\n");
    assert_eq!(id("1000"), "1000:1000 1000 2000 /home/alice\n");
    assert!(id("1234:77").starts_with("1234:77 77 "), "{}", id("1234:77"));
    assert!(id("alice:gamers").starts_with("1000:2000 2000"), "{}", id("alice:gamers"));
    let groups = host.sh("id -G").with(json!({"groups": ["gamers", "3000"]})).output();
    assert!(groups.contains("2000") && groups.contains("3000"), "{groups}");
}

#[test]
fn the_working_directory_is_made_and_the_environment_is_the_callers() {
    let Some(host) = Host::new() else { return };
    let spec = json!({"workdir": "/srv/app", "hostname": "dozer", "umask": 0o077,
        "env": {"GREETING": "hello  world", "PATH": "/bin"}});
    let script = "pwd; hostname; echo \"$GREETING\"; echo $PATH; umask";
    assert_eq!(host.sh(script).with(spec).output(), "/srv/app\ndozer\nhello  world\n/bin\n0077\n");
}

#[test]
fn without_a_hostname_it_is_the_beginning_of_the_id() {
    let Some(host) = Host::new() else { return };
    let container = host.command(&["hostname"]).run_until("exited");
    assert_eq!(container.log(), [&container.id()[..12]]);
}

#[test]
fn sysctls_are_set_inside_only() {
    let Some(host) = Host::new() else { return };
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let before = std::fs::read_to_string(path).unwrap();
    let plan =
        host.command(&["cat", path]).with(json!({"sysctls": {"net.ipv4.ip_unprivileged_port_start": "77"}}));
    assert_eq!(plan.output(), "77\n");
    assert_eq!(std::fs::read_to_string(path).unwrap(), before);
    let foreign = host.sh("exit").with(json!({"sysctls": {"kernel.hostname": "x"}}));
    assert_refused(foreign.try_create(), "InvalidSpec");
}

#[test]
fn resource_limits_are_set_and_lowered_with_a_warning() {
    let Some(host) = Host::new() else { return };
    let limit = |hard: i64| json!({"resourceLimits": [{"name": "nofile", "soft": 100, "hard": hard}]});
    assert_eq!(host.sh("ulimit -Sn; ulimit -Hn").with(limit(200)).output(), "100\n200\n");
    // Above fs.nr_open nobody gets, whatever the privileges.
    let container = host.sh("ulimit -Hn").with(limit(1 << 40)).run_until("exited");
    let warnings = container.reply["warnings"].to_string();
    assert!(warnings.contains("nofile"), "{warnings}");
    assert_eq!(container.inspect()["warnings"].to_string(), warnings);
    let granted: u64 = container.log()[0].parse().unwrap();
    assert!(granted < 1 << 40);
}

#[test]
fn private_namespaces_are_new_and_host_namespaces_are_the_hosts() {
    let Some(host) = Host::new() else { return };
    let script = "for kind in pid ipc uts net; do readlink /proc/self/ns/$kind; done";
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
    };
    let own: Vec<String> = ["pid", "ipc", "uts", "net"].map(own).into();
    let namespaces = |kind: &str| {
        let kind = json!({"kind": kind});
        let spec = json!({"pidNamespace": kind, "ipcNamespace": kind, "utsNamespace": kind, "networkNamespace": kind});
        let text = host.sh(script).with(spec).output();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(namespaces("host"), own);
    let private = namespaces("private");
    assert!(
        private.len() == 4 && private.iter().zip(&own).all(|(private, own)| private != own),
        "{private:?}"
    );
}

#[test]
fn a_namespace_can_be_shared_with_another_container() {
    let Some(host) = Host::new() else { return };
    let script = "for kind in pid ipc uts net; do readlink /proc/self/ns/$kind; done";
    let first = host.sleeper().named("first").run();
    let shared = json!({"kind": "container", "container": "first"});
    let spec = json!({"pidNamespace": shared, "ipcNamespace": shared, "utsNamespace": shared, "networkNamespace": shared});
    let second = host.sh(script).with(spec);
    assert_eq!(second.output(), first.exec_output(script));
    first.remove_by_force().unwrap();
    assert!(second.try_run().is_err(), "there is nothing to share with");
    assert_eq!(host.names(), [""; 0]);
}

#[test]
fn the_processes_of_the_host_are_not_seen() {
    let Some(host) = Host::new() else { return };
    let script = "echo $$; ls /proc > /tmp/all; grep -c '^[0-9]' /tmp/all";
    assert_eq!(host.sh(script).output(), "1\n2\n", "sh and ls");
}

#[test]
fn a_private_network_is_a_loopback_interface_that_is_up() {
    let Some(host) = Host::new() else { return };
    let text = host.sh("ls /sys/class/net; ip addr show lo").output();
    assert!(text.starts_with("lo\n"), "{text}");
    assert!(text.contains("UP") && text.contains("127.0.0.1/8"), "{text}");
}

#[test]
fn only_the_standard_devices_are_there() {
    let Some(host) = Host::new() else { return };
    let text = host.sh("ls /dev").output();
    let mut devices: Vec<&str> = text.lines().collect();
    devices.retain(|device| !["mqueue", "console", "core"].contains(device));
    let standard = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(devices, standard);
    let (code, text) = host.sh("mknod /dev/mem c 1 1 && cat /dev/mem").finish();
    assert!(code != 0 && text.contains("not permitted"), "{text}");
}

#[test]
fn a_device_can_be_lent() {
    let Some(host) = Host::new() else { return };
    let plan = host.sh("echo lost > /dev/hole; stat -c %t:%T /dev/hole");
    let text = plan.with(json!({"devices": [{"path": "/dev/null", "containerPath": "/dev/hole"}]})).output();
    assert_eq!(text, "1:3\n");
}

#[test]
fn no_descriptor_of_ours_leaks_into_a_container() {
    let Some(host) = Host::new() else { return };
    // The fourth is the directory that ls reads.
    let script = "ls /proc/self/fd | wc -l";
    assert_eq!(host.sh(script).output(), "4\n");
    assert_eq!(host.sleeper().run().exec_output(script), "4\n");
    assert_eq!(host.sleeper().run().exec_output("ls /proc/1/fd | grep -cv '^10$'"), "3\n");
}

#[test]
fn a_working_directory_outside_the_root_is_refused() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    // CVE-2024-21626: a descriptor of the runtime as the working directory.
    for fd in 0..12 {
        let plan = host.sh("ls ../../..").with(json!({"workdir": format!("/proc/self/fd/{fd}")}));
        let refusal = plan.try_run().expect_err("no such directory may be entered");
        assert!(["LaunchFailed", "InvalidSpec"].contains(&refusal.name()), "{refusal:?}");
    }
    let container = host.sleeper().run();
    for fd in 0..12 {
        let request = json!({"command": ["ls"], "workdir": format!("/proc/self/fd/{fd}")});
        assert!(container.call("Exec", request).is_err(), "{fd}");
    }
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn what_a_container_writes_lies_in_a_directory_for_root_alone() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("echo secret > /root/secret").run_until("exited");
    let upper = container.inspect()["upperDirectory"].as_str().unwrap().to_owned();
    let upper = std::path::Path::new(&upper);
    assert_eq!(std::fs::read_to_string(upper.join("root/secret")).unwrap(), "secret\n");
    let closed = upper.ancestors().take_while(|dir| dir.starts_with(host.state_dir()));
    assert!(closed.clone().any(|dir| std::fs::metadata(dir).unwrap().mode() & 0o077 == 0), "{upper:?}");
}

#[test]
fn mount_tables_show_where_things_come_from() {
    let Some(host) = Host::new() else { return };
    let table = host.sh("cat /proc/self/mounts").output();
    let has = |start: &str| table.lines().any(|line| line.starts_with(start));
    for start in ["overlay / overlay ", "proc /proc proc ", "tmpfs /dev tmpfs ", "shm /dev/shm tmpfs "] {
        assert!(has(start), "{start}: {table}");
    }
    assert!(!has("none "), "{table}");
}

/// A program of 32 bits (i386) that ends with the exit code 42.
fn elf_of_32_bits() -> Vec<u8> {
    let code = [0xb8, 1, 0, 0, 0, 0xbb, 42, 0, 0, 0, 0xcd, 0x80]; // mov eax, 1; mov ebx, 42; int 0x80
    let (base, headers) = (0x0804_8000u32, 52 + 32u32);
    let size = headers + 12;
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2u16, 3] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1, base + headers, 52, 0, 0] {
        elf.extend(word.to_le_bytes());
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1, 0, base, base, size, size, 5, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

#[test]
#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits_run_under_the_filter() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(host) = Host::new() else { return };
    let program = host.path().join("old");
    std::fs::write(&program, elf_of_32_bits()).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    match std::process::Command::new(&program).status() {
        Ok(status) => assert_eq!(status.code(), Some(42)),
        Err(error) => return eprintln!("SKIPPED: this kernel runs no programs of 32 bits: {error}"),
    }
    let mount = json!({"kind": "bind", "source": program, "target": "/old"});
    let (code, text) = host.sh("/old").with(json!({"mounts": [mount]})).finish();
    assert_eq!(code, 42, "{text}");
}
