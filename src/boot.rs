//! The role `boot`: what the units dormouse-containers.service and dormouse-cleanup.service do at boot and at shutdown.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::engine::{Engine, EngineError, Handled};
use crate::role::Directories;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Action {
    /// Start the containers that ran when the machine went down and whose restart policy says so.
    Start,
    /// Stop every container that runs, without changing what is to run after the next boot.
    Stop,
    /// Remove what interrupted changes left, and containers that wanted to be removed at their end.
    Clean,
}

/// Starts containers at boot, stops them at shutdown, and cleans up after a boot.
#[derive(Debug, Parser)]
#[command(name = "dormouse boot", no_binary_name = true)]
struct Arguments {
    #[command(flatten)]
    directories: Directories,

    /// What to do
    #[arg(value_enum)]
    action: Action,
}

/// Plays the role. Exit code 1 if it failed for some container, which has been told on standard error.
pub fn main(arguments: &[OsString]) -> ExitCode {
    crate::role::log_to_stderr();
    let arguments: Arguments = match crate::role::parsed(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match act(arguments) {
        Ok(handled) => {
            let mut code = ExitCode::SUCCESS;
            for Handled { name, result } in handled {
                match result {
                    Ok(()) => println!("{name}: done"),
                    Err(error) => {
                        eprintln!("dormouse: {name}: {}", error.full_text());
                        code = ExitCode::FAILURE;
                    }
                }
            }
            code
        }
        Err(error) => {
            eprintln!("dormouse: {}", error.full_text());
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: Arguments) -> Result<Vec<Handled>, EngineError> {
    let paths = arguments.directories.paths();
    // Nobody has had a container here, and nothing is made for nobody.
    if !paths.database().exists() {
        return Ok(Vec::new());
    }
    crate::rootless::enter(&paths.run_dir).map_err(|error| EngineError::Failed {
        attempted: "become root in a namespace".to_owned(),
        reason: error.to_string(),
    })?;
    let engine = Engine::new(paths)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| EngineError::Failed { attempted: "start".to_owned(), reason: error.to_string() })?;
    runtime.block_on(async {
        match arguments.action {
            Action::Start => engine.start_left_running().await,
            Action::Stop => engine.stop_all().await,
            Action::Clean => engine.clean_up_after_boot().await,
        }
    })
}
