//! io.dormouse.Pod.

mod kube;

use std::time::Duration;

use serde::Serialize;

use crate::engine::{Engine, EngineError, Phase, PodMember, PodPhase, PodSpec, PodSummary, Share};
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::container::{signal, signed, unsigned};
use super::errors::to_reply;
use super::{listing, looked_up, network_types, ordered, usage};
use crate::wire::container::{self, self as network};
use crate::wire::pod as wire;

const NAME: &str = "io.dormouse.Pod";

/// The interface over an engine.
pub(super) struct PodInterface {
    engine: Engine,
}

impl Interface for PodInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../../interfaces/io.dormouse.Pod.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Create" => self.create(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Start" => self.start(call).await,
                "Stop" => self.stop(call).await,
                "Kill" => self.kill(call).await,
                "Restart" => self.restart(call).await,
                "Pause" => self.pause(call).await,
                "Resume" => self.resume(call).await,
                "Remove" => self.remove(call).await,
                "Prune" => self.prune(call).await,
                "Top" => self.top(call).await,
                "Stats" => self.stats(call).await,
                "PlayKube" => kube::play(&self.engine, call).await,
                "RemoveKube" => kube::remove(&self.engine, call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl PodInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn create(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Create_Args = call.parameters()?;
        let spec = spec_from_wire(given.spec).map_err(failed)?;
        let engine = self.engine.clone();
        let pod = ordered(call, async move { engine.create_pod(spec).await }).await.map_err(failed)?;
        call.reply(wire::Create_Reply { id: pod.row.id, name: pod.row.name }).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let wanted = listing::Wanted::new(given.names, given.labels);
        let look = move |engine: &Engine| {
            Ok(wanted
                .of(engine.pods()?.iter().map(summary).collect(), |pod| (&pod.id, &pod.name, &pod.labels)))
        };
        let reply = |pods, gone| wire::List_Reply { pods, gone };
        listing::list(call, &self.engine, NAME, look, |pod| &pod.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let details = looked_up(move || {
            let pod = engine.inspect_pod(&given.name)?;
            let namespace = engine.namespace_of(&pod.pod.row.id);
            Ok(wire::Details {
                holderPid: pod.holder.map(Into::into),
                networkNamespacePath: namespace.exists().then(|| namespace.to_string_lossy().into_owned()),
                summary: summary(&pod),
                spec: spec_to_wire(pod.pod.definition.spec),
            })
        });
        call.reply(wire::Inspect_Reply { pod: details.await.map_err(failed)? }).await
    }

    async fn start(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Start_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.start_pod(&given.name).await }).await.map_err(failed)?;
        call.reply(wire::Start_Reply {}).await
    }

    async fn stop(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Stop_Args = call.parameters()?;
        let timeout = given.timeoutUSec.map(|usec| unsigned("timeoutUSec", usec)).transpose()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.stop_pod(&given.name, timeout).await }).await.map_err(failed)?;
        call.reply(wire::Stop_Reply {}).await
    }

    async fn kill(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Kill_Args = call.parameters()?;
        let signal = signal(given.signal.as_deref()).map_err(failed)?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.kill_pod(&given.name, signal).await }).await.map_err(failed)?;
        call.reply(wire::Kill_Reply {}).await
    }

    async fn restart(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Restart_Args = call.parameters()?;
        let timeout = given.timeoutUSec.map(|usec| unsigned("timeoutUSec", usec)).transpose()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.restart_pod(&given.name, timeout).await }).await.map_err(failed)?;
        call.reply(wire::Restart_Reply {}).await
    }

    async fn pause(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Pause_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.pause_pod(&given.name).await }).await.map_err(failed)?;
        call.reply(wire::Pause_Reply {}).await
    }

    async fn resume(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Resume_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.resume_pod(&given.name).await }).await.map_err(failed)?;
        call.reply(wire::Resume_Reply {}).await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let force = given.force.unwrap_or_default();
        let engine = self.engine.clone();
        ordered(call, async move { engine.remove_pod(&given.name, force).await }).await.map_err(failed)?;
        call.reply(wire::Remove_Reply {}).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::Prune_Args {} = call.parameters()?;
        let engine = self.engine.clone();
        let removed = ordered(call, async move { engine.prune_pods().await }).await.map_err(failed)?;
        call.reply(wire::Prune_Reply { removed }).await
    }
}

/// The reply of Top, whose processes are those of io.dormouse.Container.
#[derive(Serialize)]
struct Processes {
    containers: Vec<MemberProcesses>,
}

#[derive(Serialize)]
struct MemberProcesses {
    id: String,
    name: String,
    processes: Vec<container::Process>,
}

impl PodInterface {
    async fn top(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Top_Args = call.parameters()?;
        let engine = self.engine.clone();
        let found = looked_up(move || engine.top_pod(&given.name)).await.map_err(failed)?;
        let containers = found.into_iter().map(|(member, processes)| MemberProcesses {
            id: member.id,
            name: member.name,
            processes: processes.into_iter().map(usage::process).collect(),
        });
        call.reply(Processes { containers: containers.collect() }).await
    }

    async fn stats(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Stats_Args = call.parameters()?;
        let interval = given.intervalUSec.map(|usec| unsigned("intervalUSec", usec)).transpose()?;
        let mut follower =
            self.engine.pod_stats(&given.name, interval.map(Duration::from_micros)).map_err(failed)?;
        loop {
            let stats = follower.next().await.map_err(failed)?;
            let last = stats.is_none() || !call.wants_more();
            // Field by field the same as in this interface.
            let reply =
                container::Stats_Reply { stats: stats.into_iter().flatten().map(usage::one).collect() };
            if last {
                return call.reply(reply).await;
            }
            call.reply_continues(reply).await?;
        }
    }
}

fn summary(pod: &PodSummary) -> wire::Summary {
    let row = &pod.pod.row;
    let published = network_types::published(pod.network.as_ref()).into_iter();
    wire::Summary {
        id: row.id.clone(),
        name: row.name.clone(),
        state: match pod.phase {
            PodPhase::Created => wire::State::created,
            PodPhase::Running => wire::State::running,
            PodPhase::Degraded => wire::State::degraded,
            PodPhase::Paused => wire::State::paused,
            PodPhase::Exited => wire::State::exited,
        },
        createdUSec: row.created_usec,
        labels: pod.pod.definition.spec.labels.clone().into_iter().collect(),
        containers: pod.members.iter().map(member).collect(),
        addresses: network_types::addresses(pod.network.as_ref()),
        ports: published
            .map(|port| wire::PublishedPort {
                hostIp: port.hostIp,
                hostPort: port.hostPort,
                containerPort: port.containerPort,
                protocol: protocol_to_wire(&port.protocol),
                range: port.range,
            })
            .collect(),
    }
}

fn member(member: &PodMember) -> wire::Member {
    wire::Member {
        id: member.id.clone(),
        name: member.name.clone(),
        state: match member.phase {
            Phase::Created => wire::Member_state::created,
            Phase::Starting => wire::Member_state::starting,
            Phase::Running => wire::Member_state::running,
            Phase::Paused => wire::Member_state::paused,
            Phase::Stopping => wire::Member_state::stopping,
            Phase::Exited => wire::Member_state::exited,
            Phase::Failed => wire::Member_state::failed,
        },
    }
}

fn protocol_to_wire(protocol: &network::Protocol) -> wire::Protocol {
    match protocol {
        network::Protocol::tcp => wire::Protocol::tcp,
        network::Protocol::udp => wire::Protocol::udp,
        network::Protocol::sctp => wire::Protocol::sctp,
    }
}

fn protocol_from_wire(protocol: &wire::Protocol) -> network::Protocol {
    match protocol {
        wire::Protocol::tcp => network::Protocol::tcp,
        wire::Protocol::udp => network::Protocol::udp,
        wire::Protocol::sctp => network::Protocol::sctp,
    }
}

fn spec_from_wire(spec: wire::Spec) -> Result<PodSpec, EngineError> {
    let attachment = |given: wire::NetworkAttachment| network::NetworkAttachment {
        network: given.network,
        addresses: given.addresses,
        mac: given.mac,
        aliases: given.aliases,
        interface: given.interface,
    };
    let port = |given: wire::PortMapping| network::PortMapping {
        containerPort: given.containerPort,
        hostPort: given.hostPort,
        hostIp: given.hostIp,
        protocol: given.protocol.as_ref().map(protocol_from_wire),
        range: given.range,
    };
    let networks = spec.networks.map(|networks| networks.into_iter().map(attachment).collect());
    let shm_size_bytes = spec.shmSizeBytes.map(u64::try_from).transpose();
    Ok(PodSpec {
        name: spec.name,
        share: spec.share.map(|shared| {
            let has = |wanted| shared.contains(&wanted);
            use wire::Spec_share as Kind;
            Share { net: has(Kind::net), ipc: has(Kind::ipc), uts: has(Kind::uts), pid: has(Kind::pid) }
        }),
        hostname: spec.hostname,
        networks: networks.map(network_types::attachments_from_wire).transpose()?,
        ports: network_types::ports_from_wire(
            spec.ports.unwrap_or_default().into_iter().map(port).collect(),
        )?,
        dns_servers: network_types::addresses_from_wire(
            "spec.dnsServers",
            spec.dnsServers.unwrap_or_default(),
        )?,
        dns_search: spec.dnsSearch.unwrap_or_default(),
        dns_options: spec.dnsOptions.unwrap_or_default(),
        extra_hosts: spec.extraHosts.unwrap_or_default().into_iter().collect(),
        shm_size_bytes: shm_size_bytes.map_err(|_| EngineError::InvalidSpec {
            field: "spec.shmSizeBytes".into(),
            reason: "it must not be negative".into(),
        })?,
        labels: spec.labels.unwrap_or_default().into_iter().collect(),
    })
}

/// The specification as a client gave it.
fn spec_to_wire(spec: PodSpec) -> wire::Spec {
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let attachment = |given: network::NetworkAttachment| wire::NetworkAttachment {
        network: given.network,
        addresses: given.addresses,
        mac: given.mac,
        aliases: given.aliases,
        interface: given.interface,
    };
    let port = |given: network::PortMapping| wire::PortMapping {
        containerPort: given.containerPort,
        hostPort: given.hostPort,
        hostIp: given.hostIp,
        protocol: given.protocol.as_ref().map(protocol_to_wire),
        range: given.range,
    };
    let ports: Vec<_> = spec.ports.into_iter().map(network_types::mapping_to_wire).map(port).collect();
    wire::Spec {
        name: spec.name,
        share: spec.share.map(|share| {
            use wire::Spec_share as Kind;
            [(share.net, Kind::net), (share.ipc, Kind::ipc), (share.uts, Kind::uts), (share.pid, Kind::pid)]
                .into_iter()
                .filter_map(|(is, kind)| is.then_some(kind))
                .collect()
        }),
        hostname: spec.hostname,
        networks: spec.networks.map(|networks| {
            networks.into_iter().map(network_types::attachment_to_wire).map(attachment).collect()
        }),
        ports: (!ports.is_empty()).then_some(ports),
        dnsServers: some(spec.dns_servers.iter().map(ToString::to_string).collect()),
        dnsSearch: some(spec.dns_search),
        dnsOptions: some(spec.dns_options),
        extraHosts: (!spec.extra_hosts.is_empty()).then(|| spec.extra_hosts.into_iter().collect()),
        shmSizeBytes: spec.shm_size_bytes.map(signed),
        labels: (!spec.labels.is_empty()).then(|| spec.labels.into_iter().collect()),
    }
}
