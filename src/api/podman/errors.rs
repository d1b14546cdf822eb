//! Engine errors as those of io.podman, which has few: what none of them says is ErrorOccurred with a reason.

use serde_json::json;

use crate::engine::EngineError;
use crate::varlink::CallError;

/// Anything that has no error of its own. The reason is shown to a person.
pub(super) fn occurred(reason: impl Into<String>) -> CallError {
    CallError::reply("io.podman.ErrorOccurred", json!({"reason": reason.into()}))
}

/// The usual translation.
pub(super) fn failed(error: EngineError) -> CallError {
    let reason = error.full_text();
    match error {
        EngineError::NotFound { name } | EngineError::Ambiguous { name } => {
            CallError::reply("io.podman.ContainerNotFound", json!({"id": name, "reason": reason}))
        }
        EngineError::ImageNotFound { image } | EngineError::ImageAmbiguous { image } => {
            CallError::reply("io.podman.ImageNotFound", json!({"id": image, "reason": reason}))
        }
        _ => {
            if matches!(error, EngineError::Failed { .. } | EngineError::Io { .. } | EngineError::Store(_)) {
                tracing::warn!(error = reason, "an operation failed");
            }
            occurred(reason)
        }
    }
}

/// For methods that tell a wrong state apart.
pub(super) fn failed_by_state(error: EngineError) -> CallError {
    match &error {
        EngineError::WrongState { name, .. } | EngineError::StillRunning { name, .. } => {
            CallError::reply("io.podman.InvalidState", json!({"id": name, "reason": error.full_text()}))
        }
        _ => failed(error),
    }
}

/// For methods that know ErrorOccurred alone.
pub(super) fn failed_anyhow(error: EngineError) -> CallError {
    occurred(error.full_text())
}

/// For methods about what runs only.
pub(super) fn failed_if_idle(error: EngineError) -> CallError {
    match error {
        EngineError::WrongState { .. } => CallError::reply("io.podman.NoContainerRunning", json!({})),
        error => failed(error),
    }
}
