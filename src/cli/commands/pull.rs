//! `dormouse pull`

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::login::{UserFlags, platform};
use crate::cli::done::{Done, tell};
use crate::cli::errors::{CliError, FailureKind};
use crate::cli::output::FormatFlag;
use crate::cli::progress::LayerBars;
use crate::cli::service::Service;
use crate::cli::spec::SpecFlags;
use crate::wire::image::LayerProgress;

/// Get an image from a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse pull debian:12
  dormouse pull --policy missing quay.io/team/web@sha256:…
  dormouse pull --platform linux/arm64 registry.example:5000/team/web:1.2

With --policy missing an image that is here will do, and a short name is first one of this machine, as for run. With newer \
what is here will do if the registry can't be asked. With never nothing is asked.

Prints the id. Short names, mirrors and registries without TLS are as in registries.conf(5) of the service's host.")]
pub struct Pull {
    /// Image
    #[arg(value_name = "IMAGE")]
    image: String,
    /// For this machine instead of the service's: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM", value_parser = platform)]
    platform: Option<Value>,
    /// Whether to ask the registry if there is an image of this name already
    #[arg(long, value_enum, value_name = "WHEN", default_value = "always")]
    policy: When,
    #[command(flatten)]
    user: UserFlags,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// When registries are asked for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum When {
    // No texts here: they would spread the flag over many lines of the help.
    Always,
    Missing,
    Newer,
    Never,
}

#[derive(Debug, Deserialize)]
struct Progress {
    id: Option<String>,
    layers: Vec<LayerProgress>,
}

impl Pull {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("pull {:?}", self.image);
        let mut parameters =
            json!({"name": self.image, "policy": self.policy, "credentials": self.user.credentials()?});
        if let Some(platform) = self.platform {
            parameters["platform"] = platform;
        }
        let id = fetch(service, &attempted, parameters, self.quiet)?;
        tell(&self.form, Done::made(&self.image, &id))
    }
}

/// When the image of a container that is to be made is asked for.
#[derive(Debug, Args)]
pub(super) struct PullFlag {
    /// Whether to ask registries for the image first: never, missing (if it is not there), newer (what is there will do if
    /// they can't be asked), always [default: missing]
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        conflicts_with = "rootfs",
        default_value = "missing",
        hide_default_value = true
    )]
    pull: When,
}

impl PullFlag {
    /// Gets the image where registries are to be asked whatever is here.
    pub fn ask_first(&self, service: &Service, spec: &SpecFlags) -> Result<(), CliError> {
        if self.pull == When::Missing { Ok(()) } else { self.see_to_image(service, spec) }
    }

    /// Makes sure that the image is there.
    pub fn see_to_image(&self, service: &Service, spec: &SpecFlags) -> Result<(), CliError> {
        let Some(image) = spec.image().filter(|_| self.pull != When::Never) else { return Ok(()) };
        // Progress on standard error, nothing on standard output.
        match fetch(service, &format!("pull {image:?}"), json!({"name": image, "policy": self.pull}), false) {
            Err(error) if self.pull == When::Missing && !error.message.is_empty() => Err(CliError {
                message: format!(
                    "there is no image {image:?} here, and it can't be pulled: {}",
                    error.message
                ),
                ..error
            }),
            result => result.map(drop),
        }
    }

    /// Makes a container, and gets its image only where the service says that it is missing: nothing is slower where it is
    /// there.
    pub fn with_image<T>(
        &self,
        service: &Service,
        spec: &SpecFlags,
        make: impl Fn() -> Result<T, CliError>,
    ) -> Result<T, CliError> {
        match make() {
            Err(error) if self.pull == When::Missing && error.kind == FailureKind::ImageNotFound => {
                self.see_to_image(service, spec)?;
                make()
            }
            made => made,
        }
    }
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
