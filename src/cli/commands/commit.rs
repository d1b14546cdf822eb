//! `dormouse commit`

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::import::config;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Make an image of what a container has written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse commit web web:patched
  dormouse commit --change 'CMD [\"/sbin/init\"]' --comment 'with cron' web web:cron

Prints the id.")]
pub struct Commit {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    /// Default of its containers: CMD, ENTRYPOINT, ENV, LABEL, STOPSIGNAL, USER or WORKDIR, as in a Containerfile
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// Whose work it is
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// What to say of it in the history
    #[arg(short = 'm', long, value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Committed {
    id: String,
}

impl Commit {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("commit {:?}", self.container);
        let parameters = json!({
            "name": self.container, "image": self.image, "config": config(&self.changes)?,
            "author": self.author, "comment": self.comment,
        });
        let done: Committed = service.call(attempted, "io.dormouse.Container.Commit", parameters)?;
        tell(&self.form, Done::made(self.image.as_deref().unwrap_or(&done.id), &done.id))
    }
}
