//! `dormouse rmi`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::for_each;
use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::streams::print;

/// Remove names of images, and images with their last name
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse rmi debian:12\n\nBy id, an image goes with all its names.")]
pub struct Rmi {
    /// Images, by name, id or a prefix of the id
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Removed {
    removed: Option<String>,
}

impl Rmi {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        for_each(&self.names, |name| {
            let attempted = format!("remove the image {name:?}");
            let removed: Removed =
                service.call(attempted, "io.dormouse.Image.Remove", json!({ "name": name }))?;
            match removed.removed {
                Some(id) => print(&format!("removed {id}\n")),
                None => print(&format!("untagged {name}\n")),
            }
        })
    }
}
