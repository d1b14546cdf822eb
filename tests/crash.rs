//! Crashes at any point: afterwards every container is wholly there or wholly gone, and nothing leaks.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Host, Leaks, wait_until};
use dormouse::varlink::client::Connection;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// A generator of Marsaglia's kind (xorshift64): the same rounds on every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn directories(parent: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(parent).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Creates, starts, stops and removes containers until the service is gone.
fn keep_busy(address: &str, over: &AtomicBool, worker: usize) {
    let Ok(mut connection) = Connection::connect(address) else { return };
    let _ = connection.set_timeout(Some(common::PATIENCE));
    let spec = json!({"image": "busybox", "command": ["sleep", "1000"], "stopSignal": "KILL",
                      "networkNamespace": {"kind": "private"}});
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("busy-{worker}-{round}");
        let mut spec = spec.clone();
        spec["name"] = json!(name);
        let calls: [(&str, Value); 4] = [
            ("Create", json!({"spec": spec})),
            ("Start", json!({"name": name})),
            ("Stop", json!({"name": name})),
            ("Remove", json!({"name": name})),
        ];
        for (method, parameters) in calls {
            if connection.call(&format!("io.dormouse.Container.{method}"), parameters, &[]).is_err() {
                return;
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_point_every_container_is_wholly_there_or_wholly_gone() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    let mut dice = Dice(0x5eed_d0e5_0123_4567);
    for round in 0..20 {
        let address = host.address();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (address, over) = (&address, &over);
                scope.spawn(move || keep_busy(address, over, worker));
            }
            std::thread::sleep(Duration::from_millis(dice.roll(400)));
            host.crash();
            over.store(true, Ordering::Relaxed);
        });
        host.wake();

        // At once: whatever is told can be asked for, and has a state that it can be in.
        let listed = host.call("Container.List", json!({})).unwrap();
        let listed = listed["containers"].as_array().unwrap().clone();
        for container in &listed {
            let details = host.call("Container.Inspect", json!({"name": container["id"]})).unwrap();
            let upper = details["container"]["upperDirectory"].as_str().unwrap().to_owned();
            assert!(Path::new(&upper).is_dir(), "round {round}: {details}");
        }

        // After the sweep: nothing lies about that is not told.
        let ids: BTreeSet<String> =
            listed.iter().map(|container| container["id"].as_str().unwrap().to_owned()).collect();
        wait_until("what has no record is swept away", || {
            directories(&host.state_dir().join("containers")) == ids
                && directories(&host.run_dir().join("containers")).is_subset(&ids)
        });

        // Each goes on from where it was: it can be started, stopped and removed.
        for id in &ids {
            let summary = || {
                host.call("Container.Inspect", json!({"name": id})).unwrap()["container"]["summary"].clone()
            };
            wait_until("the monitor has finished what it was about", || summary()["state"] != "starting");
            let state = summary()["state"].as_str().unwrap().to_owned();
            match state.as_str() {
                "created" | "exited" | "failed" => {
                    host.call("Container.Start", json!({"name": id})).unwrap();
                }
                "running" | "stopping" => {}
                other => panic!("round {round}: {other}"),
            }
            host.call("Container.Stop", json!({"name": id})).unwrap();
            assert_eq!(summary()["state"], "exited", "round {round}, was {state}");
            host.call("Container.Remove", json!({"name": id})).unwrap();
        }
        Leaks::since(&host, calm.clone()).assert_none_after();
    }
}

#[test]
fn a_container_goes_on_while_the_service_is_dead_and_its_end_is_known_afterwards() {
    let Some(mut host) = Host::new() else { return };
    let running = host.sleeper().named("running").run().pid();
    let shared = host.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let ending = host
        .sh("while ! test -e /shared/end; do usleep 10000; done; exit 7")
        .with(json!({"mounts": [{"kind": "bind", "source": shared, "target": "/shared"}]}))
        .named("ending")
        .run();
    let pid = ending.pid();
    host.crash();
    std::fs::write(shared.join("end"), "").unwrap();
    wait_until("it has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    host.wake();
    let summary = |name: &str| {
        host.call("Container.Inspect", json!({"name": name})).unwrap()["container"]["summary"].clone()
    };
    assert_eq!(summary("running")["pid"], running);
    assert_eq!(summary("running")["state"], "running");
    wait_until("its monitor has told", || summary("ending")["state"] == "exited");
    assert_eq!(summary("ending")["exitCode"], 7);
}

#[test]
fn a_container_outlives_its_monitor_and_only_its_exit_code_is_lost() {
    let Some(mut host) = Host::new() else { return };
    host.wake_and_sweep();
    let leaks = Leaks::before(&host);
    let container = host.sleeper().run_until_stoppable();
    let monitor = i32::try_from(container.inspect()["monitorPid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    wait_until("the monitor is gone", || container.inspect()["monitorPid"].is_null());
    assert_eq!(container.state(), "running");
    assert_eq!(container.exec("exit 5")["exitCode"], 5);
    let end = container.stop().unwrap();
    assert_eq!((&end["exitCode"], &end["killed"]), (&Value::Null, &json!(false)));
    assert_eq!(container.state(), "exited");
    assert_eq!(container.summary()["exitCode"], Value::Null);
    container.start().unwrap();
    assert_eq!(container.state(), "running");
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn the_next_wake_gives_a_container_without_a_monitor_another_one() {
    let Some(mut host) = Host::new() else { return };
    host.wake_and_sweep();
    let leaks = Leaks::before(&host).kept();
    let shared = host.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let script = "until test -e /shared/say; do usleep 10000; done; echo heard; \
        until test -e /shared/end; do usleep 10000; done; exit 7";
    let plan = host
        .sh(script)
        .with(json!({"mounts": [{"kind": "bind", "source": shared, "target": "/shared"}]}))
        .named("orphan");
    let pid = plan.run().pid();
    let inspect =
        |host: &Host| host.call("Container.Inspect", json!({"name": "orphan"})).unwrap()["container"].clone();
    let monitor = i32::try_from(inspect(&host)["monitorPid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    wait_until("the monitor is gone", || inspect(&host)["monitorPid"].is_null());
    // What it says while nobody listens waits in the pipe.
    std::fs::write(shared.join("say"), "").unwrap();
    host.crash();
    host.wake();
    wait_until("another monitor is there", || inspect(&host)["monitorPid"].is_number());
    assert_eq!(inspect(&host)["summary"]["pid"], pid);
    std::fs::write(shared.join("end"), "").unwrap();
    let end = host.call("Container.Wait", json!({"name": "orphan"})).unwrap();
    assert_eq!(end["exitCode"], 7, "{end}");
    let log = host.call_more("Container.Logs", json!({"name": "orphan"})).unwrap();
    assert_eq!(log.iter().flat_map(common::messages).collect::<Vec<_>>(), ["heard"]);
    host.call("Container.Remove", json!({"name": "orphan"})).unwrap();
    Leaks::since(&host, leaks).assert_none_after();
}

#[test]
fn a_container_whose_monitor_died_can_be_removed_by_force() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let container = host.sh("sleep 1000 & sleep 1000 & wait").run();
    let monitor = i32::try_from(container.inspect()["monitorPid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_payload_whose_monitor_died_before_it_could_tell_of_it_is_ended() {
    let Some(mut host) = Host::new() else { return };
    host.wake_and_sweep();
    let leaks = Leaks::before(&host).kept();
    // What such a monitor leaves: its program has been executed, and the state does not know that.
    let orphan = |host: &Host, name: &str| {
        let container = host.sleeper().named(name).run();
        let (pid, details) = (container.pid(), container.inspect());
        let monitor = i32::try_from(details["monitorPid"].as_i64().unwrap()).unwrap();
        kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
        wait_until("the monitor is gone", || container.inspect()["monitorPid"].is_null());
        let path = host.run_dir().join("containers").join(container.id()).join("state");
        let state = std::fs::read_to_string(&path).unwrap().replace("phase=running", "phase=starting");
        std::fs::write(&path, state).unwrap();
        assert_eq!(container.state(), "failed");
        assert!(is_running(pid));
        pid
    };
    let by_name = |name: &str| json!({"name": name});

    let pid = orphan(&host, "removed");
    host.call("Container.Remove", by_name("removed")).unwrap();
    assert!(!is_running(pid));

    let pid = orphan(&host, "again");
    host.call("Container.Start", by_name("again")).unwrap();
    assert!(!is_running(pid));
    host.call("Container.Remove", json!({"name": "again", "force": true})).unwrap();

    let pid = orphan(&host, "swept");
    host.crash();
    host.wake();
    wait_until("the sweep has ended it", || !is_running(pid));
    host.call("Container.Remove", by_name("swept")).unwrap();
    Leaks::since(&host, leaks).assert_none_after();
}

fn is_running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

#[test]
fn waiting_ends_when_the_container_ends_even_without_a_monitor() {
    let Some(mut host) = Host::new() else { return };
    host.wake_and_sweep();
    let container = host.sleeper().run_until_stoppable();
    let (pid, details) = (container.pid(), container.inspect());
    let monitor = i32::try_from(details["monitorPid"].as_i64().unwrap()).unwrap();
    let (mut connection, name) = (host.connect(), container.name.clone());
    let waiter = std::thread::spawn(move || {
        common::answer(connection.call("io.dormouse.Container.Wait", json!({"name": name}), &[])).unwrap()
    });
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    wait_until("the monitor is gone", || container.inspect()["monitorPid"].is_null());
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let end = waiter.join().unwrap();
    assert_eq!((&end["state"], &end["exitCode"]), (&json!("exited"), &Value::Null));
}

#[test]
fn fifty_clients_at_once_are_all_served() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    std::thread::scope(|scope| {
        for client in 0..50 {
            let host = &host;
            scope.spawn(move || {
                let container = host
                    .sh(&format!("echo {client}; exit {client}"))
                    .named(&format!("client-{client}"))
                    .create();
                container.start().unwrap();
                assert_eq!(container.exit_code(), Some(client));
                assert_eq!(container.log(), [client.to_string()]);
                container.remove().unwrap();
            });
        }
    });
    assert_eq!(host.names(), [""; 0]);
    leaks.assert_none_after();
}
