//! What follows from a specification and an image: the container as it will be started, every time the same.

use std::collections::BTreeMap;

use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::image::{ImageConfig, Process};
use crate::runtime;
use crate::systemd::mode;

use super::spec::{
    ContainerSpec, Mount, Namespace, NetworkAttachment, PortMapping, Runtime, SdNotify, Seccomp, SystemdMode,
};
use super::{EngineError, HealthCheck, health, mounts, network, secrets, signals, users};

const STOP_TIMEOUT_USEC: u64 = 10_000_000;
/// A machine with many services needs longer than a single program; systemd itself gives each service 90 s.
const STOP_TIMEOUT_SYSTEMD_USEC: u64 = 90_000_000;
/// halt.target by signal, systemd(1).
const SIGRTMIN_3: i32 = 37;
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container as recorded. The JSON of this is the store's `definition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// As asked for.
    pub spec: ContainerSpec,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// In the order of their names.
    pub env: BTreeMap<String, String>,
    /// Absolute.
    pub workdir: String,
    /// `user[:group]`, by name or number.
    pub user: String,
    /// The number of the signal.
    pub stop_signal: i32,
    /// From the signal to SIGKILL.
    pub stop_timeout_usec: u64,
    /// Prepared for a systemd inside.
    pub systemd: bool,
    /// The diff ids of the image's layers, lowest first; empty with `rootfs`.
    pub layers: Vec<String>,
    /// The image's labels, overridden by the specification's.
    pub labels: BTreeMap<String, String>,
    /// The networks that it is on, those of Connect among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkAttachment>,
    /// The ports to publish, those of the image among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// The id of the pod that it is in.
    #[serde(default)]
    pub pod: Option<String>,
    /// What is checked while it runs.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// What is mounted beside what was asked for: volumes that the image wants, and those of other containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added_mounts: Vec<Mount>,
    /// The id of each volume, by the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, String>,
    /// The image of each mount of one, by the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mounted_images: BTreeMap<String, MountedImage>,
}

/// An image whose tree is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// The image's.
    pub id: String,
    /// The diff ids of its layers, lowest first.
    pub layers: Vec<String>,
}

/// The few fields that a list shows, read without building the rest.
#[derive(Debug, Deserialize)]
pub(super) struct DefinitionHead {
    pub spec: SpecHead,
    pub command: Vec<String>,
    pub systemd: bool,
    pub labels: BTreeMap<String, String>,
}

/// See [`DefinitionHead`].
#[derive(Debug, Deserialize)]
pub(super) struct SpecHead {
    pub image: Option<String>,
    #[serde(default)]
    pub pod: Option<String>,
}

impl Definition {
    /// As recorded: without what the specification left open, which is most of it. Lists read the records of all containers.
    pub(super) fn to_record(&self) -> Result<String, EngineError> {
        self.to_sparse_json().map_err(|error| EngineError::Failed {
            attempted: "record the container".to_owned(),
            reason: error.to_string(),
        })
    }

    fn to_sparse_json(&self) -> serde_json::Result<String> {
        let mut record = serde_json::to_value(self)?;
        let left_open = serde_json::to_value(ContainerSpec::default())?;
        if let Some(spec) = record.get_mut("spec").and_then(Value::as_object_mut) {
            spec.retain(|field, value| left_open.get(field) != Some(value));
        }
        serde_json::to_string(&record)
    }

    /// All that is mounted because somebody wants it, what lies deeper after what it lies in.
    pub fn mounts(&self) -> Vec<&Mount> {
        let mut all: Vec<&Mount> = self.spec.mounts.iter().chain(&self.added_mounts).collect();
        all.sort_by_key(|mount| normal_path(&mount.target).components().count());
        all
    }

    /// The payload says itself when it is ready.
    pub fn payload_notifies(&self) -> bool {
        self.spec.sd_notify.map_or(self.systemd, |who| who == SdNotify::Payload)
    }

    /// It is ready when a health check has passed.
    pub fn becomes_ready_by_health(&self) -> bool {
        self.health.is_some() && self.spec.sd_notify.map_or(!self.systemd, |who| who == SdNotify::Healthy)
    }

    /// Joins a specification with the image's configuration, and checks all that can be checked without starting.
    ///
    /// # Errors
    /// [`EngineError::InvalidSpec`] with the field as the caller named it.
    pub fn new(
        spec: ContainerSpec,
        image: Option<&ImageConfig>,
        layers: Vec<String>,
    ) -> Result<Self, EngineError> {
        check(&spec)?;
        let empty = ImageConfig::default();
        let image = &image.unwrap_or(&empty).config;
        let command = command_of(&spec, image)?;
        let systemd = match spec.systemd {
            SystemdMode::Always => true,
            SystemdMode::Off => false,
            SystemdMode::Auto => mode::is_systemd_command(&command),
        };
        if systemd && spec.init {
            return Err(invalid(
                "spec.init",
                "systemd is PID 1 in systemd mode; leave init out or set systemd to off",
            ));
        }
        if spec.init && spec.runtime != Runtime::Native {
            return Err(invalid("spec.init", "only the native runtime has an init; leave one of them out"));
        }
        let pid_is_private = spec.pid_namespace == Namespace::Private;
        if systemd && !pid_is_private {
            return Err(invalid(
                "spec.pidNamespace",
                "systemd mode needs a private pid namespace: systemd must be PID 1",
            ));
        }
        let stop_signal = match spec.stop_signal.as_deref().or(image.stop_signal.as_deref()) {
            Some(text) => signals::parse(text).ok_or_else(|| {
                invalid("spec.stopSignal", &format!("{text:?} is no signal; SIGTERM or RTMIN+3 are"))
            })?,
            None if systemd => SIGRTMIN_3,
            None => libc::SIGTERM,
        };
        let stop_timeout_usec = spec.stop_timeout_usec.unwrap_or(if systemd {
            STOP_TIMEOUT_SYSTEMD_USEC
        } else {
            STOP_TIMEOUT_USEC
        });
        let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
        if spec.terminal {
            env.insert("TERM".into(), "xterm".into());
        }
        for (name, value) in image.env.iter().filter_map(|pair| pair.split_once('=')) {
            env.insert(name.to_owned(), value.to_owned());
        }
        env.extend(spec.env.clone());
        let mut labels = image.labels.clone();
        labels.extend(spec.labels.clone());
        let workdir =
            non_empty(spec.workdir.as_deref()).or(non_empty(Some(&image.working_dir))).unwrap_or("/");
        let user = non_empty(spec.user.as_deref()).or(non_empty(Some(&image.user))).unwrap_or("0");
        if !workdir.starts_with('/') {
            return Err(invalid("spec.workdir", &format!("{workdir:?} is not absolute")));
        }
        let health = health::define(&spec, image.healthcheck.as_ref(), systemd)?;
        let networks = network::attachments(&spec);
        let ports = network::ports_to_publish(&spec, image.exposed_ports.keys())?;
        Ok(Self {
            networks,
            ports,
            pod: None,
            health,
            command,
            env,
            workdir: workdir.to_owned(),
            user: user.to_owned(),
            stop_signal,
            stop_timeout_usec,
            systemd,
            layers,
            labels,
            added_mounts: Vec::new(),
            volumes: BTreeMap::new(),
            mounted_images: BTreeMap::new(),
            spec,
        })
    }
}

/// A path of a container without empty parts and dots.
pub(super) fn normal_path(path: &str) -> std::path::PathBuf {
    std::path::Path::new(path).components().filter(|part| *part != std::path::Component::CurDir).collect()
}

fn non_empty(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn invalid(field: &str, reason: &str) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason: reason.to_owned() }
}

/// As Docker and Podman join the two: an entrypoint of the caller sets the image's command aside.
fn command_of(spec: &ContainerSpec, image: &Process) -> Result<Vec<String>, EngineError> {
    let entrypoint = spec.entrypoint.as_ref().unwrap_or(&image.entrypoint).clone();
    let arguments = match (&spec.command, &spec.entrypoint) {
        (Some(command), _) => command.clone(),
        (None, Some(_)) => Vec::new(),
        (None, None) => image.cmd.clone(),
    };
    let command: Vec<String> = entrypoint.into_iter().chain(arguments).collect();
    match command.first() {
        None => {
            Err(invalid("spec.command", "neither the call nor the image says what to run; give a command"))
        }
        Some(program) if program.is_empty() => Err(invalid("spec.command", "the program's name is empty")),
        Some(_) => Ok(command),
    }
}

/// What is wrong whatever the image is.
fn check(spec: &ContainerSpec) -> Result<(), EngineError> {
    match (&spec.image, &spec.rootfs) {
        (None, None) => return Err(invalid("spec.image", "neither an image nor a rootfs is given")),
        (Some(_), Some(_)) => {
            return Err(invalid("spec.rootfs", "an image is given too; only one can be the root"));
        }
        (None, Some(rootfs)) if !rootfs.is_absolute() => {
            return Err(invalid("spec.rootfs", &format!("{rootfs:?} is not absolute")));
        }
        _ => {}
    }
    let nul = |field: String, text: &str| {
        if text.contains('\0') {
            Err(invalid(&field, "a NUL byte can't be passed to a program"))
        } else {
            Ok(())
        }
    };
    for (index, argument) in spec.command.iter().flatten().enumerate() {
        nul(format!("spec.command[{index}]"), argument)?;
    }
    for (index, argument) in spec.entrypoint.iter().flatten().enumerate() {
        nul(format!("spec.entrypoint[{index}]"), argument)?;
    }
    for (name, value) in &spec.env {
        nul(format!("spec.env.{name}"), name)?;
        nul(format!("spec.env.{name}"), value)?;
        if name.is_empty() || name.contains('=') {
            return Err(invalid("spec.env", &format!("{name:?} is no name of a variable")));
        }
    }
    mounts::check_asked(spec)?;
    secrets::check_asked(spec)?;
    for (index, device) in spec.devices.iter().enumerate() {
        let field = |name: &str| format!("spec.devices[{index}].{name}");
        if !device.path.starts_with('/') || !device.container_path.starts_with('/') {
            return Err(invalid(&field("path"), "a device's path is absolute"));
        }
        if device.permissions.is_empty() || !device.permissions.chars().all(|letter| "rwm".contains(letter)) {
            return Err(invalid(&field("permissions"), "a combination of r, w and m is wanted"));
        }
    }
    for (name, namespace) in [
        ("pid", &spec.pid_namespace),
        ("ipc", &spec.ipc_namespace),
        ("uts", &spec.uts_namespace),
        ("network", spec.network_namespace()),
    ] {
        if matches!(namespace, Namespace::Container(other) if other.is_empty()) {
            return Err(invalid(
                &format!("spec.{name}Namespace.container"),
                "the other container's name is missing",
            ));
        }
    }
    for name in spec.sysctls.keys() {
        check_sysctl(spec, name)?;
    }
    if let Seccomp::Profile(profile) = &spec.seccomp
        && !profile.is_object()
    {
        return Err(invalid("spec.seccomp.profile", "a profile is a JSON object"));
    }
    if let Some(hostname) = &spec.hostname {
        if spec.uts_namespace != Namespace::Private {
            return Err(invalid("spec.hostname", "a host name can't be set in a namespace that others use"));
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if hostname.is_empty() || hostname.len() > 64 || !hostname.bytes().all(good) {
            return Err(invalid(
                "spec.hostname",
                &format!("{hostname:?} is no host name of at most 64 characters"),
            ));
        }
    }
    if spec.oom_score_adjust.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        return Err(invalid("spec.oomScoreAdjust", "it must lie between -1000 and 1000"));
    }
    if spec.umask.is_some_and(|umask| umask > 0o777) {
        return Err(invalid("spec.umask", "it must lie between 0 and 0777"));
    }
    if spec.auto_remove && spec.restart != super::spec::Restart::No {
        return Err(invalid("spec.autoRemove", "a container that is restarted can't be removed at its end"));
    }
    network::check(spec)?;
    users::check(spec)?;
    check_resources(spec)
}

/// Only what belongs to a namespace that is the container's own; anything else would change the host.
fn check_sysctl(spec: &ContainerSpec, name: &str) -> Result<(), EngineError> {
    let field = format!("spec.sysctls.{name}");
    let namespace = match runtime::sysctl_namespace(name) {
        Ok(LinuxNamespaceType::Network) => spec.network_namespace(),
        Ok(LinuxNamespaceType::Ipc) => &spec.ipc_namespace,
        // What else a namespace has of its own has fields of its own.
        Ok(_) => return Err(invalid(&field, "only net.*, fs.mqueue.* and those of System V IPC can be set")),
        Err(reason) => {
            let reason = format!("{reason}; only net.*, fs.mqueue.* and those of System V IPC can be set");
            return Err(invalid(&field, &reason));
        }
    };
    if *namespace == Namespace::Private {
        Ok(())
    } else {
        Err(invalid(&field, "its namespace is not the container's own"))
    }
}

pub(super) fn check_resources(spec: &ContainerSpec) -> Result<(), EngineError> {
    let resources = &spec.resources;
    let field = |name: &str| format!("spec.resources.{name}");
    if resources.memory_bytes.is_some_and(|bytes| bytes < 512 << 10) {
        return Err(invalid(&field("memoryBytes"), "nothing runs with less than 512 KiB"));
    }
    if let (Some(memory), Some(both)) = (resources.memory_bytes, resources.memory_swap_bytes)
        && both != -1
        && both < memory
    {
        return Err(invalid(
            &field("memorySwapBytes"),
            "memory and swap together can't be less than memory alone",
        ));
    }
    if resources.memory_swap_bytes.is_some() && resources.memory_bytes.is_none() {
        return Err(invalid(&field("memorySwapBytes"), "a limit on memory and swap needs one on memory"));
    }
    if resources.cpu_quota_usec.is_some_and(|usec| usec < 1000) {
        return Err(invalid(&field("cpuQuotaUSec"), "the kernel's least quota is 1000"));
    }
    if resources.cpu_period_usec.is_some_and(|usec| !(1000..=1_000_000).contains(&usec)) {
        return Err(invalid(&field("cpuPeriodUSec"), "it must lie between 1000 and 1000000"));
    }
    if resources.cpu_shares.is_some_and(|shares| !(2..=262_144).contains(&shares)) {
        return Err(invalid(&field("cpuShares"), "it must lie between 2 and 262144"));
    }
    if resources.pids_max.is_some_and(|pids| pids < -1 || pids == 0) {
        return Err(invalid(&field("pidsMax"), "it must be positive, or -1 for no limit"));
    }
    if resources.io_weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return Err(invalid(&field("ioWeight"), "it must lie between 10 and 1000"));
    }
    for (name, set) in [("cpusetCpus", &resources.cpuset_cpus), ("cpusetMems", &resources.cpuset_mems)] {
        if set.as_ref().is_some_and(|set| {
            set.is_empty() || !set.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'))
        }) {
            return Err(invalid(&field(name), "a list of numbers and ranges is wanted, as in 0-3,7"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::spec::MountKind;

    fn spec(command: &[&str]) -> ContainerSpec {
        ContainerSpec {
            image: Some("web".into()),
            command: Some(command.iter().map(ToString::to_string).collect()),
            ..ContainerSpec::default()
        }
    }

    fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfig {
        let strings = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        let config = Process { entrypoint: strings(entrypoint), cmd: strings(cmd), ..Process::default() };
        ImageConfig { config, ..ImageConfig::default() }
    }

    #[track_caller]
    fn refused(spec: ContainerSpec, field: &str) {
        match Definition::new(spec, None, Vec::new()) {
            Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("expected a refusal of {field}, got {other:?}"),
        }
    }

    #[test]
    fn an_entrypoint_of_the_caller_sets_the_images_command_aside() {
        let image = image(&["/entry"], &["default"]);
        let command =
            |spec: ContainerSpec| Definition::new(spec, Some(&image), Vec::new()).map(|d| d.command);
        assert_eq!(command(spec(&["a"])).unwrap(), ["/entry", "a"]);
        assert_eq!(command(ContainerSpec { command: None, ..spec(&[]) }).unwrap(), ["/entry", "default"]);
        let own = ContainerSpec { entrypoint: Some(vec!["/own".into()]), command: None, ..spec(&[]) };
        assert_eq!(command(own).unwrap(), ["/own"]);
        let none = ContainerSpec { entrypoint: Some(Vec::new()), ..spec(&["sh"]) };
        assert_eq!(command(none).unwrap(), ["sh"]);
    }

    #[test]
    fn nothing_to_run_is_refused() {
        refused(ContainerSpec { command: None, ..spec(&[]) }, "spec.command");
        refused(spec(&[""]), "spec.command");
    }

    #[test]
    fn an_init_turns_systemd_mode_on_and_gets_its_stop_signal() {
        let boots = Definition::new(spec(&["/sbin/init"]), None, Vec::new()).unwrap();
        assert!(boots.systemd);
        assert_eq!(boots.stop_signal, 37);
        assert_eq!(boots.stop_timeout_usec, 90_000_000);
        let plain = Definition::new(spec(&["sleep", "1"]), None, Vec::new()).unwrap();
        assert!(!plain.systemd);
        assert_eq!(plain.stop_signal, 15);
        let off = ContainerSpec { systemd: SystemdMode::Off, ..spec(&["/sbin/init"]) };
        assert!(!Definition::new(off, None, Vec::new()).unwrap().systemd);
    }

    #[test]
    fn what_could_reach_the_host_is_refused_by_field() {
        let bind = |target: &str, source: &str| ContainerSpec {
            mounts: vec![Mount::new(
                MountKind::Bind { source: source.into(), propagation: "rprivate".into(), recursive: true },
                target,
                false,
            )],
            ..spec(&["sh"])
        };
        refused(bind("/proc", "/tmp"), "spec.mounts[0].target");
        refused(bind("/proc/sys", "/tmp"), "spec.mounts[0].target");
        refused(bind("/./proc/x", "/tmp"), "spec.mounts[0].target");
        refused(bind("/a/../proc", "/tmp"), "spec.mounts[0].target");
        refused(bind("relative", "/tmp"), "spec.mounts[0].target");
        refused(bind("/", "/tmp"), "spec.mounts[0].target");
        refused(bind("/data", "tmp"), "spec.mounts[0].source");
        let sysctl = |name: &str| ContainerSpec {
            sysctls: BTreeMap::from([(name.into(), "1".into())]),
            ..spec(&["sh"])
        };
        refused(sysctl("kernel.core_pattern"), "spec.sysctls.kernel.core_pattern");
        refused(sysctl("net/../kernel.core_pattern"), "spec.sysctls.net/../kernel.core_pattern");
        assert!(Definition::new(sysctl("net.ipv4.ip_forward"), None, Vec::new()).is_ok());
        let host_net =
            ContainerSpec { network_namespace: Some(Namespace::Host), ..sysctl("net.ipv4.ip_forward") };
        refused(host_net, "spec.sysctls.net.ipv4.ip_forward");
    }

    #[test]
    fn a_definition_survives_its_record() {
        let definition = Definition::new(spec(&["/sbin/init"]), None, vec!["sha256:1".into()]).unwrap();
        let full = serde_json::to_string(&definition).unwrap();
        let record = definition.to_record().unwrap();
        assert!(record.len() < full.len() / 2, "{record}");
        for json in [full, record] {
            assert_eq!(serde_json::from_str::<Definition>(&json).unwrap(), definition);
            let head: DefinitionHead = serde_json::from_str(&json).unwrap();
            assert_eq!(head.command, definition.command);
        }
    }
}
