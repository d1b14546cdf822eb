//! Mounts that the host sees, at places below the run directory: file systems of volumes, and roots of containers for who
//! wants to look at them. They stay when their maker ends, and go with the boot.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
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

/// Where on the host the root of a container is mounted for who wants to look at it, beside the directory that it writes to.
pub fn place_of(upper: &Path) -> PathBuf {
    upper.with_file_name("merged")
}

/// Mounts the root of a container that does not run at a place.
///
/// # Errors
/// [`MountRefused`]; nothing is mounted then.
pub fn mount_root(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<(), MountRefused> {
    let root = mounts::overlay(lower, upper, work)
        .map_err(|failure| MountRefused { reason: format!("{}: {}", failure.what, failure.errno) })?;
    mounts::tame(root.as_fd())
        .and_then(|()| attach(&root, &place_of(upper)))
        .map_err(|errno| MountRefused { reason: format!("the root can't be mounted: {errno}") })
}

/// Mounts the root of a container that runs at a place: what the process of this pid has as its root, without what is mounted
/// in it. Blocks the thread. Whether it was that process is for the caller to find out.
///
/// # Errors
/// [`MountRefused`]; nothing is mounted then.
pub fn mount_running_root(pid: i32, place: &Path) -> Result<(), MountRefused> {
    let refused = |what: &str, errno: Errno| MountRefused { reason: format!("{what}: {errno}") };
    let namespace =
        rustix::fs::open(format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| refused("its mounts can't be looked at", errno))?;
    // Only who is in the namespace can copy a mount of it, and a thread that has gone there does not come back.
    let copied = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("mount".to_owned());
        let work = move || -> Result<OwnedFd, nix::Error> {
            nix::sched::unshare(CloneFlags::CLONE_FS)?;
            nix::sched::setns(&namespace, CloneFlags::CLONE_NEWNS)?;
            mounts::copy_tree(CWD, Path::new("/"), false)
                .map_err(|errno| nix::Error::from_raw(errno.raw_os_error()))
        };
        thread.spawn_scoped(scope, work).map(std::thread::ScopedJoinHandle::join)
    });
    let root = match copied {
        Ok(Ok(Ok(root))) => root,
        Ok(Ok(Err(errno))) => {
            return Err(refused("its root can't be copied", Errno::from_raw_os_error(errno as i32)));
        }
        Ok(Err(_)) | Err(_) => return Err(MountRefused { reason: "a thread has failed".to_owned() }),
    };
    // Its own, and nothing that the payload has put in its place.
    if !is_overlay(root.as_fd()) {
        return Err(MountRefused { reason: "its root is no overlay any more".to_owned() });
    }
    mounts::tame(root.as_fd())
        .and_then(|()| attach(&root, place))
        .map_err(|errno| refused("the root can't be mounted", errno))
}

/// Whether it lies on an overlay.
pub(super) fn is_overlay(fd: BorrowedFd<'_>) -> bool {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    rustix::fs::fstatfs(fd).is_ok_and(|found| found.f_type == OVERLAYFS_SUPER_MAGIC)
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
