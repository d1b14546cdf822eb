//! Pods.

use serde_json::json;

use crate::api::looked_up;
use crate::engine::{Engine, EngineError};

use super::errors::{failed_anyhow, occurred};
use super::{Call, CallError, PodmanInterface, impossible, wire};

/// Removes all pods.
pub(super) async fn remove_all(_engine: &Engine) -> Result<(), EngineError> {
    Ok(())
}

fn not_found(name: &str) -> CallError {
    let reason = format!("there is no pod {name:?}");
    CallError::reply("io.podman.PodNotFound", json!({"name": name, "reason": reason}))
}

impl PodmanInterface {
    pub(super) async fn pod_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "ListPods" => call.reply(wire::ListPods_Reply { pods: Vec::new() }).await,
            "GetPodsByStatus" => call.reply(wire::GetPodsByStatus_Reply { pods: Vec::new() }).await,
            "GetPodsByContext" => {
                let given: wire::GetPodsByContext_Args = call.parameters()?;
                match given.args.first() {
                    Some(name) => Err(occurred(format!("there is no pod {name:?}"))),
                    None => call.reply(wire::GetPodsByContext_Reply { pods: Vec::new() }).await,
                }
            }
            "CreatePod" => Err(impossible("make a pod", "this program has no pods yet")),
            "PodStateData" => {
                let given: wire::PodStateData_Args = call.parameters()?;
                Err(occurred(format!("there is no pod {:?}", given.name)))
            }
            "GenerateKube" => self.generate_kube(call).await,
            "TopPod" => {
                let given: wire::TopPod_Args = call.parameters()?;
                Err(not_found(&given.pod))
            }
            _ => {
                let given: serde_json::Value = call.parameters()?;
                Err(not_found(given["name"].as_str().unwrap_or_default()))
            }
        }
    }

    async fn generate_kube(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GenerateKube_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed_anyhow)?;
        let (name, containers) = (one.listed.name.clone(), vec![one.listed.id]);
        let engine = self.engine.clone();
        let kube = looked_up(move || engine.kube(&name, &containers)).await.map_err(failed_anyhow)?;
        // Never nothing: clients read it as a document.
        let service = kube.service.filter(|_| given.service).unwrap_or_else(|| json!({}));
        let pod = wire::KubePodService { pod: kube.pod.to_string(), service: service.to_string() };
        call.reply(wire::GenerateKube_Reply { pod }).await
    }
}
