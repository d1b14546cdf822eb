//! Waiting for a descriptor, the one place where tokio's reactor is given one.

use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `fd`, which must belong to `T` alone and stay the same as long as it lives, as an `OwnedFd`'s does.
///
/// # Errors
/// Those of epoll_ctl(2).
#[allow(deprecated)] // tokio's doubt is about types whose descriptor changes; the newer call is unsafe for all types
pub fn watch<T: AsRawFd>(fd: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
