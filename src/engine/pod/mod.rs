//! Pods: containers that share namespaces, and live and go together.
//!
//! # Who sets up and who takes down
//!
//! The namespaces of a pod are files on which they are mounted, as those of networks are; they belong to no process. Only
//! where process ids are shared there is one more, the holder ([`holder`]), for a pid namespace ends with its first process. The first
//! start of a container in the pod makes them ([`namespaces`]), under the pod's lock. The end of each container looks
//! whether it was the last one, and takes them down then. Whatever is killed, the next start or the next wake does it.
//!
//! To the network a pod is a container that runs nothing, its frame: what the pod's specification says of networks, ports and names
//! is a [`Definition`], and so all that is checked, planned and written for containers is so for pods.
//!
//! Locks: who holds a container's may take its pod's, and not the other way round, but for a try.

mod act;
mod holder;
mod namespaces;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::store::{ContainerRow, PodRow, StoreError};

use super::remove::remove_tree;
use super::spec::{
    ContainerSpec, Log, Namespace, NetworkAttachment, PortMapping, SystemdMode, UserNamespace,
};
use super::{Container, Definition, Engine, EngineError, EventKind, NetworkState, Phase, names, now_usec};

/// A pod as asked for. Field by field the `Spec` of io.dormouse.Pod, where the meanings are told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PodSpec {
    pub name: Option<String>,
    pub share: Option<Share>,
    pub hostname: Option<String>,
    pub networks: Option<Vec<NetworkAttachment>>,
    pub ports: Vec<PortMapping>,
    pub dns_servers: Vec<IpAddr>,
    pub dns_search: Vec<String>,
    pub dns_options: Vec<String>,
    pub extra_hosts: BTreeMap<String, String>,
    pub shm_size_bytes: Option<u64>,
    pub labels: BTreeMap<String, String>,
}

/// Which namespaces the containers of a pod share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names tell
pub struct Share {
    pub net: bool,
    pub ipc: bool,
    pub uts: bool,
    pub pid: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self { net: true, ipc: true, uts: true, pid: false }
    }
}

/// A pod as recorded. The JSON of this is the store's `definition`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodDefinition {
    /// As asked for.
    pub spec: PodSpec,
    /// What is shared.
    pub share: Share,
    /// What the network takes for a container.
    frame: Definition,
}

/// A pod with its record read.
#[derive(Debug, Clone)]
pub struct Pod {
    /// As recorded.
    pub row: PodRow,
    /// What the record says.
    pub definition: PodDefinition,
}

/// Where a pod is in its life. The `State` of io.dormouse.Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub enum PodPhase {
    Created,
    Running,
    Degraded,
    Paused,
    Exited,
}

/// A container of a pod.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PodMember {
    pub id: String,
    pub name: String,
    pub phase: Phase,
}

/// A pod in a list.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PodSummary {
    pub pod: Pod,
    pub phase: PodPhase,
    pub members: Vec<PodMember>,
    pub network: Option<NetworkState>,
    pub holder: Option<i32>,
}

fn invalid(field: &str, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason: reason.into() }
}

impl Engine {
    /// Makes a pod without containers.
    ///
    /// # Errors
    /// [`EngineError::PodExists`], [`EngineError::InvalidSpec`], [`EngineError::NetworkNotFound`].
    pub async fn create_pod(&self, spec: PodSpec) -> Result<Pod, EngineError> {
        let id = names::new_id()?;
        let name = spec.name.clone().unwrap_or_else(|| names::invent(&id));
        names::check("spec.name", &name)?;
        if self.store()?.find_pod(&name)?.ok().is_some_and(|row| row.name == name) {
            return Err(EngineError::PodExists { pod: name });
        }
        let _lock = self.lock(&id).await?;
        let definition = define(spec, &name)?;
        self.check_networks(&definition.frame)?;
        let row = PodRow {
            id: id.clone(),
            name: name.clone(),
            created_usec: now_usec(),
            definition: serde_json::to_string(&definition).map_err(|error| EngineError::Failed {
                attempted: "record the pod".to_owned(),
                reason: error.to_string(),
            })?,
        };
        // As with containers the record comes last: cut short, what is left is swept.
        let directory = self.paths().container(&id);
        std::fs::create_dir(&directory)
            .map_err(|error| EngineError::io("make directory", &directory, error))?;
        if let Err(error) = self.store()?.insert_pod(&row) {
            remove_tree(&directory);
            return Err(match error {
                StoreError::NameTaken { name } => EngineError::PodExists { pod: name },
                other => other.into(),
            });
        }
        self.record_event(EventKind::Pod, "create", &id, &name);
        Ok(Pod { row, definition })
    }

    /// What is wrong with a pod that is to be made, but for its name being taken.
    pub(super) fn check_pod(&self, spec: &PodSpec) -> Result<(), EngineError> {
        let name = spec.name.as_deref().unwrap_or("pod");
        names::check("spec.name", name)?;
        self.check_networks(&define(spec.clone(), name)?.frame)
    }

    /// Finds a pod by name, id, or a prefix of the id that is its alone.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`], [`EngineError::PodAmbiguous`].
    pub fn find_pod(&self, name: &str) -> Result<Pod, EngineError> {
        read(self.store()?.find_pod(name)?.one(
            || EngineError::PodAmbiguous { pod: name.to_owned() },
            || EngineError::PodNotFound { pod: name.to_owned() },
        )?)
    }

    /// All pods, oldest first. One that is removed while the list is made is left out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn pods(&self) -> Result<Vec<PodSummary>, EngineError> {
        self.store()?.pods()?.into_iter().map(|row| self.summarise_pod(read(row)?)).collect()
    }

    /// All of one pod.
    ///
    /// # Errors
    /// [`EngineError::PodNotFound`].
    pub fn inspect_pod(&self, name: &str) -> Result<PodSummary, EngineError> {
        self.summarise_pod(self.find_pod(name)?)
    }

    fn summarise_pod(&self, pod: Pod) -> Result<PodSummary, EngineError> {
        let members = self.pod_members(&pod.row.id)?;
        let network = self.network_state(&pod.row.id)?.filter(|state| state.whole);
        let holder = self.holder_of(&pod.row.id).map(|holder| holder.pid);
        Ok(PodSummary { phase: phase_of(&members), pod, members, network, holder })
    }

    /// Pods as the network takes them.
    pub(super) fn pod_frames(&self) -> Result<Vec<Container>, EngineError> {
        self.store()?.pods()?.into_iter().map(|row| Ok(read(row)?.frame())).collect()
    }

    pub(super) fn pod_members(&self, id: &str) -> Result<Vec<PodMember>, EngineError> {
        let rows = self.store()?.pod_members(id)?;
        rows.into_iter()
            .map(|row| Ok(PodMember { phase: self.live(&row.id)?.phase, id: row.id, name: row.name }))
            .collect()
    }

    /// Has a container share what the pod that it asks for shares; the id of that pod.
    pub(super) fn join_pod(&self, spec: &mut ContainerSpec) -> Result<Option<String>, EngineError> {
        let Some(name) = &spec.pod else { return Ok(None) };
        let pod = self.find_pod(name)?;
        let (id, share) = (pod.row.id, pod.definition.share);
        if spec.user_namespace != UserNamespace::Host {
            return Err(invalid("spec.userNamespace", "the namespaces of a pod belong to the host's users"));
        }
        let shared = |field: &str, namespace: &Namespace| match namespace {
            Namespace::Private => Ok(Namespace::Pod(id.clone())),
            _ => Err(invalid(field, "its pod shares this namespace; leave it out")),
        };
        if share.net {
            if spec.network_namespace.is_some() || spec.networks.is_some() {
                return Err(invalid(
                    "spec.networks",
                    "they are the pod's; leave them out, or leave the pod out",
                ));
            }
            if !spec.ports.is_empty() || spec.publish_all {
                return Err(invalid("spec.ports", "ports are published by the pod, when it is made"));
            }
            spec.network_namespace = Some(Namespace::Pod(id.clone()));
        }
        if share.ipc {
            if spec.shm_size_bytes.is_some() {
                return Err(invalid("spec.shmSizeBytes", "/dev/shm is the pod's"));
            }
            spec.ipc_namespace = shared("spec.ipcNamespace", &spec.ipc_namespace)?;
        }
        if share.uts {
            spec.uts_namespace = shared("spec.utsNamespace", &spec.uts_namespace)?;
        }
        if share.pid {
            spec.pid_namespace = shared("spec.pidNamespace", &spec.pid_namespace)?;
        }
        Ok(Some(id))
    }
}

impl Pod {
    /// The pod as the network takes it.
    fn frame(&self) -> Container {
        Container {
            row: ContainerRow {
                id: self.row.id.clone(),
                name: self.row.name.clone(),
                image_id: None,
                created_usec: self.row.created_usec,
                definition: String::new(),
            },
            definition: self.definition.frame.clone(),
        }
    }

    fn hostname(&self) -> &str {
        self.definition.frame.spec.hostname.as_deref().unwrap_or("pod")
    }
}

fn read(row: PodRow) -> Result<Pod, EngineError> {
    let definition = serde_json::from_str(&row.definition)
        .map_err(|source| StoreError::Damaged { what: format!("pod {:?}", row.name), source })?;
    Ok(Pod { row, definition })
}

fn phase_of(members: &[PodMember]) -> PodPhase {
    let alive = members.iter().filter(|member| member.phase.is_alive()).count();
    let paused = members.iter().filter(|member| member.phase == Phase::Paused).count();
    match alive {
        0 if members.iter().all(|member| member.phase == Phase::Created) => PodPhase::Created,
        0 => PodPhase::Exited,
        _ if paused == alive => PodPhase::Paused,
        _ if alive == members.len() => PodPhase::Running,
        _ => PodPhase::Degraded,
    }
}

fn define(spec: PodSpec, name: &str) -> Result<PodDefinition, EngineError> {
    let share = spec.share.unwrap_or_default();
    for (field, given, is_shared, what) in [
        ("spec.hostname", spec.hostname.is_some(), share.uts, "uts"),
        ("spec.networks", spec.networks.is_some(), share.net, "net"),
        ("spec.ports", !spec.ports.is_empty(), share.net, "net"),
        ("spec.dnsServers", !spec.dns_servers.is_empty(), share.net, "net"),
        ("spec.dnsSearch", !spec.dns_search.is_empty(), share.net, "net"),
        ("spec.dnsOptions", !spec.dns_options.is_empty(), share.net, "net"),
        ("spec.extraHosts", !spec.extra_hosts.is_empty(), share.net, "net"),
        ("spec.shmSizeBytes", spec.shm_size_bytes.is_some(), share.ipc, "ipc"),
    ] {
        if given && !is_shared {
            return Err(invalid(field, format!("it has a meaning only for pods that share {what}")));
        }
    }
    // A name may hold what a host name may, and more.
    let hostname = spec.hostname.clone().unwrap_or_else(|| name.to_owned());
    let frame = ContainerSpec {
        // It runs nothing; both are only there to be something.
        rootfs: Some("/".into()),
        command: Some(vec!["pod".to_owned()]),
        hostname: Some(hostname),
        networks: if share.net { spec.networks.clone() } else { Some(Vec::new()) },
        ports: spec.ports.clone(),
        dns_servers: spec.dns_servers.clone(),
        dns_search: spec.dns_search.clone(),
        dns_options: spec.dns_options.clone(),
        extra_hosts: spec.extra_hosts.clone(),
        systemd: SystemdMode::Off,
        log: Log::None,
        ..ContainerSpec::default()
    };
    Ok(PodDefinition { frame: Definition::new(frame, None, Vec::new())?, share, spec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_pod_follows_from_its_containers() {
        let check = |phases: &[Phase], expected: PodPhase| {
            let member = |phase: &Phase| PodMember { id: String::new(), name: String::new(), phase: *phase };
            assert_eq!(phase_of(&phases.iter().map(member).collect::<Vec<_>>()), expected, "{phases:?}");
        };
        check(&[], PodPhase::Created);
        check(&[Phase::Created, Phase::Created], PodPhase::Created);
        check(&[Phase::Running, Phase::Starting], PodPhase::Running);
        check(&[Phase::Running, Phase::Exited], PodPhase::Degraded);
        check(&[Phase::Running, Phase::Created], PodPhase::Degraded);
        check(&[Phase::Paused, Phase::Exited], PodPhase::Paused);
        check(&[Phase::Paused, Phase::Running], PodPhase::Running);
        check(&[Phase::Exited, Phase::Created], PodPhase::Exited);
        check(&[Phase::Failed], PodPhase::Exited);
    }

    #[test]
    fn what_belongs_to_a_namespace_that_is_not_shared_is_refused() {
        let none = Share { net: false, ipc: false, uts: false, pid: false };
        let refused = |spec: PodSpec, field: &str| match define(spec, "shop") {
            Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        };
        let spec = || PodSpec { share: Some(none), ..PodSpec::default() };
        refused(PodSpec { hostname: Some("a".into()), ..spec() }, "spec.hostname");
        refused(PodSpec { networks: Some(Vec::new()), ..spec() }, "spec.networks");
        refused(PodSpec { shm_size_bytes: Some(1), ..spec() }, "spec.shmSizeBytes");
        refused(PodSpec { hostname: Some("a b".into()), ..PodSpec::default() }, "spec.hostname");
        let pod = define(PodSpec::default(), "shop").unwrap();
        assert_eq!(pod.frame.spec.hostname.as_deref(), Some("shop"));
        assert_eq!(pod.frame.networks.len(), 1);
        assert!(define(spec(), "shop").unwrap().frame.networks.is_empty());
    }
}
