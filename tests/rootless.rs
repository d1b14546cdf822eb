//! The service of an ordinary user: no root of the host has a part in anything that happens here.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod network_support;

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Container, Host, Leaks, TestUser, assert_refused, systemd_archive, wait_until};
use network_support::UdpEcho;
use serde_json::json;

/// A user's service with the image busybox.
fn host() -> Option<Host> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a test that becomes another user needs root");
        return None;
    }
    let host = Host::of_user(TestUser::new()?);
    host.import_busybox();
    Some(host)
}

/// As [`host`], with a cgroup that is the user's.
fn host_with_cgroup() -> Option<Host> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: a test that becomes another user needs root");
        return None;
    }
    let mut user = TestUser::new()?;
    user.delegate();
    Some(Host::of_user(user))
}

fn uid(host: &Host) -> u32 {
    host.user.as_ref().unwrap().uid()
}

fn on_disk(container: &Container<'_>, path: &str) -> PathBuf {
    container.host.state_dir().join("containers").join(container.id()).join("upper").join(path)
}

fn status(pid: i32, key: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
}

#[test]
fn a_users_service_runs_containers_as_that_user() {
    let Some(host) = host() else { return };
    let leaks = Leaks::before(&host);
    assert_eq!(host.call("Manager.Info", json!({})).unwrap()["uid"], uid(&host));
    let container = host
        .sh("id -u; touch /root/mine; touch /alice; chown alice:gamers /alice; trap 'exit 0' TERM; \
             while :; do sleep 1000 & wait $!; done")
        .run_until_stoppable();
    assert_eq!(container.log(), ["0"]);
    let user = uid(&host).to_string();
    assert!(status(container.pid(), "Uid:").split_whitespace().all(|id| id == user));
    assert!(status(host.serve_pid(), "Uid:").split_whitespace().all(|id| id == user));
    // Root of the container is the user; others are its subordinate ids.
    assert_eq!(std::fs::metadata(on_disk(&container, "root/mine")).unwrap().uid(), uid(&host));
    let alice = std::fs::metadata(on_disk(&container, "alice")).unwrap().uid();
    assert!(alice > uid(&host) && alice != 1000, "{alice}");
    assert_eq!(container.exec_output("stat -c %u:%g /alice /etc/hosts /dev/shm"), "1000:2000\n0:0\n0:0\n");
    assert_eq!(
        container.exec_output("echo x > /dev/null; head -c 2 /dev/zero | wc -c; ls -d /sys/class/net"),
        "2\n/sys/class/net\n"
    );
    // Nothing of the host's mounts is seen to change.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(host.path().to_str().unwrap()));
    let warnings = container.inspect()["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("no cgroup is delegated"), "{warnings}");
    container.stop().unwrap();
    container.remove().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_service_that_wakes_has_power_over_what_runs() {
    let Some(mut host) = host() else { return };
    let name = host.sleeper().named("lasting").run_until_stoppable().name;
    for _ in 0..2 {
        host.crash();
        host.wake();
        let container = Container { host: &host, name: name.clone(), reply: json!({}) };
        assert_eq!(container.state(), "running");
        assert_eq!(container.exec_output("echo in"), "in\n");
        assert!(container.inspect()["monitorPid"].as_i64().is_some(), "it is supervised");
    }
    // Without its monitor too: what is left of the namespace is the payload.
    let monitor = Container { host: &host, name: name.clone(), reply: json!({}) }.inspect()["monitorPid"]
        .as_i64()
        .unwrap();
    host.crash();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(monitor).unwrap()),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    host.wake();
    let container = Container { host: &host, name, reply: json!({}) };
    wait_until("it has another monitor", || {
        container.inspect()["monitorPid"].as_i64().is_some_and(|pid| pid != monitor)
    });
    assert_eq!(container.exec_output("echo in"), "in\n");
    let end = container.stop().unwrap();
    assert_eq!((&end["exitCode"], &end["killed"]), (&json!(0), &json!(false)));
    container.remove().unwrap();
}

#[test]
fn services_that_wake_at_once_are_in_one_namespace() {
    let Some(host) = host() else { return };
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    let others: Vec<_> = (0..4)
        .map(|number| {
            let user = host.user.as_ref().unwrap();
            let socket = host.path().join(format!("other-{number}"));
            let mut command = user.program(host.path());
            command.args(["serve", "--idle-timeout", "0", "--listen", &format!("unix:{}", socket.display())]);
            command.env("DORMOUSE_STATE_DIR", host.state_dir()).env("DORMOUSE_RUN_DIR", host.run_dir());
            (command.spawn().unwrap(), socket)
        })
        .collect();
    for (mut other, socket) in others {
        wait_until("it listens", || socket.exists());
        let same = namespace(i32::try_from(other.id()).unwrap()) == namespace(host.serve_pid());
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(same);
    }
}

#[test]
fn what_is_copied_and_committed_has_the_owners_that_are_seen_inside() {
    let Some(host) = host() else { return };
    let container = host.sh(
        "mkdir -p /d/e; echo x > /d/e/f; chown -R 33:34 /d; rm -r /tmp; mkdir /tmp; rm /etc/not-executable",
    );
    let container = container.named("first").run_until("exited");
    let stat = container.call("StatPath", json!({"path": "/d/e/f"})).unwrap();
    assert_eq!((&stat["info"]["uid"], &stat["info"]["gid"]), (&json!(33), &json!(34)));
    let mut tar = tempfile::tempfile().unwrap();
    let parameters = json!({"name": "first", "path": "/d", "archive": 0});
    host.call_with_fds("Container.CopyOut", parameters, &[tar.as_fd()]).unwrap();
    std::io::Seek::rewind(&mut tar).unwrap();
    let parameters = json!({"name": "first", "path": "/root", "archive": 0});
    host.call_with_fds("Container.CopyIn", parameters, &[tar.as_fd()]).unwrap();
    // A directory made anew hides what the image had in it, which overlayfs notes in another way than for root.
    container.call("Commit", json!({"image": "changed"})).unwrap();
    let script = "stat -c %u:%g /d/e/f /root/d/e/f; ls -A /tmp; test ! -e /etc/not-executable";
    assert_eq!(host.sh(script).with(json!({"image": "changed"})).output(), "33:34\n33:34\n");
}

#[test]
fn pasta_is_the_network_with_ports_in_and_the_way_out() {
    let Some(host) = host() else { return };
    let leaks = Leaks::before(&host);
    let script = "while :; do echo hello | nc -l -p 80; done";
    // Debian 12's pasta loses the answers to datagrams whose port has another number inside.
    let free = (15_000..16_000).find(|port| UdpSocket::bind(("127.0.0.1", *port)).is_ok()).unwrap();
    let ports = json!({"networkNamespace": null, "ports": [
        {"containerPort": 80}, {"containerPort": free, "hostPort": free, "protocol": "udp", "hostIp": "127.0.0.1"}]});
    let plan = host.sh(script).named("web").with(ports);
    let container = match plan.try_run() {
        Ok(reply) => Container { host: &host, name: "web".to_owned(), reply },
        Err(refusal) if refusal.name() == "Unsupported" => {
            eprintln!("SKIPPED: {}", refusal.reason());
            return;
        }
        Err(refusal) => panic!("{refusal:?} {}", host.log()),
    };
    let published = container.summary()["ports"].clone();
    let port = |number: usize| u16::try_from(published[number]["hostPort"].as_u64().unwrap()).unwrap();
    let hello = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port(0)))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    wait_until("the port answers", || hello().is_ok_and(|text| text == "hello\n"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let echo = UdpEcho::start(&container, free);
    wait_until("the datagram is answered", || {
        socket.send_to(b"x\n", ("127.0.0.1", port(1))).unwrap();
        socket.recv(&mut [0; 16]).is_ok()
    });
    drop(echo);
    // There is a way out, and none to what listens on the host's loopback interface only.
    assert!(container.exec_output("ip route").contains("default"), "{}", container.exec_output("ip addr"));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let local = listener.local_addr().unwrap().port();
    let gateway = container.exec_output("ip route").split_whitespace().nth(2).unwrap().to_owned();
    let reached = container
        .exec(&format!("nc -w 1 {gateway} {local} < /dev/null; nc -w 1 127.0.0.1 {local} < /dev/null"));
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "{reached}");
    // The same port is not to be had twice.
    let again = host
        .sh("true")
        .with(json!({"networkNamespace": null, "ports": [{"containerPort": 80, "hostPort": port(0)}]}));
    assert_refused(again.try_run(), "PortInUse");
    for name in host.names().iter().filter(|name| *name != "web") {
        host.call("Container.Remove", json!({"name": name})).unwrap();
    }
    // Its end takes the process along, and the port is free.
    container.remove_by_force().unwrap();
    wait_until("the port is free", || std::net::TcpListener::bind(("127.0.0.1", port(0))).is_ok());
    assert!(std::fs::read_dir(host.run_dir().join("netns")).unwrap().next().is_none());
    leaks.assert_none_after();
}

#[test]
fn the_network_lasts_over_a_wake_and_goes_with_a_container_whose_monitor_was_killed() {
    let Some(mut host) = host() else { return };
    let plan =
        host.sleeper().named("web").with(json!({"networkNamespace": null, "ports": [{"containerPort": 80}]}));
    if let Err(refusal) = plan.try_run() {
        assert_eq!(refusal.name(), "Unsupported", "{refusal:?}");
        eprintln!("SKIPPED: {}", refusal.reason());
        return;
    }
    host.crash();
    host.wake();
    let web = Container { host: &host, name: "web".to_owned(), reply: json!({}) };
    assert!(web.exec_output("ip route").contains("default"));
    let id = web.summary()["id"].as_str().unwrap().to_owned();
    let network =
        std::fs::read_to_string(host.run_dir().join("containers").join(&id).join("network.json")).unwrap();
    let network: serde_json::Value = serde_json::from_str(&network).unwrap();
    let pasta = i32::try_from(network["pasta"]["pid"].as_i64().unwrap()).unwrap();
    let (monitor, init) = (web.inspect()["monitorPid"].as_i64().unwrap(), web.pid());
    host.crash();
    for pid in [i32::try_from(monitor).unwrap(), init] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    host.wake();
    wait_until("pasta is gone", || !Path::new(&format!("/proc/{pasta}")).exists());
}

#[test]
fn what_takes_root_of_the_host_is_refused_by_name() {
    let Some(host) = host() else { return };
    let leaks = Leaks::before(&host);
    let refused = |fields: serde_json::Value, feature: &str| {
        let plan = host.sh("true").with(json!({"autoRemove": true})).with(fields);
        let refusal = assert_refused(plan.try_run(), "Unsupported");
        assert!(refusal.reason().contains(feature), "{feature}: {refusal:?}");
        for name in host.names() {
            host.call("Container.Remove", json!({"name": name})).unwrap();
        }
    };
    refused(json!({"userNamespace": {"kind": "auto"}}), "user namespace of a single container");
    refused(json!({"networkNamespace": null, "networks": [{"network": "dormouse"}]}), "bridges");
    refused(
        json!({"networkNamespace": null, "networks": [{"network": "pasta", "addresses": ["10.0.0.1"]}]}),
        "address",
    );
    refused(json!({"networkNamespace": null, "ports": [{"containerPort": 80, "hostPort": 80}]}), "port 80");
    refused(json!({"networkNamespace": null, "ports": [{"containerPort": 80, "protocol": "sctp"}]}), "sctp");
    refused(json!({"resources": {"memoryBytes": 64 << 20}}), "limit");
    refused(json!({"systemd": "always"}), "systemd in a container");
    refused(json!({"devices": [{"path": "/dev/null", "permissions": "r"}]}), "restricting the use");
    assert_refused(host.call("Network.Create", json!({"name": "n"})), "Unsupported");
    let container = host.sleeper().run_until_stoppable();
    assert_refused(container.call("Pause", json!({})), "Unsupported");
    assert_refused(container.call("Update", json!({"resources": {"memoryBytes": 64 << 20}})), "Unsupported");
    let processes = container.call("Top", json!({})).unwrap();
    assert_eq!(processes["processes"][0]["pid"], 1);
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

#[test]
fn a_user_without_subordinate_ids_is_told_what_to_do() {
    if TestUser::new().is_none() || !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::Builder::new().prefix("dormouse-test-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let program = dir.path().join("dormouse");
    std::fs::copy(env!("CARGO_BIN_EXE_dormouse"), &program).unwrap();
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
        .arg(&program)
        .args(["serve", "--listen", &format!("unix:{}", dir.path().join("sock").display())])
        .env("DORMOUSE_STATE_DIR", dir.path().join("state"))
        .env("DORMOUSE_RUN_DIR", dir.path().join("run"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && text.contains("/etc/subuid") && text.contains("usermod"), "{text}");
}

#[test]
fn a_systemd_boots_in_a_cgroup_that_is_the_users() {
    let release = "trixie";
    let Some(archive) = systemd_archive(release) else { return };
    let Some(host) = host_with_cgroup() else { return };
    host.call_with_fds("Image.Import", json!({"name": release, "archive": 0}), &[archive.as_fd()]).unwrap();
    let leaks = Leaks::before(&host);
    let limits = json!({"command": ["/sbin/init"], "resources": {"memoryBytes": 512 << 20, "pidsMax": 500}});
    let vm = host.image(release).with(limits).named("vm").run_until("ready");
    let running = vm.exec("systemctl is-system-running --wait");
    assert_eq!(
        running["stdout"],
        "running\n",
        "{release}: {}",
        vm.exec("systemctl --failed --no-pager")["stdout"]
    );
    vm.assert_root_alone_notifies();
    let status = vm.unit("Status", json!({})).unwrap();
    assert_eq!((&status["systemState"], &status["failedUnits"]), (&json!("running"), &json!(0)));
    vm.unit("Restart", json!({"unit": "cron.service"})).unwrap();
    assert!(!host.user.as_ref().unwrap().containers().is_empty());
    let usage = host.call("Container.Stats", json!({"names": ["vm"]})).unwrap();
    assert!(usage.to_string().contains("\"pidsMax\":500"), "{usage}");
    vm.call("Pause", json!({})).unwrap();
    assert_eq!(vm.state(), "paused");
    vm.call("Resume", json!({})).unwrap();
    let end = vm.stop().unwrap();
    assert_eq!((&end["exitCode"], &end["killed"]), (&json!(0), &json!(false)));
    vm.remove().unwrap();
    assert!(host.user.as_ref().unwrap().containers().is_empty());
    leaks.assert_none_after();
}
