//! What puts layers together to one tree: the kernel's overlayfs, or, where that is refused to an ordinary user, the program
//! fuse-overlayfs ([`fuse`]).
//!
//! A role that uses layers says once what is wanted ([`prefer`]); whether the kernel refuses is found out when it matters, by
//! trying.

pub(super) mod fuse;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::mounts::{self, MountFailure};

pub use self::fuse::{PACKAGE, program};

/// What puts layers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Driver {
    /// The kernel.
    #[default]
    Kernel,
    /// fuse-overlayfs, a process for each tree.
    Fuse,
}

/// What was wanted, and a directory to try it in.
static WANTED: OnceLock<(Option<Driver>, PathBuf)> = OnceLock::new();
static DRIVER: OnceLock<Driver> = OnceLock::new();

/// Says what this process is to use; `None`: the kernel, unless it refuses. `place` is a directory on the file system of the
/// layers. Only the first call counts.
pub fn prefer(driver: Option<Driver>, place: &Path) {
    // Two threads may say it, and mean the same.
    let _ = WANTED.set((driver, place.to_owned()));
}

/// What this process uses.
pub fn driver() -> Driver {
    *DRIVER.get_or_init(|| match WANTED.get() {
        Some((Some(driver), _)) => *driver,
        // Root of the host is refused nothing.
        Some((None, place)) if crate::identity::in_user_namespace() && is_refused_in(place) => Driver::Fuse,
        _ => Driver::Kernel,
    })
}

/// Whether the kernel refuses an overlay of directories in this one.
fn is_refused_in(place: &Path) -> bool {
    let own = place.join(format!("overlay-{}", std::process::id()));
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| own.join(name));
    let tried = [&lower, &upper, &work].into_iter().try_for_each(std::fs::create_dir_all).map(|()| {
        mounts::overlay(std::slice::from_ref(&lower), &upper, &work)
            .inspect_err(
                |failure| tracing::info!(what = failure.what, errno = %failure.errno, "layers need {PACKAGE}"),
            )
            .is_err()
    });
    if let Err(error) = std::fs::remove_dir_all(&own) {
        tracing::warn!(path = ?own, %error, "cannot remove what overlayfs was tried with, ignoring");
    }
    // Who can't make directories there finds out by what it wanted to do.
    tried.unwrap_or(false)
}

/// Layers, topmost first, that are written to, as a mount that is attached nowhere. With fuse-overlayfs this process must not
/// wait for its children by name of none: one more is among them, and ends with the mount.
///
/// # Errors
/// What the kernel or the program say.
pub fn writable(driver: Driver, lower: &[PathBuf], upper: &Path, work: &Path) -> io::Result<OwnedFd> {
    let failed = |failure: MountFailure| {
        let source = io::Error::from(failure.errno);
        io::Error::new(source.kind(), format!("cannot {}: {source}", failure.what))
    };
    match driver {
        Driver::Kernel => mounts::overlay(lower, upper, work).map_err(failed),
        Driver::Fuse => fuse::serve(lower, Some((upper, work))).map(|served| served.mount).map_err(failed),
    }
}

/// As [`writable`], by what this process uses, which may have other threads.
pub(super) fn mount(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd, MountFailure> {
    match driver() {
        Driver::Kernel => mounts::overlay(lower, upper, work),
        Driver::Fuse => fuse::serve(lower, Some((upper, work))).map(fuse::Served::watched),
    }
}
