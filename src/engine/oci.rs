//! From a [`Definition`] to the OCI runtime specification of this start, on this host.
//!
//! Source: OCI runtime-spec 1.2, config.md and config-linux.md. Written as the JSON that those define.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Spec};
use serde_json::{Value, json};

use crate::identity;
use crate::monitor::config::{NOTIFY_DIRECTORY, NOTIFY_SOCKET};
use crate::runtime::{BOOT_ID, cgroup, defaults, seccomp};
use crate::systemd::mode::{self, SystemdContext};

use super::passwd::{self, RootView};
use super::spec::{Device, Namespace, Resources, Seccomp};
use super::users::UserMap;
use super::volumes::ReadyVolumes;
use super::{Container, Definition, Engine, EngineError, capabilities, mounts, network, place};

/// Under which cgroup every container has its own, in each hierarchy.
const CGROUP_PARENT: &str = "/dormouse";
/// What Podman allows too; a fork bomb ends here.
pub(super) const PIDS_MAX: i64 = 2048;
/// The kernel's own.
pub(super) const CPU_PERIOD_USEC: u64 = 100_000;
/// What every cgroup begins with.
pub(super) const CPU_SHARES: u64 = 1024;
const SHM_SIZE_BYTES: u64 = 64 << 20;
const NOFILE_MAX: u64 = 1 << 20;

/// Where a payload that is no systemd finds the socket for its readiness.
const NOTIFY_TARGET: &str = "/run/host/notify";

/// What a specification is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A start: what it refers to is made.
    Start,
    /// Somebody wants to know. Nothing is made or changed, and no secret is in it.
    Look,
}

/// A specification, ready to be written.
pub(super) struct Built {
    pub spec: Vec<u8>,
    pub warnings: Vec<String>,
}

/// The path of a container's cgroup, below the root of each hierarchy, where systemd does not make it ([`super::place`]).
pub(super) fn cgroup_path(id: &str) -> String {
    format!("{CGROUP_PARENT}/{id}")
}

/// Finds what can't work on this host before anything is made: capabilities, devices, limits and sources of mounts.
pub(super) fn check(definition: &Definition) -> Result<Vec<String>, EngineError> {
    let mut warnings = Vec::new();
    capabilities(definition)?;
    for device in &definition.spec.devices {
        device_node(device)?;
    }
    mounts::check_sources(definition)?;
    rlimits(definition, &mut warnings)?;
    block_io(&definition.spec.resources)?;
    if let Seccomp::Profile(_) = definition.spec.seccomp {
        seccomp_profile(definition, &[])?;
    }
    Ok(warnings)
}

/// Builds the specification for a start now, in this cgroup and with these users of its own.
pub(super) fn build(
    engine: &Engine,
    container: &Container,
    path: &str,
    volumes: &ReadyVolumes<'_>,
    users: Option<&UserMap>,
    purpose: Purpose,
) -> Result<Built, EngineError> {
    let definition = &container.definition;
    let spec = &definition.spec;
    let id = &container.row.id;
    check(definition)?;
    let mut warnings = Vec::new();
    let has_cgroup = path != cgroup::NONE;
    if !has_cgroup {
        warnings.push(place::check_without_cgroup(container)?);
    }

    let view = RootView::new(engine, container)?;
    let user = passwd::look_up(&view, &definition.user, &spec.groups)?;
    let mut env: Vec<String> = definition.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let hostname = spec.hostname.clone().unwrap_or_else(|| id[..12].to_owned());
    if !definition.env.contains_key("HOME") {
        env.push(format!("HOME={}", user.home));
    }
    if spec.uts_namespace == Namespace::Private && !definition.env.contains_key("HOSTNAME") {
        env.push(format!("HOSTNAME={hostname}"));
    }
    if !definition.systemd && !definition.env.contains_key("container") {
        env.push(format!("container={}", mode::MANAGER_NAME));
    }

    if let Some(unit) = engine.unit() {
        env.extend(unit.socket_variables(spec)?);
    }
    let notifies = definition.payload_notifies() && !definition.systemd;
    if notifies {
        env.push(format!("NOTIFY_SOCKET={NOTIFY_TARGET}"));
    }

    let capabilities = capabilities(definition)?;
    // A user without privileges has them only as far as they can be gained; what was asked for is given outright.
    let effective: &[String] = if user.uid == 0 { &capabilities } else { &[] };
    let ambient: Vec<String> = if user.uid == 0 { Vec::new() } else { asked_for(definition, &capabilities) };
    let (bounding, effective) = (&capabilities, if user.uid == 0 { effective } else { &ambient });

    if let Some(users) = users {
        let nobody = user.groups.iter().chain([&user.gid]).find(|group| !users.has_group(**group));
        if !users.has_user(user.uid) || nobody.is_some() {
            let what = nobody.map_or(format!("user {}", user.uid), |group| format!("group {group}"));
            return Err(invalid(
                "spec.user",
                format!("the {what} is nobody in the container's user namespace"),
            ));
        }
    }
    let mut mounts = default_mounts(engine, definition, users);
    mounts.extend(engine.mounts_of(container, volumes, &user, users, purpose)?);
    let secrets = match purpose {
        Purpose::Start => engine.deliver_secrets(container, users)?,
        Purpose::Look => engine.places_of_secrets(container)?,
    };
    env.extend(secrets.variables);
    mounts.extend(secrets.mounts);

    if notifies {
        let socket = engine.paths().run_container(id).join(NOTIFY_DIRECTORY).join(NOTIFY_SOCKET);
        mounts.push(json!({"destination": NOTIFY_TARGET, "type": "bind", "source": socket,
                           "options": ["bind", "rprivate", "nosuid", "nodev", "noexec"]}));
    }

    let (devices, device_rules) = devices(definition)?;
    let (masked, read_only) = hidden_paths(definition);
    let mut linux = json!({
        "namespaces": namespaces(engine, container, users.is_some())?,
        "cgroupsPath": path,
        "resources": if has_cgroup { resources(&spec.resources, device_rules)? } else { json!({}) },
        "devices": devices,
        "maskedPaths": masked,
        "readonlyPaths": read_only,
        "rootfsPropagation": "private",
        "sysctl": spec.sysctls,
    });
    if let Some((users, groups)) = users.map(UserMap::linux) {
        linux["uidMappings"] = json!(users);
        linux["gidMappings"] = json!(groups);
    }
    let mut process = json!({
        "terminal": spec.terminal,
        "user": {
            "uid": user.uid, "gid": user.gid, "additionalGids": user.groups, "umask": spec.umask.unwrap_or(0o022),
        },
        "args": definition.command,
        "env": env,
        "cwd": definition.workdir,
        "capabilities": {
            "bounding": bounding, "effective": effective, "permitted": effective,
            // Never any: CVE-2022-24769. The kernel wants ambient ones to be inheritable too.
            "inheritable": ambient, "ambient": ambient,
        },
        "rlimits": rlimits(definition, &mut warnings)?,
        "noNewPrivileges": spec.no_new_privileges,
    });
    if let Some(score) = spec.oom_score_adjust {
        process["oomScoreAdj"] = json!(score);
    }
    let root = spec.rootfs.clone().unwrap_or_else(|| PathBuf::from("rootfs"));
    let mut whole = json!({
        "ociVersion": "1.2.0",
        "root": { "path": root, "readonly": spec.read_only_root },
        "process": process,
        "mounts": mounts,
        "linux": linux,
        "annotations": spec.annotations,
    });
    if spec.uts_namespace == Namespace::Private {
        whole["hostname"] = json!(hostname);
        if let Some(domainname) = &spec.domainname {
            whole["domainname"] = json!(domainname);
        }
    }
    let mut built: Spec = serde_json::from_value(whole).map_err(|error| EngineError::Failed {
        attempted: "build the specification".to_owned(),
        reason: error.to_string(),
    })?;
    if let (Some(linux), Some(profile)) = (built.linux_mut(), seccomp_profile(definition, &capabilities)?) {
        linux.set_seccomp(Some(profile));
    }
    if definition.systemd {
        let run_dir = engine.paths().run_container(id);
        let host_directory = run_dir.join("host");
        let notify_socket = run_dir.join(NOTIFY_DIRECTORY).join(NOTIFY_SOCKET);
        let os_release = std::fs::read_to_string("/etc/os-release")
            .or_else(|_| std::fs::read_to_string("/usr/lib/os-release"))
            .unwrap_or_default();
        if purpose == Purpose::Start {
            mode::prepare_host_directory(&host_directory, &os_release, mode::container_uuid(id).as_deref())
                .map_err(|error| EngineError::io("prepare", error.path.clone(), error.source))?;
        }
        let context = SystemdContext {
            container_id: id,
            host_directory: Some(&host_directory),
            notify_socket: definition.payload_notifies().then_some(&*notify_socket),
            credentials: secrets.credentials.as_deref(),
            host_os_release: &os_release,
            terminal: spec.terminal,
            privileged: spec.privileged,
            ..SystemdContext::default()
        };
        mode::apply(&mut built, &context);
        let mut annotations = built.annotations().clone().unwrap_or_default();
        annotations.entry(BOOT_ID.to_owned()).or_insert_with(|| "new".to_owned());
        built.set_annotations(Some(annotations));
    }
    // Last: where the image has a link, as to /run/systemd/resolve, it leads into what is mounted by now.
    let mut all = built.mounts().clone().unwrap_or_default();
    all.extend(network::etc_mounts(engine, container)?);
    built.set_mounts(Some(all));
    let spec = serde_json::to_vec(&built).map_err(|error| EngineError::Failed {
        attempted: "write the specification".to_owned(),
        reason: error.to_string(),
    })?;
    Ok(Built { spec, warnings })
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

fn default_mounts(engine: &Engine, definition: &Definition, users: Option<&UserMap>) -> Vec<Value> {
    let spec = &definition.spec;
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group of terminals on Debian and others; the kernel refuses one that is nobody.
    if users.is_none_or(|users| users.has_group(5)) {
        terminals.push("gid=5");
    }
    // These file systems can be mounted only by who owns the namespace that they show.
    let foreign = |namespace: &Namespace| match namespace {
        Namespace::Private => false,
        // Without root the namespaces of others are of the same users.
        Namespace::Container(_) | Namespace::Pod(_) => users.is_some(),
        Namespace::Host => users.is_some() || identity::is_rootless(),
    };
    let of_host = |path: &str, option: &str| {
        json!({"destination": path, "type": "bind", "source": path,
               "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", option]})
    };
    let sysfs_options: &[&str] =
        if spec.privileged { &["nosuid", "noexec", "nodev"] } else { &["nosuid", "noexec", "nodev", "ro"] };
    let mut mounts = vec![
        if foreign(&spec.pid_namespace) {
            of_host("/proc", "rw")
        } else {
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]})
        },
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": terminals}),
        if foreign(spec.network_namespace()) {
            of_host("/sys", "rro")
        } else {
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": sysfs_options})
        },
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}),
    ];
    // Whichever namespace it is, its own queues are those that a new mount shows.
    if !foreign(&spec.ipc_namespace) {
        mounts.push(json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
                           "options": ["nosuid", "noexec", "nodev"]}));
    } else if Path::new("/dev/mqueue").is_dir() {
        mounts.push(of_host("/dev/mqueue", "rw"));
    }
    if spec.ipc_namespace == Namespace::Host {
        mounts.push(json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
                           "options": ["bind", "nosuid", "noexec", "nodev"]}));
    } else if let Namespace::Pod(pod) = &spec.ipc_namespace {
        mounts.push(json!({"destination": "/dev/shm", "type": "bind", "source": engine.shm_of_pod(pod),
                           "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"]}));
    } else {
        let size = format!("size={}", spec.shm_size_bytes.unwrap_or(SHM_SIZE_BYTES));
        mounts.push(json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                           "options": ["nosuid", "noexec", "nodev", "mode=1777", size]}));
    }
    mounts
}

/// What a systemd has beyond the default set.
const REBOOT: &str = "CAP_SYS_BOOT";

/// In the runtime-spec's order of meaning: default set, minus the dropped, plus the added.
pub(super) fn capabilities(definition: &Definition) -> Result<Vec<String>, EngineError> {
    let spec = &definition.spec;
    let available = capabilities::available();
    if spec.privileged {
        return Ok(available);
    }
    let normal = |field: String, name: &str| {
        let upper = name.to_ascii_uppercase();
        let name = if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
        if name == "ALL" || available.contains(&name) {
            Ok(name)
        } else {
            Err(invalid(field, format!("{name} is no capability that this host can give")))
        }
    };
    let mut set = capabilities::default_set();
    // reboot(2) of a pid namespace only ends the namespace, and tells a reboot from a power-off by it. The one other thing
    // that the capability allows is kexec, which the default filter refuses to everybody.
    let confined = spec.pid_namespace == Namespace::Private && matches!(spec.seccomp, Seccomp::Default);
    if definition.systemd && confined && available.iter().any(|name| name == REBOOT) {
        set.push(REBOOT.to_owned());
    }
    for (index, name) in spec.capabilities_drop.iter().enumerate() {
        match normal(format!("spec.capabilitiesDrop[{index}]"), name)?.as_str() {
            "ALL" => set.clear(),
            name => set.retain(|have| have != name),
        }
    }
    for (index, name) in spec.capabilities_add.iter().enumerate() {
        match normal(format!("spec.capabilitiesAdd[{index}]"), name)? {
            all if all == "ALL" => set.clone_from(&available),
            name if set.contains(&name) => {}
            name => set.push(name),
        }
    }
    Ok(set)
}

fn asked_for(definition: &Definition, set: &[String]) -> Vec<String> {
    let asked = &definition.spec.capabilities_add;
    let is_asked = |have: &String| {
        asked.iter().any(|name| {
            let upper = name.to_ascii_uppercase();
            upper == "ALL" || have.trim_start_matches("CAP_") == upper.trim_start_matches("CAP_")
        })
    };
    set.iter().filter(|have| is_asked(have)).cloned().collect()
}

fn namespaces(engine: &Engine, container: &Container, users: bool) -> Result<Vec<Value>, EngineError> {
    let spec = &container.definition.spec;
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    match users {
        // The network was made in it, so that it is the container's own.
        true if !container.definition.networks.is_empty() => {
            let path = engine.users_of(&container.row.id);
            namespaces.push(json!({"type": "user", "path": path}));
        }
        true => namespaces.push(json!({"type": "user"})),
        false => {}
    }
    for (kind, file, field, namespace) in [
        ("pid", "pid", "spec.pidNamespace", &spec.pid_namespace),
        ("ipc", "ipc", "spec.ipcNamespace", &spec.ipc_namespace),
        ("uts", "uts", "spec.utsNamespace", &spec.uts_namespace),
        ("network", "net", "spec.networkNamespace", spec.network_namespace()),
    ] {
        match namespace {
            Namespace::Private if kind == "network" && !container.definition.networks.is_empty() => {
                let path = engine.paths().namespaces().join(&container.row.id);
                namespaces.push(json!({"type": kind, "path": path}));
            }
            Namespace::Private => namespaces.push(json!({"type": kind})),
            Namespace::Host => {}
            Namespace::Pod(pod) => {
                namespaces.push(json!({"type": kind, "path": engine.namespace_of_pod(pod, file)}));
            }
            Namespace::Container(other) => {
                let row = engine.find_row(other)?;
                let live = engine.live(&row.id)?;
                let pid = live.pid().ok_or_else(|| {
                    invalid(
                        field,
                        format!("{other:?} is {}, and has no namespace to join; start it first", live.phase),
                    )
                })?;
                namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
            }
        }
    }
    Ok(namespaces)
}

/// Default ones unless opened, and the caller's own.
fn hidden_paths(definition: &Definition) -> (Vec<String>, Vec<String>) {
    let spec = &definition.spec;
    let open = |path: &str| {
        spec.privileged
            || spec
                .unmasked
                .iter()
                .any(|given| given.eq_ignore_ascii_case("ALL") || given.trim_end_matches('/') == path)
    };
    let kept = |paths: Vec<String>| paths.into_iter().filter(|path| !open(path)).collect::<Vec<_>>();
    let mut masked = kept(defaults::masked_paths());
    masked.extend(spec.masked.iter().cloned());
    (masked, kept(defaults::READONLY_PATHS.map(str::to_owned).to_vec()))
}

fn device_node(device: &Device) -> Result<(char, u64, u64, u32, u32, u32), EngineError> {
    let refused = |reason: String| invalid("spec.devices", format!("cannot use {:?}: {reason}", device.path));
    let metadata = std::fs::metadata(&device.path).map_err(|error| refused(error.to_string()))?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return Err(refused("it is no device node".to_owned())),
    };
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    Ok((kind, major.into(), minor.into(), metadata.mode() & 0o7777, metadata.uid(), metadata.gid()))
}

fn devices(definition: &Definition) -> Result<(Vec<Value>, Vec<Value>), EngineError> {
    let spec = &definition.spec;
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    // Who may use which devices is for root of the host to restrict; others have those nodes that they can see.
    let restricts = identity::is_root();
    let mut wanted = spec.devices.clone();
    if spec.privileged {
        rules.push(json!({"allow": true, "access": "rwm"}));
        wanted.extend(host_devices());
    } else {
        rules.push(json!({"allow": false, "access": "rwm"}));
        rules.extend(defaults::device_rules().iter().filter_map(|rule| serde_json::to_value(rule).ok()));
    }
    for device in &wanted {
        let (kind, major, minor, mode, uid, gid) = device_node(device)?;
        nodes.push(
            json!({"path": device.container_path, "type": kind.to_string(), "major": major, "minor": minor,
                          "fileMode": mode, "uid": uid, "gid": gid}),
        );
        if !spec.privileged {
            rules.push(json!({"allow": true, "type": kind.to_string(), "major": major, "minor": minor,
                              "access": device.permissions}));
        }
    }
    if !restricts {
        rules.clear();
        for (index, device) in spec.devices.iter().enumerate() {
            if device.permissions.len() < 3 {
                return Err(EngineError::Unsupported {
                    feature: format!("restricting the use of {:?} (spec.devices[{index}])", device.path),
                    reason: "that takes root of the host; leave the permissions out".to_owned(),
                });
            }
        }
    }
    Ok((nodes, rules))
}

/// The devices of the host that a privileged container sees: all but terminals and what every container has of its own.
fn host_devices() -> Vec<Device> {
    const OWN: &[&str] = &[
        "pts", "shm", "mqueue", "fd", "console", "ptmx", "tty", "null", "zero", "full", "random", "urandom",
    ];
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::from("/dev")];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if dir == Path::new("/dev") && OWN.iter().any(|own| name == *own) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                    if let Ok(path) = entry.path().into_os_string().into_string() {
                        found.push(Device {
                            container_path: path.clone(),
                            path,
                            permissions: "rwm".to_owned(),
                        });
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn block_io(resources: &Resources) -> Result<Value, EngineError> {
    let mut limits = json!({});
    if let Some(weight) = resources.io_weight {
        limits["weight"] = json!(weight);
    }
    let mut of = |key: &str, rate: fn(&super::spec::IoLimit) -> Option<u64>| -> Result<(), EngineError> {
        let mut list = Vec::new();
        for (index, limit) in resources.io_limits.iter().enumerate() {
            let Some(rate) = rate(limit) else { continue };
            let device = Device {
                path: limit.path.clone(),
                container_path: String::new(),
                permissions: String::new(),
            };
            let field = format!("spec.resources.ioLimits[{index}].path");
            match device_node(&device) {
                Ok(('b', major, minor, ..)) => {
                    list.push(json!({"major": major, "minor": minor, "rate": rate}))
                }
                _ => return Err(invalid(field, format!("{:?} is no block device", limit.path))),
            }
        }
        if !list.is_empty() {
            limits[key] = Value::Array(list);
        }
        Ok(())
    };
    of("throttleReadBpsDevice", |limit| limit.read_bytes_per_sec)?;
    of("throttleWriteBpsDevice", |limit| limit.write_bytes_per_sec)?;
    of("throttleReadIOPSDevice", |limit| limit.read_operations_per_sec)?;
    of("throttleWriteIOPSDevice", |limit| limit.write_operations_per_sec)?;
    Ok(limits)
}

fn resources(resources: &Resources, device_rules: Vec<Value>) -> Result<Value, EngineError> {
    let mut all = limits_json(resources, Some(PIDS_MAX))?;
    all["devices"] = Value::Array(device_rules);
    Ok(all)
}

/// Only those limits that are given.
pub(super) fn limits(resources: &Resources) -> Result<LinuxResources, EngineError> {
    typed(limits_json(resources, None)?)
}

/// The limits of a start, the default ones among them, without what it may do with devices.
pub(super) fn whole_limits(resources: &Resources) -> Result<LinuxResources, EngineError> {
    typed(limits_json(resources, Some(PIDS_MAX))?)
}

fn typed(limits: Value) -> Result<LinuxResources, EngineError> {
    serde_json::from_value(limits).map_err(|error| EngineError::Failed {
        attempted: "describe the limits".to_owned(),
        reason: error.to_string(),
    })
}

fn limits_json(resources: &Resources, default_pids: Option<i64>) -> Result<Value, EngineError> {
    let given = |pairs: Vec<(&str, Option<Value>)>| {
        let map: serde_json::Map<_, _> =
            pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        if map.is_empty() { None } else { Some(Value::Object(map)) }
    };
    let memory = given(vec![
        ("limit", resources.memory_bytes.map(Value::from)),
        ("swap", resources.memory_swap_bytes.map(Value::from)),
        ("reservation", resources.memory_reservation_bytes.map(Value::from)),
    ]);
    let period = resources.cpu_period_usec.or(resources.cpu_quota_usec.map(|_| CPU_PERIOD_USEC));
    let cpu = given(vec![
        ("shares", resources.cpu_shares.map(Value::from)),
        ("quota", resources.cpu_quota_usec.map(Value::from)),
        ("period", period.map(Value::from)),
        ("cpus", resources.cpuset_cpus.clone().map(Value::from)),
        ("mems", resources.cpuset_mems.clone().map(Value::from)),
    ]);
    let block_io =
        Some(block_io(resources)?).filter(|limits| limits.as_object().is_some_and(|map| !map.is_empty()));
    let pids = resources.pids_max.or(default_pids);
    Ok(given(vec![
        ("memory", memory),
        ("cpu", cpu),
        ("pids", pids.map(|pids| json!({"limit": pids}))),
        ("blockIO", block_io),
    ])
    .unwrap_or_else(|| json!({})))
}

fn rlimits(definition: &Definition, warnings: &mut Vec<String>) -> Result<Vec<Value>, EngineError> {
    const NAMES: &[&str] = &[
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let hard_nofile =
        rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum.unwrap_or(NOFILE_MAX);
    let mut limits = Vec::new();
    if !definition.spec.resource_limits.iter().any(|limit| limit.name == "nofile") {
        let nofile = NOFILE_MAX.min(hard_nofile);
        limits.push(json!({"type": "RLIMIT_NOFILE", "soft": nofile, "hard": nofile}));
    }
    for (index, limit) in definition.spec.resource_limits.iter().enumerate() {
        let field = |name: &str| format!("spec.resourceLimits[{index}].{name}");
        if !NAMES.contains(&limit.name.as_str()) {
            return Err(invalid(field("name"), format!("{:?} is none of {}", limit.name, NAMES.join(", "))));
        }
        let (soft, hard) = (limit.soft.unwrap_or(u64::MAX), limit.hard.unwrap_or(u64::MAX));
        if soft > hard {
            return Err(invalid(field("soft"), "it is above the hard limit"));
        }
        if limit.name == "nofile" && hard > hard_nofile {
            warnings
                .push(format!("nofile may not be raised above {hard_nofile} on this host, lowered to it"));
        }
        limits.push(json!({"type": format!("RLIMIT_{}", limit.name.to_ascii_uppercase()), "soft": soft, "hard": hard}));
    }
    Ok(limits)
}

pub(super) fn seccomp_profile(
    definition: &Definition,
    capabilities: &[String],
) -> Result<Option<LinuxSeccomp>, EngineError> {
    let spec = &definition.spec;
    let capabilities = capabilities::typed(capabilities);
    match &spec.seccomp {
        Seccomp::Default if spec.privileged => Ok(None),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => Ok(Some(seccomp::default_profile(&capabilities))),
        Seccomp::Profile(profile) => seccomp::profile_from_json(profile, &capabilities)
            .map(Some)
            .map_err(|error| invalid("spec.seccomp.profile", error.to_string())),
    }
}
