//! `dormouse resume`

use clap::Args;
use serde_json::json;

use super::{Nothing, targets};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Let paused containers go on
#[derive(Debug, Args)]
#[command(
    visible_alias = "unpause",
    after_help = "Examples:\n  dormouse resume web\n  dormouse resume --all"
)]
pub struct Resume {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that are paused
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    form: FormatFlag,
}

impl Resume {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = targets(service, self.names, self.all, Some(&["paused"]))?;
        each(&self.form, &names, |name| {
            let Nothing {} = service.call(
                format!("resume {name:?}"),
                "io.dormouse.Container.Resume",
                json!({ "name": name }),
            )?;
            Ok(Done::to(name))
        })
    }
}
