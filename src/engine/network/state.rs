//! What was set up for a container that runs: `network.json` in its run directory.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::monitor::state::ProcessRef;
use crate::network::ports::Protocol;
use crate::network::{IpNet, netavark};

use super::super::launch::write;
use super::super::{Engine, EngineError};

const FILE_NAME: &str = "network.json";

/// All that is up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// Another one for each start.
    pub generation: String,
    /// All of it is up. False while somebody works on it, and for ever if that one is killed.
    pub whole: bool,
    /// What netavark was told.
    pub document: Value,
    /// One for each network, in the order of the container's definition.
    pub attached: Vec<Attached>,
    /// What leads to the container.
    pub ports: Vec<Published>,
    /// The pasta that is its network, for a user without root.
    #[serde(default)]
    pub pasta: Option<ProcessRef>,
}

/// A network that a container is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct Attached {
    pub network: String,
    pub network_id: String,
    pub bridge: bool,
    pub interface: String,
    pub addresses: Vec<IpNet>,
    pub gateways: Vec<IpAddr>,
    pub mac: Option<String>,
    pub aliases: Vec<String>,
    /// Who tells names on this network; empty if nobody does.
    pub servers: Vec<IpAddr>,
}

/// Ports of the host that lead to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct Published {
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub range: u16,
    pub protocol: Protocol,
}

impl NetworkState {
    /// The network of this id.
    pub fn of(&self, network_id: &str) -> Option<&Attached> {
        self.attached.iter().find(|attached| attached.network_id == network_id)
    }

    /// What netavark was told, for one of the networks only.
    pub(super) fn document_of(&self, network_id: &str) -> Value {
        let key = netavark::key(network_id);
        let mut document = self.document.clone();
        for part in ["networks", "network_info"] {
            if let Some(map) = document[part].as_object_mut() {
                map.retain(|name, _| name == key);
            }
        }
        document
    }
}

impl Engine {
    fn network_state_path(&self, id: &str) -> std::path::PathBuf {
        self.paths().run_container(id).join(FILE_NAME)
    }

    /// What is up of a container; `None` if nothing is.
    ///
    /// # Errors
    /// [`EngineError::Io`]; [`EngineError::Failed`] for a damaged file.
    pub fn network_state(&self, id: &str) -> Result<Option<NetworkState>, EngineError> {
        let path = self.network_state_path(id);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::io("read", path, error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| EngineError::Failed {
            attempted: format!("read {path:?}"),
            reason: error.to_string(),
        })
    }

    /// In one step: a reader sees the old or the new one.
    pub(super) fn store_network_state(&self, id: &str, state: &NetworkState) -> Result<(), EngineError> {
        let path = self.network_state_path(id);
        let new = path.with_extension("new");
        let bytes = serde_json::to_vec(state).map_err(|error| EngineError::Failed {
            attempted: "record the network's state".to_owned(),
            reason: error.to_string(),
        })?;
        write(&new, &bytes)?;
        std::fs::rename(&new, &path).map_err(|error| EngineError::io("rename", new, error))
    }

    pub(super) fn forget_network_state(&self, id: &str) -> Result<(), EngineError> {
        let path = self.network_state_path(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(EngineError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }
}
