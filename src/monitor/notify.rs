//! Readiness as the payload tells it: the sd_notify(3) socket that the spec binds into the container.
//!
//! The socket can be reached only through that bind (the run directory is for root alone), so a message needs no
//! further proof of where it is from. All of a message is foreign: its length, its number and its text are bounded,
//! descriptors that come with one (FDSTORE=1, BARRIER=1) are closed, which is what a barrier waits for, and only the known
//! keys are looked at. What changes nothing is told a few times a second at most, the newest of it at last.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::config::{NOTIFY_DIRECTORY, NOTIFY_SOCKET, Notify};
use super::socket;
use crate::pace::Pace;

/// A longer message is ignored, as systemd does. Source: sd_notify(3) implementation, NOTIFY_BUFFER_MAX.
const MESSAGE_BYTES_MAX: usize = 4096;
/// A longer `STATUS=` is cut.
const STATUS_BYTES_MAX: usize = 512;

/// What a payload said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Message {
    /// `READY=1`.
    pub ready: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`, on one line and without control characters.
    pub status: Option<String>,
}

impl Message {
    /// What both say together; the later one's status counts.
    fn and(self, later: Self) -> Self {
        Self {
            ready: self.ready || later.ready,
            stopping: self.stopping || later.stopping,
            status: later.status.or(self.status),
        }
    }
}

/// The container's end of sd_notify(3).
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    path: PathBuf,
    forward: Option<UnixDatagram>,
    pace: Pace<Message>,
}

impl Notifier {
    /// Makes the socket, if there is to be one.
    ///
    /// # Errors
    /// What the kernel says to making the directory or the socket.
    pub fn bind(run_dir: &Path, wanted: Notify) -> io::Result<Option<Self>> {
        // To send is to write.
        let (owner, mode) = match wanted {
            Notify::Ignore => return Ok(None),
            Notify::Payload => (None, 0o777),
            Notify::PayloadRoot { user, group } => (Some((user, group)), 0o600),
        };
        let directory = run_dir.join(NOTIFY_DIRECTORY);
        match std::fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        set_mode(&directory, 0o755)?;
        let path = directory.join(NOTIFY_SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(socket::short_path(&directory)?.join(NOTIFY_SOCKET))?;
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&path, Some(user), Some(group))?;
        }
        set_mode(&path, mode)?;
        socket.set_nonblocking(true)?;
        Ok(Some(Self { socket, path, forward: forward_target(), pace: Pace::default() }))
    }

    /// Takes one message off the queue; `None` when it is empty. A message that is too long is an empty one.
    pub fn receive(&self) -> Option<Message> {
        let mut buffer = [0; MESSAGE_BYTES_MAX + 1];
        let length = self.socket.recv(&mut buffer).ok()?;
        let message = buffer.get(..length).filter(|m| m.len() <= MESSAGE_BYTES_MAX).unwrap_or_default();
        Some(parse(message))
    }

    /// Takes a message in; what is to be told now. What `changes` the state is, at once and with what was held.
    pub fn take_in(&mut self, message: Message, changes: bool, now: Instant) -> Option<Message> {
        let message = match self.pace.take() {
            Some(held) => held.and(message),
            None => message,
        };
        match changes {
            true => Some(message),
            false => self.pace.offer(message, now),
        }
    }

    /// What was held, if its time has come.
    pub fn due(&mut self, now: Instant) -> Option<Message> {
        self.pace.due(now)
    }

    /// What was held, at the end.
    pub fn last(&mut self) -> Option<Message> {
        self.pace.take()
    }

    /// When something is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.pace.deadline()
    }

    /// Tells the one who started this monitor, if he asked for it by NOTIFY_SOCKET.
    pub fn forward(&self, message: &Message) {
        let Some(target) = &self.forward else { return };
        let mut text = String::new();
        if message.ready {
            text.push_str("READY=1\n");
        }
        if message.stopping {
            text.push_str("STOPPING=1\n");
        }
        if let Some(status) = &message.status {
            text.push_str("STATUS=");
            text.push_str(status);
            text.push('\n');
        }
        if !text.is_empty() {
            // The service manager may be gone or slow; the container does not depend on it.
            let _ = target.send(text.as_bytes());
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // The run directory is removed as a whole later; a socket that is left in it harms nobody.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// The socket in NOTIFY_SOCKET, if there is one. Source: sd_notify(3), "Environment".
fn forward_target() -> Option<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    let address = std::env::var_os("NOTIFY_SOCKET")?;
    let address = match address.as_bytes() {
        [b'@', name @ ..] => std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?,
        [b'/', ..] => std::os::unix::net::SocketAddr::from_pathname(&address).ok()?,
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

fn parse(message: &[u8]) -> Message {
    let mut parsed = Message::default();
    for line in message.split(|b| *b == b'\n') {
        match line {
            b"READY=1" => parsed.ready = true,
            b"STOPPING=1" => parsed.stopping = true,
            _ => {
                if let Some(status) = line.strip_prefix(b"STATUS=") {
                    parsed.status = Some(clean(status));
                }
            }
        }
    }
    parsed
}

fn clean(status: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(status).chars() {
        if text.len() + c.len_utf8() > STATUS_BYTES_MAX {
            break;
        }
        text.push(if c.is_control() { ' ' } else { c });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_are_taken_from_a_message_and_the_rest_is_ignored() {
        for (message, expected) in [
            (&b"READY=1"[..], Message { ready: true, ..Message::default() }),
            (
                b"X_SYSTEMD_UNIT_ACTIVE=x\nSTATUS=Boot\x1b[1m\nREADY=1\n",
                Message { ready: true, stopping: false, status: Some("Boot [1m".into()) },
            ),
            (b"STOPPING=1\nSTATUS=", Message { ready: false, stopping: true, status: Some(String::new()) }),
            (b"READY=10\nREADY=\nready=1\n\xff\xfe", Message::default()),
            (b"", Message::default()),
        ] {
            assert_eq!(parse(message), expected);
        }
    }

    #[test]
    fn a_status_is_cut_at_a_whole_character() {
        let message = [b"STATUS=".to_vec(), "ü".repeat(400).into_bytes()].concat();
        assert_eq!(parse(&message).status.unwrap(), "ü".repeat(256));
    }

    #[test]
    fn messages_come_through_a_path_longer_than_a_socket_address() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("x".repeat(120));
        std::fs::create_dir(&run_dir).unwrap();
        let notifier = Notifier::bind(&run_dir, Notify::Payload).unwrap().unwrap();
        let client = UnixDatagram::unbound().unwrap();
        let directory = socket::short_path(&run_dir.join(NOTIFY_DIRECTORY)).unwrap();
        let socket = directory.join(NOTIFY_SOCKET);
        client.connect(&*socket).unwrap();
        client.send(&[b'x'; MESSAGE_BYTES_MAX + 1]).unwrap();
        client.send(b"READY=1\n").unwrap();
        assert_eq!(notifier.receive(), Some(Message::default()));
        assert_eq!(notifier.receive(), Some(Message { ready: true, ..Message::default() }));
        assert_eq!(notifier.receive(), None);
    }
}
