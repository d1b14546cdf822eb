//! Networks of a container that exists: connected, disconnected, made anew.

use crate::network::namespace;
use crate::network::netavark::{self, HostLock};

use super::super::spec::{Namespace, NetworkAttachment};
use super::super::{Container, Engine, EngineError, Event, EventKind, blocking};
use super::attach::learn;
use super::check::check_attachment;
use super::state::NetworkState;
use super::{Network, invalid};

impl Engine {
    /// Connects a container to a network, at once if it runs. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NetworkNotFound`], [`EngineError::NotFound`], [`EngineError::AlreadyConnected`],
    /// [`EngineError::InvalidSpec`], [`EngineError::AddressInUse`].
    pub async fn connect(&self, attachment: NetworkAttachment, container: &str) -> Result<(), EngineError> {
        check_attachment("", &attachment)?;
        let network = self.find_network(&attachment.network)?;
        let id = self.find_row(container)?.id;
        let lock = self.lock(&id).await?;
        let engine = self.clone();
        blocking(move || {
            let done = engine.connect_locked(&network, attachment, &id);
            drop(lock);
            done
        })
        .await
    }

    fn connect_locked(
        &self,
        network: &Network,
        mut attachment: NetworkAttachment,
        id: &str,
    ) -> Result<(), EngineError> {
        let mut container = self.find(id)?;
        let name = container.row.name.clone();
        attachment.network.clone_from(&network.row.name);
        if is_on(&container, network) {
            return Err(EngineError::AlreadyConnected { network: network.row.name.clone(), container: name });
        }
        let namespace_kind = container.definition.spec.network_namespace();
        if *namespace_kind != Namespace::Private {
            return Err(invalid("container", format!("{name:?} has no network namespace of its own")));
        }
        container.definition.networks.push(attachment.clone());
        self.check_networks(&container.definition)?;
        if self.live(id)?.phase.is_alive() {
            let Some(old) = self.network_state(id)? else {
                return Err(EngineError::Unsupported {
                    feature: format!("connecting {name:?} while it runs"),
                    reason: "it was started without a network, in a namespace without a name; stop it first"
                        .to_owned(),
                });
            };
            self.attach_now(&container, network, &old)?;
        }
        self.record_definition(&container)?;
        self.record_connection("connect", network, id);
        Ok(())
    }

    /// `container` has the new network already; `old` is what it has.
    fn attach_now(
        &self,
        container: &Container,
        network: &Network,
        old: &NetworkState,
    ) -> Result<(), EngineError> {
        let id = &container.row.id;
        let mut lock = HostLock::take()?;
        let mut state =
            self.plan(container.into(), &container.definition.networks, &old.generation, Some(old))?.0;
        for (new, known) in state.attached.iter_mut().zip(&old.attached) {
            new.clone_from(known);
        }
        // First: whoever takes the container's network down from now on knows of this one too.
        self.store_network_state(id, &state)?;
        let program = self.netavark()?;
        let (document, path) = (state.document_of(&network.row.id), self.namespace_of(id));
        let told = self.check_routes(&state).and_then(|()| Ok(program.set_up(&mut lock, &document, &path)?));
        match told {
            Ok(told) => {
                learn(&mut state, &told);
                state.whole = old.whole;
                self.store_network_state(id, &state)?;
                self.write_etc(container, Some(&state))
            }
            Err(error) => {
                // What is half there goes; what the container had before stays.
                if let Err(left) = program.take_down(&mut lock, &document, &path) {
                    tracing::debug!(id, error = %left, "not all of the network was there");
                }
                let mut before = container.clone();
                before.definition.networks.pop();
                self.plan((&before).into(), &before.definition.networks, &old.generation, Some(old))?;
                self.store_network_state(id, old)?;
                Err(error)
            }
        }
    }

    /// Disconnects a container from a network, at once if it runs. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NetworkNotFound`], [`EngineError::NotFound`], [`EngineError::NotConnected`].
    pub async fn disconnect(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let network = self.find_network(network)?;
        let id = self.find_row(container)?.id;
        let lock = self.lock(&id).await?;
        let engine = self.clone();
        blocking(move || {
            let done = engine.disconnect_locked(&network, &id);
            drop(lock);
            done
        })
        .await
    }

    fn disconnect_locked(&self, network: &Network, id: &str) -> Result<(), EngineError> {
        let mut container = self.find(id)?;
        if !is_on(&container, network) {
            return Err(EngineError::NotConnected {
                network: network.row.name.clone(),
                container: container.row.name,
            });
        }
        let (name, network_id) = (&network.row.name, &network.row.id);
        container.definition.networks.retain(|other| other.network != *name && other.network != *network_id);
        if let Some(mut state) = self.network_state(id)?
            && state.of(network_id).is_some()
        {
            let mut lock = HostLock::take()?;
            let document = state.document_of(network_id);
            let whole = std::mem::replace(&mut state.whole, false);
            self.store_network_state(id, &state)?;
            if let Err(error) = self.netavark()?.take_down(&mut lock, &document, &self.namespace_of(id)) {
                tracing::warn!(id, network = name, %error, "not all of the network was there, ignoring");
            }
            state.whole = whole;
            state.attached.retain(|attached| attached.network_id != *network_id);
            for part in ["networks", "network_info"] {
                if let Some(map) = state.document[part].as_object_mut() {
                    map.remove(netavark::key(network_id));
                }
            }
            self.store_network_state(id, &state)?;
            drop(lock);
            let keep = |old: &crate::store::LeaseRow| old.network_id != *network_id;
            let mut mine = self.store()?.reserved_by(id)?;
            mine.leases.retain(keep);
            // It takes only of what it has, so nothing can be refused.
            let _: Result<_, std::convert::Infallible> = self.store()?.reserve(id, |_| Ok(mine))?;
            self.write_etc(&container, Some(&state))?;
        }
        self.record_definition(&container)?;
        self.record_connection("disconnect", network, id);
        Ok(())
    }

    /// Makes the networks of one running container anew, or of all; the ids of those. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; what netavark refuses.
    pub async fn reload_networks(&self, container: Option<&str>) -> Result<Vec<String>, EngineError> {
        let ids: Vec<String> = match container {
            Some(name) => vec![self.find_row(name)?.id],
            None => self.store()?.reserving_containers()?,
        };
        let mut reloaded = Vec::new();
        for id in ids {
            let lock = self.lock(&id).await?;
            let (engine, same) = (self.clone(), id.clone());
            let done = blocking(move || {
                let done = engine.reload_locked(&same);
                drop(lock);
                done
            })
            .await?;
            if done {
                reloaded.push(id);
            }
        }
        Ok(reloaded)
    }

    fn reload_locked(&self, id: &str) -> Result<bool, EngineError> {
        if !self.live(id)?.phase.is_alive() {
            return Ok(false);
        }
        let mut lock = HostLock::take()?;
        let path = self.namespace_of(id);
        let Some(mut state) = self.network_state(id)?.filter(|_| namespace::exists(&path)) else {
            return Ok(false);
        };
        state.whole = false;
        self.store_network_state(id, &state)?;
        // The same hardware addresses, so that nobody who talks to it notices more than a pause.
        for attached in &state.attached {
            state.document["networks"][netavark::key(&attached.network_id)]["static_mac"] =
                serde_json::json!(attached.mac);
        }
        let program = self.netavark()?;
        if let Err(error) = program.take_down(&mut lock, &state.document, &path) {
            tracing::debug!(id, %error, "not all of the network was there");
        }
        let told = program.set_up(&mut lock, &state.document, &path)?;
        learn(&mut state, &told);
        state.whole = true;
        self.store_network_state(id, &state)?;
        Ok(true)
    }

    fn record_connection(&self, action: &str, network: &Network, container: &str) {
        let event = Event::new(EventKind::Network, action, &network.row.id, &network.row.name);
        self.record(&Event { container: Some(container.to_owned()), ..event });
    }

    fn record_definition(&self, container: &Container) -> Result<(), EngineError> {
        let definition = container.definition.to_record()?;
        if self.store()?.update_definition(&container.row.id, &definition)? {
            Ok(())
        } else {
            Err(EngineError::NotFound { name: container.row.name.clone() })
        }
    }
}

fn is_on(container: &Container, network: &Network) -> bool {
    container
        .definition
        .networks
        .iter()
        .any(|attachment| attachment.network == network.row.name || attachment.network == network.row.id)
}
