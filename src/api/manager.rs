//! io.dormouse.Manager.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::{
    ContainerFilter, DiskUse, Engine, EngineError, Event, EventKind, KubeKind, KubeRequest, PrunedVolumes,
    Since, UnitRequest, Whose,
};
use crate::runtime::cgroup::{self, Layout};
use crate::store::Store;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::{looked_up, ordered};
use crate::wire::manager as wire;

const NAME: &str = "io.dormouse.Manager";

/// The interface over an engine.
pub(super) struct ManagerInterface {
    engine: Engine,
    idle_timeout: Option<Duration>,
}

impl Interface for ManagerInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Manager.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Version" => {
                    let reply = wire::Version_Reply {
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        systemdModeSupported: cfg!(target_os = "linux"),
                        storeSchema: Store::schema(),
                    };
                    call.reply(reply).await
                }
                "Info" => self.info(call).await,
                "Events" => self.events(call).await,
                "DiskUsage" => self.disk_usage(call).await,
                "Prune" => self.prune(call).await,
                "GenerateUnits" => self.generate_units(call).await,
                "GenerateKube" => self.generate_kube(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl ManagerInterface {
    pub(super) fn new(engine: Engine, idle_timeout: Option<Duration>) -> Self {
        Self { engine, idle_timeout }
    }

    async fn info(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let idle_timeout = self.idle_timeout;
        let reply = looked_up(move || info(&engine, idle_timeout)).await.map_err(failed)?;
        call.reply(reply).await
    }

    async fn disk_usage(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let reply = looked_up(move || {
            Ok(wire::DiskUsage_Reply {
                images: disk_use(engine.image_disk_use()?),
                containers: disk_use(engine.container_disk_use()?),
                volumes: disk_use(engine.volume_disk_use()?),
            })
        });
        let reply = reply.await.map_err(failed)?;
        call.reply(reply).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Prune_Args = call.parameters()?;
        let engine = self.engine.clone();
        let all = given.all.unwrap_or(false);
        let with_volumes = given.volumes.unwrap_or(false);
        let pruned = ordered(
            call,
            looked_up(move || {
                let volumes = match with_volumes {
                    true => engine.prune_volumes(false, &BTreeMap::new())?,
                    false => PrunedVolumes::default(),
                };
                Ok((engine.prune_images(all)?, volumes))
            }),
        );
        let (images, volumes) = pruned.await.map_err(failed)?;
        let freed = images.freed_bytes.saturating_add(volumes.freed_bytes);
        call.reply(wire::Prune_Reply {
            imagesRemoved: images.images,
            volumesRemoved: volumes.removed,
            freedBytes: i64::try_from(freed).unwrap_or(i64::MAX),
        })
        .await
    }

    async fn generate_units(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GenerateUnits_Args = call.parameters()?;
        let request = unit_request(given).map_err(failed)?;
        let engine = self.engine.clone();
        let generated = looked_up(move || engine.generate_units(&request)).await.map_err(failed)?;
        let units = generated.units.into_iter();
        call.reply(wire::GenerateUnits_Reply {
            units: units.map(|unit| wire::GeneratedUnit { name: unit.name, text: unit.text }).collect(),
            warnings: generated.warnings,
        })
        .await
    }

    async fn generate_kube(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GenerateKube_Args = call.parameters()?;
        let request = kube_request(given).map_err(failed)?;
        let engine = self.engine.clone();
        let generated = looked_up(move || {
            let generated = engine.generate_kube(&request)?;
            Ok(wire::GenerateKube_Reply { yaml: generated.text()?, warnings: generated.warnings })
        });
        let reply = generated.await.map_err(failed)?;
        call.reply(reply).await
    }

    async fn events(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Events_Args = call.parameters()?;
        let since = match (given.sinceUSec, &given.afterCursor) {
            (Some(_), Some(_)) => {
                let reason = "sinceUSec is given too; only one can be the begin".to_owned();
                return Err(failed(EngineError::InvalidSpec { field: "afterCursor".into(), reason }));
            }
            (None, Some(cursor)) => Since::Cursor(cursor.parse().map_err(failed)?),
            (Some(time), None) => Since::Time(time),
            (None, None) if call.wants_more() => Since::Now,
            (None, None) => Since::Oldest,
        };
        // Before anything is waited for: from the call on, nothing is missed.
        let follower =
            call.wants_more().then(|| self.engine.follow_events(since)).transpose().map_err(failed)?;
        let engine = self.engine.clone();
        let wanted = Wanted {
            until: given.untilUSec,
            types: kinds(given.types.unwrap_or_default()).map_err(failed)?,
            whose: looked_up(move || engine.whose(given.names.unwrap_or_default())).await.map_err(failed)?,
            actions: given.actions.unwrap_or_default(),
        };
        let Some(mut follower) = follower else {
            let engine = self.engine.clone();
            let events = looked_up(move || engine.events(since)).await.map_err(failed)?;
            let events = events.into_iter().filter(|event| wanted.fits(event)).map(event).collect();
            return call.reply(wire::Events_Reply { events }).await;
        };
        loop {
            let next = tokio::select! {
                biased;
                next = follower.next() => next.map_err(failed)?,
                () = wanted.over() => return call.reply(wire::Events_Reply { events: Vec::new() }).await,
            };
            let events: Vec<_> = next.into_iter().filter(|event| wanted.fits(event)).map(event).collect();
            if !events.is_empty() {
                call.reply_continues(wire::Events_Reply { events }).await?;
            }
        }
    }
}

/// Which events are wanted; what is empty does not filter.
struct Wanted {
    until: Option<i64>,
    types: Vec<EventKind>,
    whose: Vec<Whose>,
    actions: Vec<String>,
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        self.until.is_none_or(|until| event.time < until)
            && (self.types.is_empty() || self.types.contains(&event.kind))
            && (self.whose.is_empty() || self.whose.iter().any(|whose| whose.is_of(event)))
            && (self.actions.is_empty() || self.actions.contains(&event.action))
    }

    /// Returns when nothing more can fit.
    async fn over(&self) {
        let Some(until) = self.until else { return std::future::pending().await };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let until = Duration::from_micros(u64::try_from(until).unwrap_or_default());
        tokio::time::sleep(until.saturating_sub(now)).await;
    }
}

fn kinds(types: Vec<String>) -> Result<Vec<EventKind>, EngineError> {
    let kind = |text: String| {
        serde_json::from_value(text.clone().into()).map_err(|_| EngineError::InvalidSpec {
            field: "types".into(),
            reason: format!("there are no events of type {text:?}"),
        })
    };
    types.into_iter().map(kind).collect()
}

fn unit_request(given: wire::GenerateUnits_Args) -> Result<UnitRequest, EngineError> {
    use wire::GenerateUnits_Args_restartPolicy as Policy;
    let span = |field: &str, usec: Option<i64>| {
        usec.map(|usec| {
            u64::try_from(usec).map_err(|_| EngineError::InvalidSpec {
                field: field.to_owned(),
                reason: format!("{usec} is negative"),
            })
        })
        .transpose()
    };
    let restart_policy = given.restartPolicy.map(|policy| match policy {
        Policy::no => "no",
        Policy::onSuccess => "on-success",
        Policy::onFailure => "on-failure",
        Policy::onAbnormal => "on-abnormal",
        Policy::onWatchdog => "on-watchdog",
        Policy::onAbort => "on-abort",
        Policy::always => "always",
    });
    Ok(UnitRequest {
        names: given.names,
        new: given.new.unwrap_or(false),
        restart_policy: restart_policy.map(str::to_owned),
        restart_usec: span("restartUSec", given.restartUSec)?,
        start_timeout_usec: span("startTimeoutUSec", given.startTimeoutUSec)?,
        stop_timeout_usec: span("stopTimeoutUSec", given.stopTimeoutUSec)?,
        wants: given.wants.unwrap_or_default(),
        after: given.after.unwrap_or_default(),
        requires: given.requires.unwrap_or_default(),
        prefix: given.prefix,
        pod_prefix: given.podPrefix,
        separator: given.separator,
    })
}

fn kube_request(given: wire::GenerateKube_Args) -> Result<KubeRequest, EngineError> {
    use wire::GenerateKube_Args_kind as Kind;
    let replicas = given.replicas.map(|replicas| {
        u32::try_from(replicas).map_err(|_| EngineError::InvalidSpec {
            field: "replicas".to_owned(),
            reason: format!("{replicas} is no number of pods"),
        })
    });
    Ok(KubeRequest {
        names: given.names,
        kind: match given.kind {
            None | Some(Kind::pod) => KubeKind::Pod,
            Some(Kind::deployment) => KubeKind::Deployment,
            Some(Kind::daemonSet) => KubeKind::DaemonSet,
        },
        replicas: replicas.transpose()?,
        service: given.service.unwrap_or(false),
    })
}

fn disk_use(disk: DiskUse) -> wire::DiskUse {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    wire::DiskUse {
        count: count(disk.count),
        inUse: count(disk.in_use),
        bytes: count(disk.bytes),
        reclaimableBytes: count(disk.reclaimable_bytes),
    }
}

fn event(event: Event) -> wire::Event {
    wire::Event {
        cursor: event.cursor.to_string(),
        timeUSec: event.time,
        r#type: match event.kind {
            EventKind::Container => wire::Event_type::container,
            EventKind::Exec => wire::Event_type::exec,
            EventKind::Image => wire::Event_type::image,
            EventKind::Volume => wire::Event_type::volume,
            EventKind::Network => wire::Event_type::network,
            EventKind::Pod => wire::Event_type::pod,
            EventKind::Unit => wire::Event_type::unit,
            EventKind::Secret => wire::Event_type::secret,
        },
        action: event.action,
        id: event.id,
        name: event.name,
        exitCode: event.exit_code.map(Into::into),
        exec: event.exec,
        pid: event.pid.map(Into::into),
        signal: event.signal,
        health: event.health.as_deref().and_then(|health| match health {
            "starting" => Some(wire::Event_health::starting),
            "healthy" => Some(wire::Event_health::healthy),
            "unhealthy" => Some(wire::Event_health::unhealthy),
            _ => None,
        }),
        unit: event.unit,
        container: event.container,
        oldName: event.old_name,
    }
}

fn info(engine: &Engine, idle_timeout: Option<Duration>) -> Result<wire::Info_Reply, EngineError> {
    let unsupported = |error: cgroup::CgroupError| EngineError::Unsupported {
        feature: "this host".to_owned(),
        reason: error.to_string(),
    };
    let containers = engine.list(&ContainerFilter::default())?;
    let uname = rustix::system::uname();
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(wire::Info_Reply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        architecture: std::env::consts::ARCH.to_owned(),
        cgroupLayout: match cgroup::layout().map_err(unsupported)? {
            Layout::V2 => wire::Info_Reply_cgroupLayout::v2,
            Layout::Hybrid => wire::Info_Reply_cgroupLayout::hybrid,
            Layout::V1 => wire::Info_Reply_cgroupLayout::v1,
        },
        cgroupControllers: Engine::cgroup_controllers(),
        uid: engine.user().into(),
        stateDirectory: engine.paths().state_dir.to_string_lossy().into_owned(),
        runDirectory: engine.paths().run_dir.to_string_lossy().into_owned(),
        containersRunning: count(
            containers.iter().filter(|container| container.live.phase.is_alive()).count(),
        ),
        containers: count(containers.len()),
        images: count(engine.images()?.len()),
        runtimes: Engine::runtimes().into_iter().map(str::to_owned).collect(),
        idleTimeoutUSec: idle_timeout.and_then(|timeout| i64::try_from(timeout.as_micros()).ok()),
    })
}
