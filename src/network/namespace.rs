//! Namespaces that have a name, those of networks above all: a file on which the namespace is mounted.
//!
//! So it lives on when everything that ran in it has ended, is killed, or is started again, and whoever takes the network
//! down finds it. It goes with the machine, as the network does.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use super::NetworkError;

/// Makes a new network namespace with the name `path`; what had the name goes first.
///
/// # Errors
/// [`NetworkError::Namespace`].
pub fn create(path: &Path) -> Result<(), NetworkError> {
    create_of(path, "net", CloneFlags::CLONE_NEWNET, || Ok(()))
}

/// Makes a new namespace of another kind, as `/proc/PID/ns` names it, with the name `path`; what had the name goes first.
/// `prepare` is done in it.
///
/// # Errors
/// [`NetworkError::Namespace`].
pub fn create_of(
    path: &Path,
    kind: &'static str,
    flag: CloneFlags,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), NetworkError> {
    remove(path)?;
    let make = || -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let target = path.to_owned();
        // On a thread of its own, which takes the new namespace along when it ends; only the mount remains.
        std::thread::Builder::new()
            .name(format!("{kind}ns"))
            .spawn(move || -> io::Result<()> {
                nix::sched::unshare(flag)?;
                prepare()?;
                nix::mount::mount(
                    Some(format!("/proc/thread-self/ns/{kind}").as_str()),
                    &target,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
                Ok(())
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that made it has panicked")))
    };
    make().map_err(|source| {
        let _ = std::fs::remove_file(path);
        NetworkError::Namespace { attempted: "make", path: path.to_owned(), source }
    })
}

/// Gives a namespace that a process has (`/proc/PID/ns/…`) the name `path`; what had the name goes first.
///
/// # Errors
/// [`NetworkError::Namespace`].
pub fn keep(of: &Path, path: &Path) -> Result<(), NetworkError> {
    remove(path)?;
    let make = || -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        nix::mount::mount(Some(of), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    make().map_err(|source| {
        let _ = std::fs::remove_file(path);
        NetworkError::Namespace { attempted: "make", path: path.to_owned(), source }
    })
}

/// Takes the name away, and with it the namespace, unless a process is still in it. Nothing there is fine.
///
/// # Errors
/// [`NetworkError::Namespace`].
pub fn remove(path: &Path) -> Result<(), NetworkError> {
    unmount(path)?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Namespace { attempted: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Takes away whatever is mounted at `path`.
///
/// # Errors
/// [`NetworkError::Namespace`].
pub fn unmount(path: &Path) -> Result<(), NetworkError> {
    let failed = |source| NetworkError::Namespace { attempted: "remove", path: path.to_owned(), source };
    // Until nothing is mounted there any more: who was killed half-way may have left it, and another has begun anew.
    while path.exists() {
        match nix::mount::umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL) => break,
            Err(nix::errno::Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Ok(())
}

/// Whether a namespace is mounted there.
pub fn exists(path: &Path) -> bool {
    const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
    File::open(path)
        .and_then(|file| Ok(rustix::fs::fstatfs(&file)?))
        .is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}
