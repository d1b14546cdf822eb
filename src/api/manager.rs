//! io.dormouse.Manager.

use std::time::Duration;

use crate::engine::{ContainerFilter, DiskUse, Engine, EngineError, Event, EventKind};
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
            })
        });
        let reply = reply.await.map_err(failed)?;
        call.reply(reply).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Prune_Args = call.parameters()?;
        let engine = self.engine.clone();
        let all = given.all.unwrap_or(false);
        let pruned = ordered(call, looked_up(move || engine.prune_images(all))).await.map_err(failed)?;
        let freed = i64::try_from(pruned.freed_bytes).unwrap_or(i64::MAX);
        call.reply(wire::Prune_Reply { imagesRemoved: pruned.images, freedBytes: freed }).await
    }

    async fn events(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Events_Args = call.parameters()?;
        let (names, actions) = (given.names.unwrap_or_default(), given.actions.unwrap_or_default());
        let wanted = |event: &Event| {
            let named = |name: &String| {
                event.name == *name || (!name.is_empty() && event.id.starts_with(name.as_str()))
            };
            (names.is_empty() || names.iter().any(named))
                && (actions.is_empty() || actions.contains(&event.action))
        };
        if !call.wants_more() {
            let engine = self.engine.clone();
            let events = looked_up(move || engine.events(given.sinceUSec)).await.map_err(failed)?;
            let events = events.into_iter().filter(wanted).map(event).collect();
            return call.reply(wire::Events_Reply { events }).await;
        }
        let mut follower = self.engine.follow_events(given.sinceUSec).map_err(failed)?;
        loop {
            let events: Vec<_> =
                follower.next().await.map_err(failed)?.into_iter().filter(wanted).map(event).collect();
            if !events.is_empty() {
                call.reply_continues(wire::Events_Reply { events }).await?;
            }
        }
    }
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
        timeUSec: event.time,
        r#type: match event.kind {
            EventKind::Container => wire::Event_type::container,
            EventKind::Image => wire::Event_type::image,
            EventKind::Network => wire::Event_type::network,
        },
        action: event.action,
        id: event.id,
        name: event.name,
        exitCode: event.exit_code.map(Into::into),
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
