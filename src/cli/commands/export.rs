//! `dormouse export`

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::save::Destination;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::progress::byte_counter;
use crate::cli::service::Service;

/// Write the root file system of a container as a tar archive
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse export -o web.tar web
  dormouse export web | dormouse import - flat")]
pub struct Export {
    /// Container, by name or id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// File to write; default is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    bytes_written: u64,
}

impl Export {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("export {:?}", self.container);
        self.form.only_with("--output", self.output.is_some())?;
        let output = Destination::open(&attempted, self.output.as_deref())?;
        let bar = byte_counter(self.quiet);
        let mut bytes = 0;
        let result = service.stream_with_fds(
            &attempted,
            "io.dormouse.Container.Export",
            json!({"name": self.container, "archive": 0}),
            vec![output.descriptor(&attempted)?],
            |progress: Progress, _| {
                bytes = progress.bytes_written;
                bar.set_position(bytes);
                Ok(())
            },
        );
        bar.finish_and_clear();
        output.finish(&attempted, result)?;
        tell(&self.form, Done::to(&self.container).silently().with("bytes", bytes))
    }
}
