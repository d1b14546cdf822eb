//! A cgroup with all that is below it. A payload that may make cgroups makes them as deep as it likes, and so with paths that
//! are longer than the kernel takes: nothing here goes by paths, or takes a descriptor for each level.

use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::CgroupError;

/// The processes in a cgroup and below it, in no order; none if it does not exist.
pub(super) fn processes(directory: &Path) -> Result<Vec<i32>, CgroupError> {
    let lists = texts(directory, "cgroup.procs")?;
    Ok(lists.iter().flat_map(|list| list.lines()).filter_map(|line| line.parse().ok()).collect())
}

/// What a file of this name says in a cgroup and in each below it; nothing if it does not exist.
pub(super) fn texts(directory: &Path, name: &str) -> Result<Vec<String>, CgroupError> {
    let mut texts = Vec::new();
    let mut visit = |cgroup: BorrowedFd<'_>| match read(cgroup, name) {
        Ok(text) => {
            texts.push(text);
            Ok(())
        }
        // The processes of a threaded cgroup are told by the domain that it is part of.
        Err(Errno::OPNOTSUPP) => Ok(()),
        Err(errno) if is_gone(errno) => Ok(()),
        Err(errno) => Err(errno),
    };
    walk(directory, &mut visit, &mut |_, _| Ok(())).map_err(failed("read", directory))?;
    Ok(texts)
}

/// Removes a cgroup and all below it; one that does not exist counts as removed.
pub(super) fn remove(directory: &Path) -> Result<(), CgroupError> {
    // Most have no children, and the first call does it.
    match rustix::fs::rmdir(directory) {
        Ok(()) => return Ok(()),
        Err(errno) if is_gone(errno) => return Ok(()),
        Err(_) => {}
    }
    let gone = |removed: Result<(), Errno>| match removed {
        Err(errno) if is_gone(errno) => Ok(()),
        other => other,
    };
    let mut leave =
        |parent: BorrowedFd<'_>, name: &CStr| gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR));
    walk(directory, &mut |_| Ok(()), &mut leave).and_then(|()| gone(rustix::fs::rmdir(directory))).map_err(
        |errno| match errno {
            Errno::BUSY => CgroupError::Busy { path: directory.to_owned() },
            errno => failed("remove", directory)(errno),
        },
    )
}

fn failed(what: &'static str, directory: &Path) -> impl FnOnce(Errno) -> CgroupError {
    move |errno| CgroupError::File { what, path: directory.to_owned(), source: errno.into() }
}

/// Visits a cgroup and all below it, parents first; each but the topmost is left, by its name in its parent, when all below
/// it were.
fn walk(
    directory: &Path,
    visit: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    leave: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = match rustix::fs::open(directory, flags, Mode::empty()) {
        Err(errno) if is_gone(errno) => return Ok(()),
        other => other?,
    };
    visit(at.as_fd())?;
    // The way down to where we are, and what of each level is still to be visited.
    let mut way = vec![(CString::default(), children(&at)?)];
    while let Some((_, left)) = way.last_mut() {
        if let Some(child) = left.pop() {
            match rustix::fs::openat(&at, &child, flags, Mode::empty()) {
                Ok(below) => {
                    visit(below.as_fd())?;
                    way.push((child, children(&below)?));
                    at = below;
                }
                Err(errno) if is_gone(errno) => {}
                Err(errno) => return Err(errno),
            }
        } else if let Some((name, _)) = way.pop()
            && !way.is_empty()
        {
            at = rustix::fs::openat(&at, c"..", flags, Mode::empty())?;
            leave(at.as_fd(), &name)?;
        }
    }
    Ok(())
}

fn children(cgroup: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(cgroup)? {
        match entry {
            Ok(entry) if entry.file_type() == FileType::Directory => {
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    names.push(entry.file_name().to_owned());
                }
            }
            Ok(_) => {}
            Err(errno) if is_gone(errno) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(names)
}

fn read(cgroup: BorrowedFd<'_>, name: &str) -> Result<String, Errno> {
    let file = rustix::fs::openat(cgroup, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    std::fs::File::from(file)
        .read_to_string(&mut text)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(text)
}

/// A cgroup that went away while it was looked at says one of these.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Directories of any file system do: what is tested is the way.
    #[test]
    fn what_is_deeper_than_any_path_is_found_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let top = home.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::create_dir_all(top.join("beside/below")).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
        let name = "d".repeat(200);
        for _ in 0..100 {
            rustix::fs::mkdirat(&at, name.as_str(), Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let mut count = 0;
        let mut visit = |_: BorrowedFd<'_>| {
            count += 1;
            Ok(())
        };
        walk(&top, &mut visit, &mut |_, _| Ok(())).unwrap();
        assert_eq!(count, 103);
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
        assert_eq!(processes(&top).unwrap(), Vec::<i32>::new());
    }

    #[test]
    fn what_can_not_be_removed_is_told() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("top/below")).unwrap();
        std::fs::write(home.path().join("top/below/file"), "").unwrap();
        assert!(matches!(remove(&home.path().join("top")), Err(CgroupError::File { what: "remove", .. })));
    }
}
