//! What an image has where a tmpfs is mounted.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How deep an image's content below a tmpfs may go.
const COPY_DEPTH_MAX: usize = 64;

/// Copies what a directory holds, without following any link, keeping owners and modes.
pub(super) fn copy_content(from: BorrowedFd<'_>, into: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth > COPY_DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let own = rustix::fs::fstat(from)?;
    rustix::fs::fchown(
        into,
        Some(rustix::fs::Uid::from_raw(own.st_uid)),
        Some(rustix::fs::Gid::from_raw(own.st_gid)),
    )?;
    rustix::fs::fchmod(into, Mode::from_raw_mode(own.st_mode & 0o7777))?;
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(into, name, mode)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let copy = rustix::fs::openat(into, name, flags, Mode::empty())?;
                copy_content(below.as_fd(), copy.as_fd(), depth + 1)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let copy = rustix::fs::openat(into, name, flags, mode)?;
                std::io::copy(
                    &mut std::fs::File::from(source),
                    &mut std::fs::File::from(copy.try_clone().map_err(|_| Errno::MFILE)?),
                )
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                rustix::fs::fchown(&copy, Some(uid), Some(gid))?;
                rustix::fs::fchmod(&copy, mode)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), into, name)?;
                rustix::fs::chownat(into, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            }
            // Sockets, FIFOs and devices of an image below /run or /tmp are leftovers of its making.
            _ => {}
        }
    }
    Ok(())
}
