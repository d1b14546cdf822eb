//! `dormouse untag`

use clap::Args;
use serde_json::json;

use super::Nothing;
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Take names of images away, and leave the images
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dormouse untag web:old\n\n`dormouse image prune` removes images without a name."
)]
pub struct Untag {
    /// Names of images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

impl Untag {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        each(&self.form, &self.names, |name| {
            let Nothing {} = service.call(
                format!("untag {name:?}"),
                "io.dormouse.Image.Untag",
                json!({ "name": name }),
            )?;
            Ok(Done::to(name).silently())
        })
    }
}
