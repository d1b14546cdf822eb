//! The role `cleanup`: takes the network of a container down after its end, and file systems of its volumes, or removes a
//! container that asked for it. Its monitor executes this, so that the monitor itself needs no store, and nothing of netavark.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::engine::{Engine, EngineError};
use crate::role::Directories;

#[derive(Debug, Parser)]
#[command(name = "dormouse cleanup", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    directories: Directories,

    /// Only take the network down that this start has set up.
    #[arg(long, value_name = "START")]
    network: Option<String>,

    /// Only take down what this pod shares, if the container was the last one in it.
    #[arg(long, value_name = "POD", conflicts_with = "network")]
    leave_pod: Option<String>,

    /// Only make sure that what this pod shares is there.
    #[arg(long, value_name = "POD", conflicts_with_all = ["network", "leave_pod"])]
    enter_pod: Option<String>,

    /// Only unmount file systems of volumes that nothing else runs with.
    #[arg(long)]
    volumes: bool,

    /// The container's id.
    id: String,
}

/// Plays the role. Exit code 0 also if the container is gone already.
pub fn main(arguments: &[OsString]) -> ExitCode {
    crate::role::log_to_stderr();
    let arguments: Arguments = match crate::role::parsed(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let removed = Engine::new(arguments.directories.paths()).and_then(|engine| {
        if arguments.network.is_some() || arguments.volumes || arguments.leave_pod.is_some() {
            // One that fails must not keep the other from being done.
            let released = if arguments.volumes { engine.release_volumes(&arguments.id) } else { Ok(()) };
            if let Some(start) = &arguments.network {
                engine.tear_down_network(&arguments.id, Some(start))?;
            }
            if let Some(pod) = &arguments.leave_pod {
                engine.settle_pod(pod, Some(&arguments.id))?;
            }
            return released;
        }
        if let Some(pod) = &arguments.enter_pod {
            return engine.raise_pod(pod).map(drop);
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                EngineError::Failed { attempted: "start".to_owned(), reason: error.to_string() }
            })?;
        runtime.block_on(engine.remove(&arguments.id, false, true))
    });
    match removed {
        Ok(()) | Err(EngineError::NotFound { .. } | EngineError::PodNotFound { .. }) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.full_text(), "cannot clean up after the container");
            ExitCode::FAILURE
        }
    }
}
