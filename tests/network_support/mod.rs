//! Hosts whose containers are on networks, with subnets of their own, and a look for what must not stay behind.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations, unused_imports)]
// The lint's exception for tests does not reach helpers, and each test binary uses a part of them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Container, Host, Plan, wait_until};

/// A host for tests of networks. `None`, said aloud, where netavark is missing.
pub fn network_host() -> Option<Host> {
    for (program, package) in [("netavark", "netavark"), ("aardvark-dns", "aardvark-dns")] {
        let places = ["/usr/libexec/podman", "/usr/lib/podman"];
        if !places.iter().any(|place| Path::new(place).join(program).exists()) {
            eprintln!("SKIPPED: {program} is missing (apt install {package})");
            return None;
        }
    }
    if Command::new("iptables").arg("--version").output().is_err() {
        eprintln!("SKIPPED: iptables is missing (apt install iptables)");
        return None;
    }
    Host::new()
}

/// Makes a network on a free subnet; its details.
pub fn create(host: &Host, name: &str, more: Value) -> Value {
    let mut parameters = json!({"name": name});
    parameters.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    host.call("Network.Create", parameters).unwrap()["network"].take()
}

/// On these networks.
pub fn on<'a>(plan: Plan<'a>, networks: &[&str]) -> Plan<'a> {
    let networks: Vec<Value> = networks.iter().map(|name| json!({"network": name})).collect();
    plan.with(json!({"networks": networks}))
}

/// The first address that a running container has.
pub fn address(container: &Container<'_>) -> String {
    container.summary()["addresses"][0].as_str().unwrap().to_owned()
}

/// The port of the host that leads to the first published one.
pub fn port(container: &Container<'_>) -> u16 {
    u16::try_from(container.summary()["ports"][0]["hostPort"].as_i64().unwrap()).unwrap()
}

/// A server that answers each connection to its port 80 with a text.
pub fn web_server<'a>(host: &'a Host, text: &str) -> Plan<'a> {
    host.sh(&format!("trap 'exit 0' TERM; nc -ll -p 80 -e echo {text} & wait; sleep 1000"))
}

/// What a server says to who connects.
pub fn ask(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Until a server that was just started listens.
#[track_caller]
pub fn ask_until(address: impl Into<SocketAddr>) -> String {
    let address = address.into();
    let mut said = String::new();
    wait_until("the server answers", || match ask(address) {
        Ok(text) if !text.is_empty() => {
            said = text;
            true
        }
        _ => false,
    });
    said
}

/// Sends each datagram back that comes to a port in a container; until it is dropped.
pub struct UdpEcho {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    pub fn start(container: &Container<'_>, port: u16) -> Self {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", container.pid())).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (told, listening) = std::sync::mpsc::channel();
        let stop = over.clone();
        let thread = std::thread::spawn(move || {
            // Of this thread alone.
            nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            told.send(()).unwrap();
            let mut buffer = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            }
        });
        listening.recv().unwrap();
        Self { over, thread: Some(thread) }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// All that networks of this host's containers have left on the machine: interfaces, rules that name a subnet or an
/// interface of theirs, namespaces, programs, leases. `networks` are the details of its networks.
pub fn traces(host: &Host, networks: &[Value]) -> BTreeSet<String> {
    let said = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut traces = BTreeSet::new();
    let bridges: Vec<&str> = networks.iter().map(|network| network["interface"].as_str().unwrap()).collect();
    let subnets: Vec<&str> = networks
        .iter()
        .flat_map(|network| network["subnets"].as_array().unwrap())
        .map(|subnet| subnet["subnet"].as_str().unwrap())
        .collect();
    for line in said(&["ip", "-o", "link"]).lines() {
        if bridges.iter().any(|bridge| line.contains(bridge)) {
            traces.insert(format!("interface: {line}"));
        }
    }
    for program in ["iptables-save", "ip6tables-save"] {
        for line in said(&[program]).lines() {
            let names = |wanted: &&str| line.contains(*wanted);
            // Addresses of a container begin as its subnet does.
            let within =
                subnets.iter().map(|subnet| subnet.trim_end_matches("0/24").trim_end_matches(":/64"));
            if bridges.iter().any(names) || within.clone().any(|net| line.contains(net)) {
                traces.insert(format!("rule: {line}"));
            }
        }
    }
    let dir = host.path().to_str().unwrap();
    for line in std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if line.contains(dir) && line.contains("nsfs") {
            traces.insert(format!("namespace: {line}"));
        }
    }
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let program = command.split(' ').next().unwrap_or_default();
        if command.contains(dir) && (program.contains("aardvark") || program.contains("netavark")) {
            traces.insert(format!("process: {command}"));
        }
    }
    for network in networks {
        let details = host.call("Network.Inspect", json!({"name": network["id"]}));
        for member in details.iter().flat_map(|reply| reply["network"]["containers"].as_array().unwrap()) {
            if member["addresses"] != json!([]) {
                traces.insert(format!("member: {member}"));
            }
        }
    }
    for entry in std::fs::read_dir(host.run_dir().join("netns")).unwrap().flatten() {
        traces.insert(format!("file: {:?}", entry.path()));
    }
    traces
}

/// Asserts that nothing is left, or soon will not be.
#[track_caller]
pub fn assert_no_traces(host: &Host, networks: &[Value]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let left = traces(host, networks);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind:\n{}", Vec::from_iter(left).join("\n"));
        std::thread::sleep(Duration::from_millis(100));
    }
}
