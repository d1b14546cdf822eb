//! A new container: the options of the interface are the flags of `podman create`, and are read as such.

use std::sync::Arc;

use crate::api::convert::spec_from_wire;
use crate::api::{CancelOnDrop, looked_up, ordered};
use crate::engine::{EngineError, PullRequest, PullWhen};
use crate::image::manifest::Platform;
use crate::varlink::{Call, CallError};

use super::super::errors::{failed_anyhow, occurred};
use super::super::{PodmanInterface, wire};

/// Where Podman puts file systems in memory under a read-only root.
const WRITABLE: [&str; 3] = ["/run", "/tmp", "/var/tmp"];

impl PodmanInterface {
    pub(super) async fn create_container(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::CreateContainer_Args { create } = call.parameters()?;
        let Some(image) = create.args.first().cloned() else {
            return Err(occurred("cannot make a container: args is empty; its first element is the image"));
        };
        let flags = flags(&create).map_err(occurred)?;
        let spec = (self.read_flags)(flags)
            .map_err(|reason| occurred(format!("cannot make a container: {reason}")))?;
        let spec = serde_json::from_value(serde_json::Value::Object(spec))
            .map_err(|error| occurred(format!("cannot make a container: {error}")))?;
        let spec = spec_from_wire(spec).map_err(failed_anyhow)?;
        if create.rootfs != Some(true) {
            self.have_image(&image, &create).await.map_err(failed_anyhow)?;
        }
        let engine = self.engine.clone();
        let created = ordered(call, async move { engine.create(spec).await }).await.map_err(failed_anyhow)?;
        call.reply(wire::CreateContainer_Reply { container: created.id }).await
    }

    /// Pulls the image, if that is wanted.
    async fn have_image(&self, image: &str, create: &wire::Create) -> Result<(), EngineError> {
        let policy = create.pull.as_deref().unwrap_or_default().to_ascii_lowercase();
        let when = match policy.as_str() {
            "always" => PullWhen::Always,
            "newer" => PullWhen::Newer,
            // The container says what is not there.
            "never" | "false" => return Ok(()),
            _ => PullWhen::Missing,
        };
        let platform = match (given(&create.overrideOS), given(&create.overrideArch)) {
            (None, None) => None,
            (os, architecture) => {
                let host = Platform::host();
                Some(Platform {
                    os: os.unwrap_or(&host.os).to_owned(),
                    architecture: architecture.unwrap_or(&host.architecture).to_owned(),
                    variant: None,
                })
            }
        };
        let request = PullRequest { name: image.to_owned(), platform, credentials: None, when };
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        looked_up(move || engine.pull(&request, &flag, &|_| {})).await.map(drop)
    }
}

/// An option that says something.
fn given(option: &Option<String>) -> Option<&str> {
    option.as_deref().filter(|text| !text.is_empty())
}

/// The flags that say the same; the error names an option that has no flag here.
fn flags(create: &wire::Create) -> Result<Vec<String>, String> {
    refuse(create)?;
    let mut flags = Vec::new();
    let mut text = |flag: &str, option: &Option<String>| {
        flags.extend(given(option).map(|value| format!("--{flag}={value}")));
    };
    text("blkio-weight", &create.blkioWeight);
    text("cpuset-cpus", &create.cpuSetCpus);
    text("cpuset-mems", &create.cpuSetMems);
    text("health-cmd", &create.healthcheckCommand);
    text("health-interval", &create.healthcheckInterval);
    text("health-start-period", &create.healthcheckStartPeriod);
    text("health-timeout", &create.healthcheckTimeout);
    text("hostname", &create.hostname);
    text("ip", &create.ip);
    text("ipc", &create.ipc);
    text("log-driver", &create.logDriver);
    text("mac-address", &create.macAddress);
    text("memory", &create.memory);
    text("memory-reservation", &create.memoryReservation);
    text("memory-swap", &create.memorySwap);
    text("name", &create.name);
    text("pid", &create.pid);
    text("pod", &create.pod);
    text("restart", &create.restart);
    text("shm-size", &create.shmSize);
    text("stop-signal", &create.stopSignal);
    text("subuidname", &create.subuidname);
    text("subgidname", &create.subgidname);
    text("systemd", &create.systemd);
    text("user", &create.user);
    text("userns", &create.userns);
    text("uts", &create.uts);
    text("workdir", &create.workDir);
    if let Some(entrypoint) = &create.entrypoint {
        flags.push(format!("--entrypoint={entrypoint}"));
    }
    for network in given(&create.network).unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        flags.push(format!("--network={}", if network == "default" { "bridge" } else { network }));
    }
    let mut list = |flag: &str, option: &Option<Vec<String>>| {
        flags.extend(option.iter().flatten().map(|value| format!("--{flag}={value}")));
    };
    list("add-host", &create.addHost);
    list("annotation", &create.annotation);
    list("cap-add", &create.capAdd);
    list("cap-drop", &create.capDrop);
    list("device", &create.device);
    list("device-read-bps", &create.deviceReadBps);
    list("device-read-iops", &create.deviceReadIops);
    list("device-write-bps", &create.deviceWriteBps);
    list("device-write-iops", &create.deviceWriteIops);
    list("dns", &create.dns);
    list("dns", &create.dnsServers);
    list("dns-option", &create.dnsOpt);
    list("dns-search", &create.dnsSearch);
    list("gidmap", &create.gidmap);
    list("group-add", &create.groupadd);
    list("label", &create.label);
    list("log-opt", &create.logOpt);
    list("mount", &create.mount);
    list("publish", &create.publish);
    list("security-opt", &create.securityOpt);
    list("sysctl", &create.sysctl);
    list("tmpfs", &create.tmpfs);
    list("uidmap", &create.uidmap);
    list("ulimit", &create.ulimit);
    list("volume", &create.volume);
    list("volumes-from", &create.volumesFrom);
    if create.readonly == Some(true) && create.readonlytmpfs == Some(true) {
        let places = targets(create);
        let free = WRITABLE.iter().filter(|place| !places.contains(place));
        flags.extend(free.map(|place| format!("--tmpfs={place}")));
    }
    // A name alone would be a variable of the service; python's library sends such.
    let env = create.env.iter().flatten().filter(|pair| pair.contains('='));
    flags.extend(env.map(|pair| format!("--env={pair}")));
    if create.publishAll == Some(true) {
        flags.extend(create.expose.iter().flatten().map(|port| format!("--publish={port}")));
    }
    let numbers = [
        ("cpu-period", create.cpuPeriod.filter(|number| *number != 0)),
        ("cpu-quota", create.cpuQuota.filter(|number| *number != 0)),
        ("cpu-shares", create.cpuShares.filter(|number| *number != 0)),
        ("health-retries", create.healthcheckRetries.filter(|number| *number != 0)),
        ("oom-score-adj", create.oomScoreAdj.filter(|number| *number != 0)),
        ("pids-limit", create.pidsLimit.filter(|number| *number != 0)),
        ("stop-timeout", create.stopTimeout),
    ];
    flags.extend(numbers.into_iter().filter_map(|(flag, number)| Some(format!("--{flag}={}", number?))));
    if let Some(cpus) = create.cpus.filter(|cpus| *cpus > 0.0) {
        flags.push(format!("--cpus={}", (cpus * 100_000.0).round() / 100_000.0));
    }
    let switches = [
        ("init", create.init),
        ("interactive", create.interactive),
        ("privileged", create.privileged),
        ("publish-all", create.publishAll),
        ("read-only", create.readonly),
        ("rm", create.rm),
        ("rootfs", create.rootfs),
        ("tty", create.tty),
    ];
    flags.extend(
        switches.into_iter().filter(|(_, on)| *on == Some(true)).map(|(flag, _)| format!("--{flag}")),
    );
    flags.push("--".to_owned());
    flags.extend(create.args.iter().cloned());
    Ok(flags)
}

fn words(option: &Option<Vec<String>>) -> impl Iterator<Item = &str> {
    option.iter().flatten().map(String::as_str)
}

/// Where something is to be mounted.
fn targets(create: &wire::Create) -> Vec<&str> {
    let tmpfs = words(&create.tmpfs).filter_map(|option| option.split(':').next());
    let volumes = words(&create.volume).filter_map(|option| {
        let mut words = option.split(':');
        let first = words.next();
        words.next().or(first)
    });
    let mounts = words(&create.mount).flat_map(|option| option.split(',')).filter_map(|part| {
        let (key, value) = part.split_once('=')?;
        matches!(key, "target" | "destination" | "dst").then_some(value)
    });
    tmpfs.chain(volumes).chain(mounts).collect()
}

/// What can't be had here is refused, not passed over: it was asked for.
fn refuse(create: &wire::Create) -> Result<(), String> {
    let files = "files of the service's host are not read for a client; give what is in it";
    let list = |option: &Option<Vec<String>>| option.as_ref().is_some_and(|list| !list.is_empty());
    let text = |option: &Option<String>| given(option).is_some();
    let number = |option: Option<i64>| option.is_some_and(|number| number != 0);
    let options = [
        (
            "blkioWeightDevice",
            list(&create.blkioWeightDevice),
            "the kernel has no weights of single devices any more",
        ),
        (
            "cgroupParent",
            text(&create.cgroupParent),
            "where the cgroup of a container is, is for the service to say",
        ),
        ("cidFile", text(&create.cidFile), "a file of the client is for the client to write"),
        ("conmonPidfile", text(&create.conmonPidfile), "there is no conmon"),
        ("cpuRtPeriod", number(create.cpuRtPeriod), "the kernel has no real time groups with cgroup v2"),
        ("cpuRtRuntime", number(create.cpuRtRuntime), "the kernel has no real time groups with cgroup v2"),
        ("envFile", list(&create.envFile), files),
        (
            "imageVolume",
            given(&create.imageVolume).is_some_and(|kind| kind != "bind"),
            "what an image declares as volumes are volumes",
        ),
        ("initPath", text(&create.initPath), "the init is a part of this program"),
        ("kernelMemory", text(&create.kernelMemory), "the kernel has no such limit any more"),
        ("labelFile", list(&create.labelFile), files),
        (
            "memorySwappiness",
            create.memorySwappiness.is_some_and(|number| number > 0),
            "cgroup v2 has no such setting",
        ),
        ("noHosts", create.noHosts == Some(true), "every container has an /etc/hosts of its own"),
        ("oomKillDisable", create.oomKillDisable == Some(true), "cgroup v2 has no such setting"),
        ("storageOpt", list(&create.storageOpt), "the storage has no such options"),
    ];
    match options.into_iter().find(|(_, asked, _)| *asked) {
        Some((name, _, reason)) => Err(format!("cannot make a container with {name}: {reason}")),
        None => Ok(()),
    }
}
