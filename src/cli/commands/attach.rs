//! `dormouse attach`

use clap::Args;
use serde_json::{Map, json};

use super::inspect::inspect_container;
use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::session::Session;
use crate::cli::terminal::DetachKeys;

/// Connect to the streams of a running container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse attach web                     ctrl-p ctrl-q leaves it running
  dormouse attach --no-stdin web | less

The exit code is that of the container. SIGINT and SIGTERM are passed on; a second one leaves.")]
pub struct Attach {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only show its output
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it running; "" for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
}

impl Attach {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        let attempted = format!("attach to {:?}", self.name);
        let details = inspect_container(service, &attempted, &self.name)?;
        let terminal = details.spec.terminal.unwrap_or(false);
        let session = Session {
            service,
            id: &details.summary.id,
            name: &details.summary.name,
            terminal,
            interactive: !self.no_stdin && (terminal || details.spec.stdinOpen.unwrap_or(false)),
            detach_keys: &self.detach_keys,
            interrupt_stops: false,
            as_unit: false,
        };
        let mut parameters = Map::new();
        parameters.insert("name".to_owned(), json!(details.summary.id));
        session.run(&attempted, "io.dormouse.Container.Attach", parameters).map(|outcome| outcome.exit_code())
    }
}
