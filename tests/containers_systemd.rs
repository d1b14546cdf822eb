//! A whole systemd in a container, for Debian 12 and Debian 13.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use common::{Container, Host, Leaks, SYSTEMD_IMAGES, assert_refused, systemd_image, wait_until};
use serde_json::{Value, json};

/// Does something with a host for each image.
fn with_each_image(test: impl Fn(&Host, &str)) {
    for release in SYSTEMD_IMAGES {
        if let Some(host) = systemd_image(release) {
            eprintln!("with {release}");
            test(&host, release);
        }
    }
}

fn boot<'a>(host: &'a Host, release: &str) -> Container<'a> {
    host.image(release).with(json!({"command": ["/sbin/init"]})).named("vm").run_until("ready")
}

#[test]
fn a_systemd_boots_to_ready_and_shuts_down_in_good_order() {
    with_each_image(|host, release| {
        let leaks = Leaks::before(host);
        let vm = boot(host, release);
        let summary = vm.summary();
        assert_eq!(
            (&summary["state"], &summary["ready"], &summary["systemd"]),
            (&json!("running"), &json!(true), &json!(true))
        );
        assert_eq!(vm.inspect()["stopSignal"], "SIGRTMIN+3");
        let running = vm.exec("systemctl is-system-running --wait");
        assert_eq!(
            running["stdout"],
            "running\n",
            "{running} {}",
            vm.exec("systemctl --failed --no-pager")["stdout"]
        );
        vm.assert_root_alone_notifies();
        let end = vm.stop().unwrap();
        assert_eq!((&end["exitCode"], &end["killed"]), (&json!(0), &json!(false)));
        let summary = vm.summary();
        assert_eq!((&summary["state"], &summary["ready"]), (&json!("exited"), &json!(false)));
        vm.remove().unwrap();
        leaks.assert_none_after();
    });
}

/// What a systemd may do is its own; the host's settings are out of its reach, however they are reached for.
#[test]
fn the_hosts_kernel_is_out_of_reach_of_a_systemd() {
    let watched = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sys/kernel/panic",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ];
    let all = || watched.map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let before = all();
    with_each_image(|host, release| {
        let vm = boot(host, release);
        // As they are, made writable, and by file systems of its own.
        let script = "for path in PATHS /proc/sysrq-trigger /proc/acpi/call /proc/irq/default_smp_affinity               $(find /sys/fs/cgroup -name release_agent -o -name devices.allow -o -name notify_on_release 2>/dev/null | head -n 20); do               { echo 7 > $path; } 2>/dev/null && echo written $path; done;             for place in /proc/sys /sys /proc/sysrq-trigger; do               mount -o remount,rw $place 2>/dev/null && echo again $place;               mount -o remount,bind,rw $place 2>/dev/null && echo bound $place; umount $place 2>/dev/null && echo bare $place; done;             mkdir -p /tmp/own; for kind in proc sysfs cgroup2 debugfs tracefs securityfs bpf; do               mount -t $kind none /tmp/own 2>/dev/null && echo mounted $kind; done;             mknod /tmp/kmsg c 1 1 2>/dev/null && echo made;             cat /proc/kcore 2>/dev/null | head -c 1; dmesg -C 2>/dev/null && echo cleared;             cat /proc/1/root/sys/kernel/debug/x 2>/dev/null; true"
            .replace("PATHS", &watched.join(" "));
        let own = vm.exec_output(&script);
        let foreign: Vec<_> = own
            .lines()
            // In its own part of the hierarchy that is systemd's it may do as it likes.
            .filter(|line| {
                !line.starts_with("written /sys/fs/cgroup/systemd/") || line.ends_with("release_agent")
            })
            .collect();
        assert_eq!(foreign, Vec::<&str>::new(), "{release}");
    });
    assert_eq!(all(), before);
}

#[test]
fn the_units_inside_are_told_without_a_shell() {
    with_each_image(|host, release| {
        let vm = boot(host, release);
        wait_until("it runs", || vm.unit("Status", json!({})).unwrap()["jobs"] == 0);
        let status = vm.unit("Status", json!({"unit": "systemd-journald.service"})).unwrap();
        assert_eq!(status["systemState"], "running", "{status}");
        assert_eq!(status["failedUnits"], 0);
        let version = if release == "bookworm" { "252" } else { "257" };
        assert!(status["version"].as_str().unwrap().contains(version), "{status}");
        let details = &status["details"];
        assert_eq!(details["summary"]["activeState"], "active");
        let inside = vm.exec_output("systemctl show -P MainPID systemd-journald");
        assert_eq!(details["mainPid"].to_string(), inside.trim());
        let units = vm.unit("List", json!({"kinds": ["service"], "activeStates": ["active"]})).unwrap();
        let units = units["units"].as_array().unwrap().clone();
        assert!(units.iter().any(|unit| unit["name"] == "systemd-journald.service"), "{units:?}");
        assert!(units.iter().all(|unit| unit["name"].as_str().unwrap().ends_with(".service")));
        assert!(units.is_sorted_by_key(|unit| unit["name"].as_str().unwrap().to_owned()));
        assert_refused(vm.unit("Status", json!({"unit": "no-such.service"})), "NoSuchUnit");
    });
}

#[test]
fn units_are_started_and_stopped_from_outside() {
    with_each_image(|host, release| {
        let vm = boot(host, release);
        let unit = "[Service]\nExecStart=/bin/sleep 1000\n";
        let failing = "[Service]\nType=oneshot\nExecStart=/bin/false\n";
        vm.exec_output(&format!("printf '{}' > /run/systemd/system/nap.service", unit.replace('\n', "\\n")));
        vm.exec_output(&format!(
            "printf '{}' > /run/systemd/system/bad.service",
            failing.replace('\n', "\\n")
        ));
        vm.exec_output("systemctl daemon-reload");
        let active = |unit: &str| {
            vm.unit("Status", json!({"unit": unit})).unwrap()["details"]["summary"]["activeState"].clone()
        };
        vm.unit("Start", json!({"unit": "nap"})).unwrap();
        assert_eq!(active("nap.service"), "active");
        vm.unit("Restart", json!({"unit": "nap.service"})).unwrap();
        assert_eq!(active("nap.service"), "active");
        vm.unit("Stop", json!({"unit": "nap.service"})).unwrap();
        assert_eq!(active("nap.service"), "inactive");
        let refusal = assert_refused(vm.unit("Start", json!({"unit": "bad"})), "JobFailed");
        assert_eq!(refusal.parameters["result"], "failed");
        assert_eq!(active("bad.service"), "failed");
        assert_refused(vm.unit("Start", json!({"unit": "no-such"})), "NoSuchUnit");
    });
}

#[test]
fn the_journal_inside_is_read_from_outside() {
    with_each_image(|host, release| {
        let vm = boot(host, release);
        vm.exec_output("systemd-run --wait --unit=teller sh -c 'echo one; echo two' 2>&1");
        vm.exec_output("journalctl --sync");
        let messages = |parameters: Value| -> Vec<String> {
            let reply = vm.unit("Journal", parameters).unwrap();
            let entries = reply["entries"].as_array().unwrap().iter();
            entries.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
        };
        let all = messages(json!({"unit": "teller.service"}));
        let said: Vec<_> = all.iter().filter(|message| ["one", "two"].contains(&message.as_str())).collect();
        assert_eq!(said, ["one", "two"], "{all:?}");
        assert_eq!(messages(json!({"lines": 1})).len(), 1);
        let whole = vm.unit("Journal", json!({"unit": "teller.service"})).unwrap();
        let one =
            whole["entries"].as_array().unwrap().iter().find(|entry| entry["message"] == "one").unwrap();
        let after = messages(json!({"unit": "teller.service", "afterCursor": one["cursor"]}));
        // What systemd itself says of the unit may come between.
        let said: Vec<_> =
            after.iter().filter(|message| ["one", "two"].contains(&message.as_str())).collect();
        assert_eq!(said, ["two"], "{after:?}");
        assert_refused(vm.unit("Journal", json!({"follow": true})), "ExpectedMore");
    });
}

#[test]
fn a_reboot_inside_is_a_restart() {
    with_each_image(|host, release| {
        let vm = boot(host, release);
        let first = vm.pid();
        vm.exec("systemctl reboot");
        wait_until("another systemd runs", || {
            let summary = vm.summary();
            summary["ready"] == true && summary["pid"].as_i64().is_some_and(|pid| pid != i64::from(first))
        });
        assert_eq!(vm.exec("true")["exitCode"], 0);
        assert_eq!(vm.stop().unwrap()["exitCode"], 0);
    });
}

#[test]
fn a_poweroff_inside_is_an_end() {
    with_each_image(|host, release| {
        let vm = boot(host, release);
        vm.exec("systemctl poweroff");
        assert_eq!(vm.exit_code(), Some(0));
        assert_eq!(vm.state(), "exited");
        assert_eq!(vm.summary()["restarts"], 0);
    });
}

#[test]
fn a_container_without_systemd_has_no_units() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    for (method, more) in [("Status", json!({})), ("List", json!({})), ("Start", json!({"unit": "x"}))] {
        assert_refused(container.unit(method, more), "NotSystemd");
    }
    let ended = host.sh("exit").run_until("exited");
    assert_refused(ended.unit("Status", json!({})), "WrongState");
}
