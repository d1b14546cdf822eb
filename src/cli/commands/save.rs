//! `dormouse save`

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use clap::{Args, ValueEnum};
use rustix::fs::{AtFlags, CWD, linkat};
use serde::Deserialize;
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::progress::byte_counter;
use crate::cli::service::Service;
use crate::cli::streams;

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
        let mut destination = None;
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
            let to = Destination::open(&attempted, self.output.as_deref())?;
            descriptors.push(to.descriptor(&attempted)?);
            parameters["archive"] = json!(0);
            destination = Some(to);
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
        match (layout, destination) {
            (Some(layout), _) => layout.finish(&attempted, result),
            (None, Some(destination)) => destination.finish(&attempted, result),
            (None, None) => result,
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

/// Where an archive goes: a file, or standard output unless that is a terminal.
///
/// Half an archive is worse than none, and than the one that was there before: a file has no name before it is whole,
/// whatever ends us meanwhile.
#[derive(Debug)]
pub(super) struct Destination {
    file: OwnedFd,
    becomes: Option<PathBuf>,
}

impl Destination {
    pub(super) fn open(attempted: &str, output: Option<&Path>) -> Result<Self, CliError> {
        let failed = |error: io::Error| CliError::io(attempted, &error);
        match output {
            Some(path) => Self::at(path).map_err(failed),
            None if io::stdout().is_terminal() => {
                Err(CliError::usage(format!("cannot {attempted}: standard output is a terminal"))
                    .with_hint("give --output FILE, or pipe it somewhere"))
            }
            None => {
                let file = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
                Ok(Self { file, becomes: None })
            }
        }
    }

    fn at(path: &Path) -> io::Result<Self> {
        let there = std::fs::metadata(path).ok();
        if there.as_ref().is_none_or(Metadata::is_file) {
            // A link stays one: what it leads to is replaced.
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let nameless = File::options()
                .write(true)
                .custom_flags(libc::O_TMPFILE)
                .mode(0o666)
                .open(directory.unwrap_or(Path::new(".")));
            if let Ok(file) = nameless {
                if let Some(there) = there {
                    file.set_permissions(there.permissions())?;
                }
                return Ok(Self { file: file.into(), becomes: Some(path) });
            }
        }
        // A device or pipe, or a file system that has only files with names.
        Ok(Self { file: File::create(path)?.into(), becomes: None })
    }

    /// The descriptor to pass.
    pub(super) fn descriptor(&self, attempted: &str) -> Result<OwnedFd, CliError> {
        self.file.try_clone().map_err(|error| CliError::io(attempted, &error))
    }

    /// `written` is what the service has said: the file gets its name, or is gone.
    pub(super) fn finish(self, attempted: &str, written: Result<(), CliError>) -> Result<(), CliError> {
        written.map_err(|error| streams::reader_left(&self.file).unwrap_or(error))?;
        let Some(path) = self.becomes else { return Ok(()) };
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(format!(".unfinished-{}", std::process::id()));
        let named = linkat(
            CWD,
            format!("/proc/self/fd/{}", self.file.as_raw_fd()),
            CWD,
            &unfinished,
            AtFlags::SYMLINK_FOLLOW,
        );
        named
            .map_err(Into::into)
            .and_then(|()| std::fs::rename(&unfinished, &path))
            .inspect_err(|_| drop(std::fs::remove_file(&unfinished)))
            .map_err(|error| CliError::io(attempted, &error))
    }
}
