//! `dormouse image`

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::output::{FormatFlag, print_pruned};
use crate::cli::service::Service;

/// What concerns all images
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
enum Verb {
    Prune(Prune),
}

/// Remove images without a name that no container is made from, and what interrupted pulls have left
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse image prune --all")]
pub struct Prune {
    /// Also images that have a name
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    removed: Vec<String>,
    freed_bytes: i64,
}

impl Image {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.verb {
            Verb::Prune(prune) => prune.run(service),
        }
    }
}

impl Prune {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let pruned: Pruned =
            service.call("prune images", "io.dormouse.Image.Prune", json!({"all": self.all}))?;
        print_pruned(&self.form, &pruned.removed, pruned.freed_bytes)
    }
}
