//! Paths below a root that nobody vouches for: what a Containerfile names, in the image and in the context.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::engine::copy::TRIES;
use crate::image::build::patterns;

/// What one step may name.
const SOURCES_MAX: usize = 100_000;

/// An absolute path, without `.`, `..` and double slashes; `..` of the root is the root. A slash at the end is lost.
pub(super) fn joined(directory: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{directory}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Looks up a path below a root; links are followed inside it, and never out.
pub(super) fn open(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = match path.trim_start_matches('/') {
        "" => ".",
        path => path,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Something was renamed anywhere on the machine while `..` of a link was looked up.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

pub(super) fn is_directory(root: BorrowedFd<'_>, path: &str) -> bool {
    open(root, path, OFlags::PATH | OFlags::DIRECTORY).is_ok()
}

/// The paths, relative and sorted, that a pattern fits; what is no pattern is the only one, whether it is there or not.
pub(super) fn matching(root: BorrowedFd<'_>, pattern: &str) -> Result<Vec<String>, Errno> {
    let pattern = joined("/", pattern);
    let mut found = vec![String::new()];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let below = |parent: &str, name: &str| {
            if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
        };
        let mut next = Vec::new();
        for parent in found {
            if !patterns::is_pattern(part) {
                next.push(below(&parent, part));
                continue;
            }
            let Ok(directory) = open(root, &parent, OFlags::RDONLY | OFlags::DIRECTORY) else { continue };
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().to_str()
                    && !matches!(name, "." | "..")
                    && patterns::fits(part, name)
                {
                    next.push(below(&parent, name));
                }
            }
            if next.len() > SOURCES_MAX {
                return Err(Errno::TOOBIG);
            }
        }
        next.sort_unstable();
        found = next;
    }
    // With a pattern in the middle, what follows may be missing in some.
    if patterns::is_pattern(&pattern) {
        found.retain(|path| open(root, path, OFlags::PATH | OFlags::NOFOLLOW).is_ok());
    }
    Ok(found)
}

/// Makes a directory, and those on the way; what is there stays as it is.
pub(super) fn make_directories(
    root: BorrowedFd<'_>,
    path: &str,
    (uid, gid): (u32, u32),
) -> Result<(), Errno> {
    let mut so_far = String::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let parent = so_far.clone();
        so_far.push('/');
        so_far.push_str(name);
        match open(root, &so_far, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(_) => continue,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let parent = open(root, &parent, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
        rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        // Whatever the mask of this process is.
        rustix::fs::fchmod(made.as_fd(), Mode::from_raw_mode(0o755))?;
    }
    Ok(())
}

/// What is open there.
pub(super) fn kind(fd: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_never_lead_above_the_root() {
        for (directory, path, expected) in [
            ("/", "a", "/a"),
            ("/srv", "a/./b//c/", "/srv/a/b/c"),
            ("/srv", "/x", "/x"),
            ("/srv", "../../../x", "/x"),
            ("/", ".", "/"),
        ] {
            assert_eq!(joined(directory, path), expected);
        }
    }

    #[test]
    fn patterns_find_what_is_there_sorted_and_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/x.txt", "a/y.txt", "a/z.log"] {
            std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("/etc", dir.path().join("c")).unwrap();
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let find = |pattern| matching(root.as_fd(), pattern).unwrap();
        assert_eq!(find("*/*.txt"), ["a/y.txt", "b/x.txt"]);
        assert_eq!(find("?/*.log"), ["a/z.log"]);
        assert_eq!(find("c/pass*"), Vec::<String>::new(), "/etc is the root's own, and not there");
        assert_eq!(find("missing"), ["missing"]);
    }

    #[test]
    fn directories_are_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        make_directories(root.as_fd(), "/link/a/b", me).unwrap();
        assert!(dir.path().join("real/a/b").is_dir());
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(make_directories(root.as_fd(), "/file/a", me).is_err());
    }
}
