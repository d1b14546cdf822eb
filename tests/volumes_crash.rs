//! Volumes when the service is killed at any moment: whole or not there, and nothing lies about.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Host, Leaks, wait_until};
use dormouse::varlink::client::Connection;
use serde_json::{Value, json};

fn directories(parent: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(parent).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn listed(host: &Host, what: &str, field: &str) -> Vec<Value> {
    host.call(&format!("{what}.List"), json!({})).unwrap()[field].as_array().unwrap().clone()
}

/// Makes, uses and removes volumes and secrets until the service is gone.
fn keep_busy(address: &str, over: &AtomicBool, worker: usize) {
    let Ok(mut connection) = Connection::connect(address) else { return };
    let _ = connection.set_timeout(Some(common::PATIENCE));
    for round in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let (name, own) = (format!("c-{worker}-{round}"), format!("v-{worker}-{round}"));
        let (memory, secret) = (format!("m-{worker}-{round}"), format!("s-{worker}-{round}"));
        // All workers make the one of the same name, with their containers.
        let mounts = json!([
            {"kind": "volume", "source": own, "target": "/etc"}, {"kind": "volume", "source": "shared", "target": "/bin"},
            {"kind": "volume", "source": memory, "target": "/memory"}, {"kind": "volume", "target": "/own"}]);
        let spec = json!({"image": "busybox", "command": ["sleep", "1000"], "stopSignal": "KILL", "name": name,
                          "networkNamespace": {"kind": "private"}, "mounts": mounts, "secrets": [{"secret": secret}]});
        let calls: [(&str, Value); 8] = [
            ("Volume.Create", json!({"name": own})),
            ("Volume.Create", json!({"name": memory, "options": {"type": "tmpfs"}})),
            ("Secret.Create", json!({"name": secret, "data": "c2VjcmV0"})),
            ("Container.Run", json!({"spec": spec})),
            ("Container.Stop", json!({"name": name})),
            ("Container.Remove", json!({"name": name, "volumes": true})),
            ("Volume.Remove", json!({"name": own})),
            ("Volume.Remove", json!({"name": memory})),
        ];
        for (method, parameters) in calls {
            if connection.call(&format!("io.dormouse.{method}"), parameters, &[]).is_err() {
                return;
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_point_every_volume_is_whole_or_not_there() {
    let Some(mut host) = Host::new() else { return };
    let calm = Leaks::before(&host).kept();
    for round in 0..16_u64 {
        let address = host.address();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let (address, over) = (&address, &over);
                scope.spawn(move || keep_busy(address, over, worker));
            }
            std::thread::sleep(Duration::from_millis(20 + round * 97 % 600));
            host.crash();
            over.store(true, Ordering::Relaxed);
        });
        host.wake();

        // What nobody knows of is swept, and nothing else.
        for (what, field, directory) in [("Volume", "volumes", "volumes"), ("Secret", "secrets", "secrets")] {
            let ids: BTreeSet<String> = listed(&host, what, field)
                .iter()
                .map(|thing| thing["id"].as_str().unwrap().to_owned())
                .collect();
            wait_until("what has no record is swept away", || {
                directories(&host.state_dir().join(directory)) == ids
            });
        }
        // Each volume that is there can be used, and holds all or nothing of what it should.
        for volume in listed(&host, "Volume", "volumes") {
            let name = volume["name"].as_str().unwrap();
            if volume["options"]["type"] == "tmpfs" || volume["anonymous"] == json!(true) {
                continue;
            }
            let (target, test) = match name {
                "shared" => ("/bin", "ls /bin | wc -l"),
                _ => ("/etc", "ls /etc | grep -c -e passwd -e group -e not-executable"),
            };
            let mount = json!({"kind": "volume", "source": name, "target": target});
            let count = host.sh(test).with(json!({"mounts": [mount]})).output();
            assert!(
                if target == "/etc" { count == "3\n" } else { count.trim().parse::<u32>().unwrap() > 100 },
                "round {round}: {name} {count}"
            );
        }
        for container in listed(&host, "Container", "containers") {
            // One that has just removed itself.
            let _ = host
                .call("Container.Remove", json!({"name": container["id"], "force": true, "volumes": true}));
        }
        wait_until("all containers are gone", || host.names().is_empty());
        for volume in listed(&host, "Volume", "volumes") {
            host.call("Volume.Remove", json!({"name": volume["id"]})).unwrap();
        }
        for secret in listed(&host, "Secret", "secrets") {
            host.call("Secret.Remove", json!({"name": secret["id"]})).unwrap();
        }
        // File systems of volumes whose service was killed between their mount and their container go at a wake.
        host.crash();
        host.wake();
        Leaks::since(&host, calm.clone()).assert_none_after();
    }
}
