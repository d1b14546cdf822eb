//! `dormouse pull`

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use super::login::{UserFlags, platform};
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::progress::LayerBars;
use crate::cli::service::Service;
use crate::wire::image::LayerProgress;

/// Get an image from a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse pull debian:12
  dormouse pull --policy missing quay.io/team/web@sha256:…
  dormouse pull --platform linux/arm64 registry.example:5000/team/web:1.2

Prints the id. Short names, mirrors and registries without TLS are as in registries.conf(5) of the service's host.")]
pub struct Pull {
    /// Image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// For this machine instead of the service's: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<Value>,
    /// Whether to ask the registry if there is an image of this name already
    #[arg(long, value_enum, default_value = "always")]
    policy: Policy,
    #[command(flatten)]
    user: UserFlags,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    Always,
    Missing,
}

#[derive(Debug, Deserialize)]
struct Progress {
    id: Option<String>,
    layers: Vec<LayerProgress>,
}

impl Pull {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("pull {:?}", self.image);
        let policy = match self.policy {
            Policy::Always => "always",
            Policy::Missing => "missing",
        };
        let mut parameters =
            json!({"name": self.image, "policy": policy, "credentials": self.user.credentials()?});
        if let Some(platform) = self.platform {
            parameters["platform"] = platform;
        }
        let id = fetch(service, &attempted, parameters, self.quiet)?;
        tell(&self.form, Done::made(&self.image, &id))
    }
}

/// Gets an image as a part of something else: progress on standard error, nothing on standard output.
pub(super) fn pull(service: &Service, image: &str, policy: &str) -> Result<(), CliError> {
    let parameters = json!({"name": image, "policy": policy});
    fetch(service, &format!("pull {image:?}"), parameters, false).map(drop)
}

/// Returns the id.
fn fetch(service: &Service, attempted: &str, parameters: Value, quiet: bool) -> Result<String, CliError> {
    let mut bars = LayerBars::new(quiet);
    let mut id = None;
    service.stream(attempted, "io.dormouse.Image.Pull", parameters, |progress: Progress| {
        bars.update(&progress.layers);
        id = progress.id.or(id.take());
        Ok(())
    })?;
    drop(bars);
    id.ok_or_else(|| CliError::bad_reply(attempted, "the last reply has no id"))
}
