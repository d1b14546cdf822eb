//! Containers that mean harm to who runs, stops, looks at and removes them: whatever they do, that comes to an end, and the
//! service goes on.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Host, Leaks, assert_refused, dormouse, wait_until};
use serde_json::{Value, json};

/// So deep that neither a path nor a descriptor for each level would do.
const MAKE_DEEP_TREE: &str = "i=0; while [ $i -lt 1500 ]; do mkdir deep 2>/dev/null && cd -P deep 2>/dev/null || exit 1; \
    i=$((i+1)); done";

#[test]
fn a_tree_deeper_than_any_path_goes_with_its_container_and_its_volume() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let script = format!("(cd /srv; {MAKE_DEEP_TREE}) && cd /data && {MAKE_DEEP_TREE}");
    let mounts = json!({"mounts": [{"kind": "volume", "target": "/data"}]});
    let container = host.sh(&format!("mkdir /srv; {script}")).with(mounts).run_until("exited");
    assert_eq!(container.exit_code(), Some(0), "{:?}", container.log());
    container.call("Remove", json!({"volumes": true})).unwrap();
    assert!(!host.log().contains("cannot remove"), "{}", host.log());
    leaks.assert_none_after();
}

/// Who looks at such a tree, or takes from it, is told what is in the way.
#[test]
fn a_tree_deeper_than_any_path_is_told_as_such() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let script = "n=$(printf 'd%.0s' $(seq 200)); mkdir /srv && cd /srv || exit
        for i in $(seq 30); do mkdir $n && cd -P $n || exit; done; echo made; exec sleep 1000";
    let container = host.sh(script).named("deep").run();
    wait_until("it has made its tree", || container.log() == ["made"]);
    let images = || host.call("Image.List", json!({})).unwrap()["images"].as_array().unwrap().len();
    let before = images();
    for state in ["running", "exited"] {
        assert_eq!(container.state(), state);
        let sink = File::options().write(true).open("/dev/null").unwrap();
        let with_sink = |method: &str, mut parameters: Value| {
            parameters["name"] = json!("deep");
            parameters["archive"] = json!(0);
            host.call_with_fds(&format!("Container.{method}"), parameters, &[sink.as_fd()])
        };
        for answer in [
            container.call("Diff", json!({})),
            container.call("Commit", json!({"image": "deep"})),
            with_sink("Export", json!({})),
            with_sink("CopyOut", json!({"path": "/srv"})),
        ] {
            let refusal = assert_refused(answer, "PathTooLong");
            assert!(refusal.parameters["path"].as_str().unwrap().contains("dddd"), "{refusal:?}");
            assert!(refusal.reason().contains("ENAMETOOLONG"), "{refusal:?}");
        }
        let copied = dormouse(&host, &["cp", "deep:/srv", "deep:/tmp/copy"]);
        let complaint = String::from_utf8_lossy(&copied.stderr);
        assert!(!copied.status.success() && complaint.contains("ENAMETOOLONG"), "{complaint}");
        if state == "running" {
            container.kill("SIGKILL").unwrap();
            container.call("Wait", json!({"condition": "exited"})).unwrap();
        }
    }
    assert_eq!(images(), before);
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn cgroups_deeper_than_any_path_go_with_their_container() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    // Whatever of the cgroups is a container's with a systemd to write to.
    let script = "n=$(printf 'd%.0s' $(seq 200)); made=0
        for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
            own=$top
            [ -d $own ] && cd $own && mkdir $n 2>/dev/null && cd -P $n || continue
            for i in $(seq 30); do mkdir $n && cd -P $n 2>/dev/null; done
            made=$((made+1))
        done
        [ $made -gt 0 ] && echo made $made; exec sleep 1000";
    let container = host.sh(script).with(json!({"systemd": "always"})).run();
    wait_until("it has made its cgroups", || container.log().iter().any(|line| line.starts_with("made")));
    let processes = container.call("Top", json!({})).unwrap();
    assert_eq!(processes["processes"].as_array().unwrap().len(), 1, "{processes}");
    container.remove_by_force().unwrap();
    assert!(!host.log().contains("cannot remove"), "{}", host.log());
    leaks.assert_none_after();
}

#[test]
fn a_health_check_that_writes_without_end_is_over_in_its_time() {
    let Some(host) = Host::new() else { return };
    // Several, so that there is always something to read.
    let script = "for i in 1 2 3 4; do dd if=/dev/zero bs=1M & done; wait";
    let check = json!({"kind": "shell", "shell": script, "timeoutUSec": 500_000,
                       "intervalUSec": 3_600_000_000_u64, "startIntervalUSec": 3_600_000_000_u64});
    let container = host.sleeper().with(json!({"healthCheck": check})).run();
    let begun = Instant::now();
    let result = container.call("HealthCheck", json!({})).unwrap()["result"].take();
    assert_eq!(result["passed"], false, "{result}");
    assert!(result["output"].as_str().unwrap().ends_with("(killed: it has not ended in time)"), "{result}");
    assert!(begun.elapsed() < Duration::from_secs(30));
    wait_until("the command is gone", || container.exec("pidof dd")["exitCode"] != 0);
}

#[test]
fn a_container_ends_although_another_one_writes_to_its_streams_for_ever() {
    let Some(host) = Host::new() else { return };
    let intruder = host.sleeper().named("intruder").run();
    let namespace = json!({"pidNamespace": {"kind": "container", "container": "intruder"}});
    for terminal in [false, true] {
        let victim = host.command(&["sleep", "4242"]).with(namespace.clone());
        let victim = victim.with(json!({"terminal": terminal})).run();
        let script = "for p in /proc/[0-9]*; do
                if grep -q ^sleep.4242 $p/cmdline 2>/dev/null; then
                    for i in 1 2 3 4; do dd if=/dev/zero bs=1M > $p/fd/1 2>/dev/null & done
                fi
            done; sleep 1; pidof dd";
        let found = intruder.exec(&format!("({script}) < /dev/null 2>&1"));
        assert_eq!(found["exitCode"], 0, "{found}");
        let end = victim.call("Stop", json!({"timeoutUSec": 0})).unwrap();
        assert_eq!(end["killed"], true);
        intruder.exec("killall dd");
        victim.remove().unwrap();
    }
}

#[test]
fn a_path_on_which_things_are_renamed_all_the_time_is_given_up() {
    let Some(host) = Host::new() else { return };
    // Links that take the kernel a while, and so much `..` that it notices what is renamed meanwhile.
    let script = "mkdir -p /tmp/x; s=; i=0; while [ $i -lt 800 ]; do s=${s}x/../; i=$((i+1)); done
        ln -s ${s}x /tmp/l0; n=1; while [ $n -lt 38 ]; do ln -s ${s}l$((n-1)) /tmp/l$n; n=$((n+1)); done
        echo made; exec sleep 1000";
    let container = host.sh(script).run();
    wait_until("it has made its links", || container.log() == ["made"]);
    let look = || container.call("StatPath", json!({"path": "/tmp/l37"}));
    assert_eq!(look().unwrap()["info"]["kind"], "directory");
    let (one, other) = (host.path().join("one"), host.path().join("other"));
    std::fs::write(&one, "").unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            // The second one finds its file gone now and then.
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = std::fs::rename(&one, &other).and(std::fs::rename(&other, &one));
                }
            });
        }
        // Whenever both have to wait for a processor, it may be found.
        let mut refusal = None;
        wait_until("it is given up", || {
            refusal = look().err();
            refusal.is_some()
        });
        over.store(true, Ordering::Relaxed);
        let reason = refusal.as_ref().map(common::Refusal::reason).unwrap_or_default();
        assert!(
            reason.ends_with("files are renamed all the time on the way there; try again"),
            "{refusal:?}"
        );
    });
}

#[test]
fn who_waits_for_the_bytes_of_clients_keeps_nobody_from_an_answer() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (readers, writers): (Vec<_>, Vec<_>) = (0..40).map(|_| std::io::pipe().unwrap()).unzip();
    std::thread::scope(|scope| {
        let writers = writers;
        for reader in &readers {
            let parameters = json!({"name": container.name, "path": "/tmp", "archive": 0});
            // What becomes of it does not matter: an archive of no bytes.
            let host = &host;
            scope.spawn(move || host.call_with_fds("Container.CopyIn", parameters, &[reader.as_fd()]));
        }
        let pid = host.serve_pid();
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        wait_until("all of them wait", || threads() > 40);
        assert_eq!(host.names(), [container.name.as_str()]);
        assert_eq!(container.exec("echo here")["stdout"], "here\n");
        container.stop().unwrap();
        drop(writers);
    });
}

#[test]
fn a_journal_without_end_is_no_reply() {
    let Some(host) = Host::new() else { return };
    let script = r#"m=$(head -c 100000 /dev/zero | tr '\0' x)
        printf '#!/bin/sh\nexec yes "$(cat /line)"\n' > /bin/journalctl; chmod +x /bin/journalctl
        printf '{"__REALTIME_TIMESTAMP":"5","MESSAGE":"%s"}' "$m" > /line; echo made; exec sleep 1000"#;
    let container = host.sh(script).run();
    wait_until("it has made its journalctl", || container.log() == ["made"]);
    for (method, parameters) in
        [("Unit.Journal", json!({})), ("Container.Logs", json!({"source": "journal"}))]
    {
        let mut parameters = parameters;
        parameters["name"] = json!(container.name);
        let refusal = common::assert_refused(host.call(method, parameters), "ExpectedMore");
        assert_eq!(refusal.error, "org.varlink.service.ExpectedMore");
    }
    wait_until("journalctl has ended", || container.exec("pidof yes")["exitCode"] != 0);
}

#[test]
fn a_list_of_processes_with_endless_arguments_has_bounds() {
    let Some(host) = Host::new() else { return };
    let script = "many=$(yes a | head -n 50000); i=0
        while [ $i -lt 40 ]; do sh -c 'sleep 1000; :' $many & i=$((i+1)); done; echo made; wait";
    let container = host.sh(script).run();
    wait_until("it has made its processes", || container.log() == ["made"]);
    let mut reply = serde_json::Value::Null;
    wait_until("all of them run", || {
        reply = container.call("Top", json!({})).unwrap();
        reply["processes"].as_array().unwrap().len() == 81
    });
    for process in reply["processes"].as_array().unwrap() {
        assert!(process["command"].to_string().len() < 16 << 10, "{}", process["pid"]);
        assert!(process["pid"].as_i64().unwrap() < 1000, "as numbered inside: {}", process["pid"]);
    }
}
