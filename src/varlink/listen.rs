//! Listening sockets: those that systemd holds, and those that `--listen` makes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const BACKLOG: i32 = 4096;

/// Why an address can't be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// No address of a kind that can be listened on.
    #[error("cannot listen on {address:?}: {reason}; give unix:PATH, unix:PATH;mode=0600 or unix:@NAME")]
    Address {
        /// As given.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Somebody answers there.
    #[error(
        "cannot listen on {path:?}: another service is using it; stop that first, or choose another path"
    )]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else has the path.
    #[error(
        "cannot listen on {path:?}: there is something that is no socket; remove it, or choose another path"
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {attempted} {address:?}")]
    Refused {
        /// What was attempted.
        attempted: &'static str,
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A listening socket. One that was made here is removed from its path when dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) fd: OwnedFd,
    owned: Option<OwnedPath>,
}

#[derive(Debug)]
struct OwnedPath {
    path: PathBuf,
    identity: (u64, u64),
    /// Held as long as we listen: two that start at once can't both take the path.
    _lock: File,
}

impl Listener {
    /// A socket that listens already, and belongs to someone else.
    pub(super) fn inherited(fd: OwnedFd) -> Self {
        Self { fd, owned: None }
    }

    /// Listens on `unix:PATH`, `unix:PATH;mode=0660` or `unix:@NAME`. The mode is 0600 if not given. A socket that nobody
    /// answers on is replaced; one that somebody does is left alone.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(address: &str) -> Result<Self, ListenError> {
        let wrong = |reason| ListenError::Address { address: address.to_owned(), reason };
        let target = address.strip_prefix("unix:").ok_or_else(|| wrong("it is no unix socket"))?;
        let (target, mode) = match target.split_once(';') {
            None => (target, 0o600),
            Some((target, option)) => {
                let mode = option.strip_prefix("mode=").ok_or_else(|| wrong("the only option is mode"))?;
                let mode = u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777);
                (target, mode.ok_or_else(|| wrong("the mode is no octal number up to 0777"))?)
            }
        };
        if let Some(name) = target.strip_prefix('@') {
            if name.is_empty() {
                return Err(wrong("the name is empty"));
            }
            return Self::bind_abstract(address, name);
        }
        if !target.starts_with('/') {
            return Err(wrong("the path is not absolute"));
        }
        Self::bind_path(address, Path::new(target), mode)
    }

    fn bind_abstract(address: &str, name: &str) -> Result<Self, ListenError> {
        let refused = |attempted| {
            move |errno: Errno| ListenError::Refused {
                attempted,
                address: address.to_owned(),
                source: errno.into(),
            }
        };
        let socket = socket().map_err(refused("make a socket for"))?;
        let name = SocketAddrUnix::new_abstract_name(name.as_bytes()).map_err(refused("listen on"))?;
        rustix::net::bind(&socket, &name).map_err(refused("listen on"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(refused("listen on"))?;
        Ok(Self::inherited(socket))
    }

    fn bind_path(address: &str, path: &Path, mode: u32) -> Result<Self, ListenError> {
        let failed = |attempted| {
            move |source: std::io::Error| ListenError::Refused {
                attempted,
                address: address.to_owned(),
                source,
            }
        };
        let refused = |attempted| move |errno: Errno| failed(attempted)(errno.into());
        let in_use = || ListenError::InUse { path: path.to_owned() };
        let lock = lock_path(path).map_err(failed("lock the path of"))?.ok_or_else(in_use)?;
        let name = SocketAddrUnix::new(path).map_err(refused("listen on"))?;
        match std::fs::symlink_metadata(path) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                return Err(ListenError::NotASocket { path: path.to_owned() });
            }
            Ok(_) => {
                let probe = socket().map_err(refused("make a socket for"))?;
                rustix::io::ioctl_fionbio(&probe, true).map_err(refused("make a socket for"))?;
                match rustix::net::connect(&probe, &name) {
                    Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(failed("replace"))?,
                    // A full queue is a live socket too.
                    Ok(()) | Err(Errno::AGAIN) => return Err(in_use()),
                    Err(errno) => return Err(refused("look at")(errno)),
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at")(error)),
        }
        let socket = socket().map_err(refused("make a socket for"))?;
        // Nobody can connect before listen(2), so the mode is right from the first moment on.
        rustix::net::bind(&socket, &name).map_err(refused("listen on"))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed("set the mode of"))?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed("look at"))?;
        rustix::net::listen(&socket, BACKLOG).map_err(refused("listen on"))?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { fd: socket, owned: Some(OwnedPath { path: path.to_owned(), identity, _lock: lock }) })
    }

    /// Takes the path away, so that nobody can connect any more. Nothing happens to a socket of systemd's.
    pub(super) fn unlink(&mut self) {
        self.owned = None;
    }

    /// Takes a connection if one waits.
    pub(super) fn accept_now(&self) -> Result<Option<OwnedFd>, Errno> {
        match rustix::net::accept_with(self.fd.as_fd(), SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(fd) => Ok(Some(fd)),
            // The client was gone before it was its turn.
            Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        // Only if it is still ours.
        let ours =
            std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = ?self.path, %error, "cannot remove the socket, ignoring");
        }
        let _ = std::fs::remove_file(lock_name(&self.path));
    }
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn lock_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// `None` if another holds it.
fn lock_path(path: &Path) -> std::io::Result<Option<File>> {
    let name = lock_name(path);
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
            .open(&name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // Whoever had it before may have removed the file meanwhile.
        let ours = file.metadata()?;
        if std::fs::symlink_metadata(&name)
            .is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()))
        {
            return Ok(Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(dir: &tempfile::TempDir) -> (PathBuf, String) {
        let path = dir.path().join("socket");
        let address = format!("unix:{}", path.display());
        (path, address)
    }

    #[test]
    fn a_live_socket_is_not_stolen_and_a_dead_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (path, address) = address(&dir);
        let first = Listener::bind(&address).unwrap();
        assert!(matches!(Listener::bind(&address), Err(ListenError::InUse { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(first);
        assert!(!path.exists(), "the path is given back");
        // One of another program, without our lock.
        let foreign = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&address), Err(ListenError::InUse { .. })));
        drop(foreign);
        assert!(path.exists(), "a dead socket is left by that program");
        drop(Listener::bind(&address).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, address) = address(&dir);
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Listener::bind(&address), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn the_mode_can_be_chosen_and_bad_addresses_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let (path, address) = address(&dir);
        let _listener = Listener::bind(&format!("{address};mode=0660")).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        for bad in ["", "tcp:127.0.0.1:1", "unix:relative", "unix:/x;mode=9", "unix:/x;color=red", "unix:@"] {
            assert!(matches!(Listener::bind(bad), Err(ListenError::Address { .. })), "{bad}");
        }
    }
}
