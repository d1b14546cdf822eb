//! The few system calls of the monitor that need `unsafe`, and small things around processes and memory.
#![allow(unsafe_code)] // fork(2), close_range(2), sigaction(2), malloc_trim(3) and madvise(2) have no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The old process; the new one's pid.
    Parent(i32),
    /// The new process.
    Child,
}

/// `fork(2)`, for a process without threads.
///
/// # Errors
/// EAGAIN or ENOMEM when the kernel has no room for another process.
pub fn fork() -> io::Result<Fork> {
    // SAFETY: the monitor's process has one thread, so no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            restore_oom_score();
            Ok(Fork::Child)
        }
        pid => Ok(Fork::Parent(pid)),
    }
}

const OOM_SCORE: &str = "/proc/self/oom_score_adj";
const UNCHANGED: i32 = i32::MIN;

/// The score that this process was started with, if it has another one now.
static INHERITED_OOM_SCORE: AtomicI32 = AtomicI32::new(UNCHANGED);

/// Keeps the kernel from killing this process when the memory of its cgroup runs out: the limit of a scope counts the monitor
/// too, and a container whose monitor is killed ends without anybody who could tell how. What it starts is killed as before.
/// Without CAP_SYS_RESOURCE nothing changes.
///
/// Source: proc_pid_oom_score_adj(5).
pub fn outlive_the_payload() {
    let inherited = std::fs::read_to_string(OOM_SCORE).ok().and_then(|score| score.trim().parse().ok());
    if let Some(score) = inherited
        && std::fs::write(OOM_SCORE, "-1000").is_ok()
    {
        INHERITED_OOM_SCORE.store(score, Ordering::Relaxed);
    }
}

/// Undoes [`outlive_the_payload`], for what this process is about to become.
pub fn restore_oom_score() {
    let score = INHERITED_OOM_SCORE.swap(UNCHANGED, Ordering::Relaxed);
    if score != UNCHANGED {
        // Who may lower it may raise it.
        let _ = std::fs::write(OOM_SCORE, score.to_string());
    }
}

/// `_exit(2)`: ends the process at once, without destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(code) }
}

/// Takes the socket that a role gets as its standard input over; standard input itself becomes /dev/null.
///
/// # Errors
/// EBADF where there is none; what open(2) and dup2(2) say.
pub fn take_standard_input() -> io::Result<OwnedFd> {
    use std::os::fd::AsFd as _;
    let taken = io::stdin().as_fd().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    become_standard_fd(null.as_fd(), 0)?;
    Ok(taken)
}

/// Closes every descriptor from 3 on that is not in `keep`; for the start of a process's role, whose other
/// descriptors nobody uses any more. Source: close_range(2).
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<libc::c_uint> = keep.iter().filter_map(|fd| libc::c_uint::try_from(*fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, libc::c_uint::MAX);
}

fn close_range(first: libc::c_uint, last: libc::c_uint) {
    // SAFETY: called at the start of a process's role: no owner of these descriptors exists, or it never runs again.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Puts `fd` in the place of descriptor `target` (0, 1 or 2), inherited by programs that are executed.
///
/// # Errors
/// What dup2(2) says.
pub fn become_standard_fd(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: the target is a standard descriptor, which no OwnedFd of this program owns.
    match unsafe { libc::dup2(fd.as_raw_fd(), target) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What a monitor does not die of: the end of a terminal or session that it came from, and clients that went away.
const IGNORED: [libc::c_int; 10] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

/// Ignores the signals that are not for a monitor.
pub fn ignore_signals() {
    for signal in IGNORED {
        // SAFETY: no code of ours is run by a signal that is ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Takes all signals in the default way again and blocks none, as a program that is executed next expects.
pub fn reset_signals() {
    for signal in IGNORED {
        // SAFETY: no code of ours is run by the default action.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // Cannot fail: the set and the operation are valid.
    let _ = nix::sys::signal::SigSet::all().thread_unblock();
}

/// `struct pidfd_info` of its first version, 64 bytes. Source: linux/pidfd.h.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup_id: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// The wait status of a process that has been reaped, by whoever; `None` before that, and on kernels before 6.15.
///
/// Source: ioctl PIDFD_GET_INFO with PIDFD_INFO_EXIT, linux/pidfd.h.
pub fn pidfd_exit_status(pidfd: &OwnedFd) -> Option<i32> {
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b; // _IOWR(0xff, 11, 64 bytes)
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel reads and writes at most the 64 bytes that the request's number tells, which is the size of `info`.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (result == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}
