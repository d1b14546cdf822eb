//! `dormouse create`

use clap::{ArgAction, Args};
use serde::Deserialize;
use serde_json::json;

use super::tell_warnings;
use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::spec::SpecFlags;
use crate::cli::streams::print;

/// Make a container without starting it
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  dormouse create --name web -v ./site:/var/www/html:ro debian /sbin/init
  dormouse create --rootfs --read-only /srv/trees/debian /bin/true

Prints the id; `dormouse start` starts it."
)]
pub struct Create {
    #[command(flatten)]
    spec: SpecFlags,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// The answer of Create and Run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Created {
    pub id: String,
    pub name: String,
    #[serde(default)]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Create {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let created: Created = service.call(
            format!("create {:?}", self.spec.subject()),
            "io.dormouse.Container.Create",
            json!({"spec": self.spec.to_spec()?}),
        )?;
        tell_warnings(&created.warnings);
        print(&format!("{}\n", created.id))
    }
}
