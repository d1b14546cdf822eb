//! What roles that use the engine have in common: their arguments, their directories, and their log.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::identity;
use crate::store::Paths;

/// The arguments of a role.
///
/// # Errors
/// The exit code, where they can't be used (2) or only help was asked for (0); the person has been told.
pub(crate) fn parsed<A: Parser>(arguments: &[OsString]) -> Result<A, ExitCode> {
    A::try_parse_from(arguments).map_err(|error| {
        let _ = error.print();
        ExitCode::from(if error.use_stderr() { 2 } else { 0 })
    })
}

/// Where everything lies.
#[derive(Debug, clap::Args)]
pub(crate) struct Directories {
    /// What survives a reboot is kept here [default: /var/lib/dormouse, or below the user's home]
    #[arg(long, value_name = "DIR", env = "DORMOUSE_STATE_DIR")]
    state_dir: Option<PathBuf>,

    /// What does not is kept here [default: /run/dormouse, or below $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR", env = "DORMOUSE_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

impl Directories {
    /// As the service has them if it is told nothing.
    pub(crate) fn from_environment() -> Self {
        let of = |name| std::env::var_os(name).map(PathBuf::from);
        Self { state_dir: of("DORMOUSE_STATE_DIR"), run_dir: of("DORMOUSE_RUN_DIR") }
    }

    pub(crate) fn paths(self) -> Paths {
        let root = identity::is_root();
        let state_dir = self.state_dir.unwrap_or_else(|| {
            if root {
                return PathBuf::from("/var/lib/dormouse");
            }
            std::env::var_os("XDG_STATE_HOME")
                .map_or_else(|| home().join(".local/state"), PathBuf::from)
                .join("dormouse")
        });
        let run_dir = self.run_dir.unwrap_or_else(|| {
            if root { PathBuf::from("/run/dormouse") } else { identity::runtime_directory().join("dormouse") }
        });
        Paths { state_dir, run_dir }
    }
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Warnings and worse, unless RUST_LOG says otherwise; the service manager keeps them.
pub(crate) fn log_to_stderr() {
    // Levels by module. Filters by spans and fields would bring an engine for regular expressions into each process.
    let filter = std::env::var("RUST_LOG").ok().and_then(|filter| filter.parse::<Targets>().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time();
    tracing_subscriber::registry().with(lines).with(filter).init();
}
