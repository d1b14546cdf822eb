//! `dormouse update`

use clap::Args;
use serde_json::json;

use super::Nothing;
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::spec::LimitFlags;

/// Change limits of containers, also while they run
#[derive(Debug, Args)]
#[command(after_help = "\
What is not given stays as it is; -1 takes a limit away. The limits count at once, and whenever the container is started.

Examples:
  dormouse update --memory 1g --cpus 1.5 web
  dormouse update --memory -1 --pids-limit 500 web db")]
pub struct Update {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    form: FormatFlag,
}

impl Update {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let resources = self.limits.resources()?;
        if resources.is_empty() {
            return Err(CliError::usage("no limit is given")
                .with_hint("--memory, --cpus and --pids-limit are some; --help tells all"));
        }
        each(&self.form, &self.names, |name| {
            let Nothing {} = service.call(
                format!("change the limits of {name:?}"),
                "io.dormouse.Container.Update",
                json!({ "name": name, "resources": resources }),
            )?;
            Ok(Done::to(name))
        })
    }
}
