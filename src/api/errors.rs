//! Engine errors as varlink errors: the one place that decides which is which. Exhaustive, so that a new engine error
//! can't be forgotten.

use serde_json::{Value, json};

use crate::engine::EngineError;
use crate::varlink::CallError;

/// Has an error reply of `interface`, which defines all the names below that its methods can meet.
pub(super) fn to_reply(interface: &'static str) -> impl Fn(EngineError) -> CallError {
    move |error| {
        let (name, parameters) = name_and_parameters(interface, &error);
        if name == "Failed" {
            tracing::warn!(error = error.full_text(), "an operation failed");
        }
        CallError::reply(format!("{interface}.{name}"), parameters)
    }
}

fn name_and_parameters(interface: &str, error: &EngineError) -> (&'static str, Value) {
    let reason = error.full_text();
    match error {
        EngineError::NotFound { name } | EngineError::Ambiguous { name } => {
            let of_others =
                ["io.dormouse.Network", "io.dormouse.Volume", "io.dormouse.Secret"].contains(&interface);
            (
                if of_others { "ContainerNotFound" } else { "NotFound" },
                json!({"name": name, "reason": reason}),
            )
        }
        EngineError::PathNotFound { name, path } => {
            ("PathNotFound", json!({"name": name, "path": path, "reason": reason}))
        }
        EngineError::ExecNotFound { name, exec } => {
            ("ExecNotFound", json!({"name": name, "exec": exec, "reason": reason}))
        }
        EngineError::NetworkNotFound { network } | EngineError::NetworkAmbiguous { network } => {
            if interface == "io.dormouse.Network" {
                ("NotFound", json!({"name": network, "reason": reason}))
            } else {
                ("NetworkNotFound", json!({"network": network, "reason": reason}))
            }
        }
        EngineError::NetworkExists { network } => {
            ("AlreadyExists", json!({"name": network, "reason": reason}))
        }
        EngineError::NetworkInUse { network, containers } => {
            ("InUse", json!({"name": network, "containers": containers, "reason": reason}))
        }
        EngineError::VolumeNotFound { volume } | EngineError::VolumeAmbiguous { volume } => {
            if interface == "io.dormouse.Volume" {
                ("NotFound", json!({"name": volume, "reason": reason}))
            } else {
                ("VolumeNotFound", json!({"volume": volume, "reason": reason}))
            }
        }
        EngineError::VolumeExists { volume } => ("AlreadyExists", json!({"name": volume, "reason": reason})),
        EngineError::VolumeInUse { volume, containers } => {
            ("InUse", json!({"name": volume, "containers": containers, "reason": reason}))
        }
        EngineError::VolumeUnusable { volume, .. } => {
            ("VolumeUnusable", json!({"volume": volume, "reason": reason}))
        }
        EngineError::MountBusy { name, path } => {
            ("MountBusy", json!({"name": name, "path": path.to_string_lossy(), "reason": reason}))
        }
        EngineError::SecretNotFound { secret } | EngineError::SecretAmbiguous { secret } => {
            if interface == "io.dormouse.Secret" {
                ("NotFound", json!({"name": secret, "reason": reason}))
            } else {
                ("SecretNotFound", json!({"secret": secret, "reason": reason}))
            }
        }
        EngineError::SecretExists { secret } => ("AlreadyExists", json!({"name": secret, "reason": reason})),
        EngineError::SecretInUse { secret, containers } => {
            ("InUse", json!({"name": secret, "containers": containers, "reason": reason}))
        }
        EngineError::AlreadyConnected { network, container } => {
            ("AlreadyConnected", json!({"name": network, "container": container, "reason": reason}))
        }
        EngineError::NotConnected { network, container } => {
            ("NotConnected", json!({"name": network, "container": container, "reason": reason}))
        }
        EngineError::PortInUse { port, protocol, holder } => {
            ("PortInUse", json!({"port": port, "protocol": protocol, "holder": holder, "reason": reason}))
        }
        EngineError::AddressInUse { address, holder } => {
            ("AddressInUse", json!({"address": address, "holder": holder, "reason": reason}))
        }
        EngineError::ImageNotFound { image } | EngineError::ImageAmbiguous { image } => {
            // What is a missing part for a container is the very subject of io.dormouse.Image.
            if interface == "io.dormouse.Image" {
                ("NotFound", json!({"name": image, "reason": reason}))
            } else {
                ("ImageNotFound", json!({"image": image, "reason": reason}))
            }
        }
        EngineError::AlreadyExists { name } => ("AlreadyExists", json!({"name": name, "reason": reason})),
        EngineError::WrongState { name, state, wanted, .. } => {
            ("WrongState", json!({"name": name, "state": state.as_str(), "wanted": wanted, "reason": reason}))
        }
        EngineError::StillRunning { name, state } => (
            "WrongState",
            json!({"name": name, "state": state.as_str(), "wanted": "not running", "reason": reason}),
        ),
        EngineError::InvalidSpec { field, .. } => ("InvalidSpec", json!({"field": field, "reason": reason})),
        EngineError::InvalidDocument { document, field, .. } => {
            ("InvalidDocument", json!({"document": document, "field": field, "reason": reason}))
        }
        // What came of it says what went wrong, and the reason where.
        EngineError::InDocument { error, .. } => {
            let (name, mut parameters) = name_and_parameters(interface, error);
            parameters["reason"] = json!(reason);
            (name, parameters)
        }
        EngineError::CommandNotFound { name, command } => {
            ("CommandNotFound", json!({"name": name, "command": command, "reason": reason}))
        }
        EngineError::CommandNotExecutable { name, command, .. } => {
            ("CommandNotExecutable", json!({"name": name, "command": command, "reason": reason}))
        }
        EngineError::LaunchFailed { name, step, errno, .. } => {
            ("LaunchFailed", json!({"name": name, "step": step, "errno": errno, "reason": reason}))
        }
        EngineError::Unsupported { feature, .. } => {
            ("Unsupported", json!({"feature": feature, "reason": reason}))
        }
        EngineError::PodNotFound { pod } | EngineError::PodAmbiguous { pod } => match interface {
            "io.dormouse.Pod" => ("NotFound", json!({"name": pod, "reason": reason})),
            _ => ("PodNotFound", json!({"pod": pod, "reason": reason})),
        },
        EngineError::PodExists { pod } => ("AlreadyExists", json!({"name": pod, "reason": reason})),
        EngineError::PodEmpty { pod } => ("Empty", json!({"name": pod, "reason": reason})),
        EngineError::PodNotRunning { pod, .. } => ("NotRunning", json!({"name": pod, "reason": reason})),
        EngineError::PodStillRunning { pod, container } => {
            ("StillRunning", json!({"name": pod, "container": container, "reason": reason}))
        }
        EngineError::PodPartly { pod, failures, .. } => {
            let failure =
                |(container, reason): &(String, String)| json!({"container": container, "reason": reason});
            let failures: Vec<Value> = failures.iter().map(failure).collect();
            ("PartlyFailed", json!({"name": pod, "failures": failures, "reason": reason}))
        }
        EngineError::NoHealthCheck { name } => ("NoHealthCheck", json!({"name": name, "reason": reason})),
        EngineError::CursorLost { cursor } => ("CursorLost", json!({"cursor": cursor, "reason": reason})),
        EngineError::Timeout { name, .. } => ("Timeout", json!({"name": name, "reason": reason})),
        EngineError::ImageInUse { image, containers } => {
            ("InUse", json!({"name": image, "containers": containers, "reason": reason}))
        }
        EngineError::InvalidArchive { .. } => ("InvalidArchive", json!({"reason": reason})),
        EngineError::InvalidImage { image, .. } => ("InvalidImage", json!({"name": image, "reason": reason})),
        EngineError::NotInRegistry { image, registry, .. } => {
            ("NotInRegistry", json!({"name": image, "registry": registry, "reason": reason}))
        }
        EngineError::Unauthorized { registry, .. } => {
            ("Unauthorized", json!({"registry": registry, "reason": reason}))
        }
        EngineError::RegistryUnavailable { registry, .. } => {
            ("RegistryUnavailable", json!({"registry": registry, "reason": reason}))
        }
        EngineError::StorageFull { .. } => ("StorageFull", json!({"reason": reason})),
        EngineError::NotSystemd { name, .. } => ("NotSystemd", json!({"name": name, "reason": reason})),
        EngineError::NoSuchUnit { name, unit } => {
            ("NoSuchUnit", json!({"name": name, "unit": unit, "reason": reason}))
        }
        EngineError::JobFailed { name, unit, result } => {
            ("JobFailed", json!({"name": name, "unit": unit, "result": result, "reason": reason}))
        }
        EngineError::Unreachable { name, .. } => ("Unreachable", json!({"name": name, "reason": reason})),
        EngineError::BuildFailed { file, line, instruction, output, .. } => (
            "BuildFailed",
            json!({"file": file, "line": line, "instruction": instruction, "output": output, "reason": reason}),
        ),
        EngineError::PathTooLong { path, .. } if interface == "io.dormouse.Container" => {
            ("PathTooLong", json!({"path": path, "reason": reason}))
        }
        EngineError::Io { .. }
        | EngineError::PathTooLong { .. }
        | EngineError::Failed { .. }
        | EngineError::Cancelled
        | EngineError::Store(_) => ("Failed", json!({"reason": reason})),
    }
}
