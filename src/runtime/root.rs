//! Paths inside a container's root, before the payload has any say, and while others may change it.
//!
//! Every path is opened with openat2(2) and RESOLVE_IN_ROOT: whatever links a hostile image or volume holds, what comes
//! back is below the root. Magic links (`/proc/PID/fd/N`) are never followed. What is missing is made step by step,
//! each step below the directory that the step before has opened.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
/// The kernel gives EAGAIN when something was renamed during the walk; an attacker could go on with that for ever.
const TRIES: usize = 64;

/// What is to be made where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    Directory,
    File,
}

/// The root of a container: a descriptor of its mount.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens what is there.
    pub fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        for _ in 0..TRIES {
            match rustix::fs::openat2(&self.fd, relative, flags | OFlags::CLOEXEC, Mode::empty(), RESOLVE) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A place to mount on: opened if there is something, else made.
    pub fn place(&self, path: &Path, missing: Missing) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let (parent, name) = split(path).ok_or(Errno::INVAL)?;
        match missing {
            Missing::Directory => self.make_directories(path),
            Missing::File => {
                let parent = self.make_directories(&parent)?;
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o644)) {
                    Ok(_) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                self.open(path, OFlags::PATH)
            }
        }
    }

    /// Opens a directory, and makes those on the way that are missing (0755).
    pub fn make_directories(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let mut so_far = PathBuf::from("/");
        let mut opened = self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY)?;
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            so_far.push(name);
            opened = match self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&opened, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(errno) => return Err(errno),
                    }
                    // A dangling link is still no directory; that is told, not followed.
                    self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY)?
                }
                other => other?,
            };
        }
        Ok(opened)
    }

    /// Makes a link; what is there already stays.
    pub fn symlink(&self, target: &str, path: &Path) -> Result<(), Errno> {
        let (parent, name) = split(path).ok_or(Errno::INVAL)?;
        let parent = self.make_directories(&parent)?;
        match rustix::fs::symlinkat(target, &parent, &name) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The parent and the last name; `None` for the root itself.
pub(super) fn split(path: &Path) -> Option<(PathBuf, std::ffi::OsString)> {
    Some((path.parent()?.to_owned(), path.file_name()?.to_owned()))
}

/// What kind of file a descriptor refers to.
pub(super) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}
