//! `dormouse wait`

use clap::Args;
use serde_json::json;

use super::{Condition, Ended};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Wait until containers have ended, or are ready
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse wait job                                 prints its exit code
  dormouse wait --condition ready --timeout 90 web")]
pub struct Wait {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// What to wait for
    #[arg(long, value_enum, value_name = "CONDITION", default_value = "exited")]
    condition: Condition,
    /// How long at most for each, in seconds or as in 1m30s
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<i64>,
    #[command(flatten)]
    form: FormatFlag,
}

impl Wait {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        each(&self.form, &self.names, |name| {
            let ended: Ended = service.call(
                format!("wait for {name:?}"),
                "io.dormouse.Container.Wait",
                json!({"name": name, "condition": self.condition, "timeoutUSec": self.timeout}),
            )?;
            match (self.condition, ended.exit_code) {
                (Condition::Exited, Some(code)) => {
                    Ok(Done::to(name).with("exitCode", code).saying(&code.to_string()))
                }
                (Condition::Exited, None) => {
                    Err(CliError::new(format!("the exit code of {name:?} is not known")))
                }
                (Condition::Started | Condition::Ready | Condition::Healthy, code) => {
                    Ok(Done::to(name).with("exitCode", code).silently())
                }
            }
        })
    }
}
