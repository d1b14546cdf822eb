//! Looking containers up, and the `Container` of the interface.

use serde_json::json;

use crate::api::looked_up;
use crate::engine::spec::MountKind;
use crate::engine::{Container, ContainerFilter, ContainerSummary, Engine, EngineError, Phase};

use super::super::errors::{failed, occurred};
use super::super::text::{STATES, ago, count, state, time};
use super::super::{Call, CallError, PodmanInterface, bare, wire};

/// All that is known of a container.
pub(in super::super) struct One {
    pub(in super::super) container: Container,
    pub(in super::super) listed: ContainerSummary,
}

impl One {
    /// Finds one by name, id or the beginning of the id.
    pub(in super::super) fn find(engine: &Engine, name: &str) -> Result<Self, EngineError> {
        if name.is_empty() {
            // The beginning of every id.
            return Err(EngineError::NotFound { name: String::new() });
        }
        let (container, listed) = engine.inspect(name)?;
        Ok(Self { container, listed })
    }

    /// All there are, oldest first.
    pub(in super::super) fn all(engine: &Engine) -> Result<Vec<Self>, EngineError> {
        let mut all = Vec::new();
        for listed in engine.list(&ContainerFilter::default())? {
            match engine.inspect(&listed.id) {
                Ok((container, listed)) => all.push(Self { container, listed }),
                // Removed meanwhile.
                Err(EngineError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    pub(in super::super) fn id(&self) -> &str {
        &self.listed.id
    }

    pub(in super::super) fn phase(&self) -> Phase {
        self.listed.live.phase
    }

    pub(super) fn image(&self) -> String {
        self.listed.image.clone().unwrap_or_default()
    }

    pub(super) fn image_id(&self) -> &str {
        bare(self.listed.image_id.as_deref().unwrap_or_default())
    }

    pub(super) fn started_usec(&self) -> Option<i64> {
        self.listed.live.told.as_ref()?.started_at_usec.and_then(|usec| i64::try_from(usec).ok())
    }

    pub(super) fn finished_usec(&self) -> Option<i64> {
        if self.phase().is_alive() {
            return None;
        }
        self.listed.live.told.as_ref()?.finished_at_usec.and_then(|usec| i64::try_from(usec).ok())
    }

    /// Published ports, one by one.
    pub(super) fn ports(&self) -> Vec<Port> {
        let published = self.listed.network.iter().flat_map(|network| &network.ports);
        let running = published.flat_map(|port| {
            (0..port.range).map(|offset| Port {
                host_ip: port.host_ip.map(|address| address.to_string()).unwrap_or_default(),
                host: port.host_port.saturating_add(offset),
                container: port.container_port.saturating_add(offset),
                protocol: port.protocol.as_str(),
            })
        });
        let ports: Vec<Port> = running.collect();
        if !ports.is_empty() || self.phase().is_alive() {
            return ports;
        }
        let asked = self.container.definition.ports.iter().flat_map(|port| {
            (0..port.range).map(|offset| Port {
                host_ip: port.host_ip.map(|address| address.to_string()).unwrap_or_default(),
                host: port.host_port.map_or(0, |port| port.saturating_add(offset)),
                container: port.container_port.saturating_add(offset),
                protocol: port.protocol.as_str(),
            })
        });
        asked.collect()
    }

    /// What is mounted beyond what every container has.
    pub(super) fn mounts(&self) -> Vec<wire::ContainerMount> {
        let mount = |mount: &crate::engine::spec::Mount| {
            let mut options: Vec<String> = mount.flags.clone();
            options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
            let (kind, source) = match &mount.kind {
                MountKind::Bind { source, propagation, recursive } => {
                    options.push(if *recursive { "rbind" } else { "bind" }.to_owned());
                    options.push(propagation.clone());
                    ("bind", source.clone())
                }
                MountKind::Tmpfs { .. } => ("tmpfs", "tmpfs".to_owned()),
                MountKind::Volume { name, .. } => ("volume", name.clone().unwrap_or_default()),
                MountKind::Image { image } => ("image", image.clone()),
            };
            wire::ContainerMount {
                destination: mount.target.clone(),
                r#type: kind.to_owned(),
                source,
                options,
            }
        };
        self.container.definition.spec.mounts.iter().map(mount).collect()
    }

    pub(super) fn namespaces(&self) -> wire::ContainerNameSpace {
        let pid = self.listed.live.pid();
        // net:[4026531840], namespaces(7).
        let number = |name: &str| {
            let link = pid.and_then(|pid| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).ok());
            let text = link.map(|link| link.to_string_lossy().into_owned()).unwrap_or_default();
            text.chars().filter(char::is_ascii_digit).collect::<String>()
        };
        wire::ContainerNameSpace {
            user: number("user"),
            uts: number("uts"),
            pidns: number("pid"),
            pid: pid.map(|pid| pid.to_string()).unwrap_or_default(),
            cgroup: number("cgroup"),
            net: number("net"),
            mnt: number("mnt"),
            ipc: number("ipc"),
        }
    }

    fn to_wire(&self, engine: &Engine, sized: bool) -> wire::Container {
        let port = |port: Port| wire::ContainerPortMappings {
            host_port: port.host.to_string(),
            host_ip: port.host_ip,
            protocol: port.protocol.to_owned(),
            container_port: port.container.to_string(),
        };
        let (root, written) = if sized { self.sizes(engine) } else { (0, 0) };
        wire::Container {
            id: self.id().to_owned(),
            image: self.image(),
            imageid: self.image_id().to_owned(),
            command: self.listed.command.clone(),
            createdat: time(Some(self.listed.created_usec)),
            runningfor: ago(self.listed.created_usec),
            status: state(self.phase()).to_owned(),
            ports: self.ports().into_iter().map(port).collect(),
            rootfssize: root,
            rwsize: written,
            names: self.listed.name.clone(),
            labels: self.listed.labels.clone().into_iter().collect(),
            mounts: self.mounts(),
            containerrunning: matches!(self.phase(), Phase::Running | Phase::Stopping),
            namespaces: self.namespaces(),
        }
    }

    /// Bytes of the whole root, and of what the container has written itself.
    pub(super) fn sizes(&self, engine: &Engine) -> (i64, i64) {
        let written = super::super::text::signed(engine.written_bytes(self.id()));
        let image = self.listed.image_id.as_deref().and_then(|id| engine.find_image(id).ok());
        (image.map_or(0, |image| image.row.size_bytes).saturating_add(written), written)
    }
}

/// A port of the host that leads to one of the container.
pub(super) struct Port {
    pub(super) host_ip: String,
    pub(super) host: u16,
    pub(super) container: u16,
    pub(super) protocol: &'static str,
}

impl PodmanInterface {
    /// Looks a container up on a thread that may block.
    pub(in super::super) async fn one(&self, name: String) -> Result<One, EngineError> {
        let engine = self.engine.clone();
        looked_up(move || One::find(&engine, &name)).await
    }

    /// As [`Self::one`], for the id alone.
    pub(in super::super) async fn id_of(&self, name: &str) -> Result<String, EngineError> {
        let (engine, name) = (self.engine.clone(), name.to_owned());
        if name.is_empty() {
            return Err(EngineError::NotFound { name });
        }
        looked_up(move || Ok(engine.find_row(&name)?.id)).await
    }

    pub(super) async fn list_containers(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let containers =
            looked_up(move || Ok(One::all(&engine)?.iter().map(|one| one.to_wire(&engine, true)).collect()));
        call.reply(wire::ListContainers_Reply { containers: containers.await.map_err(failed)? }).await
    }

    pub(super) async fn containers_by_status(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainersByStatus_Args = call.parameters()?;
        if let Some(wrong) = given.status.iter().find(|word| !STATES.contains(&word.as_str())) {
            return Err(occurred(format!("{wrong:?} is no state of a container; {} are", STATES.join(", "))));
        }
        let engine = self.engine.clone();
        let found = looked_up(move || {
            let all = One::all(&engine)?;
            let wanted = all.iter().filter(|one| {
                given.status.is_empty() || given.status.iter().any(|word| word == state(one.phase()))
            });
            Ok(wanted.map(|one| one.to_wire(&engine, false)).collect())
        });
        call.reply(wire::GetContainersByStatus_Reply { containerS: found.await.map_err(failed)? }).await
    }

    pub(super) async fn containers_by_context(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainersByContext_Args = call.parameters()?;
        let engine = self.engine.clone();
        let found = looked_up(move || {
            let ids = |all: Vec<ContainerSummary>| all.into_iter().map(|one| one.id);
            if given.all {
                return Ok(ids(engine.list(&ContainerFilter::default())?).collect());
            }
            if given.latest {
                return Ok(ids(engine.list(&ContainerFilter::default())?).next_back().into_iter().collect());
            }
            let find = |name: &String| Ok(One::find(&engine, name)?.listed.id);
            given.args.iter().map(find).collect::<Result<Vec<String>, _>>()
        });
        let containers = found.await.map_err(|error| match error {
            EngineError::NotFound { .. } | EngineError::Ambiguous { .. } => {
                let reason = error.full_text();
                CallError::reply("io.podman.ContainerNotFound", json!({"id": "", "reason": reason}))
            }
            error => failed(error),
        })?;
        call.reply(wire::GetContainersByContext_Reply { containers }).await
    }

    pub(super) async fn get_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainer_Args = call.parameters()?;
        if given.id.is_empty() {
            let reason = "a container's name or id cannot be empty";
            return Err(CallError::reply("io.podman.ContainerNotFound", json!({"id": "", "reason": reason})));
        }
        let engine = self.engine.clone();
        let found = looked_up(move || Ok(One::find(&engine, &given.id)?.to_wire(&engine, true)));
        call.reply(wire::GetContainer_Reply { container: found.await.map_err(failed)? }).await
    }

    pub(super) async fn container_exists(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ContainerExists_Args = call.parameters()?;
        let exists = match self.id_of(&given.name).await {
            Ok(_) => 0,
            Err(EngineError::NotFound { .. }) => 1,
            Err(error) => return Err(failed(error)),
        };
        call.reply(wire::ContainerExists_Reply { exists }).await
    }

    pub(super) async fn delete_stopped(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let phases = vec![Phase::Created, Phase::Exited, Phase::Failed];
        let filter = ContainerFilter { phases, ..ContainerFilter::default() };
        let removed = crate::api::ordered(call, async move {
            let mut removed = Vec::new();
            for container in engine.list(&filter)? {
                match engine.remove(&container.id, false, false).await {
                    Ok(()) => removed.push(container.id),
                    // Started, or removed by somebody else, meanwhile.
                    Err(EngineError::StillRunning { .. } | EngineError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(removed)
        });
        let containers = removed.await.map_err(failed)?;
        call.reply(wire::DeleteStoppedContainers_Reply { containers }).await
    }
}

/// How many containers there are.
pub(in super::super) fn containers_count(engine: &Engine) -> Result<i64, EngineError> {
    Ok(count(engine.list(&ContainerFilter::default())?.len()))
}
