//! Waiting for a descriptor: the one place where tokio's reactor is given one.
#![allow(unsafe_code)] // tokio asks for a promise that every `OwnedFd` keeps

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `fd`.
///
/// # Errors
/// Those of epoll_ctl(2).
pub fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and stays the same descriptor for as long as the `AsyncFd` holds it, and nobody but
    // the `AsyncFd` can close it before it was taken out of the reactor.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(std::io::Error::from)
}
