//! The root of a container that does not run, with what would be mounted in it, by the same steps as at a start. It is in a
//! mount namespace that nobody is in, and is seen through a descriptor alone.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::mounts::{self, MountFailure};
use super::root::Root;
use super::{RuntimeError, Step, overlay, visible};

/// What the root is made of.
#[derive(Debug, Clone)]
pub enum Base {
    /// A directory of the host.
    Directory(PathBuf),
    /// Layers, topmost first. Places of mounts that are missing in them are made in memory; `place` is a directory that nobody
    /// needs meanwhile.
    Layers {
        /// What is only read.
        lower: Vec<PathBuf>,
        /// Where the memory is mounted, for this alone.
        place: PathBuf,
    },
    /// Layers that are written to.
    Writable {
        /// What is only read, topmost first.
        lower: Vec<PathBuf>,
        /// What takes the changes.
        upper: PathBuf,
        /// overlayfs's own.
        work: PathBuf,
    },
}

/// A root with its mounts. They are gone when this is dropped.
#[derive(Debug)]
pub struct Furnished {
    /// The root.
    pub root: OwnedFd,
    /// Nobody is in it; it holds the mounts.
    _namespace: OwnedFd,
}

/// Puts a root together. Blocks the thread, and may be called with others about.
///
/// # Errors
/// [`RuntimeError::Host`] with the step that failed.
pub fn furnished(base: &Base, all: &[Mount]) -> Result<Furnished, RuntimeError> {
    let host = |what: &str| {
        let what = what.to_owned();
        move |source: std::io::Error| RuntimeError::Host { step: Step::Mount, what, source }
    };
    // A thread that has left the host's mounts can't come back.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("furnish".to_owned());
        let made = thread
            .spawn_scoped(scope, || furnish(base, all))
            .map_err(host("make a thread for the container's mounts"))?
            .join();
        match made {
            Ok(Ok(furnished)) => Ok(furnished),
            Ok(Err(failure)) => Err(host(&failure.what)(failure.errno.into())),
            Err(_) => Err(host("put the container's mounts together")(std::io::Error::other(
                "the thread has failed",
            ))),
        }
    })
}

fn furnish(base: &Base, all: &[Mount]) -> Result<Furnished, MountFailure> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |errno: Errno| MountFailure { what, errno }
    };
    nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| failed("leave the host's mounts")(Errno::from_raw_os_error(errno as i32)))?;
    mounts::isolate(None)?;
    let (mount, place) = match base {
        Base::Directory(path) => {
            (mounts::copy_tree(CWD, path, true).map_err(failed("open the root directory"))?, path)
        }
        Base::Layers { lower, place } => {
            let memory = mounts::detached("tmpfs", "tmpfs", &[], 0).map_err(failed("mount a tmpfs"))?;
            move_mount(memory.as_fd(), "", CWD, place.as_path(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(failed("attach a tmpfs"))?;
            let (upper, work) = (place.join("upper"), place.join("work"));
            for directory in [&upper, &work] {
                rustix::fs::mkdir(directory, Mode::from_raw_mode(0o755))
                    .map_err(failed("make a directory"))?;
            }
            (overlay::mount(lower, &upper, &work)?, place)
        }
        Base::Writable { lower, upper, work } => (overlay::mount(lower, upper, work)?, upper),
    };
    move_mount(mount.as_fd(), "", CWD, place.as_path(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("attach the root"))?;
    let root = Root::new(mount);
    for one in all {
        mounts::mount(&root, one, &mounts::Cgroups { hierarchies: &[], own: None }, None)?;
    }
    let namespace =
        rustix::fs::open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("open the mount namespace"))?;
    Ok(Furnished { root: root.into_fd(), _namespace: namespace })
}

/// The root of a container that is mounted on the host at `place`, once more and attached nowhere; `None` if none is.
pub fn shared(place: &Path) -> Option<OwnedFd> {
    if !visible::is_mounted(place) {
        return None;
    }
    let tree = mounts::copy_tree(CWD, place, false).ok()?;
    // It may have been unmounted just now, and this be the directory below.
    visible::is_overlay(tree.as_fd()).then_some(tree)
}
