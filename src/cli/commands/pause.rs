//! `dormouse pause`

use clap::Args;
use serde_json::json;

use super::{Nothing, for_each, targets};
use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::streams::print;

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
}

impl Pause {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = targets(service, self.names, self.all, Some(&["running"]))?;
        for_each(&names, |name| {
            let Nothing {} = service.call(
                format!("pause {name:?}"),
                "io.dormouse.Container.Pause",
                json!({ "name": name }),
            )?;
            print(&format!("{name}\n"))
        })
    }
}
