//! `dormouse kill`

use clap::Args;
use serde_json::json;

use super::{Nothing, targets};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

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
    #[command(flatten)]
    form: FormatFlag,
}

impl Kill {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = targets(service, self.names, self.all, Some(&["running", "paused", "stopping"]))?;
        each(&self.form, &names, |name| {
            let Nothing {} = service.call(
                format!("kill {name:?}"),
                "io.dormouse.Container.Kill",
                json!({"name": name, "signal": self.signal}),
            )?;
            Ok(Done::to(name))
        })
    }
}
