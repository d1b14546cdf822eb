//! `dormouse pause`

use clap::Args;
use serde_json::json;

use super::{Nothing, targets};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Freeze all processes of containers
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  dormouse pause web\n  dormouse pause --all")]
pub struct Pause {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that are running
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    form: FormatFlag,
}

impl Pause {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = targets(service, self.names, self.all, Some(&["running"]))?;
        each(&self.form, &names, |name| {
            let Nothing {} = service.call(
                format!("pause {name:?}"),
                "io.dormouse.Container.Pause",
                json!({ "name": name }),
            )?;
            Ok(Done::to(name))
        })
    }
}
