//! Between the wire's specification and the engine's, by hand and both ways. What does not fit is told by its path.

use std::collections::{BTreeMap, HashMap};

use crate::engine::EngineError;
use crate::engine::spec as engine;

use super::mount_types::{self, mount_from_wire, mount_to_wire};
use super::{health, network_types};
use crate::wire::container as wire;

pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

/// A number that must not be negative, or must fit a narrower type.
pub(super) fn number<T: TryFrom<i64>>(field: &str, value: Option<i64>) -> Result<Option<T>, EngineError> {
    value
        .map(|value| {
            T::try_from(value)
                .map_err(|_| invalid(format!("spec.{field}"), format!("{value} is out of range")))
        })
        .transpose()
}

fn sorted(map: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().collect()
}

/// The engine's specification.
///
/// # Errors
/// [`EngineError::InvalidSpec`] for what the IDL's types can't exclude.
pub(super) fn spec_from_wire(spec: wire::Spec) -> Result<engine::ContainerSpec, EngineError> {
    let mounts = spec.mounts.unwrap_or_default();
    let limits = spec.resourceLimits.unwrap_or_default();
    Ok(engine::ContainerSpec {
        image: spec.image,
        rootfs: spec.rootfs.map(Into::into),
        name: spec.name,
        pod: spec.pod,
        command: spec.command,
        entrypoint: spec.entrypoint,
        env: sorted(spec.env),
        user: spec.user,
        groups: spec.groups.unwrap_or_default(),
        workdir: spec.workdir,
        umask: number("umask", spec.umask)?,
        hostname: spec.hostname,
        domainname: spec.domainname,
        mounts: mounts
            .into_iter()
            .enumerate()
            .map(|(index, mount)| mount_from_wire(index, mount))
            .collect::<Result<_, _>>()?,
        volumes_from: spec
            .volumesFrom
            .unwrap_or_default()
            .into_iter()
            .map(mount_types::volumes_from_from_wire)
            .collect(),
        secrets: spec
            .secrets
            .unwrap_or_default()
            .into_iter()
            .enumerate()
            .map(|(index, secret)| mount_types::secret_from_wire(index, secret))
            .collect::<Result<_, _>>()?,
        devices: spec.devices.unwrap_or_default().into_iter().map(device_from_wire).collect(),
        capabilities_add: spec.capabilitiesAdd.unwrap_or_default(),
        capabilities_drop: spec.capabilitiesDrop.unwrap_or_default(),
        privileged: spec.privileged.unwrap_or_default(),
        no_new_privileges: spec.noNewPrivileges.unwrap_or_default(),
        seccomp: seccomp_from_wire(spec.seccomp)?,
        read_only_root: spec.readOnlyRoot.unwrap_or_default(),
        resource_limits: limits
            .into_iter()
            .enumerate()
            .map(|(index, limit)| limit_from_wire(index, limit))
            .collect::<Result<_, _>>()?,
        sysctls: sorted(spec.sysctls),
        masked: spec.masked.unwrap_or_default(),
        unmasked: spec.unmasked.unwrap_or_default(),
        pid_namespace: namespace_from_wire("pidNamespace", spec.pidNamespace)?,
        ipc_namespace: namespace_from_wire("ipcNamespace", spec.ipcNamespace)?,
        uts_namespace: namespace_from_wire("utsNamespace", spec.utsNamespace)?,
        user_namespace: user_namespace_from_wire(spec.userNamespace)?,
        network_namespace: match spec.networkNamespace {
            None => None,
            given => Some(namespace_from_wire("networkNamespace", given)?),
        },
        networks: spec.networks.map(network_types::attachments_from_wire).transpose()?,
        ports: network_types::ports_from_wire(spec.ports.unwrap_or_default())?,
        publish_all: spec.publishAll.unwrap_or_default(),
        dns_servers: network_types::addresses_from_wire(
            "spec.dnsServers",
            spec.dnsServers.unwrap_or_default(),
        )?,
        dns_search: spec.dnsSearch.unwrap_or_default(),
        dns_options: spec.dnsOptions.unwrap_or_default(),
        extra_hosts: sorted(spec.extraHosts),
        resources: spec.resources.map(resources_from_wire).transpose()?.unwrap_or_default(),
        shm_size_bytes: number("shmSizeBytes", spec.shmSizeBytes)?,
        oom_score_adjust: number("oomScoreAdjust", spec.oomScoreAdjust)?,
        stop_signal: spec.stopSignal,
        stop_timeout_usec: number("stopTimeoutUSec", spec.stopTimeoutUSec)?,
        systemd: match spec.systemd {
            None | Some(wire::Spec_systemd::auto) => engine::SystemdMode::Auto,
            Some(wire::Spec_systemd::always) => engine::SystemdMode::Always,
            Some(wire::Spec_systemd::off) => engine::SystemdMode::Off,
        },
        sd_notify: spec.sdNotify.map(|who| match who {
            wire::Spec_sdNotify::started => engine::SdNotify::Started,
            wire::Spec_sdNotify::payload => engine::SdNotify::Payload,
            wire::Spec_sdNotify::healthy => engine::SdNotify::Healthy,
        }),
        health_check: spec.healthCheck.map(health::spec_from_wire).transpose()?,
        terminal: spec.terminal.unwrap_or_default(),
        stdin_open: spec.stdinOpen.unwrap_or_default(),
        labels: sorted(spec.labels),
        annotations: sorted(spec.annotations),
        restart: restart_from_wire(spec.restart)?,
        init: spec.init.unwrap_or_default(),
        log: log_from_wire(spec.log)?,
        runtime: match spec.runtime {
            None | Some(wire::Spec_runtime::native) => engine::Runtime::Native,
            Some(wire::Spec_runtime::crun) => engine::Runtime::Crun,
            Some(wire::Spec_runtime::runc) => engine::Runtime::Runc,
        },
        auto_remove: spec.autoRemove.unwrap_or_default(),
    })
}

fn device_from_wire(device: wire::Device) -> engine::Device {
    engine::Device {
        container_path: device.containerPath.unwrap_or_else(|| device.path.clone()),
        path: device.path,
        permissions: device.permissions.unwrap_or_else(|| "rwm".to_owned()),
    }
}

fn seccomp_from_wire(seccomp: Option<wire::Seccomp>) -> Result<engine::Seccomp, EngineError> {
    let Some(seccomp) = seccomp else { return Ok(engine::Seccomp::Default) };
    match (seccomp.kind, seccomp.profile) {
        (wire::Seccomp_kind::default, None) => Ok(engine::Seccomp::Default),
        (wire::Seccomp_kind::unconfined, None) => Ok(engine::Seccomp::Unconfined),
        (wire::Seccomp_kind::profile, Some(profile)) => Ok(engine::Seccomp::Profile(profile)),
        (wire::Seccomp_kind::profile, None) => Err(invalid("spec.seccomp.profile", "it is missing")),
        (_, Some(_)) => Err(invalid("spec.seccomp.profile", "it has a meaning only for kind profile")),
    }
}

fn limit_from_wire(index: usize, limit: wire::ResourceLimit) -> Result<engine::ResourceLimit, EngineError> {
    let value = |name: &str, value: i64| match value {
        -1 => Ok(None),
        value => number(&format!("resourceLimits[{index}].{name}"), Some(value)),
    };
    Ok(engine::ResourceLimit {
        soft: value("soft", limit.soft)?,
        hard: value("hard", limit.hard)?,
        name: limit.name,
    })
}

fn namespace_from_wire(
    field: &str,
    namespace: Option<wire::Namespace>,
) -> Result<engine::Namespace, EngineError> {
    let Some(namespace) = namespace else { return Ok(engine::Namespace::Private) };
    match (namespace.kind, namespace.container) {
        (wire::Namespace_kind::private, None) => Ok(engine::Namespace::Private),
        (wire::Namespace_kind::host, None) => Ok(engine::Namespace::Host),
        (wire::Namespace_kind::container, Some(name)) => Ok(engine::Namespace::Container(name)),
        (wire::Namespace_kind::container, None) => {
            Err(invalid(format!("spec.{field}.container"), "it is missing"))
        }
        (_, Some(_)) => {
            Err(invalid(format!("spec.{field}.container"), "it has a meaning only for kind container"))
        }
    }
}

fn user_namespace_from_wire(
    given: Option<wire::UserNamespace>,
) -> Result<engine::UserNamespace, EngineError> {
    let Some(given) = given else { return Ok(engine::UserNamespace::Host) };
    let refuse = |name: &str, is_given: bool| match is_given {
        true => Err(invalid(format!("spec.userNamespace.{name}"), "it has no meaning for this kind")),
        false => Ok(()),
    };
    let mappings = |field: &str, given: Vec<wire::IdMapping>| {
        let one = |(index, one): (usize, wire::IdMapping)| {
            let id = |name: &str, id: i64| {
                u32::try_from(id).map_err(|_| {
                    invalid(format!("spec.userNamespace.{field}[{index}].{name}"), format!("{id} is no id"))
                })
            };
            Ok(engine::IdMapping {
                inside: id("containerId", one.containerId)?,
                outside: id("hostId", one.hostId)?,
                count: id("count", one.count)?,
            })
        };
        given.into_iter().enumerate().map(one).collect::<Result<Vec<_>, EngineError>>()
    };
    if given.kind != wire::UserNamespace_kind::private {
        refuse("uidMappings", given.uidMappings.is_some())?;
        refuse("gidMappings", given.gidMappings.is_some())?;
    }
    if given.kind != wire::UserNamespace_kind::auto {
        refuse("size", given.size.is_some())?;
    }
    Ok(match given.kind {
        wire::UserNamespace_kind::host => engine::UserNamespace::Host,
        wire::UserNamespace_kind::auto => {
            engine::UserNamespace::Auto { size: number("userNamespace.size", given.size)? }
        }
        wire::UserNamespace_kind::private => {
            let users = given
                .uidMappings
                .ok_or_else(|| invalid("spec.userNamespace.uidMappings", "they are missing"))?;
            let users = mappings("uidMappings", users)?;
            let groups = match given.gidMappings {
                Some(groups) => mappings("gidMappings", groups)?,
                None => users.clone(),
            };
            engine::UserNamespace::Private { users, groups }
        }
    })
}

pub(super) fn resources_from_wire(resources: wire::Resources) -> Result<engine::Resources, EngineError> {
    let weight: Option<u64> = number("resources.cpuWeight", resources.cpuWeight)?;
    let shares: Option<u64> = number("resources.cpuShares", resources.cpuShares)?;
    let cpu_shares = match (shares, weight) {
        (Some(_), Some(_)) => {
            return Err(invalid("spec.resources.cpuWeight", "cpuShares is given too; give one of them"));
        }
        (shares, None) => shares,
        (None, Some(weight @ 1..=10_000)) => Some(shares_of_weight(weight)),
        (None, Some(_)) => {
            return Err(invalid("spec.resources.cpuWeight", "it must lie between 1 and 10000"));
        }
    };
    let mut io_limits = Vec::new();
    for (index, limit) in resources.ioLimits.unwrap_or_default().into_iter().enumerate() {
        let rate = |name: &str, value| number(&format!("resources.ioLimits[{index}].{name}"), value);
        io_limits.push(engine::IoLimit {
            read_bytes_per_sec: rate("readBytesPerSec", limit.readBytesPerSec)?,
            write_bytes_per_sec: rate("writeBytesPerSec", limit.writeBytesPerSec)?,
            read_operations_per_sec: rate("readOperationsPerSec", limit.readOperationsPerSec)?,
            write_operations_per_sec: rate("writeOperationsPerSec", limit.writeOperationsPerSec)?,
            path: limit.path,
        });
    }
    Ok(engine::Resources {
        memory_bytes: resources.memoryBytes,
        memory_swap_bytes: resources.memorySwapBytes,
        memory_reservation_bytes: resources.memoryReservationBytes,
        cpu_quota_usec: resources.cpuQuotaUSec,
        cpu_period_usec: number("resources.cpuPeriodUSec", resources.cpuPeriodUSec)?,
        cpu_shares,
        cpuset_cpus: resources.cpusetCpus,
        cpuset_mems: resources.cpusetMems,
        pids_max: resources.pidsMax,
        io_weight: number("resources.ioWeight", resources.ioWeight)?,
        io_limits,
    })
}

/// The inverse of the OCI's way from shares (2 to 262144) to a weight (1 to 10000), which the runtime goes on cgroup v2.
fn shares_of_weight(weight: u64) -> u64 {
    2 + (weight - 1) * 262_142 / 9_999
}

fn restart_from_wire(restart: Option<wire::RestartPolicy>) -> Result<engine::Restart, EngineError> {
    let Some(restart) = restart else { return Ok(engine::Restart::No) };
    if restart.retriesMax.is_some() && restart.mode != wire::RestartPolicy_mode::onFailure {
        return Err(invalid("spec.restart.retriesMax", "it has a meaning only for onFailure"));
    }
    Ok(match restart.mode {
        wire::RestartPolicy_mode::no => engine::Restart::No,
        wire::RestartPolicy_mode::always => engine::Restart::Always,
        wire::RestartPolicy_mode::unlessStopped => engine::Restart::UnlessStopped,
        wire::RestartPolicy_mode::onFailure => {
            engine::Restart::OnFailure { retries_max: number("restart.retriesMax", restart.retriesMax)? }
        }
    })
}

pub(super) fn log_from_wire(log: Option<wire::LogConfig>) -> Result<engine::Log, EngineError> {
    let Some(log) = log else { return Ok(engine::Log::default()) };
    let engine::Log::K8sFile { size_max_bytes, files_max } = engine::Log::default() else {
        return Ok(engine::Log::None);
    };
    if log.driver != wire::LogConfig_driver::k8sFile && (log.sizeMaxBytes.is_some() || log.filesMax.is_some())
    {
        return Err(invalid("spec.log", "sizes and numbers of files have a meaning only for k8sFile"));
    }
    Ok(match log.driver {
        wire::LogConfig_driver::journald => engine::Log::Journald,
        wire::LogConfig_driver::none => engine::Log::None,
        wire::LogConfig_driver::k8sFile => {
            let size_max_bytes = number("log.sizeMaxBytes", log.sizeMaxBytes)?.unwrap_or(size_max_bytes);
            if size_max_bytes < 4 << 10 {
                return Err(invalid("spec.log.sizeMaxBytes", "a log file has at least 4096 bytes"));
            }
            let files_max = number("log.filesMax", log.filesMax)?.unwrap_or(files_max);
            engine::Log::K8sFile { size_max_bytes, files_max }
        }
    })
}

/// The specification as a client gave it.
pub(super) fn spec_to_wire(spec: engine::ContainerSpec) -> wire::Spec {
    let some = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    let map =
        |map: BTreeMap<String, String>| if map.is_empty() { None } else { Some(map.into_iter().collect()) };
    let yes = |value: bool| value.then_some(true);
    let wide = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    wire::Spec {
        image: spec.image,
        rootfs: spec.rootfs.map(|path| path.to_string_lossy().into_owned()),
        name: spec.name,
        pod: spec.pod,
        command: spec.command,
        entrypoint: spec.entrypoint,
        env: map(spec.env),
        user: spec.user,
        groups: some(spec.groups),
        workdir: spec.workdir,
        umask: spec.umask.map(Into::into),
        hostname: spec.hostname,
        domainname: spec.domainname,
        mounts: if spec.mounts.is_empty() {
            None
        } else {
            Some(spec.mounts.into_iter().map(mount_to_wire).collect())
        },
        volumesFrom: if spec.volumes_from.is_empty() {
            None
        } else {
            Some(spec.volumes_from.into_iter().map(mount_types::volumes_from_to_wire).collect())
        },
        secrets: if spec.secrets.is_empty() {
            None
        } else {
            Some(spec.secrets.into_iter().map(mount_types::secret_to_wire).collect())
        },
        devices: if spec.devices.is_empty() {
            None
        } else {
            let device = |device: engine::Device| wire::Device {
                path: device.path,
                containerPath: Some(device.container_path),
                permissions: Some(device.permissions),
            };
            Some(spec.devices.into_iter().map(device).collect())
        },
        capabilitiesAdd: some(spec.capabilities_add),
        capabilitiesDrop: some(spec.capabilities_drop),
        privileged: yes(spec.privileged),
        noNewPrivileges: yes(spec.no_new_privileges),
        seccomp: match spec.seccomp {
            engine::Seccomp::Default => None,
            engine::Seccomp::Unconfined => {
                Some(wire::Seccomp { kind: wire::Seccomp_kind::unconfined, profile: None })
            }
            engine::Seccomp::Profile(profile) => {
                Some(wire::Seccomp { kind: wire::Seccomp_kind::profile, profile: Some(profile) })
            }
        },
        readOnlyRoot: yes(spec.read_only_root),
        resourceLimits: if spec.resource_limits.is_empty() {
            None
        } else {
            let limit = |limit: engine::ResourceLimit| wire::ResourceLimit {
                name: limit.name,
                soft: wide(limit.soft).unwrap_or(-1),
                hard: wide(limit.hard).unwrap_or(-1),
            };
            Some(spec.resource_limits.into_iter().map(limit).collect())
        },
        sysctls: map(spec.sysctls),
        masked: some(spec.masked),
        unmasked: some(spec.unmasked),
        pidNamespace: namespace_to_wire(spec.pid_namespace),
        ipcNamespace: namespace_to_wire(spec.ipc_namespace),
        utsNamespace: namespace_to_wire(spec.uts_namespace),
        userNamespace: user_namespace_to_wire(spec.user_namespace),
        networkNamespace: spec
            .network_namespace
            .filter(|namespace| !matches!(namespace, engine::Namespace::Pod(_)))
            .map(|namespace| {
                let private = wire::Namespace { kind: wire::Namespace_kind::private, container: None };
                namespace_to_wire(namespace).unwrap_or(private)
            }),
        networks: spec
            .networks
            .map(|networks| networks.into_iter().map(network_types::attachment_to_wire).collect()),
        ports: if spec.ports.is_empty() {
            None
        } else {
            Some(spec.ports.into_iter().map(network_types::mapping_to_wire).collect())
        },
        publishAll: yes(spec.publish_all),
        dnsServers: some(spec.dns_servers.iter().map(ToString::to_string).collect()),
        dnsSearch: some(spec.dns_search),
        dnsOptions: some(spec.dns_options),
        extraHosts: map(spec.extra_hosts),
        resources: (spec.resources != engine::Resources::default())
            .then(|| resources_to_wire(spec.resources)),
        shmSizeBytes: wide(spec.shm_size_bytes),
        oomScoreAdjust: spec.oom_score_adjust.map(Into::into),
        stopSignal: spec.stop_signal,
        stopTimeoutUSec: wide(spec.stop_timeout_usec),
        systemd: match spec.systemd {
            engine::SystemdMode::Auto => None,
            engine::SystemdMode::Always => Some(wire::Spec_systemd::always),
            engine::SystemdMode::Off => Some(wire::Spec_systemd::off),
        },
        sdNotify: spec.sd_notify.map(|who| match who {
            engine::SdNotify::Started => wire::Spec_sdNotify::started,
            engine::SdNotify::Payload => wire::Spec_sdNotify::payload,
            engine::SdNotify::Healthy => wire::Spec_sdNotify::healthy,
        }),
        healthCheck: spec.health_check.map(health::spec_to_wire),
        terminal: yes(spec.terminal),
        stdinOpen: yes(spec.stdin_open),
        labels: map(spec.labels),
        annotations: map(spec.annotations),
        restart: match spec.restart {
            engine::Restart::No => None,
            engine::Restart::Always => Some((wire::RestartPolicy_mode::always, None)),
            engine::Restart::UnlessStopped => Some((wire::RestartPolicy_mode::unlessStopped, None)),
            engine::Restart::OnFailure { retries_max } => {
                Some((wire::RestartPolicy_mode::onFailure, retries_max.map(Into::into)))
            }
        }
        .map(|(mode, retries)| wire::RestartPolicy { mode, retriesMax: retries }),
        init: yes(spec.init),
        log: (spec.log != engine::Log::default()).then(|| log_to_wire(spec.log)),
        runtime: match spec.runtime {
            engine::Runtime::Native => None,
            engine::Runtime::Crun => Some(wire::Spec_runtime::crun),
            engine::Runtime::Runc => Some(wire::Spec_runtime::runc),
        },
        autoRemove: yes(spec.auto_remove),
    }
}

fn namespace_to_wire(namespace: engine::Namespace) -> Option<wire::Namespace> {
    match namespace {
        // Of a pod it is not asked for by itself.
        engine::Namespace::Private | engine::Namespace::Pod(_) => None,
        engine::Namespace::Host => {
            Some(wire::Namespace { kind: wire::Namespace_kind::host, container: None })
        }
        engine::Namespace::Container(name) => {
            Some(wire::Namespace { kind: wire::Namespace_kind::container, container: Some(name) })
        }
    }
}

fn user_namespace_to_wire(namespace: engine::UserNamespace) -> Option<wire::UserNamespace> {
    let mappings = |mappings: Vec<engine::IdMapping>| {
        let one = |one: engine::IdMapping| wire::IdMapping {
            containerId: one.inside.into(),
            hostId: one.outside.into(),
            count: one.count.into(),
        };
        Some(mappings.into_iter().map(one).collect())
    };
    let none = wire::UserNamespace {
        kind: wire::UserNamespace_kind::auto,
        size: None,
        uidMappings: None,
        gidMappings: None,
    };
    match namespace {
        engine::UserNamespace::Host => None,
        engine::UserNamespace::Auto { size } => {
            Some(wire::UserNamespace { size: size.map(Into::into), ..none })
        }
        engine::UserNamespace::Private { users, groups } => Some(wire::UserNamespace {
            kind: wire::UserNamespace_kind::private,
            uidMappings: mappings(users),
            gidMappings: mappings(groups),
            ..none
        }),
    }
}

fn resources_to_wire(resources: engine::Resources) -> wire::Resources {
    let wide = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    let limit = |limit: engine::IoLimit| wire::IoLimit {
        path: limit.path,
        readBytesPerSec: wide(limit.read_bytes_per_sec),
        writeBytesPerSec: wide(limit.write_bytes_per_sec),
        readOperationsPerSec: wide(limit.read_operations_per_sec),
        writeOperationsPerSec: wide(limit.write_operations_per_sec),
    };
    wire::Resources {
        memoryBytes: resources.memory_bytes,
        memorySwapBytes: resources.memory_swap_bytes,
        memoryReservationBytes: resources.memory_reservation_bytes,
        cpuQuotaUSec: resources.cpu_quota_usec,
        cpuPeriodUSec: wide(resources.cpu_period_usec),
        cpuShares: wide(resources.cpu_shares),
        cpuWeight: None,
        cpusetCpus: resources.cpuset_cpus,
        cpusetMems: resources.cpuset_mems,
        pidsMax: resources.pids_max,
        ioWeight: resources.io_weight.map(Into::into),
        ioLimits: if resources.io_limits.is_empty() {
            None
        } else {
            Some(resources.io_limits.into_iter().map(limit).collect())
        },
    }
}

fn log_to_wire(log: engine::Log) -> wire::LogConfig {
    let (driver, sizes) = match log {
        engine::Log::K8sFile { size_max_bytes, files_max } => {
            (wire::LogConfig_driver::k8sFile, Some((size_max_bytes, files_max)))
        }
        engine::Log::Journald => (wire::LogConfig_driver::journald, None),
        engine::Log::None => (wire::LogConfig_driver::none, None),
    };
    wire::LogConfig {
        driver,
        sizeMaxBytes: sizes.and_then(|(size, _)| i64::try_from(size).ok()),
        filesMax: sizes.map(|(_, files)| files.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// Through the engine and back; what was left out stays out.
    #[track_caller]
    fn round_trip(spec: Value) {
        let given: wire::Spec = serde_json::from_value(spec.clone()).unwrap();
        let back = serde_json::to_value(spec_to_wire(spec_from_wire(given).unwrap())).unwrap();
        let back: Value = drop_nulls(back);
        assert_eq!(back, spec);
    }

    fn drop_nulls(value: Value) -> Value {
        match value {
            Value::Object(map) => map
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key, drop_nulls(value)))
                .collect(),
            Value::Array(list) => list.into_iter().map(drop_nulls).collect(),
            other => other,
        }
    }

    #[test]
    fn what_a_client_gave_is_what_it_is_told() {
        round_trip(json!({"image": "web"}));
        round_trip(json!({
            "image": "web", "name": "n", "command": ["a"], "entrypoint": [], "env": {"A": "b"}, "user": "u", "groups": ["g"],
            "workdir": "/w", "umask": 18, "hostname": "h", "domainname": "d",
            "mounts": [
                {"kind": "bind", "source": "/s", "target": "/t", "readOnly": true, "propagation": "rslave", "nonRecursive": true},
                {"kind": "tmpfs", "target": "/t", "sizeBytes": 5, "mode": 511, "flags": ["noexec"]}],
            "devices": [{"path": "/dev/null", "containerPath": "/dev/x", "permissions": "r"}],
            "capabilitiesAdd": ["NET_ADMIN"], "capabilitiesDrop": ["ALL"], "privileged": true, "noNewPrivileges": true,
            "seccomp": {"kind": "profile", "profile": {"x": 1}}, "readOnlyRoot": true,
            "resourceLimits": [{"name": "nofile", "soft": 5, "hard": -1}], "sysctls": {"net.x": "1"},
            "masked": ["/a"], "unmasked": ["ALL"], "pidNamespace": {"kind": "host"},
            "ipcNamespace": {"kind": "container", "container": "o"},
            "resources": {"memoryBytes": 1, "cpuShares": 2, "ioLimits": [{"path": "/dev/sda", "readBytesPerSec": 1}]},
            "shmSizeBytes": 1, "oomScoreAdjust": -5, "stopSignal": "INT", "stopTimeoutUSec": 7, "systemd": "off", "terminal": true,
            "stdinOpen": true, "labels": {"l": ""}, "annotations": {"a": "b"}, "restart": {"mode": "onFailure", "retriesMax": 3},
            "init": true, "log": {"driver": "k8sFile", "sizeMaxBytes": 8192, "filesMax": 2}, "runtime": "crun", "autoRemove": true,
        }));
        let range = json!([{"source": 0, "target": 1000, "count": 1}]);
        round_trip(json!({
            "mounts": [
                {"kind": "volume", "target": "/v"},
                {"kind": "volume", "source": "v", "target": "/w", "noCopy": true, "chown": true, "readOnly": true,
                 "idMap": {"uids": range, "gids": range}},
                {"kind": "image", "source": "i", "target": "/i"},
                {"kind": "image", "source": "i", "target": "/j", "readOnly": false}],
            "volumesFrom": [{"container": "a"}, {"container": "b", "readOnly": true}],
            "secrets": [{"secret": "s"}, {"secret": "s", "target": "/t", "uid": 1, "gid": 2, "mode": 256},
                        {"secret": "s", "kind": "env", "target": "T"}],
        }));
        let one = json!([{"containerId": 0, "hostId": 1000, "count": 1}]);
        let private = json!({"kind": "private", "uidMappings": one, "gidMappings": one});
        for namespace in [private, json!({"kind": "auto", "size": 5}), json!({"kind": "auto"})] {
            round_trip(json!({"image": "web", "userNamespace": namespace}));
        }
        round_trip(json!({
            "networkNamespace": {"kind": "private"},
            "networks": [{"network": "n", "addresses": ["10.0.0.2"], "mac": "02:00:00:00:00:01", "aliases": ["a"], "interface": "host0"}],
            "ports": [{"containerPort": 80, "hostPort": 8080, "hostIp": "127.0.0.1", "protocol": "udp", "range": 2}],
            "publishAll": true, "dnsServers": ["192.0.2.1"], "dnsSearch": ["example"], "dnsOptions": ["ndots:1"],
            "extraHosts": {"db": "10.0.0.3"}, "sdNotify": "payload", "pod": "p",
            "healthCheck": {"kind": "command", "command": ["a"], "intervalUSec": 5000, "retries": 2, "onFailure": "kill"},
        }));
    }

    #[track_caller]
    fn refused(spec: Value, field: &str) {
        match spec_from_wire(serde_json::from_value(spec).unwrap()) {
            Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_instead_of_passed_over() {
        refused(json!({"mounts": [{"kind": "bind", "target": "/t"}]}), "spec.mounts[0].source");
        refused(
            json!({"mounts": [{"kind": "tmpfs", "target": "/t", "source": "/s"}]}),
            "spec.mounts[0].source",
        );
        refused(
            json!({"mounts": [{"kind": "tmpfs", "target": "/t", "sizeBytes": -1}]}),
            "spec.mounts[0].sizeBytes",
        );
        refused(
            json!({"mounts": [{"kind": "volume", "target": "/t", "propagation": "slave"}]}),
            "spec.mounts[0].propagation",
        );
        refused(
            json!({"mounts": [{"kind": "bind", "source": "/s", "target": "/t", "noCopy": true}]}),
            "spec.mounts[0].noCopy",
        );
        refused(json!({"mounts": [{"kind": "image", "target": "/t"}]}), "spec.mounts[0].source");
        refused(json!({"secrets": [{"secret": "s", "kind": "env", "uid": 5}]}), "spec.secrets[0].uid");
        refused(json!({"resources": {"cpuShares": 2, "cpuWeight": 2}}), "spec.resources.cpuWeight");
        refused(json!({"resources": {"cpuWeight": 10001}}), "spec.resources.cpuWeight");
        refused(json!({"restart": {"mode": "always", "retriesMax": 1}}), "spec.restart.retriesMax");
        refused(json!({"pidNamespace": {"kind": "container"}}), "spec.pidNamespace.container");
        refused(json!({"seccomp": {"kind": "profile"}}), "spec.seccomp.profile");
        refused(json!({"stopTimeoutUSec": -1}), "spec.stopTimeoutUSec");
        refused(json!({"healthCheck": {"kind": "shell"}}), "spec.healthCheck.shell");
        refused(json!({"healthCheck": {"kind": "systemd", "command": ["x"]}}), "spec.healthCheck.command");
        refused(json!({"healthCheck": {"kind": "systemd", "retries": -1}}), "spec.healthCheck.retries");
        refused(json!({"log": {"driver": "none", "filesMax": 1}}), "spec.log");
    }

    #[test]
    fn weights_become_the_shares_that_become_them_again() {
        assert_eq!(shares_of_weight(1), 2);
        assert_eq!(shares_of_weight(10_000), 262_144);
        for weight in [1, 2, 39, 100, 500, 9_999, 10_000] {
            assert_eq!(1 + ((shares_of_weight(weight) - 2) * 9_999).div_ceil(262_142), weight);
        }
    }
}
