//! The role `machine`: registers a container that has just started with systemd-machined. Its monitor executes this after
//! each start, so that the monitor itself needs neither the store nor machined's interface.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::engine::{Engine, EngineError};
use crate::role::Directories;

#[derive(Debug, Parser)]
#[command(name = "dormouse machine", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    directories: Directories,

    /// The container's id.
    id: String,
}

/// Plays the role. Exit code 0 also if the container has ended meanwhile.
pub fn main(arguments: &[OsString]) -> ExitCode {
    crate::role::log_to_stderr();
    let arguments: Arguments = match crate::role::parsed(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    let registered =
        Engine::new(arguments.directories.paths()).and_then(|engine| engine.register_machine(&arguments.id));
    match registered {
        Ok(()) | Err(EngineError::NotFound { .. } | EngineError::WrongState { .. }) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::warn!(error = error.full_text(), "machinectl will not know the container");
            ExitCode::FAILURE
        }
    }
}
