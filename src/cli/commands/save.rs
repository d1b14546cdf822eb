//! `dormouse save`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

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
        let mut layout = None;
        if self.format == Format::OciDir {
            let Some(path) = &self.output else {
                return Err(CliError::usage(format!("cannot {attempted}: a directory needs --output")));
            };
            let path = std::path::absolute(path).map_err(|error| CliError::io(&attempted, &error))?;
            if service.is_remote() {
                // No directory gets here from another host, but an archive of the same does.
                let (archive, coming) =
                    Layout::unpack(path).map_err(|error| CliError::io(&attempted, &error))?;
                parameters["format"] = json!("ociArchive");
                parameters["archive"] = json!(0);
                descriptors.push(archive);
                layout = Some(coming);
            } else {
                parameters["path"] = json!(path);
            }
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
        match layout {
            Some(layout) => layout.finish(&attempted, result),
            None => result,
        }
    }
}

/// An OCI layout that is made of an archive while it comes. It has its name when it is whole.
struct Layout {
    path: PathBuf,
    unfinished: PathBuf,
    unpacking: JoinHandle<io::Result<()>>,
}

impl Layout {
    /// Begins; returns where the archive is to be written.
    fn unpack(path: PathBuf) -> io::Result<(OwnedFd, Self)> {
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".unfinished-{}", std::process::id()));
        let unfinished = path.with_file_name(name);
        let (reader, writer) = io::pipe()?;
        std::fs::create_dir(&unfinished)?;
        let directory = unfinished.clone();
        let unpacking = std::thread::spawn(move || {
            let mut archive = tar::Archive::new(reader);
            // Nothing is made outside of the directory, whatever the other host sends.
            archive.unpack(&directory)?;
            io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
        });
        Ok((writer.into(), Self { path, unfinished, unpacking }))
    }

    /// `saved` is what the service has said.
    fn finish(self, attempted: &str, saved: Result<(), CliError>) -> Result<(), CliError> {
        let unpacked =
            self.unpacking.join().unwrap_or_else(|_| Err(io::Error::other("the unpacking was cut short")));
        let done = saved.and_then(|()| {
            let failed = |error: io::Error| CliError::io(attempted, &error);
            unpacked.map_err(failed)?;
            // An empty directory makes room, as it does on this host.
            std::fs::rename(&self.unfinished, &self.path).map_err(failed)
        });
        if done.is_err() {
            let _ = std::fs::remove_dir_all(&self.unfinished);
        }
        done
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
