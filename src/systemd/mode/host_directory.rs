//! What the payload sees as `/run/host`.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode};

use super::MANAGER_NAME;

/// A step of [`prepare_host_directory`] has failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path:?}")]
pub struct HostDirectoryError {
    /// `create` or `write`.
    pub action: &'static str,
    /// What.
    pub path: PathBuf,
    /// The kernel's error.
    #[source]
    pub source: io::Error,
}

/// Makes the directory that is mounted, read-only, at `/run/host`. What is there already is made anew.
///
/// ```text
/// os-release            the host's
/// container-manager     dormouse
/// container-uuid        if there is one
/// notify                an empty file for the socket to be mounted on
/// credentials/          empty, for credentials to be mounted on
/// incoming/             empty, for later mounts
/// inaccessible/…        one node of each kind that nobody may use: the inside covers with them what it hides
/// ```
///
/// Source: systemd's "Container Interface", "Advanced Integration".
pub fn prepare_host_directory(
    directory: &Path,
    host_os_release: &str,
    container_uuid: Option<&str>,
) -> Result<(), HostDirectoryError> {
    let create = |path: &Path, mode| {
        let result = match DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        };
        // What is made is lessened by the umask.
        let result = result.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
        result.map_err(failed("create", path))
    };
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        let result =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o444).open(&path).and_then(
                |mut file| {
                    file.write_all(text.as_bytes())?;
                    file.set_permissions(fs::Permissions::from_mode(0o444))
                },
            );
        result.map_err(failed("write", &path))
    };
    create(directory, 0o755)?;
    write("os-release", host_os_release)?;
    write("container-manager", &format!("{MANAGER_NAME}\n"))?;
    if let Some(uuid) = container_uuid {
        write("container-uuid", &format!("{uuid}\n"))?;
    }
    write("notify", "")?;
    create(&directory.join("credentials"), 0o755)?;
    create(&directory.join("incoming"), 0o755)?;
    let inaccessible = directory.join("inaccessible");
    create(&inaccessible, 0o755)?;
    create(&inaccessible.join("dir"), 0)?;
    for (name, kind) in [
        ("reg", FileType::RegularFile),
        ("fifo", FileType::Fifo),
        ("sock", FileType::Socket),
        ("chr", FileType::CharacterDevice),
        ("blk", FileType::BlockDevice),
    ] {
        let path = inaccessible.join(name);
        match rustix::fs::mknodat(CWD, &path, kind, Mode::empty(), 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            // Without the right to make devices there are none; what is inside then makes do with others.
            Err(rustix::io::Errno::PERM) if matches!(name, "chr" | "blk") => {}
            Err(errno) => return Err(failed("create", &path)(errno.into())),
        }
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HostDirectoryError {
    move |source| HostDirectoryError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    use super::*;

    #[test]
    fn everything_is_there_also_the_second_time() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("host");
        for _ in 0..2 {
            prepare_host_directory(&directory, "ID=debian\n", Some("0123456789abcdef0123456789abcdef"))
                .unwrap();
            let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
            assert_eq!(read("os-release"), "ID=debian\n");
            assert_eq!(read("container-manager"), "dormouse\n");
            assert_eq!(read("container-uuid"), "0123456789abcdef0123456789abcdef\n");
            assert_eq!(read("notify"), "");
            for name in ["reg", "dir", "fifo", "sock"] {
                let metadata = fs::symlink_metadata(directory.join("inaccessible").join(name)).unwrap();
                assert_eq!(metadata.mode() & 0o7777, 0, "{name}");
            }
            let kind = |name: &str| {
                fs::symlink_metadata(directory.join("inaccessible").join(name)).unwrap().file_type()
            };
            assert!(kind("reg").is_file() && kind("dir").is_dir());
            assert!(kind("fifo").is_fifo() && kind("sock").is_socket());
        }
    }
}
