//! The stage before a user namespace: what only the caller's own user may do for a container that has one.
//!
//! ```text
//! caller ──clone3, into the cgroup──► stage ──setns(user), clone3(CLONE_PARENT)──► init, the caller's child
//!    ▲                                  │ has its own mount namespace
//!    └──────── init's pidfd ────────────┘ and ends
//! ```
//!
//! The stage is still who the caller is. It enters the cgroup, sets limits, and makes what init could not make: the root
//! file system from layers whose owners are shifted, device nodes, and the sources of bind mounts, which may lie where the
//! container's root can't go. All of it is handed over as descriptors of mounts that are attached nowhere.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};

use super::process::Failure;
use super::userns::UserNamespace;
use super::{Rootfs, Step, devices, mounts, syscall};

/// What was made.
#[derive(Debug)]
pub(super) struct Staged {
    /// The root file system; the working directory is where it can be attached.
    pub root: OwnedFd,
    /// One for each bind mount of the specification, in their order.
    pub binds: VecDeque<OwnedFd>,
    /// One for each default device, then one for each of the specification.
    pub nodes: VecDeque<OwnedFd>,
}

/// Makes all of it, in a mount namespace of its own.
pub(super) fn prepare(spec: &Spec, rootfs: &Rootfs, users: &UserNamespace) -> Result<Staged, Failure> {
    let linux =
        super::launch::linux(spec).ok_or((Step::Spec, "read the specification".to_owned(), Errno::INVAL))?;
    syscall::unshare(libc::CLONE_NEWNS)
        .map_err(|errno| (Step::Namespaces, "make a mount namespace".to_owned(), errno))?;
    let mount = |step| move |failure: mounts::MountFailure| (step, failure.what, failure.errno);
    mounts::isolate(linux.rootfs_propagation().as_deref()).map_err(mount(Step::Rootfs))?;
    // First: what the engine keeps beside what the container writes is shown as the container's own by it too.
    let root = mounts::shifted_root(rootfs, users).map_err(mount(Step::Rootfs))?;
    let mut binds = VecDeque::new();
    for wanted in spec.mounts().iter().flatten() {
        if mounts::is_bind(wanted) {
            binds.push_back(mounts::bind_source(wanted, Some(users)).map_err(mount(Step::Mount))?);
        }
    }
    let place = match rootfs {
        Rootfs::Directory { path } | Rootfs::ShiftedDirectory { path } => path,
        Rootfs::Overlay { upper, .. } => upper,
    };
    // By the working directory init finds it again in its own mount namespace, wherever it may not go by name.
    let enter = || {
        rustix::process::chdir(place)
            .map_err(|errno| (Step::Rootfs, format!("enter the directory {place:?}"), errno))
    };
    enter()?;
    let nodes = nodes(linux.devices().as_deref().unwrap_or_default(), users)
        .map_err(|(what, errno)| (Step::Devices, what, errno))?;
    enter()?;
    Ok(Staged { root, binds, nodes })
}

/// Device nodes in a file system that nobody else sees: with the owners that they should have inside, which nobody there
/// could give them. It is over the working directory while they are made, for only what is attached can be copied (before
/// Linux 6.15); the working directory is another one then.
fn nodes(
    wanted: &[oci_spec::runtime::LinuxDevice],
    users: &UserNamespace,
) -> Result<VecDeque<OwnedFd>, devices::Failure> {
    let failed = |errno| ("make the container's devices".to_owned(), errno);
    let data = [("mode".to_owned(), Some("755".to_owned()))];
    let all = mounts::detached("tmpfs", "tmpfs", &data, 0).map_err(failed)?;
    let here = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&all, "", CWD, "", here).map_err(failed)?;
    let mut nodes = VecDeque::new();
    for (index, node) in devices::wanted(wanted)?.into_iter().enumerate() {
        let failed = |errno| (format!("make device {:?}", node.path), errno);
        let name = index.to_string();
        let (mode, number) = (Mode::from_raw_mode(node.mode), rustix::fs::makedev(node.major, node.minor));
        match rustix::fs::mknodat(&all, name.as_str(), node.kind, mode, number) {
            // The caller is in a user namespace itself.
            Err(Errno::PERM) => {
                nodes.push_back(devices::open_of_host(&node).map_err(failed)?);
                continue;
            }
            other => other.map_err(failed)?,
        }
        rustix::fs::chmodat(&all, name.as_str(), mode, rustix::fs::AtFlags::empty()).map_err(failed)?;
        // Whose owner is unknown outside belongs to nobody inside.
        let (uid, gid) = (users.user(node.owner.0), users.group(node.owner.1));
        rustix::fs::chownat(
            &all,
            name.as_str(),
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed)?;
        nodes.push_back(mounts::copy_tree(all.as_fd(), Path::new(&name), false).map_err(failed)?);
    }
    rustix::process::fchdir(&all)
        .and_then(|()| rustix::mount::unmount(".", UnmountFlags::DETACH))
        .map_err(failed)?;
    Ok(nodes)
}
