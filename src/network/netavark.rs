//! netavark: one JSON document in, a network of one container set up or taken down.
//!
//! # Who works when
//!
//! Networks are the host's: bridges and firewall rules are shared by all containers, and netavark looks before it leaps. So
//! only one works at a time, whoever it works for: [`HostLock`] is an flock(2) on one file of the host. A holder may be
//! killed while its netavark goes on. Therefore the file holds the pid and start time of the netavark at work, written
//! before that gets its document (without one it does nothing), and the next holder waits for its end first.
//!
//! Source: netavark(1); podman's libnetwork/types, whose JSON this is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Map, Value, json};

use super::ports::Protocol;
use super::{Driver, NetworkDefinition, NetworkError};

/// Where distributions put it.
const PLACES: &[&str] = &[
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
    "/usr/local/bin",
    "/usr/bin",
];
/// Where it and we look for iptables.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// One for the whole host. In a directory that only root writes to: nobody else can hold it.
const LOCK: &str = "/run/dormouse-network.lock";
/// Whoever takes longer is killed: everybody else waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// The programs.
#[derive(Debug, Clone)]
pub struct Netavark {
    program: PathBuf,
    names: Option<PathBuf>,
    /// Where aardvark-dns keeps what it serves.
    config: PathBuf,
}

/// One network, as this container is on it.
#[derive(Debug, Clone, Copy)]
pub struct Membership<'a> {
    /// 64 hexadecimal digits, of the network.
    pub id: &'a str,
    /// What it is.
    pub definition: &'a NetworkDefinition,
    /// The container's.
    pub addresses: &'a [IpAddr],
    /// The container's, if it is given.
    pub hardware_address: Option<&'a str>,
    /// Further names of the container.
    pub aliases: &'a [String],
    /// In the container.
    pub interface: &'a str,
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// The first one.
    pub host_port: u16,
    /// The first one.
    pub container_port: u16,
    /// How many, one after the other.
    pub range: u16,
    /// What is carried.
    pub protocol: Protocol,
}

/// What netavark calls a network. It makes the names of its rules of this alone, so it must be another one for each network
/// on the host, whoever has made it and however people call it.
pub fn key(network_id: &str) -> &str {
    network_id.get(..32).unwrap_or(network_id)
}

/// The document for a container.
pub fn document(
    id: &str,
    name: &str,
    memberships: &[Membership<'_>],
    ports: &[Forward],
    servers: &[IpAddr],
) -> Value {
    let mut networks = Map::new();
    let mut infos = Map::new();
    for member in memberships {
        networks.insert(
            key(member.id).to_owned(),
            json!({
                "static_ips": member.addresses, "static_mac": member.hardware_address, "aliases": member.aliases,
                "interface_name": member.interface,
            }),
        );
        infos.insert(key(member.id).to_owned(), info(member));
    }
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            json!({
                "host_ip": port.host_ip.map_or_else(String::new, |address| address.to_string()),
                "host_port": port.host_port, "container_ip": "", "container_port": port.container_port,
                "range": port.range, "protocol": port.protocol.as_str(),
            })
        })
        .collect();
    let mut document = json!({
        "container_id": id, "container_name": name, "networks": networks, "network_info": infos,
        "port_mappings": ports,
    });
    if !servers.is_empty() {
        document["dns_servers"] = json!(servers);
    }
    document
}

fn info(member: &Membership<'_>) -> Value {
    let definition = member.definition;
    let subnets: Vec<Value> = definition
        .subnets
        .iter()
        .map(|subnet| json!({"subnet": subnet.net, "gateway": subnet.gateway}))
        .collect();
    let mut options = Map::new();
    if let Some(mtu) = definition.mtu {
        options.insert("mtu".to_owned(), json!(mtu.to_string()));
    }
    if let Some(mode) = &definition.mode {
        options.insert("mode".to_owned(), json!(mode));
    }
    if definition.isolate && definition.driver == Driver::Bridge {
        options.insert("isolate".to_owned(), json!("true"));
    }
    json!({
        "name": key(member.id), "id": member.id, "driver": definition.driver.as_str(),
        "network_interface": definition.interface, "subnets": subnets,
        "ipv6_enabled": definition.subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()),
        "internal": definition.internal, "dns_enabled": definition.dns, "options": options,
        "ipam_options": {"driver": "host-local"}, "created": "1970-01-01T00:00:00Z",
    })
}

impl Netavark {
    /// Finds the programs. `config` is a directory below the run directory.
    ///
    /// # Errors
    /// [`NetworkError::Missing`].
    pub fn find(config: PathBuf) -> Result<Self, NetworkError> {
        let program =
            find("netavark").ok_or(NetworkError::Missing { program: "netavark", package: "netavark" })?;
        Ok(Self { program, names: find("aardvark-dns"), config })
    }

    /// Makes sure that names can be served.
    ///
    /// # Errors
    /// [`NetworkError::Missing`].
    pub fn need_names(&self) -> Result<(), NetworkError> {
        match self.names {
            Some(_) => Ok(()),
            None => Err(NetworkError::Missing { program: "aardvark-dns", package: "aardvark-dns" }),
        }
    }

    /// Sets a container's networks up; what netavark tells of them comes back.
    ///
    /// # Errors
    /// [`NetworkError::Refused`], [`NetworkError::Program`].
    pub fn set_up(
        &self,
        lock: &mut HostLock,
        document: &Value,
        namespace: &Path,
    ) -> Result<Value, NetworkError> {
        let said = self.run(lock, "setup", "set the network up", document, namespace)?;
        keep_isolation(document);
        serde_json::from_slice(&said).map_err(|error| NetworkError::Refused {
            attempted: "set the network up",
            reason: format!("its answer makes no sense: {error}"),
        })
    }

    /// Takes a container's networks down.
    ///
    /// # Errors
    /// [`NetworkError::Refused`] also where only a part was there; the rest is gone then. [`NetworkError::Program`].
    pub fn take_down(
        &self,
        lock: &mut HostLock,
        document: &Value,
        namespace: &Path,
    ) -> Result<(), NetworkError> {
        let done = self.run(lock, "teardown", "take the network down", document, namespace).map(drop);
        keep_isolation(document);
        done
    }

    fn run(
        &self,
        lock: &mut HostLock,
        verb: &str,
        attempted: &'static str,
        document: &Value,
        namespace: &Path,
    ) -> Result<Vec<u8>, NetworkError> {
        let failed = |source| NetworkError::Program { attempted: "run netavark", source };
        // aardvark-dns, which netavark starts, stays: it must have nothing of ours, and stand in nobody's way.
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config);
        if let Some(names) = &self.names {
            command.arg("--aardvark-binary").arg(names);
        }
        command
            .arg(verb)
            .arg(namespace)
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Reaped(command.spawn().map_err(failed)?);
        lock.note(child.0.id()).map_err(failed)?;
        let mut stdin = child.0.stdin.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let sent = stdin.write_all(document.to_string().as_bytes());
        drop(stdin);
        // What it says is short; its pipes hold all of it.
        let pid = Pid::from_child(&child.0);
        let pidfd =
            rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed(errno.into()))?;
        if !wait(&pidfd, PATIENCE).map_err(failed)? {
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, "it took longer than a minute")));
        }
        let status = child.0.wait().map_err(failed)?;
        lock.forget();
        let said = available(child.0.stdout.take());
        if status.success() {
            sent.map_err(failed)?;
            return Ok(said);
        }
        let complaints = available(child.0.stderr.take());
        Err(NetworkError::Refused { attempted, reason: reason(&said, &complaints) })
    }
}

/// netavark 1.4 takes the jump to its rules of isolation away with the first isolated network that goes, and with it the
/// isolation of all others. So there is one of ours beside it as long as there are such rules, which it does not know. Those with
/// nftables have no such chain, and no such mistake.
fn keep_isolation(document: &Value) {
    const CHAIN: &str = "NETAVARK_ISOLATION_1";
    const JUMP: [&str; 7] = ["FORWARD", "-m", "comment", "--comment", "dormouse", "-j", CHAIN];
    let any =
        |is: fn(&Value) -> bool| document["network_info"].as_object().is_some_and(|all| all.values().any(is));
    if !any(|info| info["options"]["isolate"] == "true") {
        return;
    }
    let programs: &[&str] =
        if any(|info| info["ipv6_enabled"] == true) { &["iptables", "ip6tables"] } else { &["iptables"] };
    for program in programs {
        let run = |arguments: &[&str]| {
            Command::new(program)
                .arg("--wait")
                .args(arguments)
                .env_clear()
                .env("PATH", PATH)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
        };
        let rules = run(&["-S", CHAIN]).map(|output| output.stdout).unwrap_or_default();
        let needed = String::from_utf8_lossy(&rules).lines().any(|line| line.starts_with("-A"));
        let jump = |verb| run(&[&[verb], &JUMP[..]].concat()).is_ok_and(|output| output.status.success());
        let changed = match (needed, jump("-C")) {
            (true, false) => jump("-I"),
            (false, true) => jump("-D"),
            _ => true,
        };
        if !changed {
            tracing::warn!(program, "cannot change the rule that isolates networks from each other");
        }
    }
}

/// A child that is killed and reaped, whatever happens.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What a pipe holds, without waiting for its end: a process that goes on may have the other end.
fn available(pipe: Option<impl Into<std::os::fd::OwnedFd>>) -> Vec<u8> {
    let Some(pipe) = pipe else { return Vec::new() };
    let pipe: std::os::fd::OwnedFd = pipe.into();
    let mut said = Vec::new();
    if rustix::io::ioctl_fionbio(&pipe, true).is_ok() {
        // The end is EWOULDBLOCK or the end of the file.
        let _ = File::from(pipe).take(1 << 20).read_to_end(&mut said);
    }
    said
}

/// netavark's `{"error": "…"}`, else what it has written.
fn reason(said: &[u8], complaints: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(said).ok();
    let told = told.as_ref().and_then(|value| value["error"].as_str()).unwrap_or_default().trim();
    if !told.is_empty() {
        return told.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    let text = String::from_utf8_lossy(if complaints.is_empty() { said } else { complaints });
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn find(name: &str) -> Option<PathBuf> {
    PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// Waits for the end of a process; false if it has not come in time.
fn wait(pidfd: &impl std::os::fd::AsFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The right to change the host's networks; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct HostLock {
    file: File,
}

impl HostLock {
    /// Waits for it. Blocks the thread.
    ///
    /// # Errors
    /// [`NetworkError::File`].
    pub fn take() -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::File { attempted: "lock", path: LOCK.into(), source };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(LOCK)
            .map_err(failed)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .map_err(|errno| failed(errno.into()))?;
        let mut lock = Self { file };
        lock.wait_for_orphan();
        Ok(lock)
    }

    /// A netavark whose caller was killed comes to its end by itself.
    fn wait_for_orphan(&mut self) {
        let mut text = String::new();
        if self.file.read_to_string(&mut text).is_err() || text.is_empty() {
            return;
        }
        let mut words = text.split_ascii_whitespace();
        let pid = words.next().and_then(|word| word.parse::<i32>().ok());
        let started = words.next().and_then(|word| word.parse::<u64>().ok());
        if let (Some(pid), Some(started)) = (pid, started)
            && let Some(handle) = Pid::from_raw(pid)
            && let Ok(pidfd) = rustix::process::pidfd_open(handle, PidfdFlags::empty())
            && start_time(pid) == Some(started)
        {
            tracing::info!(pid, "waiting for a netavark whose caller has died");
            if !matches!(wait(&pidfd, PATIENCE), Ok(true)) {
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
        }
        self.forget();
    }

    fn note(&mut self, pid: u32) -> io::Result<()> {
        let started = i32::try_from(pid).ok().and_then(start_time).unwrap_or_default();
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(format!("{pid} {started}\n").as_bytes())
    }

    fn forget(&mut self) {
        // A note about a process that has ended does no harm.
        let _ = self.file.rewind();
        let _ = self.file.set_len(0);
    }
}

/// Field 22 of `/proc/PID/stat`, proc_pid_stat(5): clock ticks since boot.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Subnet;

    #[test]
    fn a_refusal_is_told_in_netavarks_words_on_one_line() {
        assert_eq!(reason(b"{\"error\":\"no such\\nbridge\"}", b"noise"), "no such bridge");
        assert_eq!(reason(b"", b"thread panicked\n at x"), "thread panicked at x");
    }

    #[test]
    fn the_document_has_what_netavark_reads() {
        let definition = NetworkDefinition {
            driver: Driver::Bridge,
            interface: "dm0".into(),
            subnets: vec![Subnet {
                net: "10.1.0.0/24".parse().unwrap(),
                gateway: "10.1.0.1".parse().ok(),
                range: None,
            }],
            internal: false,
            dns: true,
            isolate: true,
            mtu: Some(1400),
            mode: None,
            labels: Default::default(),
        };
        let member = Membership {
            id: "ab",
            definition: &definition,
            addresses: &["10.1.0.9".parse().unwrap()],
            hardware_address: None,
            aliases: &["db".into()],
            interface: "eth0",
        };
        let port =
            Forward { host_ip: None, host_port: 8080, container_port: 80, range: 1, protocol: Protocol::Tcp };
        let document = document("cd", "web", &[member], &[port], &[]);
        assert_eq!(document["networks"]["ab"]["static_ips"], json!(["10.1.0.9"]));
        assert_eq!(document["network_info"]["ab"]["options"], json!({"mtu": "1400", "isolate": "true"}));
        assert_eq!(document["port_mappings"][0]["host_ip"], "");
        assert_eq!(document.get("dns_servers"), None);
    }
}
