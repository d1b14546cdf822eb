//! `dormouse stop`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::targets;
use crate::cli::done::{Done, each_there};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::streams::complain;

/// Stop containers: the stop signal, and SIGKILL after a while
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse stop web
  dormouse stop --time 0 --all

What does not run counts as stopped.")]
pub struct Stop {
    /// Containers, by name, id or a prefix of the id
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CONTAINER")]
    names: Vec<String>,
    /// All that run
    #[arg(short, long)]
    all: bool,
    /// Time until SIGKILL, in seconds or as in 1m30s [default: the container's own]
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = parse_duration)]
    time: Option<i64>,
    /// No error for one that is not there
    #[arg(short, long)]
    ignore: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Stopped {
    killed: bool,
}

impl Stop {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let states = ["starting", "running", "paused", "stopping"];
        let names = targets(service, self.names, self.all, Some(&states))?;
        each_there(&self.form, &names, self.ignore, |name| {
            let stopped: Stopped = service.call(
                format!("stop {name:?}"),
                "io.dormouse.Container.Stop",
                json!({"name": name, "timeoutUSec": self.time}),
            )?;
            if stopped.killed {
                complain(&format!("dormouse: {name:?} did not stop in time and was killed\n"));
            }
            Ok(Done::to(name).with("killed", stopped.killed))
        })
    }
}
