//! The command line of `run` that asks for what a specification asks for.
//!
//! Only what differs from the defaults is said. Every field is taken out of what was given as its flag is written; a field
//! that is left has no flag, and is refused rather than forgotten.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::spec::{
    ContainerSpec, Device, HealthSpec, HealthTest, IdMapping, IoLimit, Log, Namespace, NetworkAttachment,
    PortMapping, ResourceLimit, Resources, Restart, SdNotify, Seccomp, SecretKind, SecretUse, SystemdMode,
    UserNamespace, VolumesFrom,
};
use super::super::{EngineError, PodSpec, Share};

/// Fields whose flag is the field's text.
const TEXTS: &[(&str, &str)] = &[
    ("hostname", "--hostname"),
    ("domainname", "--domainname"),
    ("user", "--user"),
    ("workdir", "--workdir"),
    ("stop_signal", "--stop-signal"),
    ("pod", "--pod"),
];
/// Fields whose flag comes once for each of several texts.
const LISTS: &[(&str, &str)] = &[
    ("groups", "--group-add"),
    ("capabilities_add", "--cap-add"),
    ("capabilities_drop", "--cap-drop"),
    ("dns_servers", "--dns"),
    ("dns_search", "--dns-search"),
    ("dns_options", "--dns-option"),
];
/// Fields whose flag comes once for each pair.
const PAIRS: &[(&str, &str, char)] = &[
    ("env", "--env", '='),
    ("labels", "--label", '='),
    ("annotations", "--annotation", '='),
    ("sysctls", "--sysctl", '='),
    ("extra_hosts", "--add-host", ':'),
];
/// Fields that are true.
const TRUTHS: &[(&str, &str)] = &[
    ("privileged", "--privileged"),
    ("read_only_root", "--read-only"),
    ("publish_all", "--publish-all"),
    ("terminal", "--tty"),
    ("stdin_open", "--interactive"),
    ("init", "--init"),
];

/// What was given and has not become a flag yet.
struct Given {
    fields: Map<String, Value>,
    flags: Vec<String>,
}

/// The arguments after `run` that ask for this, but the name and `--rm`; the image and the command come last.
///
/// # Errors
/// [`EngineError::Unsupported`] for what no flag can ask for.
pub(super) fn flags(spec: &ContainerSpec) -> Result<Vec<String>, EngineError> {
    let default = object(&ContainerSpec::default())?;
    let mut fields = object(spec)?;
    fields.retain(|field, value| default.get(field) != Some(value));
    // Said otherwise: the unit names the container, removes it, and starts it again.
    for field in ["name", "auto_remove", "restart"] {
        fields.remove(field);
    }
    let mut given = Given { fields, flags: Vec::new() };
    given.simple()?;
    given.files()?;
    given.networks()?;
    given.security()?;
    given.limits()?;
    given.life()?;
    given.process()
}

/// The arguments after `pod create` that ask for this, but the name.
///
/// # Errors
/// [`EngineError::Unsupported`] for what no flag can ask for.
pub(super) fn pod_flags(spec: &PodSpec) -> Result<Vec<String>, EngineError> {
    let default = object(&PodSpec::default())?;
    let mut fields = object(spec)?;
    fields.retain(|field, value| default.get(field) != Some(value));
    fields.remove("name");
    let mut given = Given { fields, flags: Vec::new() };
    given.simple()?;
    given.networks()?;
    if let Some(Share { net, ipc, uts, pid }) = given.take::<Option<Share>>("share")?.flatten() {
        let kinds = [(net, "net"), (ipc, "ipc"), (uts, "uts"), (pid, "pid")];
        let kinds: Vec<&str> = kinds.iter().filter(|(shared, _)| *shared).map(|(_, kind)| *kind).collect();
        if kinds.is_empty() {
            return Err(unsupported("a pod that shares nothing"));
        }
        given.flag("--share", kinds.join(","));
    }
    match given.fields.keys().next() {
        Some(field) => Err(unsupported(&format!("the field {field:?} of a pod's specification"))),
        None => Ok(given.flags),
    }
}

fn object(value: &impl serde::Serialize) -> Result<Map<String, Value>, EngineError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(odd(error)),
    }
}

fn odd(error: impl ToString) -> EngineError {
    EngineError::Failed { attempted: "write a specification as flags".to_owned(), reason: error.to_string() }
}

fn unsupported(what: &str) -> EngineError {
    EngineError::Unsupported {
        feature: format!("{what} in a unit that makes its container"),
        reason: "no flag of `dormouse run` asks for it; a unit for the container that is there can start it"
            .to_owned(),
    }
}

impl Given {
    fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, EngineError> {
        self.fields.remove(field).map(serde_json::from_value).transpose().map_err(odd)
    }

    fn flag(&mut self, flag: &str, value: impl Into<String>) {
        self.flags.push(flag.to_owned());
        self.flags.push(value.into());
    }

    fn option(&mut self, flag: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.flag(flag, value.to_string());
        }
    }

    fn simple(&mut self) -> Result<(), EngineError> {
        for (field, flag) in TEXTS {
            let text: Option<String> = self.take(field)?;
            self.option(flag, text);
        }
        for (field, flag) in LISTS {
            for text in self.take::<Vec<String>>(field)?.unwrap_or_default() {
                self.flag(flag, text);
            }
        }
        for (field, flag, between) in PAIRS {
            let pairs: std::collections::BTreeMap<String, String> = self.take(field)?.unwrap_or_default();
            for (key, value) in pairs {
                self.flag(flag, format!("{key}{between}{value}"));
            }
        }
        for (field, flag) in TRUTHS {
            if self.take::<bool>(field)? == Some(true) {
                self.flags.push((*flag).to_owned());
            }
        }
        let umask: Option<u32> = self.take("umask")?;
        self.option("--umask", umask.map(|umask| format!("{umask:04o}")));
        let shm: Option<u64> = self.take("shm_size_bytes")?;
        self.option("--shm-size", shm);
        Ok(())
    }

    fn files(&mut self) -> Result<(), EngineError> {
        for mount in self.take::<Vec<Map<String, Value>>>("mounts")?.unwrap_or_default() {
            self.flag("--mount", mount_flag(&mount)?);
        }
        for device in self.take::<Vec<Device>>("devices")?.unwrap_or_default() {
            let Device { path, container_path, permissions } = device;
            self.flag("--device", format!("{path}:{container_path}:{permissions}"));
        }
        for VolumesFrom { container, read_only } in
            self.take::<Vec<VolumesFrom>>("volumes_from")?.unwrap_or_default()
        {
            let options = if read_only { ":ro" } else { "" };
            self.flag("--volumes-from", format!("{container}{options}"));
        }
        for SecretUse { secret, kind } in self.take::<Vec<SecretUse>>("secrets")?.unwrap_or_default() {
            let kind = match kind {
                SecretKind::File { target, uid, gid, mode } => {
                    let target = target.map(|target| format!(",target={target}")).unwrap_or_default();
                    format!("type=mount{target},uid={uid},gid={gid},mode={mode:04o}")
                }
                SecretKind::Env { name } => {
                    let target = name.map(|name| format!(",target={name}")).unwrap_or_default();
                    format!("type=env{target}")
                }
            };
            self.flag("--secret", format!("{secret},{kind}"));
        }
        Ok(())
    }

    fn networks(&mut self) -> Result<(), EngineError> {
        let namespace = self.take::<Option<Namespace>>("network_namespace")?.flatten();
        let networks = self.take::<Option<Vec<NetworkAttachment>>>("networks")?.flatten();
        match namespace {
            // None at all is asked for by name.
            Some(Namespace::Private) if networks.is_none() => self.flag("--network", "none"),
            None | Some(Namespace::Private) if networks.as_deref() == Some(&[]) => {
                self.flag("--network", "none")
            }
            None | Some(Namespace::Private | Namespace::Pod(_)) => {}
            Some(Namespace::Host) => self.flag("--network", "host"),
            Some(Namespace::Container(name)) => self.flag("--network", format!("container:{name}")),
        }
        for network in networks.unwrap_or_default() {
            let NetworkAttachment { network, addresses, mac, aliases, interface } = network;
            let mut options: Vec<String> = addresses.iter().map(|address| format!("ip={address}")).collect();
            options.extend(mac.map(|mac| format!("mac={mac}")));
            options.extend(aliases.iter().map(|alias| format!("alias={alias}")));
            options.extend(interface.map(|interface| format!("interface_name={interface}")));
            let options = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
            self.flag("--network", format!("{network}{options}"));
        }
        for port in self.take::<Vec<PortMapping>>("ports")?.unwrap_or_default() {
            self.flag("--publish", port_flag(&port));
        }
        Ok(())
    }

    fn security(&mut self) -> Result<(), EngineError> {
        if self.take::<bool>("no_new_privileges")? == Some(true) {
            self.flag("--security-opt", "no-new-privileges");
        }
        match self.take("seccomp")? {
            None | Some(Seccomp::Default) => {}
            Some(Seccomp::Unconfined) => self.flag("--security-opt", "seccomp=unconfined"),
            Some(Seccomp::Profile(_)) => {
                return Err(unsupported("a seccomp profile, which is a file for `run`,"));
            }
        }
        for (field, option) in [("masked", "mask"), ("unmasked", "unmask")] {
            let paths: Vec<String> = self.take(field)?.unwrap_or_default();
            if !paths.is_empty() {
                self.flag("--security-opt", format!("{option}={}", paths.join(":")));
            }
        }
        let namespaces = [("pid_namespace", "--pid"), ("ipc_namespace", "--ipc"), ("uts_namespace", "--uts")];
        for (field, flag) in namespaces {
            match self.take(field)? {
                None | Some(Namespace::Private | Namespace::Pod(_)) => {}
                Some(Namespace::Host) => self.flag(flag, "host"),
                Some(Namespace::Container(name)) => self.flag(flag, format!("container:{name}")),
            }
        }
        match self.take("user_namespace")? {
            None | Some(UserNamespace::Host) => {}
            Some(UserNamespace::Auto { size: None }) => self.flag("--userns", "auto"),
            Some(UserNamespace::Auto { size: Some(size) }) => {
                self.flag("--userns", format!("auto:size={size}"));
            }
            Some(UserNamespace::Private { users, groups }) => {
                for (flag, mappings) in [("--uidmap", users), ("--gidmap", groups)] {
                    for IdMapping { inside, outside, count } in mappings {
                        self.flag(flag, format!("{inside}:{outside}:{count}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn limits(&mut self) -> Result<(), EngineError> {
        let resources: Resources = self.take("resources")?.unwrap_or_default();
        let cpu_quota = resources.cpu_quota_usec;
        self.option("--memory", resources.memory_bytes);
        self.option("--memory-swap", resources.memory_swap_bytes);
        self.option("--memory-reservation", resources.memory_reservation_bytes);
        self.option("--cpu-quota", cpu_quota);
        self.option("--cpu-period", resources.cpu_period_usec);
        self.option("--cpu-shares", resources.cpu_shares);
        self.option("--cpuset-cpus", resources.cpuset_cpus);
        self.option("--cpuset-mems", resources.cpuset_mems);
        self.option("--pids-limit", resources.pids_max);
        self.option("--blkio-weight", resources.io_weight);
        for limit in resources.io_limits {
            let IoLimit {
                path,
                read_bytes_per_sec,
                write_bytes_per_sec,
                read_operations_per_sec,
                write_operations_per_sec,
            } = limit;
            let rates = [
                ("--device-read-bps", read_bytes_per_sec),
                ("--device-write-bps", write_bytes_per_sec),
                ("--device-read-iops", read_operations_per_sec),
                ("--device-write-iops", write_operations_per_sec),
            ];
            for (flag, rate) in rates {
                self.option(flag, rate.map(|rate| format!("{path}:{rate}")));
            }
        }
        for ResourceLimit { name, soft, hard } in
            self.take::<Vec<ResourceLimit>>("resource_limits")?.unwrap_or_default()
        {
            let limit = |limit: Option<u64>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
            self.flag("--ulimit", format!("{name}={}:{}", limit(soft), limit(hard)));
        }
        let score: Option<i32> = self.take("oom_score_adjust")?;
        self.option("--oom-score-adj", score);
        Ok(())
    }

    fn life(&mut self) -> Result<(), EngineError> {
        match self.take("systemd")? {
            None | Some(SystemdMode::Auto) => {}
            Some(SystemdMode::Always) => self.flags.push("--systemd=always".to_owned()),
            Some(SystemdMode::Off) => self.flags.push("--systemd=false".to_owned()),
        }
        match self.take::<Option<SdNotify>>("sd_notify")?.flatten() {
            None => {}
            Some(SdNotify::Started) => self.flag("--sdnotify", "started"),
            Some(SdNotify::Payload) => self.flag("--sdnotify", "payload"),
            Some(SdNotify::Healthy) => self.flag("--sdnotify", "healthy"),
        }
        let timeout: Option<u64> = self.take("stop_timeout_usec")?;
        self.option("--stop-timeout", timeout.map(duration));
        match self.take("log")? {
            None => {}
            Some(Log::K8sFile { size_max_bytes, files_max }) => {
                self.flag("--log-driver", "k8s-file");
                self.flag("--log-opt", format!("max-size={size_max_bytes}"));
                self.flag("--log-opt", format!("max-file={files_max}"));
            }
            Some(Log::Journald) => self.flag("--log-driver", "journald"),
            Some(Log::None) => self.flag("--log-driver", "none"),
        }
        let runtime: Option<String> = self.take("runtime")?;
        self.option("--runtime", runtime.map(|runtime| runtime.to_lowercase()));
        if let Some(health) = self.take::<Option<HealthSpec>>("health_check")?.flatten() {
            self.health(&health)?;
        }
        Ok(())
    }

    fn health(&mut self, health: &HealthSpec) -> Result<(), EngineError> {
        match &health.test {
            None => {}
            Some(HealthTest::Command(words)) => {
                let words = serde_json::to_string(words).map_err(odd)?;
                self.flag("--health-cmd", words);
            }
            Some(HealthTest::Shell(text)) => self.flag("--health-cmd", text),
            Some(HealthTest::Systemd) => self.flags.push("--health-systemd".to_owned()),
            Some(HealthTest::None) => self.flags.push("--no-healthcheck".to_owned()),
        }
        self.option("--health-interval", health.interval_usec.map(duration));
        self.option("--health-timeout", health.timeout_usec.map(duration));
        self.option("--health-retries", health.retries);
        self.option("--health-start-period", health.start_period_usec.map(duration));
        self.option("--health-start-interval", health.start_interval_usec.map(duration));
        if health.on_failure != HealthSpec::default().on_failure {
            self.flag("--health-on-failure", format!("{:?}", health.on_failure).to_lowercase());
        }
        Ok(())
    }

    /// What is run, behind all flags.
    fn process(mut self) -> Result<Vec<String>, EngineError> {
        let (entrypoint, command): (Option<Vec<String>>, Option<Vec<String>>) =
            (self.take("entrypoint")?, self.take("command")?);
        match entrypoint.as_deref() {
            None => {}
            Some([]) => self.flag("--entrypoint", ""),
            Some(words) => {
                let words = serde_json::to_string(words).map_err(odd)?;
                self.flag("--entrypoint", words);
            }
        }
        let (image, rootfs): (Option<String>, Option<String>) = (self.take("image")?, self.take("rootfs")?);
        if let Some(field) = self.fields.keys().next() {
            return Err(unsupported(&format!("the field {field:?} of a specification")));
        }
        if rootfs.is_some() {
            self.flags.push("--rootfs".to_owned());
        }
        self.flags.extend(rootfs.or(image));
        self.flags.extend(command.unwrap_or_default());
        Ok(self.flags)
    }
}

/// `type=…,target=…,…`
fn mount_flag(mount: &Map<String, Value>) -> Result<String, EngineError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = mount.get("kind").and_then(Value::as_object).and_then(|kind| kind.iter().next());
    let (kind, about) = kind.ok_or_else(|| odd("a mount without a kind"))?;
    let is = |field: &str, value: bool, of: &Value| of.get(field) == Some(&Value::Bool(value));
    let has_id_map = mount.get("id_map").is_some_and(|map| !map.is_null());
    if mount.get("chown") == Some(&Value::Bool(true)) || has_id_map || is("copy", false, about) {
        return Err(unsupported("a mount whose owners are changed, or that is not filled,"));
    }
    let mut options = Vec::new();
    let mut sourced = |kind: &str, source: Option<&Value>| {
        options.push(format!("type={kind}"));
        options.extend(source.and_then(text).map(|source| format!("source={source}")));
    };
    match kind.as_str() {
        "Bind" => sourced("bind", about.get("source")),
        "Tmpfs" => sourced("tmpfs", None),
        "Volume" => sourced("volume", about.get("name")),
        "Image" => sourced("image", about.get("image")),
        other => return Err(unsupported(&format!("a mount of the kind {other}"))),
    }
    let target = mount.get("target").and_then(text).ok_or_else(|| odd("a mount without a target"))?;
    options.push(format!("target={target}"));
    if mount.get("read_only") == Some(&Value::Bool(true)) {
        options.push("readonly".to_owned());
    }
    let propagation = about.get("propagation").and_then(text).filter(|propagation| propagation != "rprivate");
    options.extend(propagation.map(|propagation| format!("bind-propagation={propagation}")));
    if about.get("recursive") == Some(&Value::Bool(false)) {
        options.push("bind-nonrecursive".to_owned());
    }
    options.extend(about.get("size_bytes").and_then(Value::as_u64).map(|size| format!("tmpfs-size={size}")));
    options.extend(about.get("mode").and_then(Value::as_u64).map(|mode| format!("tmpfs-mode={mode:o}")));
    options.extend(mount.get("flags").and_then(Value::as_array).into_iter().flatten().filter_map(text));
    if options.iter().any(|option| option.contains(',')) {
        return Err(unsupported("a mount with a comma in a path"));
    }
    Ok(options.join(","))
}

/// `[HOST-IP:][HOST-PORT]:PORT[/PROTOCOL]`
fn port_flag(port: &PortMapping) -> String {
    let range = |first: u16| match port.range {
        0 | 1 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count - 1)),
    };
    let ip = port
        .host_ip
        .map_or_else(String::new, |ip| if ip.is_ipv6() { format!("[{ip}]:") } else { format!("{ip}:") });
    let host = port.host_port.map(range).unwrap_or_default();
    let between = if ip.is_empty() && host.is_empty() { "" } else { ":" };
    format!("{ip}{host}{between}{}/{}", range(port.container_port), port.protocol.as_str())
}

/// As `run` reads it.
pub(super) fn duration(usec: u64) -> String {
    if usec.is_multiple_of(1_000_000) { (usec / 1_000_000).to_string() } else { format!("{usec}us") }
}

/// Whether a container's own policy would start it beside its unit.
pub(super) fn restarts_itself(spec: &ContainerSpec) -> bool {
    spec.restart != Restart::No
}
