//! `dormouse tag`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::service::Service;

/// Give an image more names
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dormouse tag web registry.example:5000/team/web:1.2")]
pub struct Tag {
    /// Image, by name or id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Names; an image that has one loses it
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Tagged {}

impl Tag {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        super::for_each(&self.names, |name| {
            let attempted = format!("tag the image {:?} as {name:?}", self.image);
            let parameters = json!({"name": self.image, "newName": name});
            service.call(attempted, "io.dormouse.Image.Tag", parameters).map(|Tagged {}| ())
        })
    }
}
