//! `dormouse start`

use clap::Args;
use serde_json::{Map, json};

use super::inspect::inspect_container;
use super::{Condition, Ended, tell_warnings};
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::session::Session;
use crate::cli::terminal::DetachKeys;

/// Start containers that don't run
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse start --wait ready web
  dormouse start -a -i shell        in the foreground, as `run` does")]
pub struct Start {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Stay, show the output, and exit with its exit code
    #[arg(short, long, conflicts_with_all = ["wait", "timeout"])]
    attach: bool,
    /// Pass standard input on
    #[arg(short, long, requires = "attach")]
    interactive: bool,
    /// Keys that leave it running; "" for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// What to wait for [default: started]
    #[arg(long, value_enum, value_name = "CONDITION")]
    wait: Option<Condition>,
    /// How long to wait at most, in seconds or as in 1m30s; the container goes on
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<i64>,
    #[command(flatten)]
    form: FormatFlag,
}

impl Start {
    pub fn is_attached(&self) -> bool {
        self.attach
    }

    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        if self.attach {
            return self.in_foreground(service, false);
        }
        each(&self.form, &self.names, |name| {
            let started: Ended = service.call(
                format!("start {name:?}"),
                "io.dormouse.Container.Start",
                json!({"name": name, "wait": self.wait, "timeoutUSec": self.timeout}),
            )?;
            tell_warnings(&started.warnings);
            Ok(Done::to(name).with("exitCode", started.exit_code).with("warnings", started.warnings))
        })?;
        Ok(0)
    }

    /// As the main process of a unit.
    pub fn run_as_unit(self, service: &Service) -> Result<u8, CliError> {
        self.in_foreground(service, true)
    }

    fn in_foreground(&self, service: &Service, as_unit: bool) -> Result<u8, CliError> {
        let [name] = self.names.as_slice() else {
            return Err(CliError::usage("only one container can be attached to"));
        };
        let attempted = format!("start {name:?}");
        let details = inspect_container(service, &attempted, name)?;
        let session = Session {
            service,
            id: &details.summary.id,
            name: &details.summary.name,
            terminal: details.spec.terminal.unwrap_or(false),
            interactive: self.interactive,
            detach_keys: &self.detach_keys,
            interrupt_stops: false,
            as_unit,
        };
        let mut parameters = Map::new();
        parameters.insert("name".to_owned(), json!(details.summary.id));
        parameters.insert("wait".to_owned(), json!(Condition::Exited));
        session.run(&attempted, "io.dormouse.Container.Start", parameters).map(|outcome| outcome.exit_code())
    }
}
