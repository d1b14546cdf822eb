//! Removing a tree that a hostile archive, or what runs in a container, has made.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// So deep directories are emptied in their place, which does for almost every tree.
const DEPTH_MAX: usize = 32;

/// Removes `name` in `parent`, whatever it is, with all that is below; that it is gone already is no error.
///
/// Links are removed, never followed, and nothing that is mounted in the tree is entered (rmdir(2) says EBUSY). A tree can be far deeper than descriptors or stack would last for (each entry
/// of an archive may go through links of the tree, and so build on a path of any length; who runs in a container goes down
/// step by step): a directory that lies deeper than [`DEPTH_MAX`] and is not empty is therefore moved up into the topmost one
/// and emptied there.
/// # Errors
/// The kernel's; what was removed before is gone then.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    remove_tree_with(parent, name, &mut |_, _| Ok(()))
}

/// As [`remove_tree`]; `before` sees the directory and the name of each thing that is no directory before it goes.
pub(super) fn remove_tree_with(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    before: &mut dyn FnMut(BorrowedFd<'_>, &OsStr) -> io::Result<()>,
) -> io::Result<()> {
    let kind = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    if kind.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory) {
        before(parent, name)?;
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let top = open_directory(parent, name)?;
    let mut moved = Moved { next: 0, waiting: Vec::new() };
    empty(top.as_fd(), top.as_fd(), 0, &mut moved, before)?;
    while let Some(number) = moved.waiting.pop() {
        let name = moved_name(number);
        let directory = open_directory(top.as_fd(), OsStr::new(&name))?;
        empty(directory.as_fd(), top.as_fd(), 0, &mut moved, before)?;
        rustix::fs::unlinkat(top.as_fd(), name.as_str(), AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Directories that were moved up and still have to be emptied.
struct Moved {
    next: u64,
    waiting: Vec<u64>,
}

fn moved_name(number: u64) -> String {
    format!(".dormouse-removing-{number}")
}

fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Removes everything in `directory`, but moves directories that lie too deep and are not empty to `top`.
fn empty(
    directory: BorrowedFd<'_>,
    top: BorrowedFd<'_>,
    depth: usize,
    moved: &mut Moved,
    before: &mut dyn FnMut(BorrowedFd<'_>, &OsStr) -> io::Result<()>,
) -> io::Result<()> {
    // Names first: what readdir(3) gives while the directory changes under it is not specified.
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind != FileType::Directory {
            before(directory, OsStr::from_bytes(name.to_bytes()))?;
            match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        match rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if depth < DEPTH_MAX => {
                let below = open_directory(directory, OsStr::from_bytes(name.to_bytes()))?;
                empty(below.as_fd(), top, depth + 1, moved, before)?;
                drop(below);
                rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => loop {
                let number = moved.next;
                moved.next += 1;
                // A name that the tree itself uses is left alone; the next number will do.
                let flags = rustix::fs::RenameFlags::NOREPLACE;
                match rustix::fs::renameat_with(directory, &name, top, moved_name(number), flags) {
                    Ok(()) => {
                        moved.waiting.push(number);
                        break;
                    }
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
            },
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn remove(directory: &std::path::Path, name: &str) {
        let handle = fs::File::open(directory).unwrap();
        remove_tree(handle.as_fd(), OsStr::new(name)).unwrap();
    }

    #[test]
    fn a_tree_goes_and_what_its_links_point_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join("tree/a/b/c")).unwrap();
        fs::create_dir_all(home.path().join("tree/.dormouse-removing-0/x")).unwrap();
        fs::write(home.path().join("tree/a/b/file"), "x").unwrap();
        symlink(outside.path(), home.path().join("tree/a/link")).unwrap();
        remove(home.path(), "tree");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn a_tree_deeper_than_there_are_descriptors_goes() {
        let home = tempfile::tempdir().unwrap();
        let mut at = OwnedFd::from(fs::File::open(home.path()).unwrap());
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = open_directory(at.as_fd(), OsStr::new("d")).unwrap();
        }
        remove(home.path(), "d");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_mounted_in_a_tree_stays() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounting takes root");
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("kept"), "x").unwrap();
        let home = tempfile::tempdir().unwrap();
        let place = home.path().join("tree/place");
        fs::create_dir_all(&place).unwrap();
        rustix::mount::mount_bind(outside.path(), &place).unwrap();
        let removed = remove_tree(fs::File::open(home.path()).unwrap().as_fd(), OsStr::new("tree"));
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(removed.unwrap_err().raw_os_error(), Some(libc::EBUSY));
        assert!(outside.path().join("kept").exists());
    }

    #[test]
    fn links_files_and_nothing_are_removed_as_such() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("kept")).unwrap();
        symlink("kept", home.path().join("link")).unwrap();
        for name in ["link", "missing"] {
            remove(home.path(), name);
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
