//! A cgroup's files.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::Path;

use super::CgroupError;

/// A cgroup that went away while it was looked at says one of these.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    let failed = |source| CgroupError::File { what: "read", path: path.to_path_buf(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes in one system call, as the kernel wants it, and never creates a file.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| CgroupError::File { what: "write", path: path.to_path_buf(), source })
}

/// The number behind a key of a flat keyed file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_files_are_read_by_their_keys() {
        assert_eq!(keyed("populated 1\nfrozen 0\n", "frozen"), Some(0));
        assert_eq!(keyed("oom_kill_disable 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(keyed("a 1", "b"), None);
    }
}
