//! The promise of every container engine, for a whole systemd: run with a published port, and the port answers.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod network_support;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use common::{Host, SYSTEMD_IMAGES, systemd_image};
use network_support::{assert_no_traces, create, network_host};
use serde_json::json;

/// A host with an image that boots by itself, for each release.
fn with_each_image(test: impl Fn(&Host, &str)) {
    if network_host().is_none() {
        return;
    }
    for release in SYSTEMD_IMAGES {
        let Some(host) = systemd_image(release) else { continue };
        eprintln!("with {release}");
        test(&host, release);
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn when_a_machine_is_ready_its_web_server_answers_at_the_first_try() {
    with_each_image(|host, release| {
        let port = free_port();
        let run = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["--address", &host.address(), "run", "-d", "--name", "web", "-p", &format!("{port}:80")])
            .args(["--wait", "ready", release, "/sbin/init"])
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        // Once, and no second time.
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("nginx"), "{answer}");

        let told = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["--address", &host.address(), "port", "web"])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(told.stdout).unwrap(), format!("80/tcp -> 0.0.0.0:{port}\n"));
        let network = host.call("Network.Inspect", json!({"name": "dormouse"})).unwrap()["network"].take();
        host.call("Container.Stop", json!({"name": "web"})).unwrap();
        host.call("Container.Remove", json!({"name": "web"})).unwrap();
        assert_no_traces(host, &[network]);
    });
}

#[test]
fn a_networkd_inside_leaves_the_interface_alone_unless_it_is_called_host0() {
    with_each_image(|host, release| {
        let network = create(host, "one", json!({}));
        for (interface, managed) in [("eth0", false), ("host0", true)] {
            let vm = host
                .image(release)
                .with(json!({"command": ["/sbin/init"], "networks": [{"network": "one", "interface": interface}],
                             // Without the first the unit of networkd is skipped; that of 257 keeps the others too.
                             "capabilitiesAdd": ["NET_ADMIN", "SYS_ADMIN", "BPF"]}))
                .run_until("ready");
            let code = vm.exec("systemctl start systemd-networkd")["exitCode"].clone();
            assert_eq!(
                code,
                0,
                "{}",
                vm.exec("journalctl --no-pager -u systemd-networkd; systemctl status systemd-networkd")
            );
            let listed = vm.exec_output(&format!(
                "for i in $(seq 50); do s=$(networkctl list --no-legend --no-pager {interface}); \
                 case \"$s\" in *pending*|*initialized*) sleep 0.1;; *) break;; esac; done; echo \"$s\""
            ));
            assert_eq!(!listed.contains("unmanaged"), managed, "{listed}");
            if !managed {
                let address = vm.summary()["addresses"][0].as_str().unwrap().to_owned();
                let has = vm.exec_output("cat /proc/net/fib_trie");
                assert!(has.contains(&address), "{has}");
            }
            vm.remove_by_force().unwrap();
        }
        assert_no_traces(host, &[network]);
    });
}
