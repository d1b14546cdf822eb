//! `dormouse tag`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
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
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tagged {
    full_name: String,
}

impl Tag {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        each(&self.form, &self.names, |name| {
            let attempted = format!("tag the image {:?} as {name:?}", self.image);
            let parameters = json!({"name": self.image, "newName": name});
            let tagged: Tagged = service.call(attempted, "io.dormouse.Image.Tag", parameters)?;
            Ok(Done::to(name).silently().with("fullName", tagged.full_name))
        })
    }
}
