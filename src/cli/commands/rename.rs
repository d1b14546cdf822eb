//! `dormouse rename`

use clap::Args;
use serde_json::json;

use super::Nothing;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Give a container another name
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse rename web web-old")]
pub struct Rename {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Its new name
    #[arg(value_name = "NEW_NAME")]
    new_name: String,
    #[command(flatten)]
    form: FormatFlag,
}

impl Rename {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let Nothing {} = service.call(
            format!("rename {:?}", self.name),
            "io.dormouse.Container.Rename",
            json!({"name": self.name, "newName": self.new_name}),
        )?;
        tell(&self.form, Done::to(&self.new_name).silently().with("oldName", self.name))
    }
}
