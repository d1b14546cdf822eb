//! Volumes.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use crate::api::{looked_up, ordered};
use crate::engine::{Engine, EngineError, NewVolume, Volume, VolumeDefinition};

use super::errors::{failed, failed_anyhow, occurred};
use super::text::time;
use super::{Call, CallError, PodmanInterface, wire};

/// The only driver; what volumes of others would be, their options say.
const DRIVER: &str = "local";

/// Removes all volumes.
pub(super) async fn remove_all(engine: &Engine) -> Result<(), EngineError> {
    for (volume, _) in engine.volumes()? {
        match engine.remove_volume(&volume.row.id, true).await {
            Ok(()) | Err(EngineError::VolumeNotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn to_wire(engine: &Engine, volume: Volume) -> wire::Volume {
    wire::Volume {
        mountPoint: engine.volume_path(&volume).to_string_lossy().into_owned(),
        name: volume.row.name,
        labels: volume.definition.labels.into_iter().collect(),
        driver: DRIVER.to_owned(),
        options: volume.definition.options.into_iter().collect(),
    }
}

impl PodmanInterface {
    pub(super) async fn volume_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "VolumeCreate" => self.create_volume(call).await,
            "VolumeRemove" => self.remove_volumes(call).await,
            "GetVolumes" => self.get_volumes(call).await,
            "InspectVolume" => self.inspect_volume(call).await,
            "VolumesPrune" => self.prune_volumes(call).await,
            _ => Err(CallError::MethodNotImplemented),
        }
    }

    async fn create_volume(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::VolumeCreate_Args { options } = call.parameters()?;
        if !["", DRIVER].contains(&options.driver.as_str()) {
            return Err(occurred(format!("there is no driver {:?} of volumes; {DRIVER} is", options.driver)));
        }
        let new = NewVolume {
            name: Some(options.volumeName).filter(|name| !name.is_empty()),
            definition: VolumeDefinition {
                options: options.options.into_iter().collect(),
                labels: options.labels.into_iter().collect(),
            },
        };
        let engine = self.engine.clone();
        let volume =
            ordered(call, looked_up(move || engine.create_volume(new))).await.map_err(failed_anyhow)?;
        call.reply(wire::VolumeCreate_Reply { volumeName: volume.row.name }).await
    }

    async fn remove_volumes(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::VolumeRemove_Args { options } = call.parameters()?;
        let engine = self.engine.clone();
        let removed = ordered(call, async move {
            let names = if options.all {
                engine.volumes()?.into_iter().map(|(volume, _)| volume.row.name).collect()
            } else {
                options.volumes
            };
            let (mut successes, mut failures) = (Vec::new(), HashMap::new());
            for name in names {
                match engine.remove_volume(&name, options.force).await {
                    Ok(()) => successes.push(name),
                    Err(error) => drop(failures.insert(name, error.full_text())),
                }
            }
            Ok((successes, failures))
        });
        let (successes, failures) = removed.await.map_err(failed)?;
        call.reply(wire::VolumeRemove_Reply { successes, failures }).await
    }

    async fn get_volumes(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetVolumes_Args = call.parameters()?;
        let engine = self.engine.clone();
        let volumes = looked_up(move || {
            if given.all {
                let all = engine.volumes()?.into_iter();
                return Ok(all.map(|(volume, _)| to_wire(&engine, volume)).collect());
            }
            given.args.iter().map(|name| Ok(to_wire(&engine, engine.find_volume(name)?))).collect()
        });
        let volumes = volumes.await.map_err(|error| match &error {
            EngineError::VolumeNotFound { volume } | EngineError::VolumeAmbiguous { volume } => {
                let parameters = json!({"id": volume, "reason": error.full_text()});
                CallError::reply("io.podman.VolumeNotFound", parameters)
            }
            _ => failed(error),
        })?;
        call.reply(wire::GetVolumes_Reply { volumes }).await
    }

    async fn inspect_volume(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::InspectVolume_Args = call.parameters()?;
        let engine = self.engine.clone();
        let document = looked_up(move || {
            let volume = engine.find_volume(&given.name)?;
            Ok(json!({
                "Name": volume.row.name,
                "Driver": DRIVER,
                "Mountpoint": engine.volume_path(&volume).to_string_lossy(),
                "CreatedAt": time(Some(volume.row.created_usec)),
                "Labels": volume.definition.labels,
                "Scope": "local",
                "Options": volume.definition.options,
            })
            .to_string())
        });
        call.reply(wire::InspectVolume_Reply { volume: document.await.map_err(failed_anyhow)? }).await
    }

    async fn prune_volumes(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let pruned = looked_up(move || engine.prune_volumes(false, &BTreeMap::new()));
        let pruned = ordered(call, pruned).await.map_err(failed)?;
        call.reply(wire::VolumesPrune_Reply { prunedNames: pruned.removed, prunedErrors: Vec::new() }).await
    }
}
