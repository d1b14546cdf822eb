//! Setting a container's networks up and taking them down; see [`super`] for who does it when.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::identity;
use crate::network::netavark::{HostLock, Netavark, key};
use crate::network::{NetworkError, namespace, overlap, ports, routes};
use crate::runtime;
use crate::store::try_lock_object;

use super::super::definition::Definition;
use super::super::sweep::{entries, is_id};
use super::super::users::UserMap;
use super::super::{Container, Engine, EngineError, blocking, names, place};
use super::pasta;
use super::state::{NetworkState, Published};

/// A network that was set up for a start which has not come to its end; taken down again unless it is kept.
#[must_use]
pub(in super::super) struct PendingNetwork<'a> {
    engine: &'a Engine,
    id: String,
    generation: String,
    armed: bool,
    reserved: Vec<OwnedFd>,
}

impl<'a> PendingNetwork<'a> {
    pub(super) fn new(engine: &'a Engine, id: &str, generation: &str) -> Self {
        Self {
            engine,
            id: id.to_owned(),
            generation: generation.to_owned(),
            armed: true,
            reserved: Vec::new(),
        }
    }

    /// What keeps the host's other programs from the published ports, to be held by who stays with the container.
    pub fn take_reserved(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.reserved)
    }

    pub fn generation(&self) -> &str {
        &self.generation
    }

    pub fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for PendingNetwork<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Err(error) = self.engine.tear_down_network(&self.id, None)
        {
            tracing::warn!(
                id = self.id,
                error = error.full_text(),
                "cannot take the network down, left for the next wake"
            );
        }
    }
}

impl Engine {
    pub(super) fn netavark(&self) -> Result<Netavark, EngineError> {
        Ok(Netavark::find(self.paths().names())?)
    }

    /// Where a container's network namespace shows, if it has a name.
    pub fn namespace_of(&self, id: &str) -> PathBuf {
        self.paths().namespaces().join(id)
    }

    /// What depends on this host: whether the networks and the programs are there.
    pub(in super::super) fn check_networks(&self, definition: &Definition) -> Result<(), EngineError> {
        if definition.networks.is_empty() {
            return Ok(());
        }
        if !identity::is_root() || pasta::is_pasta(definition) {
            return pasta::check(definition);
        }
        let netavark = self.netavark()?;
        for attachment in &definition.networks {
            if self.find_network(&attachment.network)?.definition.dns {
                netavark.need_names()?;
            }
        }
        Ok(())
    }

    /// Sets up the networks of a container that is about to start, and writes what name resolution reads. `None` if it is on
    /// none. The caller holds the container's lock, and has looked its users up.
    pub(in super::super) fn set_up_network(
        &self,
        container: &Container,
        users: Option<&UserMap>,
    ) -> Result<Option<PendingNetwork<'_>>, EngineError> {
        let id = &container.row.id;
        // Of an earlier run whose monitor was killed.
        self.tear_down_network(id, None)?;
        if container.definition.networks.is_empty() {
            self.write_etc(container, None)?;
            return Ok(None);
        }
        if pasta::is_pasta(&container.definition) {
            return self.set_up_pasta(container).map(Some);
        }
        self.check_networks(&container.definition)?;
        let generation = names::new_id()?[..16].to_owned();
        let mut pending = PendingNetwork::new(self, id, &generation);
        let wanted = &container.definition.networks;
        let plan = || self.plan(container.into(), wanted, &pending.generation, None);
        let (mut state, held) = match plan() {
            // An anchor has an address too, and stands back.
            Err(error) if self.weigh_anchors(wanted)? => {
                tracing::debug!(id, error = error.full_text(), "planning once more without anchors");
                plan()?
            }
            planned => planned?,
        };
        self.check_routes(&state)?;
        pending.reserved = kept(held);
        self.store_network_state(id, &state)?;
        let path = self.namespace_of(id);
        self.make_namespace(container, users, &path)?;
        let mut lock = HostLock::take()?;
        let told = self.netavark()?.set_up(&mut lock, &state.document, &path)?;
        drop(lock);
        learn(&mut state, &told);
        state.whole = true;
        self.store_network_state(id, &state)?;
        self.write_etc(container, Some(&state))?;
        self.note_use(&state);
        Ok(Some(pending))
    }

    /// Where a container's user namespace shows, if it has one and a network: the two belong together.
    pub(in super::super) fn users_of(&self, id: &str) -> PathBuf {
        self.paths().namespaces().join(format!("{id}.users"))
    }

    /// Makes the network namespace of a start, owned by the container's user namespace if it has one.
    fn make_namespace(
        &self,
        container: &Container,
        users: Option<&UserMap>,
        path: &Path,
    ) -> Result<(), EngineError> {
        let Some(map) = users else { return Ok(namespace::create(path)?) };
        let (users, groups) = map.linux();
        let held = runtime::hold_network_of_users(&users, &groups).map_err(|error| EngineError::Failed {
            attempted: format!("make the namespaces of {:?}", container.row.name),
            reason: place::full_text(&error),
        })?;
        namespace::keep(&held.path("user"), &self.users_of(&container.row.id))?;
        Ok(namespace::keep(&held.path("net"), path)?)
    }

    /// What [`PendingNetwork::take_reserved`] has, once more, for a container that runs. Ports that others have taken meanwhile
    /// are left to them.
    pub(in super::super) fn reserve_again(&self, id: &str) -> Result<Vec<OwnedFd>, EngineError> {
        let published = match self.network_state(id)? {
            // Who holds them then is pasta.
            Some(state) if state.pasta.is_none() => state.ports,
            _ => Vec::new(),
        };
        let all = published.iter().flat_map(|mapping: &Published| {
            (0..mapping.range).map(move |step| (mapping, mapping.host_port.saturating_add(step)))
        });
        let mut held = Vec::new();
        for (mapping, port) in all {
            match ports::hold(mapping.protocol, mapping.host_ip, port) {
                Ok(one) => held.push(one),
                Err(error) => tracing::warn!(id, port, %error, "a published port is not held, ignoring"),
            }
        }
        Ok(kept(held))
    }

    /// A bridge whose subnet the host has come to use otherwise would take traffic away from there.
    pub(super) fn check_routes(&self, state: &NetworkState) -> Result<(), EngineError> {
        let routes = routes::host_routes();
        for attached in state.attached.iter().filter(|attached| attached.bridge) {
            let bridge =
                state.document["network_info"][key(&attached.network_id)]["network_interface"].as_str();
            let stranger = routes.iter().find(|route| {
                Some(route.interface.as_str()) != bridge
                    && attached.addresses.iter().any(|address| overlap(&route.net, &address.trunc()))
            });
            if let Some(route) = stranger {
                return Err(EngineError::Unsupported {
                    feature: format!("the network {:?}", attached.network),
                    reason: format!(
                        "the host has a route to {} through {}, which its subnet overlaps; make the network anew",
                        route.net, route.interface
                    ),
                });
            }
        }
        Ok(())
    }

    /// Takes down what is up of a container's networks, and gives its addresses and ports back. With `generation` only if
    /// that start has set it up. What is not there is no error.
    ///
    /// # Errors
    /// [`EngineError::Io`], [`EngineError::Failed`]; what is left is tried again at the next wake.
    pub fn tear_down_network(&self, id: &str, generation: Option<&str>) -> Result<(), EngineError> {
        let path = self.namespace_of(id);
        if self.network_state(id)?.is_none() && !path.exists() {
            // Nothing was set up; a start that was cut short may have reserved something.
            return match generation {
                None => Ok(self.store()?.release(id)?),
                Some(_) => Ok(()),
            };
        }
        if !identity::is_root() {
            return self.tear_down_pasta(id, generation);
        }
        let mut lock = HostLock::take()?;
        // Again: another may just have done it.
        let state = self.network_state(id)?;
        if generation.is_some() && generation != state.as_ref().map(|state| state.generation.as_str()) {
            return Ok(());
        }
        if let Some(state) = state {
            self.take_down(&mut lock, id, state)?;
        }
        namespace::remove(&path)?;
        namespace::remove(&self.users_of(id))?;
        self.forget_network_state(id)?;
        drop(lock);
        Ok(self.store()?.release(id)?)
    }

    fn take_down(&self, lock: &mut HostLock, id: &str, mut state: NetworkState) -> Result<(), EngineError> {
        let path = self.namespace_of(id);
        let netavark = match self.netavark() {
            Ok(netavark) => netavark,
            Err(error) => {
                tracing::warn!(id, error = error.full_text(), "what netavark has set up can't be taken down");
                return Ok(());
            }
        };
        if state.whole && namespace::exists(&path) {
            // Should this be killed, who comes next knows that only a part is there.
            state.whole = false;
            self.store_network_state(id, &state)?;
            match netavark.take_down(lock, &state.document, &path) {
                Err(NetworkError::Refused { reason, .. }) => {
                    tracing::debug!(id, reason, "a network was only partly up");
                }
                done => return Ok(done?),
            }
        }
        // Where a part is missing, netavark leaves others: the bridge, rules. So it is made whole first, in a namespace that is
        // empty again; what is there already is not made twice.
        namespace::create(&path)?;
        if let Err(error) = netavark.set_up(lock, &state.document, &path) {
            tracing::debug!(id, %error, "a network can't be made whole");
        }
        if let Err(error) = netavark.take_down(lock, &state.document, &path) {
            tracing::warn!(id, %error, "cannot take all of the network down, ignoring");
        }
        Ok(())
    }

    /// After the end of a container: takes its network down if nobody has done so, because its monitor was killed.
    pub(in super::super) async fn settle_network(&self, id: &str) -> Result<(), EngineError> {
        if self.network_state(id)?.is_none() {
            return Ok(());
        }
        let lock = self.lock(id).await?;
        let (engine, id) = (self.clone(), id.to_owned());
        blocking(move || {
            if !engine.live(&id)?.phase.is_alive() {
                engine.tear_down_network(&id, None)?;
            }
            drop(lock);
            Ok(())
        })
        .await
    }

    /// Whether it is a container that runs, or a pod of which one does.
    fn needs_network(&self, id: &str) -> Result<bool, EngineError> {
        Ok(self.live(id)?.phase.is_alive() || (self.store()?.has_pod(id)? && self.is_pod_in_use(id, None)?))
    }

    /// Takes down what containers have that do not run. Blocks the thread.
    pub(in super::super) fn sweep_networks(&self) -> Result<(), EngineError> {
        let mut ids = self.store()?.reserving_containers()?;
        ids.extend(entries(&self.paths().namespaces()));
        ids.sort();
        ids.dedup();
        for id in ids.iter().filter(|id| is_id(id)) {
            if self.needs_network(id)? {
                continue;
            }
            let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { continue };
            // Again under the lock: it may just have been started.
            if self.needs_network(id)? {
                continue;
            }
            tracing::info!(id, "taking down the network of a container that does not run");
            if let Err(error) = self.tear_down_network(id, None) {
                tracing::warn!(
                    id,
                    error = error.full_text(),
                    "cannot take the network down, left for the next wake"
                );
            }
        }
        Ok(())
    }
}

/// Beyond this, a range is found free before the start, and not held: a monitor has room for so many descriptors.
const RESERVED_MAX: usize = 200;
/// Held by a container, it could keep aardvark-dns from its own.
const NAMES_PORT: u16 = 53;

/// What a monitor is to hold of the ports that were found free.
fn kept(held: Vec<ports::Held>) -> Vec<OwnedFd> {
    let mut sockets = Vec::new();
    for held in held {
        let port = held.port;
        if port == NAMES_PORT || sockets.len() >= RESERVED_MAX {
            continue;
        }
        match held.keep() {
            Ok(kept) => sockets.extend(kept),
            Err(error) => tracing::warn!(port, %error, "a published port is not held, ignoring"),
        }
    }
    sockets
}

/// Takes from netavark's answer what only it knows: hardware addresses, and who tells names.
pub(super) fn learn(state: &mut NetworkState, told: &Value) {
    for attached in &mut state.attached {
        let Some(of_network) = told.get(key(&attached.network_id)) else { continue };
        if let Some(mac) = of_network["interfaces"][&attached.interface]["mac_address"].as_str() {
            attached.mac = Some(mac.to_owned());
        }
        let servers = of_network["dns_server_ips"].as_array().into_iter().flatten();
        attached.servers = servers.filter_map(|server| server.as_str()?.parse().ok()).collect();
    }
}
