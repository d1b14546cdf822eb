//! `dormouse cp`

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal as _, PipeReader, PipeWriter, Read as _, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use clap::Args;
use serde::Deserialize;
use serde_json::json;

use super::tell_warnings;
use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::progress::byte_counter;
use crate::cli::service::Service;
use crate::cli::streams::reader_left;
use crate::wire::container::{PathInfo, PathInfo_kind as Kind};

const INTERFACE: &str = "io.dormouse.Container";
/// Bits that make a program run as somebody else; what a container says of that means nothing outside of it.
const SET_ID_BITS: u32 = 0o6000;

/// Copy files into containers, out of them, or from one to another
#[derive(Debug, Args)]
#[command(after_help = "\
One of both is CONTAINER:PATH, or both are; - is a tar archive on standard input or output. A directory is copied with all
that is in it: into DESTINATION if that is a directory, as DESTINATION if nothing is there. SOURCE/. is only what is in it.
Links on the way are followed, inside the container where they are in it. The container may run or not.

Examples:
  dormouse cp nginx.conf web:/etc/nginx/
  dormouse cp web:/var/log/nginx logs
  dormouse cp web:/srv/. backup:/srv
  dormouse cp web:/etc - | tar -t
  tar -c . | dormouse cp - web:/srv")]
pub struct Cp {
    /// What to copy
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Where to
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// Keep owners, and set-id bits; without it, what is copied in is root's, and what is copied out is yours
    #[arg(short, long)]
    archive: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// How EPIPE is told.
const NO_READER: &str = "(os error 32)";

/// One of the two sides.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Container {
        name: String,
        path: String,
    },
    Local(PathBuf),
    /// Standard input or output.
    Stream,
}

impl Side {
    fn parse(text: &str) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        match text.split_once(':') {
            // As ./a:b, a local name may have a colon.
            Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                Self::Container { name: name.to_owned(), path }
            }
            _ => Self::Local(text.into()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    bytes_written: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    bytes_read: u64,
    warnings: Vec<String>,
}

impl Cp {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        self.form.only_with("a file as destination", self.destination != "-")?;
        self.copy(service)?;
        tell(&self.form, Done::to(&self.destination).silently().with("source", self.source))
    }

    fn copy(&self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("copy {:?} to {:?}", self.source, self.destination);
        match (Side::parse(&self.source), Side::parse(&self.destination)) {
            (Side::Container { name, path }, Side::Stream) => {
                let out = io::stdout();
                if out.is_terminal() {
                    return Err(CliError::usage(format!(
                        "cannot {attempted}: standard output is a terminal"
                    ))
                    .with_hint("pipe it somewhere, as in `| tar -t`"));
                }
                let out =
                    out.as_fd().try_clone_to_owned().map_err(|error| CliError::io(&attempted, &error))?;
                let ours = out.try_clone().map_err(|error| CliError::io(&attempted, &error))?;
                self.take_out(service, &attempted, (&name, &path), None, out)
                    .map_err(|error| reader_left(&ours).unwrap_or(error))
            }
            (Side::Stream, Side::Container { name, path }) => {
                let stdin = io::stdin();
                if stdin.is_terminal() {
                    return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
                        .with_hint("pipe an archive in, as in `tar -c . |`"));
                }
                let from =
                    stdin.as_fd().try_clone_to_owned().map_err(|error| CliError::io(&attempted, &error))?;
                self.put_in(service, &attempted, &name, &path, from)
            }
            (Side::Container { name, path }, Side::Local(to)) => {
                self.copy_out(service, &attempted, (&name, &path), &to)
            }
            (Side::Local(from), Side::Container { name, path }) => {
                self.copy_in(service, &attempted, &from, (&name, &path))
            }
            (Side::Container { name, path }, Side::Container { name: to, path: to_path }) => {
                self.copy_across(service, &attempted, (&name, &path), (&to, &to_path))
            }
            _ => Err(CliError::usage(format!("cannot {attempted}: neither is in a container"))
                .with_hint("a container's side is CONTAINER:PATH, as in web:/etc/hosts")),
        }
    }

    fn copy_out(
        &self,
        service: &Service,
        attempted: &str,
        from: (&str, &str),
        to: &Path,
    ) -> Result<(), CliError> {
        let source = look(service, attempted, from)?
            .ok_or_else(|| CliError::new(format!("cannot {attempted}: there is nothing at {:?}", from.1)))?;
        let there = std::fs::metadata(to).ok().map(|there| there.is_dir());
        let (parent, top) = place(attempted, from.1, &to.to_string_lossy(), is_directory(&source), there)?;
        let (reader, writer) = io::pipe().map_err(|error| CliError::io(attempted, &error))?;
        let archive = self.archive;
        let unpacking = thread::spawn(move || unpack(reader, Path::new(&parent), archive));
        let called = self.take_out(service, attempted, from, Some(&top), writer.into());
        joined(attempted, unpacking, called)
    }

    fn copy_in(
        &self,
        service: &Service,
        attempted: &str,
        from: &Path,
        to: (&str, &str),
    ) -> Result<(), CliError> {
        let metadata = std::fs::metadata(from).map_err(|error| CliError::io(attempted, &error))?;
        let there = look(service, attempted, to)?.map(|info| is_directory(&info));
        let source = from.to_string_lossy();
        let (parent, top) = place(attempted, &source, to.1, metadata.is_dir(), there)?;
        let (reader, writer) = io::pipe().map_err(|error| CliError::io(attempted, &error))?;
        let (from, archive) = (from.to_owned(), self.archive);
        let packing = thread::spawn(move || pack(writer, &from, Path::new(&top), archive));
        let called = self.put_in(service, attempted, to.0, &parent, reader.into());
        joined(attempted, packing, called)
    }

    fn copy_across(
        &self,
        service: &Service,
        attempted: &str,
        from: (&str, &str),
        to: (&str, &str),
    ) -> Result<(), CliError> {
        let source = look(service, attempted, from)?
            .ok_or_else(|| CliError::new(format!("cannot {attempted}: there is nothing at {:?}", from.1)))?;
        let there = look(service, attempted, to)?.map(|info| is_directory(&info));
        let (parent, top) = place(attempted, from.1, to.1, is_directory(&source), there)?;
        let (reader, writer) = io::pipe().map_err(|error| CliError::io(attempted, &error))?;
        thread::scope(|scope| {
            let out =
                scope.spawn(|| self.take_out(service, attempted, from, Some(&top), OwnedFd::from(writer)));
            let taken = self.put_in(service, attempted, to.0, &parent, reader.into());
            let written = out.join().unwrap_or_else(|_| Err(CliError::new(format!("cannot {attempted}"))));
            match (taken, written) {
                // Where writing fails by itself, what is read is cut off; where reading does, there is nobody to write to.
                (Err(_), Err(error)) if !error.message.contains(NO_READER) => Err(error),
                (taken, written) => taken.and(written),
            }
        })
    }

    fn take_out(
        &self,
        service: &Service,
        attempted: &str,
        (name, path): (&str, &str),
        top: Option<&str>,
        archive: OwnedFd,
    ) -> Result<(), CliError> {
        let bar = byte_counter(self.quiet);
        let parameters = json!({"name": name, "path": path, "archive": 0, "topName": top});
        let result = service.stream_with_fds(
            attempted,
            &format!("{INTERFACE}.CopyOut"),
            parameters,
            vec![archive],
            |progress: Written, _| {
                bar.set_position(progress.bytes_written);
                Ok(())
            },
        );
        bar.finish_and_clear();
        result
    }

    fn put_in(
        &self,
        service: &Service,
        attempted: &str,
        name: &str,
        path: &str,
        archive: OwnedFd,
    ) -> Result<(), CliError> {
        let bar = byte_counter(self.quiet);
        let parameters = json!({"name": name, "path": path, "archive": 0});
        let mut warnings = Vec::new();
        let result = service.stream_with_fds(
            attempted,
            &format!("{INTERFACE}.CopyIn"),
            parameters,
            vec![archive],
            |progress: Taken, _| {
                bar.set_position(progress.bytes_read);
                warnings = progress.warnings;
                Ok(())
            },
        );
        bar.finish_and_clear();
        tell_warnings(&warnings);
        result
    }
}

/// What is at a path of a container; `None` for nothing.
fn look(
    service: &Service,
    attempted: &str,
    (name, path): (&str, &str),
) -> Result<Option<PathInfo>, CliError> {
    #[derive(Deserialize)]
    struct Found {
        info: PathInfo,
    }
    let parameters = json!({"name": name, "path": path});
    let method = format!("{INTERFACE}.StatPath");
    let found: Option<Found> =
        service.call_unless(attempted, &method, parameters, &format!("{INTERFACE}.PathNotFound"))?;
    Ok(found.map(|found| found.info))
}

fn is_directory(info: &PathInfo) -> bool {
    info.kind == Kind::directory
}

/// The directory to unpack in, and the name of the first entry. `there` is `None` where nothing is, else whether it is a
/// directory.
fn place(
    attempted: &str,
    source: &str,
    destination: &str,
    is_directory: bool,
    there: Option<bool>,
) -> Result<(String, String), CliError> {
    let refused = |reason: &str| CliError::new(format!("cannot {attempted}: {reason}"));
    let only_contents = source.ends_with("/.") || source == "." || source.trim_end_matches('/').is_empty();
    match there {
        Some(true) if only_contents => Ok((destination.to_owned(), ".".to_owned())),
        Some(true) => match Path::new(source).file_name() {
            Some(name) => Ok((destination.to_owned(), name.to_string_lossy().into_owned())),
            None => Err(refused("the source has no name; write it without '..' at its end")),
        },
        Some(false) if is_directory => Err(refused("the source is a directory, and the destination is not")),
        None if !is_directory && destination.ends_with('/') => {
            Err(refused("there is no such directory as the destination"))
        }
        _ => {
            let destination = Path::new(destination);
            let name = destination.file_name().ok_or_else(|| refused("the destination has no name"))?;
            let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent =
                parent.map_or_else(|| ".".to_owned(), |parent| parent.to_string_lossy().into_owned());
            Ok((parent, name.to_string_lossy().into_owned()))
        }
    }
}

/// Both sides work at once, and when one fails the other does too: told is what failed by itself.
fn joined(
    attempted: &str,
    local: thread::JoinHandle<io::Result<()>>,
    called: Result<(), CliError>,
) -> Result<(), CliError> {
    let local = local.join().unwrap_or_else(|_| Err(io::Error::other("the copying was cut short")));
    match local {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => match called {
            Err(told) if error.kind() == io::ErrorKind::UnexpectedEof => Err(told),
            _ => Err(CliError::io(attempted, &error)),
        },
        _ => called,
    }
}

/// Reads an archive that is a container's, and so hostile: nothing is made outside `directory`.
fn unpack(reader: PipeReader, directory: &Path, archive: bool) -> io::Result<()> {
    let mut tar = tar::Archive::new(reader);
    tar.set_preserve_permissions(true);
    tar.set_preserve_ownerships(archive);
    tar.set_mask(if archive { 0 } else { SET_ID_BITS });
    tar.unpack(directory)?;
    // To its end: who writes it must not fail for what comes after the last entry.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map(drop)
}

fn pack(writer: PipeWriter, source: &Path, top: &Path, archive: bool) -> io::Result<()> {
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(256 << 10, writer));
    // The source itself may be a link; those below stay what they are.
    let metadata = std::fs::metadata(source)?;
    let mut waiting = vec![(source.to_owned(), top.to_owned(), metadata)];
    while let Some((path, name, metadata)) = waiting.pop() {
        append(&mut tar, &path, &name, &metadata, archive)?;
        if metadata.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(&path)?.collect::<Result<_, _>>()?;
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            for entry in entries {
                match entry.path().symlink_metadata() {
                    Ok(metadata) => waiting.push((entry.path(), name.join(entry.file_name()), metadata)),
                    // It has gone since.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    tar.into_inner()?.flush()
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
    name: &Path,
    metadata: &Metadata,
    archive: bool,
) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return Ok(());
    }
    let mut header = tar::Header::new_gnu();
    header.set_metadata_in_mode(metadata, tar::HeaderMode::Complete);
    if !archive {
        header.set_uid(0);
        header.set_gid(0);
    }
    if kind.is_symlink() {
        header.set_size(0);
        return tar.append_link(&mut header, name, std::fs::read_link(path)?);
    }
    if !kind.is_file() {
        header.set_size(0);
        return tar.append_data(&mut header, name, io::empty());
    }
    // It may grow or shrink meanwhile; the archive has what its header says.
    let size = metadata.len();
    tar.append_data(&mut header, name, File::open(path)?.chain(io::repeat(0)).take(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_container_unless_its_name_is_a_path() {
        let container = |name: &str, path: &str| Side::Container { name: name.into(), path: path.into() };
        assert_eq!(Side::parse("web:/etc"), container("web", "/etc"));
        assert_eq!(Side::parse("web:etc/hosts"), container("web", "/etc/hosts"));
        assert_eq!(Side::parse("web:"), container("web", "/"));
        for local in ["file", "./web:/etc", "/a:b", "dir/a:b"] {
            assert_eq!(Side::parse(local), Side::Local(local.into()));
        }
        assert_eq!(Side::parse("-"), Side::Stream);
    }

    #[track_caller]
    fn check(
        source: &str,
        to: &str,
        is_directory: bool,
        there: Option<bool>,
        expected: Option<(&str, &str)>,
    ) {
        let found = place("copy", source, to, is_directory, there).ok();
        assert_eq!(found, expected.map(|(parent, top)| (parent.to_owned(), top.to_owned())));
    }

    #[test]
    fn what_is_copied_goes_where_cp_would_put_it() {
        check("a/b", "/to", false, Some(true), Some(("/to", "b")));
        check("a/b", "/to/c", false, Some(false), Some(("/to", "c")));
        check("a/b", "/to/c", false, None, Some(("/to", "c")));
        check("a/b", "c", false, None, Some((".", "c")));
        check("a/b", "/to/", false, None, None);
        check("a/b", "/to/c", true, None, Some(("/to", "c")));
        check("a/b/", "/to/c/", true, None, Some(("/to", "c")));
        check("a/b", "/to", true, Some(true), Some(("/to", "b")));
        check("a/b/.", "/to", true, Some(true), Some(("/to", ".")));
        check("/", "/to", true, Some(true), Some(("/to", ".")));
        check("a/b", "/to", true, Some(false), None);
        check("a/..", "/to", true, Some(true), None);
    }
}
