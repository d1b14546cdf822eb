//! Connecting a socket as a process of the container.
//!
//! systemd refuses a peer whose process id it cannot see ("Incoming private connection from unprivileged client"),
//! and the kernel notes the id of whoever calls connect(2). So a child is made that is in the container's
//! namespaces, connects the socket that it has inherited, and ends; the connection stays with us.
//!
//! The payload must gain nothing by that child. It is born inside all namespaces of the container (a name can lead
//! nowhere else, and nothing else can be reached), has no other descriptor, cannot be traced, and puts all
//! capabilities down before it does anything. This program has threads, so the child makes system calls only.
#![allow(unsafe_code)] // fork(2), and the system calls between it and _exit(2), have no safe wrapper.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use rustix::net::SocketAddrUnix;

use super::InsideError;

/// Connects `socket` to `name` in `directory` (of the container of the process behind `leader`), which is not blocking
/// unless looking the name up is. `own_users`: the container has another user namespace.
pub(super) fn connect(
    leader: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &str,
    own_users: bool,
) -> Result<(), InsideError> {
    let address = SocketAddrUnix::new(name).map_err(|errno| unreachable(errno.into()))?;
    // In a thread of its own, which ends with this: what it does to itself cannot be taken back.
    let result = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("enter".to_owned())
            .spawn_scoped(scope, || enter_and_connect(leader, socket, directory, &address, own_users))
            .map(|thread| thread.join())
    });
    let status = match result {
        Ok(Ok(status)) => status.map_err(|errno| match errno {
            // The process has ended, and its namespaces with it: fork(2) into a pid namespace without init.
            nix::Error::ESRCH | nix::Error::ENOMEM => InsideError::NotRunning,
            errno => unreachable(errno.into()),
        })?,
        Ok(Err(_)) => return Err(unreachable(io::Error::other("the connecting thread has failed"))),
        Err(error) => return Err(unreachable(error)),
    };
    match status {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, libc::ECONNREFUSED) => {
            Err(InsideError::NotSystemd { reason: "nobody listens".to_owned() })
        }
        WaitStatus::Exited(_, errno) => Err(unreachable(io::Error::from_raw_os_error(errno))),
        // A pid namespace that ends takes all its processes with it.
        _ => Err(InsideError::NotRunning),
    }
}

fn unreachable(source: io::Error) -> InsideError {
    InsideError::Unreachable { source }
}

/// Runs in the thread of its own: moves it, makes the child, and waits for that.
fn enter_and_connect(
    leader: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    address: &SocketAddrUnix,
    own_users: bool,
) -> nix::Result<WaitStatus> {
    // From here on this thread has its own working directory, root, and table of descriptors: closing one here closes
    // nothing elsewhere.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_FILES)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    // With a pidfd: those of exactly that process (Linux 5.8). The pid namespace is only that of children.
    setns(leader, namespaces)?;
    nix::unistd::fchdir(directory)?;
    let users = own_users.then_some(leader);
    close_all_but(socket.as_raw_fd(), users.map(|leader| leader.as_raw_fd()))?;
    // SAFETY: the child of a process with threads may only make async-signal-safe calls: `child` makes system calls
    // and ends by `_exit`; it allocates, locks and unwinds nothing.
    match unsafe { fork() }? {
        ForkResult::Child => child(socket, address, users),
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Err(nix::Error::EINTR) => {}
                status => return status,
            }
        },
    }
}

/// Closes every descriptor of this thread's table but one or two.
fn close_all_but(kept: RawFd, also: Option<RawFd>) -> nix::Result<()> {
    let number = |fd: RawFd| libc::c_uint::try_from(fd).map_err(|_| nix::Error::EBADF);
    let (kept, also) = (number(kept)?, number(also.unwrap_or(kept))?);
    let (first, second) = (kept.min(also), kept.max(also));
    if let Some(last) = first.checked_sub(1) {
        close_range(0, last)?;
    }
    if second - first > 1 {
        close_range(first + 1, second - 1)?;
    }
    close_range(second + 1, libc::c_uint::MAX)
}

/// `close_range(2)`, of which nix and rustix have no wrapper.
fn close_range(first: libc::c_uint, last: libc::c_uint) -> nix::Result<()> {
    // SAFETY: no memory is touched. The table of descriptors is this thread's alone (see the caller), and the thread
    // uses none of what it closes: descriptors that others own stay open in their own table.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    nix::Error::result(result).map(drop)
}

/// Joins the user namespace of the process behind `leader`, as its root, with system calls only.
fn become_their_root(leader: BorrowedFd<'_>) -> bool {
    let leader = leader.as_raw_fd();
    // SAFETY: all of these take numbers only, but setgroups(2), whose list is empty. The wrappers of libc for the changes
    // of user would tell other threads, which are not in this process.
    unsafe {
        libc::setns(leader, libc::CLONE_NEWUSER) == 0
            && libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_setresuid, 0, 0, 0) == 0
            && libc::close(leader) == 0
    }
}

/// The child: exit status 0, or the errno of the step that has failed (they all fit).
fn child(socket: BorrowedFd<'_>, address: &SocketAddrUnix, users: Option<BorrowedFd<'_>>) -> ! {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: VERSION_3, pid: 0 };
    let none = [0_u32; 6];
    // Untraceable first: without capabilities any root of the container might trace it.
    // SAFETY: this call takes numbers only.
    let mut untraceable = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0;
    if let Some(leader) = users {
        // A change of user may make it traceable again, as the host is set up.
        // SAFETY: this call takes numbers only.
        untraceable = untraceable
            && become_their_root(leader)
            && unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0;
    }
    // SAFETY: both pointers are to live values of the layout that version 3 of capset(2) reads: the header, and two
    // times three words. pid 0 is the caller.
    let powerless =
        untraceable && unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) } == 0;
    let status = if !powerless {
        libc::EPERM
    } else {
        match rustix::net::connect(socket, address) {
            Ok(()) => 0,
            Err(errno) => errno.raw_os_error(),
        }
    };
    // SAFETY: ends the process at once, without running anything that the parent has registered.
    unsafe { libc::_exit(status) }
}
