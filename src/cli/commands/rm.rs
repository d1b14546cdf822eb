//! `dormouse rm`

use clap::Args;
use serde_json::json;

use super::{Nothing, targets};
use crate::cli::done::{Done, each_there};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Remove containers with all that they have written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse rm web
  dormouse rm --force --all      everything, running or not")]
pub struct Rm {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that don't run; with --force all
    #[arg(short, long)]
    all: bool,
    /// Stop them by SIGKILL if they run
    #[arg(short, long)]
    force: bool,
    /// Remove also their volumes that have no name and that no other container uses
    #[arg(short, long)]
    volumes: bool,
    /// No error for one that is not there
    #[arg(short, long)]
    ignore: bool,
    #[command(flatten)]
    form: FormatFlag,
}

impl Rm {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let ended = ["created", "exited", "failed"];
        let states = if self.force { None } else { Some(ended.as_slice()) };
        let names = targets(service, self.names, self.all, states)?;
        each_there(&self.form, &names, self.ignore, |name| {
            let Nothing {} = service.call(
                format!("remove {name:?}"),
                "io.dormouse.Container.Remove",
                json!({
                    "name": name, "force": self.force.then_some(true), "volumes": self.volumes.then_some(true),
                }),
            )?;
            Ok(Done::to(name))
        })
    }
}
