//! `dormouse healthcheck`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_one, typed};
use crate::cli::service::Service;
use crate::wire::container::HealthResult;

/// Check the health of containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse healthcheck run web && echo works
  dormouse inspect web            tells what the last checks have found")]
pub struct Healthcheck {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Run),
}

/// Do a container's health check now; exit code 1 if it does not pass
#[derive(Debug, Args)]
struct Run {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    #[command(flatten)]
    form: FormatFlag,
}

impl Healthcheck {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        let Command::Run(Run { name, form }) = self.command;
        let attempted = format!("check the health of {name:?}");
        let reply: Value =
            service.call(&attempted, "io.dormouse.Container.HealthCheck", json!({"name": name}))?;
        let result: HealthResult = typed(&attempted, &reply["result"])?;
        print_one(form.format, &reply["result"], || {
            let word = if result.passed { "healthy" } else { "unhealthy" };
            // Written in the container: a line per line, and nothing that steers the terminal.
            let lines = result.output.lines().map(|line| format!("{}\n", crate::cli::table::printable(line)));
            Ok(format!("{word}\n{}", lines.collect::<String>()))
        })?;
        Ok(u8::from(!result.passed))
    }
}
