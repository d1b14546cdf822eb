//! `dormouse restart`

use clap::Args;
use serde_json::json;

use super::{Condition, Nothing};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Stop containers if they run, and start them
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse restart --wait ready web")]
pub struct Restart {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Time until SIGKILL, in seconds or as in 1m30s [default: the container's own]
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = parse_duration)]
    time: Option<i64>,
    /// What to wait for [default: started]
    #[arg(long, value_enum, value_name = "CONDITION")]
    wait: Option<Condition>,
    #[command(flatten)]
    form: FormatFlag,
}

impl Restart {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        each(&self.form, &self.names, |name| {
            let Nothing {} = service.call(
                format!("restart {name:?}"),
                "io.dormouse.Container.Restart",
                json!({"name": name, "timeoutUSec": self.time, "wait": self.wait}),
            )?;
            Ok(Done::to(name))
        })
    }
}
