//! `dormouse rmi`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::cli::done::{Done, each_there};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Remove names of images, and images with their last name
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse rmi debian:12\n\nBy id, an image goes with all its names.")]
pub struct Rmi {
    /// Images, by name, id or a prefix of the id
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
    /// No error for one that is not there
    #[arg(short, long)]
    ignore: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Removed {
    removed: Option<String>,
}

impl Rmi {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        each_there(&self.form, &self.names, self.ignore, |name| {
            let attempted = format!("remove the image {name:?}");
            let removed: Removed =
                service.call(attempted, "io.dormouse.Image.Remove", json!({ "name": name }))?;
            let text = match &removed.removed {
                Some(id) => format!("removed {id}"),
                None => format!("untagged {name}"),
            };
            Ok(Done::to(name).with("removed", removed.removed).saying(&text))
        })
    }
}
