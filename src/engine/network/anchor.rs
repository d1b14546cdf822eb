//! Anchors: a network's bridge and rules stay for a moment when its last container has gone.
//!
//! The first container on a network has netavark make a bridge and a dozen rules, the last one has them removed, and each takes
//! the kernel some ten milliseconds. Where containers come and go that is most of their lives. So after a start the service puts
//! something on the container's bridges that is no container: a namespace with an interface and an address, under the
//! network's id. When no container has started for [`LINGER`], or the service goes to sleep, the anchor goes, and with
//! it the bridge if nobody else is on it. It is recorded as a container's network is, so if the service is killed, the next
//! wake finds an anchor as it finds what is left of a container. It stands back for whoever wants its address.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::network::namespace;
use crate::network::netavark::HostLock;
use crate::store::{Found, try_lock_object};

use super::super::spec::NetworkAttachment;
use super::super::{Engine, EngineError, blocking, names};
use super::attach::learn;
use super::plan::Subject;
use super::state::NetworkState;

/// So long after the last start on any network.
const LINGER: Duration = Duration::from_secs(2);

/// The networks that have been used since the anchors were last looked at. Nothing is lost with it but time.
#[derive(Debug, Default)]
pub(in super::super) struct Anchors {
    used: Mutex<BTreeSet<String>>,
    told: Notify,
}

impl Engine {
    /// A container has been set up on these networks.
    pub(super) fn note_use(&self, state: &NetworkState) {
        let bridges = state.attached.iter().filter(|attached| attached.bridge);
        let anchors = &self.inner.anchors;
        anchors
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(bridges.map(|attached| attached.network_id.clone()));
        anchors.told.notify_one();
    }

    /// Drops anchors where containers start, and weighs them when none has started for a while. Never returns.
    pub async fn keep_anchors(&self) {
        loop {
            self.inner.anchors.told.notified().await;
            loop {
                let engine = self.clone();
                if let Err(error) = blocking(move || engine.drop_anchors()).await {
                    // Everything works without, only more slowly.
                    tracing::debug!(error = error.full_text(), "cannot anchor a network");
                }
                if tokio::time::timeout(LINGER, self.inner.anchors.told.notified()).await.is_err() {
                    break;
                }
            }
            let engine = self.clone();
            if let Err(error) = blocking(move || engine.weigh_all_anchors()).await {
                tracing::warn!(
                    error = error.full_text(),
                    "cannot take all of a network down, left for the next wake"
                );
            }
        }
    }

    fn drop_anchors(&self) -> Result<(), EngineError> {
        let used =
            std::mem::take(&mut *self.inner.anchors.used.lock().unwrap_or_else(PoisonError::into_inner));
        for id in used {
            self.drop_anchor(&id)?;
        }
        Ok(())
    }

    fn drop_anchor(&self, id: &str) -> Result<(), EngineError> {
        let path = self.namespace_of(id);
        let Some(_lock) = try_lock_object(&self.paths().locks(), id)? else { return Ok(()) };
        if path.exists() || self.store()?.find_network(id)? == Found::None {
            return Ok(());
        }
        let run_dir = self.paths().run_container(id);
        match std::fs::create_dir(&run_dir) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(EngineError::io("make directory", run_dir, error));
            }
            _ => {}
        }
        let wanted = [NetworkAttachment { network: id.to_owned(), ..NetworkAttachment::default() }];
        let generation = names::new_id()?[..16].to_owned();
        let subject = Subject { id, name: id, ports: &[], servers: &[] };
        let done = self.plan(subject, &wanted, &generation, None).and_then(|(mut state, _)| {
            self.store_network_state(id, &state)?;
            let mut lock = HostLock::take()?;
            namespace::create(&path)?;
            let told = self.netavark()?.set_up(&mut lock, &state.document, &path)?;
            learn(&mut state, &told);
            state.whole = true;
            self.store_network_state(id, &state)
        });
        if done.is_err() {
            self.weigh_anchor(id)?;
        }
        done
    }

    /// The caller holds the lock of the network's id.
    pub(super) fn weigh_anchor(&self, id: &str) -> Result<(), EngineError> {
        self.tear_down_network(id, None)?;
        self.remove_directories(id);
        Ok(())
    }

    /// Takes all anchors away. Blocks the thread.
    ///
    /// # Errors
    /// What is left is found at the next wake.
    pub fn weigh_all_anchors(&self) -> Result<(), EngineError> {
        // Without one there is no reason to open the store.
        for id in super::super::sweep::entries(&self.paths().namespaces()) {
            self.weigh_anchor_of(&id)?;
        }
        Ok(())
    }

    /// Takes the anchors of these networks away; false if there was none.
    pub(super) fn weigh_anchors(&self, wanted: &[NetworkAttachment]) -> Result<bool, EngineError> {
        let mut any = false;
        for attachment in wanted {
            if let Found::One(row) = self.store()?.find_network(&attachment.network)? {
                any |= self.weigh_anchor_of(&row.id)?;
            }
        }
        Ok(any)
    }

    fn weigh_anchor_of(&self, id: &str) -> Result<bool, EngineError> {
        let is_network =
            || Ok::<_, EngineError>(self.store()?.find_network(id)?.ok().is_some_and(|row| row.id == id));
        if !self.namespace_of(id).exists() || !is_network()? {
            return Ok(false);
        }
        let _lock = crate::store::lock_object(&self.paths().locks(), id)?;
        if !self.namespace_of(id).exists() {
            return Ok(false);
        }
        self.weigh_anchor(id)?;
        Ok(true)
    }
}
