//! `dormouse save`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::progress::byte_counter;
use crate::cli::service::Service;

/// Save images to an archive that `dormouse load`, and other engines, take
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse save -o web.tar web
  dormouse save web db | ssh other dormouse load
  dormouse save --format oci-dir -o ./layout web")]
pub struct Save {
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// File (or directory) to write; default is standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to write
    #[arg(long, value_enum, default_value = "docker-archive")]
    format: Format,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    DockerArchive,
    OciArchive,
    OciDir,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    bytes_written: u64,
}

impl Save {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("save {}", self.images.join(", "));
        let format = match self.format {
            Format::DockerArchive => "dockerArchive",
            Format::OciArchive => "ociArchive",
            Format::OciDir => "ociDirectory",
        };
        let mut parameters = json!({"names": self.images, "format": format});
        let mut descriptors = Vec::new();
        let mut made = None;
        if self.format == Format::OciDir {
            let Some(path) = &self.output else {
                return Err(CliError::usage(format!("cannot {attempted}: a directory needs --output")));
            };
            if service.is_remote() {
                return Err(CliError::usage(format!(
                    "cannot {attempted}: no directory gets here from another host"
                ))
                .with_hint("`--format oci-archive` is the same in one file; `tar -x` makes the directory"));
            }
            let path = std::path::absolute(path).map_err(|error| CliError::io(&attempted, &error))?;
            parameters["path"] = json!(path);
        } else {
            descriptors.push(open_output(&attempted, self.output.as_deref())?);
            parameters["archive"] = json!(0);
            made = self.output.as_deref();
        }
        let bar = byte_counter(self.quiet);
        let result = service.stream_with_fds(
            &attempted,
            "io.dormouse.Image.Save",
            parameters,
            descriptors,
            |progress: Progress, _| {
                bar.set_position(progress.bytes_written);
                Ok(())
            },
        );
        bar.finish_and_clear();
        if result.is_err() {
            made.map(remove);
        }
        result
    }
}

/// The file, or standard output unless that is a terminal.
pub(super) fn open_output(attempted: &str, output: Option<&Path>) -> Result<OwnedFd, CliError> {
    let failed = |error: io::Error| CliError::io(attempted, &error);
    match output {
        Some(path) => File::create(path).map(Into::into).map_err(failed),
        None if io::stdout().is_terminal() => {
            Err(CliError::usage(format!("cannot {attempted}: standard output is a terminal"))
                .with_hint("give --output FILE, or pipe it somewhere"))
        }
        None => io::stdout().as_fd().try_clone_to_owned().map_err(failed),
    }
}

/// What is half an archive is worse than none; a device or pipe is left alone.
pub(super) fn remove(path: &Path) {
    if path.is_file() {
        let _ = std::fs::remove_file(path);
    }
}
