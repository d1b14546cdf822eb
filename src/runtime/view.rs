//! Layers seen as one tree, by who has it open and nobody else: a mount that is attached nowhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::overlay::{self, Driver, fuse};

/// Opens a container's root to write to while it does not run: what is written goes to `upper`. `work` is the container's own
/// too, on the same file system. It is gone when the descriptor is closed.
///
/// # Errors
/// As [`merged`].
pub fn writable(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, Errno> {
    if overlay::driver() == Driver::Fuse {
        return served(lower, Some((upper, work)));
    }
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    set_attributes(overlay.as_fd())?;
    set_lower(&overlay, lower)?;
    fsconfig_set_string(overlay.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(overlay.as_fd(), "workdir", work)?;
    fsconfig_create(overlay.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Opens layers, topmost first, as one read-only tree, by `O_PATH` or for reading. It is gone when the descriptor is closed.
///
/// # Errors
/// The kernel's: EPERM without the right to mount, ENOENT where a layer is not there.
pub fn merged(layers: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // overlayfs wants at least two.
    if let [only] = layers {
        return rustix::fs::open(only, directory, Mode::empty());
    }
    if overlay::driver() == Driver::Fuse {
        return served(layers, None);
    }
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // The topmost may be what a running container writes to; with an index that would be refused.
    fsconfig_set_string(overlay.as_fd(), "index", "off")?;
    set_attributes(overlay.as_fd())?;
    set_lower(&overlay, layers)?;
    fsconfig_create(overlay.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    // The mount itself: through a descriptor below it, with the mount closed, the kernel can't look `..` up within a root.
    fsmount(overlay.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// By fuse-overlayfs.
fn served(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> Result<OwnedFd, Errno> {
    fuse::serve(lower, writable).map(fuse::Served::watched).map_err(|failure| {
        tracing::warn!(errno = %failure.errno, "cannot {}", failure.what);
        failure.errno
    })
}

/// In a user namespace overlayfs keeps its notes where who mounts it may (Linux 5.11): in `user.overlay.…`.
pub(super) fn set_attributes(overlay: BorrowedFd<'_>) -> Result<(), Errno> {
    if crate::identity::in_user_namespace() { fsconfig_set_flag(overlay, "userxattr") } else { Ok(()) }
}

/// Topmost first.
fn set_lower(overlay: &OwnedFd, layers: &[PathBuf]) -> Result<(), Errno> {
    // One at a time (Linux 6.5), else all in one string.
    let single = layers
        .first()
        .is_some_and(|first| fsconfig_set_string(overlay.as_fd(), "lowerdir+", first.as_path()).is_ok());
    if single {
        layers
            .iter()
            .skip(1)
            .try_for_each(|layer| fsconfig_set_string(overlay.as_fd(), "lowerdir+", layer.as_path()))?;
    } else {
        let joined = layers.iter().map(|layer| layer.to_string_lossy()).collect::<Vec<_>>().join(":");
        fsconfig_set_string(overlay.as_fd(), "lowerdir", joined.as_str())?;
    }
    Ok(())
}
