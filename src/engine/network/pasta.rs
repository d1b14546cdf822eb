//! The network of a container without root: pasta in place of bridges. See [`super`] for who sets up and takes down.
//!
//! It needs no lock for the host and no rows in the store: what a container has is a process of the user's own, and a port is
//! taken when that process listens.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::identity;
use crate::monitor::state::ProcessRef;
use crate::network::namespace;
use crate::network::pasta::{Forward, NAME, Pasta};
use crate::network::ports::Protocol;

use super::super::definition::Definition;
use super::super::spec::NetworkAttachment;
use super::super::{Container, Engine, EngineError, names, place, stop};
use super::attach::PendingNetwork;
use super::plan;
use super::state::NetworkState;

const PID_FILE: &str = "pasta.pid";
/// For its end, after which it is killed.
const PATIENCE: Duration = Duration::from_secs(2);

fn unsupported(feature: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::Unsupported { feature: feature.into(), reason: reason.into() }
}

/// Whether a container's network is pasta's.
pub(super) fn is_pasta(definition: &Definition) -> bool {
    definition.networks.iter().any(|attachment| attachment.network == NAME)
}

/// Finds what can't be without root, or with it.
pub(super) fn check(definition: &Definition) -> Result<(), EngineError> {
    if identity::is_root() {
        return Err(unsupported(
            "the network pasta",
            "it is for services without root; use a network with a bridge",
        ));
    }
    let [only] = definition.networks.as_slice() else {
        return Err(unsupported(
            "a network with a bridge",
            "only root of the host can make it; use pasta, which is the default, or none or host",
        ));
    };
    if only.network != NAME {
        return Err(unsupported(
            format!("the network {:?}", only.network),
            "only root of the host can make bridges; use pasta, which is the default, or none or host",
        ));
    }
    if *only != (NetworkAttachment { network: NAME.to_owned(), ..NetworkAttachment::default() }) {
        return Err(unsupported(
            "an address or a name of its own on the network",
            "with pasta the container has those of the host",
        ));
    }
    for mapping in &definition.ports {
        if mapping.protocol == Protocol::Sctp {
            return Err(unsupported("a published port of sctp", "pasta carries tcp and udp"));
        }
        if let Some(port) = mapping.host_port
            && port < first_free_port()
        {
            return Err(unsupported(
                format!("publishing on the port {port} of the host"),
                format!(
                    "without root ports begin at {}; choose another one, or set net.ipv4.ip_unprivileged_port_start",
                    first_free_port()
                ),
            ));
        }
    }
    Pasta::find()?;
    Ok(())
}

/// The first port that every user may listen on, ip-sysctl.rst.
fn first_free_port() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

impl Engine {
    /// As [`Self::set_up_network`], by pasta.
    pub(super) fn set_up_pasta(&self, container: &Container) -> Result<PendingNetwork<'_>, EngineError> {
        let id = &container.row.id;
        check(&container.definition)?;
        let generation = names::new_id()?[..16].to_owned();
        let pending = PendingNetwork::new(self, id, &generation);
        let mut held = Vec::new();
        let mut ports = Vec::new();
        for mapping in &container.definition.ports {
            let chosen = plan::choose_ports(mapping, &[], &mut held);
            ports.push(chosen.map_err(|refusal| self.name_holder(refusal))?);
        }
        let forwards: Vec<Forward> = ports
            .iter()
            .map(|port| Forward {
                protocol: port.protocol,
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_port: port.container_port,
                range: port.range,
            })
            .collect();
        let mut state = NetworkState {
            generation,
            whole: false,
            document: json!({}),
            attached: Vec::new(),
            ports,
            pasta: None,
        };
        self.store_network_state(id, &state)?;
        let path = self.namespace_of(id);
        namespace::create(&path)?;
        // It listens itself now; who is quicker than it is told by it.
        drop(held);
        let pid_file = self.paths().run_container(id).join(PID_FILE);
        let pid = Pasta::find()?.start(&path, &pid_file, &forwards)?;
        state.pasta = ProcessRef::of(pid);
        state.whole = true;
        self.store_network_state(id, &state)?;
        self.write_etc(container, Some(&state))?;
        Ok(pending)
    }

    /// Has pasta belong to the container's scope, where there is one, and not to the service.
    pub(in super::super) fn take_pasta_in(&self, id: &str, cgroup: &str) -> Result<(), EngineError> {
        if let Some(process) = self.network_state(id)?.and_then(|state| state.pasta)
            && let Err(error) = place::rejoin_scope(cgroup, process.pid)
        {
            tracing::warn!(id, %error, "pasta can't join the container's scope, ignoring");
        }
        Ok(())
    }

    /// As [`Self::tear_down_network`], of what pasta has made.
    pub(super) fn tear_down_pasta(&self, id: &str, generation: Option<&str>) -> Result<(), EngineError> {
        let state = self.network_state(id)?;
        if generation.is_some() && generation != state.as_ref().map(|state| state.generation.as_str()) {
            return Ok(());
        }
        // Without the name it ends, should nobody know its pid.
        namespace::remove(&self.namespace_of(id))?;
        if let Some(process) = state.as_ref().and_then(|state| state.pasta) {
            end(process);
        }
        self.forget_network_state(id)
    }
}

/// Its ports are free when this returns.
fn end(process: ProcessRef) {
    let Some(pidfd) = stop::open_process(process) else { return };
    let deadline = Instant::now() + PATIENCE;
    let mut signal = libc::SIGTERM;
    while process.is_alive() {
        if let Err(errno) = crate::runtime::pidfd_send_signal(std::os::fd::AsFd::as_fd(&pidfd), signal) {
            if errno != rustix::io::Errno::SRCH {
                tracing::warn!(pid = process.pid, %errno, "cannot end pasta, ignoring");
            }
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
        if Instant::now() > deadline {
            signal = libc::SIGKILL;
        }
    }
}
