//! Sockets that were passed to us at our start (`sd_listen_fds(3)`).
#![allow(unsafe_code)] // the environment is cleaned, and descriptors are adopted by number

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType};

use super::Listener;
use super::listen::is_listening;

/// The names of sockets that are ours to serve: explicitly `varlink`; `connection` (`Accept=yes`), `unknown` (no names
/// were given) or none at all; and the name of our own socket unit, which systemd gives unless told otherwise.
pub const SERVE_NAMES: &[&str] = &["varlink", "connection", "unknown", "", "dormouse.socket"];

/// More than systemd ever passes; a larger number in `LISTEN_FDS` is a mistake.
const PASSED_MAX: usize = 4096;

/// What was passed.
#[derive(Debug, Default)]
pub struct Passed {
    /// The sockets with one of the names that were asked for, in order.
    pub listeners: Vec<Listener>,
    /// Everything else, in order, close-on-exec: for a payload, or to be refused.
    pub others: Vec<NamedFd>,
}

/// A descriptor that was passed under a name that nobody asked for.
#[derive(Debug)]
pub struct NamedFd {
    /// Its name, `FileDescriptorName=`; `unknown` where none was given.
    pub name: String,
    /// The descriptor.
    pub fd: OwnedFd,
}

/// Why what was passed can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// It is too late to touch the environment.
    #[error(
        "cannot take passed sockets: the process has threads already, which may be reading the environment"
    )]
    Threads,
    /// The variables contradict one another.
    #[error(
        "cannot take passed sockets: LISTEN_FDS is {fds:?} and LISTEN_FDNAMES is {names:?}, which does not fit"
    )]
    Environment {
        /// `LISTEN_FDS`.
        fds: String,
        /// `LISTEN_FDNAMES`.
        names: Option<String>,
    },
    /// A descriptor is not there, or not what its name says.
    #[error("cannot use passed descriptor {fd} ({name:?}) for varlink; it must be a unix stream socket")]
    Unsuitable {
        /// Its number.
        fd: RawFd,
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
}

/// Takes what systemd passed; `own_names` says which sockets are for us, as [`SERVE_NAMES`] does.
///
/// `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES` and `LISTEN_PIDFDID` are removed from the environment in any case. To be called
/// first thing in `main`, and once.
///
/// # Errors
/// See [`ActivationError`].
pub fn from_environment(own_names: &[&str]) -> Result<Passed, ActivationError> {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1) {
        return Err(ActivationError::Threads);
    }
    // SAFETY: no other thread exists.
    unsafe { from_environment_unchecked(own_names) }
}

/// As [`from_environment`], without looking for other threads.
///
/// # Safety
/// No other thread may read or write the environment meanwhile, nor own the passed descriptors.
///
/// # Errors
/// See [`ActivationError`].
pub unsafe fn from_environment_unchecked(own_names: &[&str]) -> Result<Passed, ActivationError> {
    let fds = env::var("LISTEN_FDS").ok();
    let names = env::var("LISTEN_FDNAMES").ok();
    // SAFETY: by the caller's promise nobody else uses the environment.
    unsafe {
        env::remove_var("LISTEN_FDNAMES");
        env::remove_var("LISTEN_PIDFDID");
    }
    let contradiction =
        || ActivationError::Environment { fds: fds.clone().unwrap_or_default(), names: names.clone() };
    // listenfd would believe any number.
    let count = fds.as_deref().map_or(Ok(0), str::parse::<usize>).map_err(|_| contradiction());
    let count = count.and_then(|count| if count > PASSED_MAX { Err(contradiction()) } else { Ok(count) });
    if let Err(error) = count {
        // SAFETY: as above.
        unsafe {
            env::remove_var("LISTEN_FDS");
            env::remove_var("LISTEN_PID");
        }
        return Err(error);
    }
    // Empty where LISTEN_PID names another process; it removes LISTEN_FDS and LISTEN_PID.
    let mut passed = ListenFd::from_env();
    let names: Vec<String> = match &names {
        Some(names) if passed.len() > 0 => names.split(':').map(str::to_owned).collect(),
        _ => vec!["unknown".to_owned(); passed.len()],
    };
    if names.len() != passed.len() {
        return Err(contradiction());
    }
    sort(&mut passed, names, own_names)
}

fn sort(passed: &mut ListenFd, names: Vec<String>, own_names: &[&str]) -> Result<Passed, ActivationError> {
    let mut sorted = Passed::default();
    for (index, name) in names.into_iter().enumerate() {
        if own_names.contains(&name.as_str()) {
            let (family, kind) = (AddressFamily::UNIX.as_raw(), SocketType::STREAM.as_raw());
            let socket =
                passed.take_custom::<OwnedFd>(index, family.into(), kind.cast_signed(), "unix stream socket");
            let number =
                |source| ActivationError::Unsuitable { fd: number_of(index), name: name.clone(), source };
            let Some(socket) = socket.map_err(number)? else { continue };
            sorted.listeners.push(if is_listening(&socket).map_err(number)? {
                UnixListener::from(socket).into()
            } else {
                UnixStream::from(socket).into()
            });
        } else if let Ok(Some(number)) = passed.take_raw_fd(index) {
            let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
            // SAFETY: only borrowed for the call, which fails where the descriptor is not open.
            let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            nix::fcntl::fcntl(borrowed, flags).map_err(|errno| ActivationError::Unsuitable {
                fd: number,
                name: name.clone(),
                source: errno.into(),
            })?;
            // SAFETY: it is open, and by the protocol it is ours.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            sorted.others.push(NamedFd { name, fd });
        }
    }
    Ok(sorted)
}

/// The protocol counts from 3.
fn number_of(index: usize) -> RawFd {
    RawFd::try_from(index).map_or(RawFd::MAX, |index| index.saturating_add(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_left_alone_once_there_are_threads() {
        // The harness runs this on a thread beside its main one.
        assert!(matches!(from_environment(SERVE_NAMES), Err(ActivationError::Threads)));
    }
}
