//! Pods.

use serde_json::json;

use crate::engine::{Engine, EngineError};

use super::errors::occurred;
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
            "GenerateKube" => {
                Err(impossible("describe it for Kubernetes", "this program does not do that yet"))
            }
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
}
