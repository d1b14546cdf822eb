//! The files that a build may take: a directory of the caller's, or an archive of one, unpacked for the time of the build.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::paths;
use super::request::{BuildFile, BuildRequest};
use super::workplace::Workplace;
use crate::engine::EngineError;
use crate::engine::images::from_image_error;
use crate::image::build::patterns::Ignore;
use crate::image::{DescriptorReader, Owners, copy_in};

/// No Containerfile and no ignore file is larger.
const TEXT_MAX_BYTES: u64 = 4 << 20;

/// The files, as far as they are not ignored.
#[derive(Debug)]
pub(super) struct Context {
    pub root: OwnedFd,
    pub ignore: Ignore,
}

impl Context {
    /// Returns the files, and the name and the text of the Containerfile.
    pub fn open(
        request: &BuildRequest,
        place: &Workplace,
        stop: &AtomicBool,
    ) -> Result<(Self, String, String), EngineError> {
        let failed = |source| EngineError::io("open", "the context", source);
        let given = match &request.context {
            Some(fd) => Some(fd.try_clone().map_err(failed)?),
            None => None,
        };
        let root: OwnedFd = match given {
            Some(fd) if is_directory(&fd) => fd,
            archive => {
                let path = place.context()?;
                let root = OwnedFd::from(File::open(path).map_err(failed)?);
                if let Some(archive) = archive {
                    let reader = DescriptorReader::new(archive, stop);
                    copy_in(reader, root.as_fd(), b"", &Owners::default(), stop, &mut |_| {})
                        .map_err(from_image_error)?;
                }
                root
            }
        };
        let (name, text) = match &request.containerfile {
            BuildFile::Text { name, text } => (name.clone(), text.clone()),
            BuildFile::InContext(Some(path)) => {
                let text = read(root.as_fd(), path)?.ok_or_else(|| missing(&format!("{path:?}")))?;
                (path.clone(), text)
            }
            BuildFile::InContext(None) => {
                let mut found = None;
                for name in ["Containerfile", "Dockerfile"] {
                    if found.is_none() {
                        found = read(root.as_fd(), name)?.map(|text| (name.to_owned(), text));
                    }
                }
                found.ok_or_else(|| missing("a Containerfile or Dockerfile"))?
            }
        };
        let mut ignore = Ignore::default();
        match &request.ignore {
            Some(text) => ignore = Ignore::parse(text),
            None => {
                // The most special one alone counts.
                for name in [&format!("{name}.dockerignore"), ".containerignore", ".dockerignore"] {
                    if let Some(text) = read(root.as_fd(), name)? {
                        ignore = Ignore::parse(&text);
                        break;
                    }
                }
            }
        }
        Ok((Self { root, ignore }, name, text))
    }
}

fn is_directory(fd: &OwnedFd) -> bool {
    paths::kind(fd).is_ok_and(|kind| kind == FileType::Directory)
}

fn missing(what: &str) -> EngineError {
    let reason = format!("the context has no {what}; name another file, or another directory");
    EngineError::InvalidSpec { field: "containerfile".into(), reason }
}

/// A text of the context; `None` if it is not there.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<Option<String>, EngineError> {
    let unusable = |reason: String| EngineError::InvalidSpec {
        field: "containerfile".into(),
        reason: format!("cannot use {path:?} of the context: {reason}"),
    };
    // Not waiting for a writer if it is a FIFO.
    let fd = match paths::open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(unusable(std::io::Error::from(errno).to_string())),
    };
    if !paths::kind(&fd).is_ok_and(|kind| kind == FileType::RegularFile) {
        return Err(unusable("it is no file".to_owned()));
    }
    let mut bytes = Vec::new();
    File::from(fd)
        .take(TEXT_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(error.to_string()))?;
    if bytes.len() as u64 > TEXT_MAX_BYTES {
        return Err(unusable("it is larger than 4 MiB".to_owned()));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| unusable("it is no text in UTF-8".to_owned()))
}
