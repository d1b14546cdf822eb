//! What containers use, what runs in them, and limits that change while they run.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Container, Host, wait_until};
use serde_json::{Value, json};

const MIB: i64 = 1 << 20;

fn stats(container: &Container<'_>) -> Value {
    let reply = container.host.call("Container.Stats", json!({"names": [container.name]})).unwrap();
    reply["stats"][0].clone()
}

fn number(value: &Value, field: &str) -> i64 {
    value[field].as_i64().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[test]
fn memory_processes_and_cpu_time_are_counted() {
    let Some(host) = Host::new() else { return };
    let container = host
        .sh("head -c 20971520 /dev/zero > /dev/shm/held; sleep 1000 & while :; do :; done")
        .with(json!({"resources": {"cpuQuotaUSec": 20_000, "memoryBytes": 64 * MIB, "pidsMax": 50}}))
        .run();
    wait_until("the memory is held, and the other process is there", || {
        let now = stats(&container);
        number(&now, "memoryBytes") >= 20 * MIB && number(&now, "pids") == 2
    });
    let mut connection = host.connect();
    let wanted = json!({"names": [container.name], "intervalUSec": 500_000});
    let replies = connection.call_more("io.dormouse.Container.Stats", wanted, &[]).unwrap();
    let readings: Vec<Value> =
        replies.take(3).map(|reply| reply.unwrap().parameters["stats"][0].clone()).collect();
    for reading in &readings {
        assert_eq!(number(reading, "pids"), 2, "{reading}");
        assert_eq!(number(reading, "pidsMax"), 50);
        assert_eq!(number(reading, "memoryMaxBytes"), 64 * MIB);
        assert!(number(reading, "memoryBytes") < 64 * MIB);
        assert!(number(reading, "memoryPeakBytes") >= 20 * MIB);
        assert_eq!(number(reading, "oomKills"), 0);
        assert_eq!(reading["interfaces"], json!([]), "the loopback is not told");
        // A fifth of one CPU is allowed, and wanted.
        let percent = reading["cpuPercent"].as_f64().unwrap();
        assert!(percent > 0.5 && percent < 45.0, "{reading}");
    }
    assert!(number(&readings[2], "cpuUSec") > number(&readings[0], "cpuUSec"));
    assert!(number(&readings[2], "cpuThrottledUSec") > number(&readings[0], "cpuThrottledUSec"));
    assert!(number(&readings[2], "timeUSec") - number(&readings[0], "timeUSec") >= 1_000_000);
}

#[test]
fn what_is_written_to_a_disk_is_counted() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run_until_stoppable();
    // Direct: writing back by the kernel is nobody's on cgroup v1.
    let written = container.exec("dd if=/dev/zero of=/direct bs=1M count=4 oflag=direct 2>&1");
    if written["exitCode"] != json!(0) {
        eprintln!("SKIPPED: no direct writes here: {written}");
        return;
    }
    let reading = stats(&container);
    if reading["ioWrittenBytes"].is_null() {
        eprintln!("SKIPPED: this host counts no traffic with block devices");
        return;
    }
    assert!(number(&reading, "ioWrittenBytes") >= 4 * MIB, "{reading}");
    assert!(number(&reading, "ioWriteOperations") > 0, "{reading}");
}

#[test]
fn a_stream_of_all_takes_in_who_comes_and_lets_go_who_leaves() {
    let Some(host) = Host::new() else { return };
    let first = host.sleeper().named("first").run();
    let mut connection = host.connect();
    let wanted = json!({"intervalUSec": 100_000});
    let mut replies = connection.call_more("io.dormouse.Container.Stats", wanted, &[]).unwrap();
    let mut names = || -> Vec<String> {
        let reply = replies.next().unwrap().unwrap();
        let stats = reply.parameters["stats"].as_array().unwrap();
        stats.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(), ["first"]);
    host.sleeper().named("second").run();
    wait_until("the second is told", || names() == ["first", "second"]);
    first.remove_by_force().unwrap();
    wait_until("the first is told no more", || names() == ["second"]);
}

#[test]
fn a_stream_of_one_ends_with_it() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("sleep 1").named("brief").run();
    let replies =
        host.call_more("Container.Stats", json!({"names": ["brief"], "intervalUSec": 100_000})).unwrap();
    assert!(replies.len() > 2, "{replies:?}");
    assert_eq!(replies[0]["stats"][0]["name"], "brief");
    assert_eq!(replies.last().unwrap()["stats"], json!([]));
    let refusal = container.host.call("Container.Stats", json!({"names": ["brief"]})).unwrap_err();
    assert_eq!((refusal.name(), &refusal.parameters["state"]), ("WrongState", &json!("exited")));
    let refusal = host.call("Container.Stats", json!({"names": ["nobody"]})).unwrap_err();
    assert_eq!(refusal.name(), "NotFound");
    let refusal = host.call("Container.Stats", json!({"intervalUSec": 1})).unwrap_err();
    assert_eq!((refusal.name(), &refusal.parameters["field"]), ("InvalidSpec", &json!("intervalUSec")));
}

#[test]
fn processes_are_told_as_the_container_knows_them() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("sleep 1234 & wait").named("web").run();
    let command = json!(["sh", "-c", "sleep 4321; :", "two\nlines"]);
    let started = std::thread::scope(|scope| {
        let call = scope.spawn(|| container.call("Exec", json!({"command": command, "user": "1234:5"})));
        let mut processes = Vec::new();
        wait_until("all processes are there", || {
            processes = container.call("Top", json!({})).unwrap()["processes"].as_array().unwrap().clone();
            let asleep = |process: &&Value| process["command"][0] == "sleep";
            processes.iter().filter(asleep).count() == 2
        });
        container.kill("KILL").unwrap();
        call.join().unwrap().unwrap();
        processes
    });
    let [init, sleep, session, asleep] = started.as_slice() else { panic!("{started:?}") };
    assert_eq!((init["pid"].as_i64(), init["parentPid"].as_i64()), (Some(1), Some(0)));
    assert_eq!((&init["user"], &init["uid"]), (&json!("root"), &json!(0)));
    assert_eq!(init["command"], json!(["sh", "-c", "sleep 1234 & wait"]));
    assert_ne!(init["hostPid"], init["pid"]);
    assert_eq!((&sleep["parentPid"], &sleep["command"]), (&json!(1), &json!(["sleep", "1234"])));
    // The one of Exec is no child of the first process, and of a user that the container does not know.
    assert_eq!((&session["parentPid"], &session["command"]), (&json!(0), &command));
    assert_eq!((&session["user"], &session["uid"], &session["gid"]), (&Value::Null, &json!(1234), &json!(5)));
    assert_eq!(asleep["parentPid"], session["pid"]);
    for process in &started {
        assert!(number(process, "residentBytes") > 0 && number(process, "startedUSec") > 0);
        assert_eq!(process["threads"], 1);
    }
    container.exit_code();
    let refusal = container.call("Top", json!({})).unwrap_err();
    assert_eq!(refusal.name(), "WrongState");
}

#[test]
fn limits_change_at_once_and_stay_over_restarts() {
    let Some(host) = Host::new() else { return };
    let container = host
        .sh("sleep 1000")
        .with(json!({"restart": {"mode": "always"}, "resources": {"memoryBytes": 64 * MIB}}))
        .run();
    let update = |resources: Value| container.call("Update", json!({ "resources": resources }));
    let limits = || {
        let stats = stats(&container);
        (stats["memoryMaxBytes"].as_i64(), stats["pidsMax"].as_i64())
    };
    assert_eq!(limits(), (Some(64 * MIB), Some(2048)));
    update(json!({"memoryBytes": 96 * MIB, "pidsMax": 3})).unwrap();
    assert_eq!(limits(), (Some(96 * MIB), Some(3)));
    assert_eq!(
        container.exec("for i in 1 2 3 4; do sleep 5 & done; wait")["exitCode"],
        2,
        "no fork any more"
    );
    update(json!({"pidsMax": -1})).unwrap();
    assert_eq!(limits(), (Some(96 * MIB), None));
    update(json!({"memoryBytes": -1})).unwrap();
    assert_eq!(limits(), (None, None));
    update(json!({"memoryBytes": 32 * MIB, "pidsMax": 40, "cpuQuotaUSec": 50_000})).unwrap();
    // Both ways to another process: by the monitor, and by the service.
    container.exec("kill -9 1 || :");
    let init = container.pid();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("it has been restarted", || {
        let summary = container.summary();
        summary["restarts"] == 1 && summary["state"] == "running" && summary["pid"] != json!(init)
    });
    assert_eq!(limits(), (Some(32 * MIB), Some(40)));
    container.call("Stop", json!({"timeoutUSec": 0})).unwrap();
    update(json!({"pidsMax": 41})).unwrap();
    container.start().unwrap();
    assert_eq!(limits(), (Some(32 * MIB), Some(41)));
    let given = container.inspect()["spec"]["resources"].clone();
    assert_eq!(
        (&given["memoryBytes"], &given["pidsMax"], &given["cpuQuotaUSec"]),
        (&json!(32 * MIB), &json!(41), &json!(50_000))
    );
}

#[test]
fn a_refused_change_of_limits_changes_nothing() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().with(json!({"resources": {"memoryBytes": 64 * MIB}})).run();
    for (resources, field) in [
        (json!({"memoryBytes": 32 * MIB, "cpusetCpus": "9999"}), "resources"),
        (json!({"memoryBytes": 32 * MIB, "pidsMax": 0}), "resources.pidsMax"),
        (json!({"memoryBytes": 1}), "resources.memoryBytes"),
        (json!({"memoryBytes": 96 * MIB, "memorySwapBytes": 80 * MIB}), "resources.memorySwapBytes"),
        (json!({"ioLimits": [{"path": "/dev/null", "readBytesPerSec": 1}]}), "resources.ioLimits[0].path"),
    ] {
        let refusal = container.call("Update", json!({ "resources": resources })).unwrap_err();
        assert_eq!(
            (refusal.name(), &refusal.parameters["field"]),
            ("InvalidSpec", &json!(field)),
            "{refusal:?}"
        );
        assert_eq!(stats(&container)["memoryMaxBytes"], 64 * MIB);
        let given = container.inspect()["spec"]["resources"].clone();
        assert_eq!((&given["memoryBytes"], &given["pidsMax"]), (&json!(64 * MIB), &Value::Null));
    }
}
