//! `dormouse kill`

use clap::Args;
use serde_json::json;

use super::{Nothing, for_each, targets};
use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::streams::print;

/// Send a signal to the first process of containers
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dormouse kill web\n  dormouse kill --signal HUP web")]
pub struct Kill {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that run
    #[arg(short, long)]
    all: bool,
    /// Signal, by name or number [default: SIGKILL]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

impl Kill {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = targets(service, self.names, self.all, Some(&["running", "paused", "stopping"]))?;
        for_each(&names, |name| {
            let Nothing {} = service.call(
                format!("kill {name:?}"),
                "io.dormouse.Container.Kill",
                json!({"name": name, "signal": self.signal}),
            )?;
            print(&format!("{name}\n"))
        })
    }
}
