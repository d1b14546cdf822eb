//! `dormouse load`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::build::packed;
use crate::cli::done::{Done, tell_all};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::progress::LayerBars;
use crate::cli::service::Service;
use crate::wire::image::{LayerProgress, Loaded};

/// Load images from an archive that another engine, or `dormouse save`, has written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse load web.tar
  podman save web | dormouse load
  dormouse load ./oci-layout web:1

Takes docker-archive, oci-archive (plain, or compressed by gzip or zstd) and directories with an OCI layout. Prints a
name, or the id, of each image.")]
pub struct Load {
    /// Archive or directory; - or nothing is standard input
    #[arg(value_name = "FILE", default_value = "-", hide_default_value = true)]
    file: String,
    /// The same, as an option
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    input: Option<String>,
    /// One more name for the image, if there is only one
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Progress {
    images: Vec<Loaded>,
    layers: Vec<LayerProgress>,
}

impl Load {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let file = self.input.unwrap_or(self.file);
        let attempted = format!("load {file:?}");
        let open = if service.is_remote() && Path::new(&file).is_dir() {
            // No directory gets there, but its layout does as an archive.
            packed(PathBuf::from(&file))
        } else {
            open(&file)
        };
        let archive = open.map_err(|error| CliError::io(&attempted, &error))?;
        if file == "-" && io::stdin().is_terminal() {
            return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
                .with_hint("name a file, or pipe an archive in, as in `podman save web | dormouse load`"));
        }
        let mut bars = LayerBars::new(self.quiet);
        let mut images = Vec::new();
        service.stream_with_fds(
            &attempted,
            "io.dormouse.Image.Load",
            json!({"archive": 0, "name": self.name}),
            vec![archive],
            |progress: Progress, _| {
                bars.update(&progress.layers);
                images.extend(progress.images);
                Ok(())
            },
        )?;
        drop(bars);
        let loaded = |image: Loaded| {
            let name = image.names.first().unwrap_or(&image.id);
            Done::made(name, &image.id).with("names", image.names.as_slice()).saying(name)
        };
        tell_all(&self.form, images.into_iter().map(loaded).collect())
    }
}

fn open(file: &str) -> io::Result<OwnedFd> {
    if file == "-" { io::stdin().as_fd().try_clone_to_owned() } else { File::open(file).map(Into::into) }
}
