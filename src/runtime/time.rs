//! Time namespaces: clocks that began at another moment (time_namespaces(7)).
//!
//! Their offsets can be set only as long as nobody is inside. So the process that makes a container makes one for its
//! children, sets it, has its child enter by being born, and goes back to its own.

use std::fmt::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::Linux;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::syscall;

/// Of `linux/sched.h`.
pub(super) const CLONE_NEWTIME: libc::c_int = 0x80;

/// The time namespace that this process is in itself.
#[derive(Debug)]
pub(super) struct Own(OwnedFd);

/// Makes one for the children of this process.
pub(super) fn make(linux: &Linux) -> Result<Own, (String, Errno)> {
    let failed = |what: &'static str| move |errno| (what.to_owned(), errno);
    let own = rustix::fs::open("/proc/self/ns/time", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("open the own time namespace"))?;
    syscall::unshare(CLONE_NEWTIME).map_err(failed("make the time namespace"))?;
    let own = Own(own);
    let mut offsets = String::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let _ =
            writeln!(offsets, "{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
    }
    if !offsets.is_empty() {
        let written =
            rustix::fs::open("/proc/self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
                .and_then(|file| rustix::io::write(&file, offsets.as_bytes()));
        if let Err(errno) = written {
            // Without its way back this process would give its next children a clock that nobody asked for.
            let _ = own.leave();
            return Err((format!("set the clocks to {:?}", offsets.trim()), errno));
        }
    }
    Ok(own)
}

impl Own {
    /// Goes back to it.
    pub fn leave(self) -> Result<(), Errno> {
        syscall::setns(self.0.as_fd(), CLONE_NEWTIME)
    }
}
