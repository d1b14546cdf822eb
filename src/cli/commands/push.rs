//! `dormouse push`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::login::UserFlags;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::progress::LayerBars;
use crate::cli::service::Service;
use crate::wire::image::LayerProgress;

/// Send an image to a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse push registry.example:5000/team/web:1.2
  dormouse push web registry.example:5000/team/web:1.2

Prints the digest of the manifest.")]
pub struct Push {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Its name there; default is its own
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    #[command(flatten)]
    user: UserFlags,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Progress {
    digest: Option<String>,
    layers: Vec<LayerProgress>,
}

impl Push {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("push {:?}", self.image);
        let parameters = json!({
            "name": self.image, "destination": self.destination, "credentials": self.user.credentials()?,
        });
        let mut bars = LayerBars::new(self.quiet);
        let mut digest = None;
        service.stream(&attempted, "io.dormouse.Image.Push", parameters, |progress: Progress| {
            bars.update(&progress.layers);
            digest = progress.digest.or(digest.take());
            Ok(())
        })?;
        drop(bars);
        let digest = digest.ok_or_else(|| CliError::bad_reply(&attempted, "the last reply has no digest"))?;
        let name = self.destination.as_ref().unwrap_or(&self.image);
        tell(&self.form, Done::to(name).saying(&digest).with("digest", digest))
    }
}
