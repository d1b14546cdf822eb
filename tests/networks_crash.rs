//! Networks when things are killed, all at once, or gone with the machine: nothing stays behind.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod network_support;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Host, Leaks, wait_until};
use dormouse::varlink::client::Connection;
use network_support::{address, ask_until, assert_no_traces, create, network_host, on, port, web_server};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// The processes whose command line holds all these words.
fn processes(words: &[&str]) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let named = entries.filter(|entry| {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        words.iter().all(|word| command.contains(word))
    });
    named.filter_map(|entry| Some(Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))).collect()
}

fn end_all(host: &Host) {
    for name in host.names() {
        host.call("Container.Remove", json!({"name": name, "force": true})).unwrap();
    }
}

#[test]
fn fifty_containers_at_once_leave_no_trace() {
    let Some(host) = network_host() else { return };
    let leaks = Leaks::before(&host);
    let network = create(&host, "one", json!({}));
    let addresses = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for number in 0..50 {
            let (host, addresses) = (&host, &addresses);
            scope.spawn(move || {
                let published = json!({"ports": [{"containerPort": 80}], "stopSignal": "KILL"});
                let plan = on(host.sleeper(), &["one"]).with(published).named(&format!("c{number}"));
                let container = plan.create();
                // Others are before it: this may take longer than a call usually does.
                let mut connection = host.connect();
                connection.set_timeout(Some(Duration::from_secs(240))).unwrap();
                let call = |connection: &mut Connection, method: &str| {
                    let method = format!("io.dormouse.Container.{method}");
                    common::answer(connection.call(&method, json!({"name": container.name}), &[])).unwrap()
                };
                call(&mut connection, "Start");
                let mine = (address(&container), port(&container));
                assert!(addresses.lock().unwrap().insert(mine.clone()), "{mine:?} was given twice");
                call(&mut connection, "Stop");
                call(&mut connection, "Remove");
            });
        }
    });
    assert_eq!(addresses.lock().unwrap().len(), 50);
    assert_no_traces(&host, std::slice::from_ref(&network));
    host.call("Network.Remove", json!({"name": "one"})).unwrap();
    leaks.assert_none_after();
}

/// Creates, starts, stops and removes containers on the network until the service is gone.
fn keep_busy(address: &str, over: &AtomicBool, worker: usize) {
    let Ok(mut connection) = Connection::connect(address) else { return };
    let _ = connection.set_timeout(Some(common::PATIENCE));
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("busy-{worker}-{round}");
        let spec = json!({"image": "busybox", "command": ["sleep", "1000"], "stopSignal": "KILL", "name": name,
                          "networks": [{"network": "one"}], "ports": [{"containerPort": 80}]});
        let calls: [(&str, Value); 3] = [
            ("Run", json!({"spec": spec})),
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
fn whoever_is_killed_at_whatever_moment_nothing_stays() {
    let Some(mut host) = network_host() else { return };
    let calm = Leaks::before(&host).kept();
    let network = create(&host, "one", json!({}));
    let dir = host.path().to_str().unwrap().to_owned();
    // What is killed beside the service, by words of its command line.
    let victims: [&[&str]; 4] = [&[], &["monitor", &dir], &["netavark", &dir], &["cleanup", &dir]];
    for round in 0..12_u64 {
        let over = AtomicBool::new(false);
        let service = host.address();
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (service, over) = (&service, &over);
                scope.spawn(move || keep_busy(service, over, worker));
            }
            // Spread over what a start and a stop take.
            std::thread::sleep(Duration::from_millis(60 + round * 67 % 500));
            let words = victims[usize::try_from(round).unwrap() % victims.len()];
            if round % 2 == 0 {
                host.crash();
            }
            if !words.is_empty() {
                for pid in processes(words) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        if round % 2 == 0 {
            host.wake();
        }
        end_all(&host);
        // What nobody asked for again is found at the next wake.
        host.crash();
        host.wake();
        assert_no_traces(&host, std::slice::from_ref(&network));
    }
    // Nothing is so broken that it would not work any more.
    let web = on(web_server(&host, "hello"), &["one"]).with(json!({"ports": [{"containerPort": 80}]})).run();
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, port(&web))), "hello");
    web.remove_by_force().unwrap();
    assert_no_traces(&host, std::slice::from_ref(&network));
    host.call("Network.Remove", json!({"name": "one"})).unwrap();
    Leaks::since(&host, calm).assert_none_after();
}

#[test]
fn a_container_that_ends_while_the_service_sleeps_takes_its_network_down() {
    let Some(mut host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let container = on(host.sh("sleep 1"), &["one"]).with(json!({"ports": [{"containerPort": 80}]})).run();
    let netns = host.run_dir().join("netns").join(container.id());
    assert!(netns.exists());
    host.crash();
    wait_until("its monitor has taken the network down", || !netns.exists());
    host.wake();
    assert_no_traces(&host, &[network]);
}

#[test]
fn a_restart_by_the_monitor_keeps_the_network() {
    let Some(mut host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let server = "trap 'exit 0' TERM; nc -ll -p 80 -e echo hello & wait";
    let plan = on(host.sh(server), &["one"])
        .with(json!({"ports": [{"containerPort": 80}], "restart": {"mode": "always"}}))
        .named("web");
    let web = plan.run();
    let (inside, number, pid) = (address(&web), port(&web), web.pid());
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    host.crash();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    // With nobody awake but the monitor.
    wait_until("it has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    host.wake();
    let summary =
        host.call("Container.Inspect", json!({"name": "web"})).unwrap()["container"]["summary"].take();
    assert_eq!((&summary["restarts"], &summary["addresses"][0]), (&json!(1), &json!(inside)));
    host.call("Container.Remove", json!({"name": "web", "force": true})).unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn a_container_that_outlives_its_monitor_stays_reachable_and_its_network_goes_with_it() {
    let Some(mut host) = network_host() else { return };
    host.wake_and_sweep();
    let network = create(&host, "one", json!({}));
    let web = on(web_server(&host, "hello"), &["one"]).with(json!({"ports": [{"containerPort": 80}]})).run();
    let number = port(&web);
    ask_until((Ipv4Addr::LOCALHOST, number));
    let monitor = i32::try_from(web.inspect()["monitorPid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    wait_until("the monitor is gone", || web.inspect()["monitorPid"].is_null());
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, number)), "hello");
    web.stop().unwrap();
    assert!(!host.run_dir().join("netns").join(web.id()).exists());
    web.start().unwrap();
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, port(&web))), "hello");
    web.remove_by_force().unwrap();
    assert_no_traces(&host, &[network]);
}

#[test]
fn after_a_reboot_addresses_and_ports_are_free_again() {
    let Some(mut host) = network_host() else { return };
    let network = create(&host, "one", json!({}));
    let wanted = {
        let gateway = network["subnets"][0]["gateway"].as_str().unwrap();
        format!("{}.9", gateway.rsplit_once('.').unwrap().0)
    };
    // The same port at each start: the rules of the first run, which a real reboot would take along, go with its last.
    let number = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let fields = json!({"networks": [{"network": "one", "addresses": [wanted]}],
                        "ports": [{"containerPort": 80, "hostPort": number}]});
    let first = host.sleeper().with(fields.clone()).named("first").run();
    let pid = first.pid();
    let monitor = i32::try_from(first.inspect()["monitorPid"].as_i64().unwrap()).unwrap();
    // The anchor may still be on its way when it is looked for.
    std::thread::sleep(Duration::from_secs(1));
    let namespaces = host.run_dir().join("netns");
    let own = namespaces.join(first.id());
    wait_until("the service has done all that it was about", || {
        std::fs::read_dir(&namespaces).unwrap().count() == 1
    });
    // What a reboot does: all processes, the run directory, and the network are gone; the store stays.
    host.crash();
    for pid in [monitor, pid] {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    for pid in processes(&["aardvark-dns", host.path().to_str().unwrap()]) {
        kill(pid, Signal::SIGKILL).unwrap();
    }
    nix::mount::umount(&own).unwrap();
    std::fs::remove_dir_all(host.run_dir()).unwrap();
    let bridge = network["interface"].as_str().unwrap();
    assert!(std::process::Command::new("ip").args(["link", "del", bridge]).status().unwrap().success());
    host.wake();
    let plan = host.sleeper().with(fields).named("second");
    wait_until("another container gets both", || match plan.try_run() {
        Ok(_) => true,
        Err(refusal) => {
            assert!(["AddressInUse", "PortInUse"].contains(&refusal.name()), "{refusal:?}");
            false
        }
    });
    host.call("Container.Remove", json!({"name": "second", "force": true})).unwrap();
    host.call("Container.Start", json!({"name": "first"})).unwrap();
    end_all(&host);
}
