//! What a container is asked to be: the specification as a caller gives it, with every choice that it left open.
//!
//! It is kept as given, in the container's record, so that a later version can apply newer defaults to what was
//! left open. What follows from it and from the image is a [`super::definition::Definition`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::monitor::config::OnFailure;
use crate::network::ports::Protocol;

/// A container as asked for. Field by field the `Spec` of io.dormouse.Container, where the meanings are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct ContainerSpec {
    pub image: Option<String>,
    pub rootfs: Option<PathBuf>,
    pub pod: Option<String>,
    pub name: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub groups: Vec<String>,
    pub workdir: Option<String>,
    pub umask: Option<u32>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: Vec<Mount>,
    pub volumes_from: Vec<VolumesFrom>,
    pub secrets: Vec<SecretUse>,
    pub devices: Vec<Device>,
    pub capabilities_add: Vec<String>,
    pub capabilities_drop: Vec<String>,
    pub privileged: bool,
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub read_only_root: bool,
    pub resource_limits: Vec<ResourceLimit>,
    pub sysctls: BTreeMap<String, String>,
    pub masked: Vec<String>,
    pub unmasked: Vec<String>,
    pub pid_namespace: Namespace,
    pub ipc_namespace: Namespace,
    pub uts_namespace: Namespace,
    pub user_namespace: UserNamespace,
    pub network_namespace: Option<Namespace>,
    pub networks: Option<Vec<NetworkAttachment>>,
    pub ports: Vec<PortMapping>,
    pub publish_all: bool,
    pub dns_servers: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub extra_hosts: BTreeMap<String, String>,
    pub resources: Resources,
    pub shm_size_bytes: Option<u64>,
    pub oom_score_adjust: Option<i32>,
    pub stop_signal: Option<String>,
    pub stop_timeout_usec: Option<u64>,
    pub systemd: SystemdMode,
    pub sd_notify: Option<SdNotify>,
    pub health_check: Option<HealthSpec>,
    pub terminal: bool,
    pub stdin_open: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub restart: Restart,
    pub init: bool,
    pub log: Log,
    pub runtime: Runtime,
    pub auto_remove: bool,
}

impl ContainerSpec {
    /// The network namespace, whether it was asked for or not.
    pub fn network_namespace(&self) -> &Namespace {
        self.network_namespace.as_ref().unwrap_or(&Namespace::Private)
    }
}

/// A network that the container is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct NetworkAttachment {
    pub network: String,
    pub addresses: Vec<IpAddr>,
    pub mac: Option<String>,
    pub aliases: Vec<String>,
    pub interface: Option<String>,
}

/// Ports of the host that lead to ports of the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PortMapping {
    pub container_port: u16,
    /// `None` is a free one.
    pub host_port: Option<u16>,
    pub host_ip: Option<IpAddr>,
    pub protocol: Protocol,
    /// At least 1.
    pub range: u16,
}

/// Something mounted into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute, in the container.
    pub target: String,
    /// With everything below it.
    pub read_only: bool,
    /// nosuid, nodev, noexec, noatime; suid, dev, exec.
    pub flags: Vec<String>,
    /// Everything in it is given to the container's user before it starts.
    #[serde(default)]
    pub chown: bool,
    /// Owners as seen through the mount; `None` for those on the disk.
    #[serde(default)]
    pub id_map: Option<IdMap>,
    /// What is written goes to a directory of the container's own, which is emptied at each start.
    #[serde(default)]
    pub overlay: bool,
    /// Below the root of the volume, of which only this is mounted.
    #[serde(default)]
    pub subpath: Option<String>,
}

impl Mount {
    /// A mount of this kind there, without further options.
    pub fn new(kind: MountKind, target: impl Into<String>, read_only: bool) -> Self {
        Self {
            kind,
            target: target.into(),
            read_only,
            flags: Vec::new(),
            chown: false,
            id_map: None,
            overlay: false,
            subpath: None,
        }
    }
}

/// How the owners of files in a mount are seen, by ranges; without any, as the container's user namespace has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct IdMap {
    pub uids: Vec<IdRange>,
    pub gids: Vec<IdRange>,
}

/// So many ids of the file system, from one on, are seen as others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct IdRange {
    pub source: u32,
    pub target: u32,
    pub count: u32,
}

/// A container whose volumes and binds another one has too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct VolumesFrom {
    pub container: String,
    pub read_only: bool,
}

/// A secret that a container gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Its name, or its id.
    pub secret: String,
    /// How.
    pub kind: SecretKind,
}

/// The two ways to get a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub enum SecretKind {
    File { target: Option<String>, uid: u32, gid: u32, mode: u32 },
    Env { name: Option<String> },
}

/// The kinds of mounts that a caller can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Absolute, on the host.
        source: String,
        /// As mount(8) names it; `rprivate` if not given.
        propagation: String,
        /// With what is mounted below the source.
        recursive: bool,
    },
    /// A new file system in memory.
    Tmpfs {
        /// The limit; `None` for the kernel's.
        size_bytes: Option<u64>,
        /// Permission bits of its root.
        mode: Option<u32>,
        /// It begins with what the image has at the target.
        #[serde(default = "yes")]
        copy: bool,
    },
    /// A volume.
    Volume {
        /// Its name, or its whole id; `None` for one of the container's own.
        name: Option<String>,
        /// At its first use it gets what the image has at the target.
        copy: bool,
        /// Its options, if it has to be made.
        #[serde(default)]
        options: BTreeMap<String, String>,
    },
    /// The tree of an image; what is written to it is the container's.
    Image {
        /// Its name or id.
        image: String,
    },
}

fn yes() -> bool {
    true
}

/// A device node of the host that the container may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute, on the host.
    pub path: String,
    /// Absolute, in the container.
    pub container_path: String,
    /// Of r, w and m.
    pub permissions: String,
}

/// One namespace of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// A new one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, by name or id.
    Container(String),
    /// That of the pod that it is in, by id. Nobody asks for it by itself.
    Pod(String),
}

/// Who the users of the container are outside of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// Whom the service has.
    #[default]
    Host,
    /// A range of ids of its own, chosen at the start.
    Auto {
        /// How many; `None` is 65536.
        size: Option<u32>,
    },
    /// As told.
    Private {
        /// Its users.
        users: Vec<IdMapping>,
        /// Its groups.
        groups: Vec<IdMapping>,
    },
}

/// Ids of a user namespace that follow each other, and what they are outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct IdMapping {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// Limits kept by the cgroup; `None` is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct Resources {
    pub memory_bytes: Option<i64>,
    pub memory_swap_bytes: Option<i64>,
    pub memory_reservation_bytes: Option<i64>,
    pub cpu_quota_usec: Option<i64>,
    pub cpu_period_usec: Option<u64>,
    pub cpu_shares: Option<u64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    pub pids_max: Option<i64>,
    pub io_weight: Option<u16>,
    pub io_limits: Vec<IoLimit>,
}

/// A limit on the traffic with one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct IoLimit {
    pub path: String,
    pub read_bytes_per_sec: Option<u64>,
    pub write_bytes_per_sec: Option<u64>,
    pub read_operations_per_sec: Option<u64>,
    pub write_operations_per_sec: Option<u64>,
}

/// One of setrlimit(2)'s limits; `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct ResourceLimit {
    pub name: String,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The filter on system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The built-in profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// One in the JSON format of Docker and Podman.
    Profile(serde_json::Value),
}

/// Whether the container is prepared for a systemd inside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemdMode {
    /// If the command is an init.
    #[default]
    Auto,
    /// Whatever the command is.
    Always,
    /// Never.
    Off,
}

/// Who says that the container is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SdNotify {
    /// Nobody: it is, as soon as its process runs.
    Started,
    /// The payload, by sd_notify(3).
    Payload,
    /// The first health check that passes.
    Healthy,
}

/// How it is found out whether the container works; what is `None` is as the image says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct HealthSpec {
    pub test: Option<HealthTest>,
    pub interval_usec: Option<u64>,
    pub timeout_usec: Option<u64>,
    pub retries: Option<u32>,
    pub start_period_usec: Option<u64>,
    pub start_interval_usec: Option<u64>,
    pub on_failure: OnFailure,
}

/// What is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealthTest {
    /// A program and its arguments.
    Command(Vec<String>),
    /// A text for /bin/sh.
    Shell(String),
    /// The state of the systemd inside, and of its units.
    Systemd,
    /// Nothing, whatever the image says.
    None,
}

/// What happens when the process ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// Nothing.
    #[default]
    No,
    /// It is started again after a failure.
    OnFailure {
        /// How often in a row; `None` without limit.
        retries_max: Option<u32>,
    },
    /// It is started again.
    Always,
    /// The same, but not at boot if it had been stopped.
    UnlessStopped,
}

/// Where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// A file of ours.
    K8sFile {
        /// When it is rotated.
        size_max_bytes: u64,
        /// How many rotated ones are kept.
        files_max: u32,
    },
    /// The host's journal.
    Journald,
    /// Nowhere.
    None,
}

impl Default for Log {
    fn default() -> Self {
        Self::K8sFile { size_max_bytes: 16 << 20, files_max: 1 }
    }
}

/// Who makes the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Runtime {
    /// [`crate::runtime`].
    #[default]
    Native,
    /// The host's crun.
    Crun,
    /// The host's runc.
    Runc,
}
