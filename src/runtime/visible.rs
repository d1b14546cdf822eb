//! Mounts that the host sees, at places below the run directory: file systems of volumes, and roots of containers for who
//! wants to look at them. They stay when their maker ends, and go with the boot.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::mounts;

/// A file system that can't be mounted, in words.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct MountRefused {
    reason: String,
}

/// Whether the kernel has a file system, or can load one, of this name.
///
/// # Errors
/// EPERM without the right to mount.
pub fn knows_file_system(kind: &str) -> Result<bool, Errno> {
    match fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Mounts a file system at a place, a directory that is made.
///
/// # Errors
/// [`MountRefused`] in the kernel's words; nothing is mounted then.
pub fn mount_file_system(
    kind: &str,
    device: &str,
    options: &[String],
    place: &Path,
) -> Result<(), MountRefused> {
    let (attributes, data) = mounts::sorted(options);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| MountRefused {
        reason: format!("the kernel can't configure a file system of type {kind}: {errno}"),
    })?;
    let refused = |what: String| {
        let context = &context;
        move |errno: Errno| {
            let told = kernel_log(context.as_fd());
            MountRefused {
                reason: format!("{what}: {}", if told.is_empty() { errno.to_string() } else { told }),
            }
        }
    };
    fsconfig_set_string(context.as_fd(), "source", device)
        .map_err(refused(format!("{kind} does not take the device {device:?}")))?;
    for (key, value) in &data {
        let set = match value {
            Some(value) => fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str()),
            None => fsconfig_set_flag(context.as_fd(), key.as_str()),
        };
        set.map_err(refused(format!("{kind} does not take the option {key:?}")))?;
    }
    fsconfig_create(context.as_fd()).map_err(refused(format!("{kind} can't be made of {device:?}")))?;
    let flags = MountAttrFlags::from_bits_retain(attributes);
    let mount = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
        .map_err(refused(format!("{kind} can't be mounted")))?;
    attach(&mount, place)
        .map_err(|errno| MountRefused { reason: format!("{kind} can't be mounted: {errno}") })
}

/// Attaches a detached mount at a place, a directory that is made.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: &OwnedFd, place: &Path) -> Result<(), Errno> {
    match rustix::fs::mkdir(place, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    move_mount(mount.as_fd(), "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Whether something is mounted at a place.
pub fn is_mounted(place: &Path) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(place) = rustix::fs::open(place, flags, Mode::empty()) else { return false };
    rustix::fs::statx(&place, "", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Unmounts what is at a place, and removes the place. With `lazily`, whoever works there may finish.
///
/// # Errors
/// EBUSY where somebody works there; else the kernel's. What is not there is no error.
pub fn detach(place: &Path, lazily: bool) -> Result<(), Errno> {
    let flags = UnmountFlags::NOFOLLOW | if lazily { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    while is_mounted(place) {
        rustix::mount::unmount(place, flags)?;
    }
    match rustix::fs::rmdir(place) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What the kernel says of a file system that it refused, without its mark of the kind of message.
fn kernel_log(context: BorrowedFd<'_>) -> String {
    let mut told = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count) = rustix::io::read(context, &mut buffer)
        && count > 0
    {
        let line = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
        told.push(line.get(2..).filter(|_| line.get(1..2) == Some(" ")).map_or(line.clone(), str::to_owned));
    }
    told.join("; ")
}
