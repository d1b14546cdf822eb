//! The role `cleanup`: takes the network of a container down after its end, or removes a container that asked for it. Its
//! monitor executes this, so that the monitor itself needs no store, and nothing of netavark.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::engine::{Engine, EngineError};
use crate::serve::Directories;

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

    /// The container's id.
    id: String,
}

/// Plays the role. Exit code 0 also if the container is gone already.
pub fn main(arguments: &[OsString]) -> ExitCode {
    crate::serve::log_to_stderr();
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(2);
        }
    };
    let removed = Engine::new(arguments.directories.paths()).and_then(|engine| {
        if let Some(start) = &arguments.network {
            return engine.tear_down_network(&arguments.id, Some(start));
        }
        if let Some(pod) = &arguments.leave_pod {
            return engine.settle_pod(pod, Some(&arguments.id));
        }
        if let Some(pod) = &arguments.enter_pod {
            return engine.raise_pod(pod).map(drop);
        }
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                EngineError::Failed { attempted: "start".to_owned(), reason: error.to_string() }
            })?;
        runtime.block_on(engine.remove(&arguments.id, false))
    });
    match removed {
        Ok(()) | Err(EngineError::NotFound { .. } | EngineError::PodNotFound { .. }) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = error.full_text(), "cannot clean up after the container");
            ExitCode::FAILURE
        }
    }
}
