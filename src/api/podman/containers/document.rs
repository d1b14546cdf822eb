//! The documents that tell all of a container. Clients read them into structs of Go: every key has its type, and what has no
//! meaning here is empty rather than missing.

use serde_json::{Value, json};

use crate::engine::spec::{HealthTest, Log, Namespace, Restart, Seccomp};
use crate::engine::{Engine, EngineError, HealthCheck, Phase};

use super::super::text::{state_number, time};
use super::One;

const OCI_VERSION: &str = "1.0.2";

/// What is true now.
pub(super) fn state(one: &One) -> Value {
    let live = &one.listed.live;
    let told = live.told.as_ref();
    let monitor = told.filter(|_| live.supervised).map_or(0, |told| told.monitor.pid);
    json!({
        "state": state_number(one.phase()),
        "configPath": "",
        "runDir": "",
        "mounted": one.phase().is_alive(),
        "mountPoint": "",
        "startedTime": time(one.started_usec()),
        "finishedTime": time(one.finished_usec()),
        "exitCode": live.exit_code().unwrap_or_default(),
        "exited": matches!(one.phase(), Phase::Exited | Phase::Failed),
        "oomKilled": told.is_some_and(|told| told.oom_killed),
        "pid": live.pid().unwrap_or_default(),
        "conmonPid": monitor,
        "newExecSessions": {},
        "bindMounts": {},
        "stoppedByUser": one.phase() == Phase::Stopping,
        "restartCount": told.map_or(0, |told| told.restarts),
    })
}

/// What was asked for.
pub(super) fn config(engine: &Engine, one: &One) -> Result<Value, EngineError> {
    let definition = &one.container.definition;
    let spec = &definition.spec;
    let ports: Vec<Value> = one
        .ports()
        .iter()
        .map(|port| {
            json!({"hostPort": port.host, "containerPort": port.container, "protocol": port.protocol,
                   "hostIP": port.host_ip})
        })
        .collect();
    let log = engine.log_file(&one.container).map(|path| path.to_string_lossy().into_owned());
    let other_network = match spec.network_namespace() {
        Namespace::Container(other) => engine.find_row(other).map(|row| row.id).unwrap_or_default(),
        _ => String::new(),
    };
    Ok(json!({
        "spec": engine.runtime_spec(one.id())?,
        "id": one.id(),
        "name": one.listed.name,
        "pod": one.pod(),
        "namespace": "",
        "rootfsImageID": one.image_id(),
        "rootfsImageName": one.image(),
        "rootfs": spec.rootfs.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
        "labels": one.listed.labels,
        "command": one.listed.command,
        "entrypoint": spec.entrypoint,
        "createdTime": time(Some(one.listed.created_usec)),
        "stopSignal": definition.stop_signal,
        "stopTimeout": definition.stop_timeout_usec / 1_000_000,
        "netNsCtr": other_network,
        "portMappings": ports,
        "staticIP": static_address(one),
        "staticMAC": null,
        "logPath": log.unwrap_or_default(),
        "logDriver": log_driver(spec.log),
        "stdin": spec.stdin_open,
        "healthcheck": definition.health.as_ref().map(health_check),
        "restartPolicy": restart(spec.restart).0,
        "restartRetries": restart(spec.restart).1,
        "shmSize": shm_size(one),
        "user": definition.user,
        "systemd": definition.systemd,
    }))
}

/// Times are nanoseconds.
fn health_check(check: &HealthCheck) -> Value {
    let test = match &check.test {
        HealthTest::Command(command) => {
            std::iter::once("CMD".to_owned()).chain(command.iter().cloned()).collect()
        }
        HealthTest::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        _ => vec!["NONE".to_owned()],
    };
    json!({"Test": test, "Interval": check.interval_usec * 1000, "Timeout": check.timeout_usec * 1000,
           "StartPeriod": check.start_period_usec * 1000, "Retries": check.retries})
}

fn static_address(one: &One) -> String {
    let networks = &one.container.definition.networks;
    networks.iter().flat_map(|network| &network.addresses).next().map(ToString::to_string).unwrap_or_default()
}

fn shm_size(one: &One) -> u64 {
    one.container.definition.spec.shm_size_bytes.unwrap_or(64 << 20)
}

fn log_driver(log: Log) -> &'static str {
    match log {
        Log::K8sFile { .. } => "k8s-file",
        Log::Journald => "journald",
        Log::None => "none",
    }
}

fn restart(restart: Restart) -> (&'static str, u32) {
    match restart {
        Restart::No => ("", 0),
        Restart::OnFailure { retries_max } => ("on-failure", retries_max.unwrap_or_default()),
        Restart::Always => ("always", 0),
        Restart::UnlessStopped => ("unless-stopped", 0),
    }
}

fn mode(namespace: &Namespace) -> String {
    match namespace {
        Namespace::Host => "host".to_owned(),
        Namespace::Container(other) => format!("container:{other}"),
        _ => "private".to_owned(),
    }
}

fn network_mode(one: &One) -> String {
    let definition = &one.container.definition;
    match definition.spec.network_namespace() {
        Namespace::Private if definition.networks.is_empty() => "none".to_owned(),
        Namespace::Private => "bridge".to_owned(),
        other => mode(other),
    }
}

/// `podman inspect`.
pub(super) fn inspect(engine: &Engine, one: &One, sized: bool) -> Value {
    let definition = &one.container.definition;
    let spec = &definition.spec;
    let (path, arguments) =
        definition.command.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
    let directory = engine.paths().container(one.id());
    let in_directory = |name: &str| directory.join(name).to_string_lossy().into_owned();
    let runtime_spec = engine.runtime_spec(one.id()).unwrap_or_default();
    let capabilities =
        |set: &str| runtime_spec["process"]["capabilities"][set].as_array().cloned().unwrap_or_default();
    let upper: Vec<String> = definition.layers.iter().rev().cloned().collect();
    let log = engine.log_file(&one.container).map(|path| path.to_string_lossy().into_owned());
    let monitor = one.listed.live.told.as_ref().filter(|_| one.listed.live.supervised);
    let mounts: Vec<Value> = one
        .mounts()
        .into_iter()
        .map(|mount| {
            json!({
                "Type": mount.r#type, "Name": if mount.r#type == "volume" { mount.source.as_str() } else { "" },
                "Source": mount.source, "Destination": mount.destination, "Driver": "",
                "Mode": "", "Options": mount.options,
                "RW": !mount.options.iter().any(|option| option == "ro"),
                "Propagation": mount.options.iter().find(|option| option.contains("private") || option.contains("shared")
                    || option.contains("slave")).cloned().unwrap_or_default(),
            })
        })
        .collect();
    let runtime = match spec.runtime {
        crate::engine::spec::Runtime::Native => "dormouse",
        crate::engine::spec::Runtime::Crun => "crun",
        crate::engine::spec::Runtime::Runc => "runc",
    };
    let mut document = json!({
        "Id": one.id(),
        "Created": time(Some(one.listed.created_usec)),
        "Path": path,
        "Args": arguments,
        "State": inspected_state(engine, one, monitor.map_or(0, |told| told.monitor.pid)),
        "Image": one.image_id(),
        "ImageName": one.image(),
        "Rootfs": spec.rootfs.as_ref().map(|path| path.to_string_lossy()).unwrap_or_default(),
        "Pod": one.pod(),
        "ResolvConfPath": in_directory("etc/resolv.conf"),
        "HostnamePath": in_directory("etc/hostname"),
        "HostsPath": in_directory("etc/hosts"),
        "StaticDir": directory.to_string_lossy(),
        "OCIConfigPath": engine.runtime_spec_path(one.id()).to_string_lossy(),
        "OCIRuntime": runtime,
        "LogPath": log.unwrap_or_default(),
        "LogTag": "",
        "ConmonPidFile": "",
        "Name": one.listed.name,
        "RestartCount": one.listed.live.told.as_ref().map_or(0, |told| told.restarts),
        "Driver": "overlay",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "EffectiveCaps": capabilities("effective"),
        "BoundingCaps": capabilities("bounding"),
        "ExecIDs": [],
        "GraphDriver": {"Name": "overlay", "Data": {
            "LowerDir": upper.join(":"), "UpperDir": in_directory("upper"), "WorkDir": in_directory("work")}},
        "SizeRootFs": 0,
        "Mounts": mounts,
        "Dependencies": dependencies(engine, one),
        "NetworkSettings": network(engine, one),
        "ExitCommand": [],
        "Namespace": "",
        "IsInfra": false,
        "Config": inspected_config(one),
        "HostConfig": host_config(one),
    });
    if sized {
        let (root, written) = one.sizes(engine);
        document["SizeRootFs"] = json!(root);
        document["SizeRw"] = json!(written);
    }
    document
}

fn inspected_state(engine: &Engine, one: &One, monitor: i32) -> Value {
    let check = |result: crate::monitor::check::CheckResult| {
        json!({"Start": time(Some(result.started_usec)), "End": time(Some(result.ended_usec)),
               "ExitCode": result.exit_code.unwrap_or(-1), "Output": result.output})
    };
    let log: Vec<Value> = engine.health_results(one.id()).into_iter().map(check).collect();
    let live = &one.listed.live;
    json!({
        "OciVersion": OCI_VERSION,
        "Status": super::super::text::state(one.phase()),
        "Running": matches!(one.phase(), Phase::Running | Phase::Stopping),
        "Paused": one.phase() == Phase::Paused,
        "Restarting": false,
        "OOMKilled": live.told.as_ref().is_some_and(|told| told.oom_killed),
        "Dead": false,
        "Pid": live.pid().unwrap_or_default(),
        "ConmonPid": monitor,
        "ExitCode": live.exit_code().unwrap_or_default(),
        "Error": live.error().unwrap_or_default(),
        "StartedAt": time(one.started_usec()),
        "FinishedAt": time(one.finished_usec()),
        "Healthcheck": {
            "Status": live.health().map(|health| health.as_str()).unwrap_or_default(),
            "FailingStreak": live.told.as_ref().map_or(0, |told| told.health_failures),
            "Log": log,
        },
    })
}

fn dependencies(engine: &Engine, one: &One) -> Vec<String> {
    let spec = &one.container.definition.spec;
    let all = [&spec.pid_namespace, &spec.ipc_namespace, &spec.uts_namespace, spec.network_namespace()];
    let mut ids: Vec<String> = all
        .into_iter()
        .filter_map(|namespace| match namespace {
            Namespace::Container(other) => engine.find_row(other).ok().map(|row| row.id),
            _ => None,
        })
        .collect();
    ids.sort();
    ids.dedup();
    ids
}

fn network(engine: &Engine, one: &One) -> Value {
    let first = one.listed.network.as_ref().and_then(|network| network.attached.first());
    let of = |six: bool| {
        let address = first.and_then(|first| first.addresses.iter().find(|net| net.addr().is_ipv6() == six));
        let gateway = first.and_then(|first| first.gateways.iter().find(|gateway| gateway.is_ipv6() == six));
        (
            address.map(|net| net.addr().to_string()).unwrap_or_default(),
            address.map_or(0, |net| net.prefix_len()),
            gateway.map(ToString::to_string).unwrap_or_default(),
        )
    };
    let ((four, length, gateway), (six, six_length, six_gateway)) = (of(false), of(true));
    let ports: Vec<Value> = one
        .ports()
        .iter()
        .map(|port| {
            json!({"hostPort": port.host, "containerPort": port.container, "protocol": port.protocol,
                   "hostIP": port.host_ip})
        })
        .collect();
    let sandbox = one.listed.network.as_ref().map(|_| engine.namespace_of(one.id()));
    json!({
        "Bridge": "", "SandboxID": "", "HairpinMode": false, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports,
        "SandboxKey": sandbox.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        "SecondaryIPAddresses": null, "SecondaryIPv6Addresses": null, "EndpointID": "",
        "Gateway": gateway, "GlobalIPv6Address": six, "GlobalIPv6PrefixLen": six_length,
        "IPAddress": four, "IPPrefixLen": length, "IPv6Gateway": six_gateway,
        "MacAddress": first.and_then(|first| first.mac.clone()).unwrap_or_default(),
    })
}

fn inspected_config(one: &One) -> Value {
    let definition = &one.container.definition;
    let spec = &definition.spec;
    let env: Vec<String> = definition.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    json!({
        "Hostname": spec.hostname.clone().unwrap_or_else(|| one.id()[..12].to_owned()),
        "Domainname": spec.domainname.clone().unwrap_or_default(),
        "User": definition.user,
        "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
        "Tty": spec.terminal,
        "OpenStdin": spec.stdin_open,
        "StdinOnce": false,
        "Env": env,
        "Cmd": definition.command,
        "Image": one.image(),
        "Volumes": null,
        "WorkingDir": definition.workdir,
        "Entrypoint": spec.entrypoint.clone().unwrap_or_default().join(" "),
        "OnBuild": null,
        "Labels": one.listed.labels,
        "Annotations": spec.annotations,
        "StopSignal": definition.stop_signal,
        "CreateCommand": [],
    })
}

fn host_config(one: &One) -> Value {
    let definition = &one.container.definition;
    let spec = &definition.spec;
    let resources = &spec.resources;
    let mut bindings = serde_json::Map::new();
    for port in one.ports() {
        let key = format!("{}/{}", port.container, port.protocol);
        let binding = json!({"HostIp": port.host_ip, "HostPort": port.host.to_string()});
        if let Some(list) = bindings.entry(key).or_insert_with(|| json!([])).as_array_mut() {
            list.push(binding);
        }
    }
    let binds: Vec<String> = one
        .mounts()
        .into_iter()
        .filter(|mount| mount.r#type != "tmpfs")
        .map(|mount| format!("{}:{}:{}", mount.source, mount.destination, mount.options.join(",")))
        .collect();
    let limits: Vec<Value> = spec
        .resource_limits
        .iter()
        .map(|limit| {
            let number = |value: Option<u64>| value.unwrap_or(u64::MAX);
            json!({"Name": format!("RLIMIT_{}", limit.name.to_uppercase()), "Soft": number(limit.soft),
                   "Hard": number(limit.hard)})
        })
        .collect();
    let nano_cpus = resources.cpu_quota_usec.map_or(0, |quota| {
        let period =
            resources.cpu_period_usec.and_then(|period| i64::try_from(period).ok()).unwrap_or(100_000);
        quota.saturating_mul(1_000_000_000) / period.max(1)
    });
    let mut security: Vec<&str> = Vec::new();
    if spec.no_new_privileges {
        security.push("no-new-privileges");
    }
    if spec.seccomp == Seccomp::Unconfined {
        security.push("seccomp=unconfined");
    }
    let (restart_name, retries) = restart(spec.restart);
    let mut config = json!({
        "Binds": binds,
        "ContainerIDFile": "",
        "LogConfig": {"Type": log_driver(spec.log), "Config": null},
        "NetworkMode": network_mode(one),
        "PortBindings": bindings,
        "RestartPolicy": {"Name": restart_name, "MaximumRetryCount": retries},
        "AutoRemove": spec.auto_remove,
        "VolumeDriver": "", "VolumesFrom": null,
        "CapAdd": spec.capabilities_add, "CapDrop": spec.capabilities_drop,
        "Dns": spec.dns_servers, "DnsOptions": spec.dns_options, "DnsSearch": spec.dns_search,
        "ExtraHosts": spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect::<Vec<_>>(),
        "GroupAdd": spec.groups,
        "IpcMode": mode(&spec.ipc_namespace),
        "Cgroup": "", "Cgroups": "default", "Links": null,
        "OomScoreAdj": spec.oom_score_adjust.unwrap_or_default(),
        "PidMode": mode(&spec.pid_namespace),
        "Privileged": spec.privileged,
        "PublishAllPorts": spec.publish_all,
        "ReadonlyRootfs": spec.read_only_root,
        "SecurityOpt": security,
        "Tmpfs": one.mounts().into_iter().filter(|mount| mount.r#type == "tmpfs")
            .map(|mount| (mount.destination, json!(mount.options.join(",")))).collect::<serde_json::Map<_, _>>(),
        "UTSMode": mode(&spec.uts_namespace),
        "UsernsMode": "",
        "ShmSize": shm_size(one),
    });
    let limits = json!({
        "Runtime": "oci",
        "ConsoleSize": [0, 0],
        "Isolation": "",
        "CpuShares": resources.cpu_shares.unwrap_or_default(),
        "Memory": resources.memory_bytes.unwrap_or_default(),
        "NanoCpus": nano_cpus,
        "CgroupParent": "",
        "BlkioWeight": resources.io_weight.unwrap_or_default(),
        "BlkioWeightDevice": null, "BlkioDeviceReadBps": null, "BlkioDeviceWriteBps": null,
        "BlkioDeviceReadIOps": null, "BlkioDeviceWriteIOps": null,
        "CpuPeriod": resources.cpu_period_usec.unwrap_or_default(),
        "CpuQuota": resources.cpu_quota_usec.unwrap_or_default(),
        "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0,
        "CpusetCpus": resources.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.clone().unwrap_or_default(),
        "Devices": spec.devices.iter().map(|device| json!({"PathOnHost": device.path,
            "PathInContainer": device.container_path, "CgroupPermissions": device.permissions})).collect::<Vec<_>>(),
        "DiskQuota": 0, "KernelMemory": 0,
        "MemoryReservation": resources.memory_reservation_bytes.unwrap_or_default(),
        "MemorySwap": resources.memory_swap_bytes.unwrap_or_default(),
        "MemorySwappiness": 0,
        "OomKillDisable": false,
        "PidsLimit": resources.pids_max.unwrap_or_default(),
        "Ulimits": limits,
        "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0, "IOMaximumBandwidth": 0,
    });
    if let (Some(config), Value::Object(limits)) = (config.as_object_mut(), limits) {
        config.extend(limits);
    }
    config
}
