//! All of a container, as JSON documents in strings.

use serde_json::Value;

use crate::api::looked_up;
use crate::engine::EngineError;

use super::super::errors::{failed, failed_anyhow, occurred};
use super::super::{Call, CallError, PodmanInterface, wire};
use super::{One, document};

impl PodmanInterface {
    pub(super) async fn inspect_container(&self, call: &mut Call) -> Result<(), CallError> {
        let of_data = call.method() == "ContainerInspectData";
        let (name, sized) = if of_data {
            let given: wire::ContainerInspectData_Args = call.parameters()?;
            (given.name, given.size)
        } else {
            let given: wire::InspectContainer_Args = call.parameters()?;
            (given.name, true)
        };
        let engine = self.engine.clone();
        let text = looked_up(move || {
            let one = One::find(&engine, &name)?;
            Ok(document::inspect(&engine, &one, sized).to_string())
        });
        let text = text.await.map_err(failed)?;
        if of_data {
            call.reply(wire::ContainerInspectData_Reply { config: text }).await
        } else {
            call.reply(wire::InspectContainer_Reply { container: text }).await
        }
    }

    pub(super) async fn container_config(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ContainerConfig_Args = call.parameters()?;
        let config = self.document(given.name, document::config).await.map_err(failed)?;
        call.reply(wire::ContainerConfig_Reply { config }).await
    }

    pub(super) async fn container_state(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ContainerStateData_Args = call.parameters()?;
        let config = self.document(given.name, |_, one| Ok(document::state(one))).await.map_err(failed)?;
        call.reply(wire::ContainerStateData_Reply { config }).await
    }

    pub(super) async fn container_artifacts(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ContainerArtifacts_Args = call.parameters()?;
        if given.artifactName != "create-config" {
            self.id_of(&given.name).await.map_err(failed)?;
            return Err(occurred(format!(
                "there is no artifact {:?} of {:?}; create-config is the only one",
                given.artifactName, given.name
            )));
        }
        let config = self.document(given.name, document::config).await.map_err(failed)?;
        call.reply(wire::ContainerArtifacts_Reply { config }).await
    }

    pub(super) async fn spec(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Spec_Args = call.parameters()?;
        let config = self.document(given.name, |engine, one| engine.runtime_spec(one.id()));
        call.reply(wire::Spec_Reply { config: config.await.map_err(failed_anyhow)? }).await
    }

    /// Makes a document on a thread that may block.
    async fn document(
        &self,
        name: String,
        make: impl FnOnce(&crate::engine::Engine, &One) -> Result<Value, EngineError> + Send + 'static,
    ) -> Result<String, EngineError> {
        let engine = self.engine.clone();
        looked_up(move || Ok(make(&engine, &One::find(&engine, &name)?)?.to_string())).await
    }
}
