//! io.podman: the interface of Podman 1.9 over the same engine, for the clients that speak it. A file per noun; what each
//! method comes to, and where it differs, is told in docs/io.podman.md.

mod containers;
mod errors;
mod images;
mod pods;
mod streams;
mod system;
mod text;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::engine::{Engine, EngineError};
use crate::varlink::{BoxFuture, Call, CallError, Interface, ParameterCheck};
use crate::wire::podman as wire;

use errors::occurred;
use streams::Handles;

const NAME: &str = "io.podman";
/// The version that clients go by: how they word some calls depends on it.
const VERSION: &str = "1.9.3";

/// Reads the flags of `create`, without a program's name, into the `Spec` of io.dormouse.Container; the error is for a person.
/// The command line has one, which a service must not know.
pub type FlagReader = fn(Vec<String>) -> Result<Map<String, Value>, String>;

/// The interface over an engine.
pub(super) struct PodmanInterface {
    engine: Engine,
    read_flags: FlagReader,
    handles: Arc<Handles>,
}

impl PodmanInterface {
    pub(super) fn new(engine: Engine, read_flags: FlagReader) -> Self {
        Self { handles: Arc::new(Handles::new(&engine)), engine, read_flags }
    }
}

impl Interface for PodmanInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../../interfaces/io.podman.varlink")
    }

    fn parameter_check(&self) -> ParameterCheck {
        ParameterCheck::Lenient
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "GetVersion" => self.version(call).await,
                "GetInfo" => self.info(call).await,
                "GetEvents" => self.events(call).await,
                "Reset" => self.reset(call).await,
                "SendFile" => self.send_file(call).await,
                "ReceiveFile" => self.receive_file(call).await,
                "Attach" => self.attach(call).await,
                "ExecContainer" => self.exec(call).await,
                "GetAttachSockets" => self.attach_sockets(call).await,
                // They have never been there.
                "AttachControl" | "CreateFromCC" => Err(CallError::MethodNotImplemented),
                method if method.contains("Pod") || method == "GenerateKube" => self.pod_call(call).await,
                method if method.contains("Volume") => self.volume_call(call).await,
                method if is_of_images(method) => self.image_call(call).await,
                _ => self.container_call(call).await,
            }
        })
    }
}

fn is_of_images(method: &str) -> bool {
    method.contains("Image") || matches!(method, "Commit" | "ContainerRunlabel" | "Diff")
}

/// A path of the host, or nothing.
fn absolute(what: &str, path: &str) -> Result<PathBuf, CallError> {
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(occurred(format!("cannot use {path:?} as {what}: it is no absolute path of the host of the service")))
}

/// The id without the name of its digest, as Podman tells it.
fn bare(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// An error that only says where the program has not come to.
fn unsupported(feature: &str, reason: &str) -> EngineError {
    EngineError::Unsupported { feature: feature.to_owned(), reason: reason.to_owned() }
}
