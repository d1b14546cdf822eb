//! Sockets to serve on: those of our own (`--listen`), and the common type for all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How many connections may wait to be accepted, as systemd has it by default.
const BACKLOG: i32 = 4096;

/// The mode of a socket file unless another is asked for: for its owner only.
const MODE: u32 = 0o600;

/// A socket to serve on: listening, or already connected (`Accept=yes`).
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    own: Option<OwnSocket>,
}

/// The socket itself.
#[derive(Debug)]
pub(super) enum Endpoint {
    Listening(UnixListener),
    Connected(UnixStream),
}

impl Listener {
    /// Makes a socket at `address` and listens.
    ///
    /// A socket file that nobody listens on any more is replaced; a live one is not. The file is unlinked when the
    /// listener is dropped.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn bind(address: &ListenAddress) -> Result<Self, ListenError> {
        match address {
            ListenAddress::Path { path, mode } => {
                let (socket, own) = bind_path(path, *mode)?;
                Ok(Self { endpoint: Endpoint::Listening(socket), own: Some(own) })
            }
            ListenAddress::Abstract { name } => {
                let failed = |source| abstract_error(name, source);
                let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
                let socket = UnixListener::bind_addr(&address).map_err(failed)?;
                Ok(Self { endpoint: Endpoint::Listening(socket), own: Some(OwnSocket { file: None }) })
            }
        }
    }

    pub(super) fn into_parts(self) -> (Endpoint, Option<OwnSocket>) {
        (self.endpoint, self.own)
    }
}

impl From<UnixListener> for Listener {
    /// A listening socket that somebody else made, and keeps when we exit.
    fn from(socket: UnixListener) -> Self {
        Self { endpoint: Endpoint::Listening(socket), own: None }
    }
}

impl From<UnixStream> for Listener {
    /// A connection to serve.
    fn from(socket: UnixStream) -> Self {
        Self { endpoint: Endpoint::Connected(socket), own: None }
    }
}

/// Where to listen: `unix:PATH`, `unix:PATH;mode=0660` or `unix:@NAME` (the abstract namespace).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A socket file.
    Path {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A name in the abstract namespace, open to every process of the network namespace.
    Abstract {
        /// The name, without the `@`.
        name: String,
    },
}

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let malformed = |reason| ListenError::Malformed { address: text.to_owned(), reason };
        let rest = text.strip_prefix("unix:").ok_or_else(|| malformed("it does not begin with \"unix:\""))?;
        let (place, options) = rest.split_once(';').unwrap_or((rest, ""));
        let mut mode = None;
        for option in options.split(';').filter(|option| !option.is_empty()) {
            let digits =
                option.strip_prefix("mode=").ok_or_else(|| malformed("the only option is \"mode=\""))?;
            let bits = u32::from_str_radix(digits, 8).ok().filter(|bits| *bits <= 0o777);
            mode = Some(bits.ok_or_else(|| malformed("the mode is no octal number up to 0777"))?);
        }
        match place.strip_prefix('@') {
            Some("") => Err(malformed("the name after \"@\" is empty")),
            Some(_) if mode.is_some() => Err(malformed("an abstract socket has no mode")),
            Some(name) => Ok(Self::Abstract { name: name.to_owned() }),
            None if place.is_empty() => Err(malformed("the path is empty")),
            None => Ok(Self::Path { path: place.into(), mode: mode.unwrap_or(MODE) }),
        }
    }
}

/// Why we can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is not one.
    #[error("cannot listen on {address:?}: {reason}; write unix:PATH, unix:PATH;mode=0660 or unix:@NAME")]
    Malformed {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Somebody listens there already.
    #[error(
        "cannot listen on {path:?}: another service is listening there; stop it first, or choose another path"
    )]
    InUse {
        /// The socket's path, or `@name`.
        path: PathBuf,
    },
    /// Something else has that name.
    #[error(
        "cannot listen on {path:?}: the path is taken by something that is no socket; choose another one"
    )]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("cannot listen on {path:?}: {action} failed")]
    System {
        /// The socket's path, or `@name`.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A socket that we made, and that nobody listens on after us.
#[derive(Debug)]
pub(super) struct OwnSocket {
    file: Option<OwnFile>,
}

#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    identity: (u64, u64),
    /// Dropped, and thereby unlinked, after the socket.
    _lock: LockFile,
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let Some(file) = &self.file else { return };
        // Only our own: an administrator may have replaced it.
        if identity(&file.path).is_ok_and(|found| found == file.identity) {
            remove(&file.path);
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Still locked: the descriptor is closed after this.
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "cannot remove a file of a socket, ignoring");
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn abstract_error(name: &str, source: io::Error) -> ListenError {
    let path = PathBuf::from(format!("@{name}"));
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse { path },
        _ => ListenError::System { path, action: "bind", source },
    }
}

fn bind_path(path: &Path, mode: u32) -> Result<(UnixListener, OwnSocket), ListenError> {
    let failed =
        |action| move |source: io::Error| ListenError::System { path: path.to_owned(), action, source };
    let lock = LockFile::take(path)?;
    clear_stale(path)?;
    let address = SocketAddrUnix::new(path).map_err(io::Error::from).map_err(failed("naming the socket"))?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)
            .map_err(failed("making a socket"))?;
    // The mode of the file comes from the socket's, so it is never open wider than asked for, not even for an
    // instant; what the umask took away is put back afterwards.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))
        .and_then(|()| rustix::net::bind(&socket, &address))
        .map_err(io::Error::from)
        .map_err(failed("bind"))?;
    let identity = identity(path).map_err(failed("looking at the socket"))?;
    let own = OwnSocket { file: Some(OwnFile { path: path.to_owned(), identity, _lock: lock }) };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed("setting the mode"))?;
    rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from).map_err(failed("listen"))?;
    Ok((socket.into(), own))
}

/// Removes the socket that a service which is gone has left. To be called with the lock held.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let failed =
        |action| move |source: io::Error| ListenError::System { path: path.to_owned(), action, source };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("looking at the path")(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // Non-blocking, for a live service with a full queue would keep us waiting.
    let address = SocketAddrUnix::new(path).map_err(io::Error::from).map_err(failed("naming the socket"))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(io::Error::from)
        .map_err(failed("making a socket"))?;
    match rustix::net::connect(&probe, &address) {
        Err(rustix::io::Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(failed("removing a stale socket"))
        }
        Err(rustix::io::Errno::NOENT) => Ok(()),
        // Connected, or too busy to be (EAGAIN), or of another type (EPROTOTYPE): alive in any case.
        Ok(()) | Err(_) => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

/// `PATH.lock`: held while a service listens on `PATH`, so that two can't both find a stale socket and replace it.
#[derive(Debug)]
struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::System { path: socket.to_owned(), action: "locking", source };
        let mut name = socket.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(ListenError::InUse { path: socket.to_owned() }),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Whoever held it before us may have unlinked it at its end, and then it locks nothing.
            let held = file.metadata().map_err(failed)?;
            match identity(&path) {
                Ok(found) if found == (held.dev(), held.ino()) => return Ok(Self { path, _file: file }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Whether a socket listens, as opposed to being connected (`SO_ACCEPTCONN`).
pub(super) fn is_listening(socket: &OwnedFd) -> io::Result<bool> {
    Ok(rustix::net::sockopt::socket_acceptconn(socket.as_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_with_a_mode_or_an_abstract_name() {
        let check = |text: &str, expected: ListenAddress| {
            assert_eq!(text.parse::<ListenAddress>().unwrap(), expected)
        };
        check("unix:/run/x", ListenAddress::Path { path: "/run/x".into(), mode: 0o600 });
        check("unix:/run/x;mode=0660", ListenAddress::Path { path: "/run/x".into(), mode: 0o660 });
        check("unix:x;", ListenAddress::Path { path: "x".into(), mode: 0o600 });
        check("unix:@x", ListenAddress::Abstract { name: "x".into() });
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        let check = |text: &str, reason: &str| {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "cannot listen on {text:?}: {reason}; write unix:PATH, unix:PATH;mode=0660 or unix:@NAME"
                )
            );
        };
        check("", "it does not begin with \"unix:\"");
        check("/run/x", "it does not begin with \"unix:\"");
        check("tcp:127.0.0.1:1", "it does not begin with \"unix:\"");
        check("unix:", "the path is empty");
        check("unix:@", "the name after \"@\" is empty");
        check("unix:@x;mode=0600", "an abstract socket has no mode");
        check("unix:x;mode=0999", "the mode is no octal number up to 0777");
        check("unix:x;mode=7777", "the mode is no octal number up to 0777");
        check("unix:x;owner=me", "the only option is \"mode=\"");
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x".repeat(120));
        let error = Listener::bind(&ListenAddress::Path { path, mode: MODE }).unwrap_err();
        assert!(matches!(error, ListenError::System { action: "naming the socket", .. }), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn of_many_that_bind_one_path_at_once_exactly_one_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let address = ListenAddress::Path { path: path.clone(), mode: MODE };
        let bound: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| Listener::bind(&address))).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!(bound.len(), 1);
        assert!(UnixStream::connect(&path).is_ok());
    }
}
