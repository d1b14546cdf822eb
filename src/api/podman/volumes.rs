//! Volumes.

use crate::engine::{Engine, EngineError};

use super::errors::occurred;
use super::{Call, CallError, PodmanInterface, impossible, wire};

/// Removes all volumes.
pub(super) async fn remove_all(_engine: &Engine) -> Result<(), EngineError> {
    Ok(())
}

impl PodmanInterface {
    pub(super) async fn volume_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "GetVolumes" => call.reply(wire::GetVolumes_Reply { volumes: Vec::new() }).await,
            "VolumesPrune" => {
                let reply = wire::VolumesPrune_Reply { prunedNames: Vec::new(), prunedErrors: Vec::new() };
                call.reply(reply).await
            }
            "InspectVolume" => {
                let given: wire::InspectVolume_Args = call.parameters()?;
                Err(occurred(format!("there is no volume {:?}", given.name)))
            }
            _ => Err(impossible("change volumes", "this program has no volumes with names yet")),
        }
    }
}
