//! Descriptors of a client, connected to a container's streams. The monitor does the copying; see its attach protocol.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::monitor::config::ATTACH_SOCKET;

use super::{Engine, EngineError, Phase};

/// The descriptors that a client wants connected; any may be left out.
#[derive(Debug, Default)]
#[allow(missing_docs)] // the names tell
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Streams {
    /// Nothing is to be connected.
    pub fn is_empty(&self) -> bool {
        self.stdin.is_none() && self.stdout.is_none() && self.stderr.is_none()
    }

    /// Sends an attach packet of the monitor's protocol.
    pub(super) fn send(self, socket: BorrowedFd<'_>) -> std::io::Result<()> {
        let flags = u8::from(self.stdin.is_some());
        let streams = self.filled()?;
        send_packet(socket, &[b'A', flags], &streams.each_ref().map(AsFd::as_fd))?;
        Ok(())
    }

    /// All three; /dev/null for what was left out.
    pub(super) fn filled(self) -> std::io::Result<[OwnedFd; 3]> {
        let null = || -> std::io::Result<OwnedFd> {
            Ok(std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into())
        };
        let or_null = |fd: Option<OwnedFd>| fd.map_or_else(null, Ok);
        Ok([or_null(self.stdin)?, or_null(self.stdout)?, or_null(self.stderr)?])
    }
}

/// Descriptors that are connected to a container. Dropped, the monitor disconnects them.
#[derive(Debug)]
pub struct Attachment {
    name: String,
    socket: AsyncFd<OwnedFd>,
}

impl Attachment {
    /// Waits until the container has ended and all of its output was delivered; its exit code, if that is known.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where the monitor can't be heard.
    pub async fn ended(self) -> Result<Option<i32>, EngineError> {
        loop {
            let mut guard =
                self.socket.readable().await.map_err(|error| attach_failed(&self.name, &error))?;
            let mut packet = [0; 16];
            match rustix::net::recv(self.socket.get_ref(), &mut packet, RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(None),
                Ok((5, _)) if packet[0] == b'X' => {
                    return Ok(Some(i32::from_le_bytes([packet[1], packet[2], packet[3], packet[4]])));
                }
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => guard.clear_ready(),
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(attach_failed(&self.name, &errno.into())),
            }
        }
    }
}

fn attach_failed(name: &str, error: &std::io::Error) -> EngineError {
    EngineError::Failed { attempted: format!("attach to {name:?}"), reason: error.to_string() }
}

/// Sends one packet with descriptors.
pub(super) fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), rustix::io::Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::INVAL);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

impl Engine {
    /// Connects descriptors to a running container, and returns its exit code when it has ended. Dropped, the monitor
    /// disconnects them.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub async fn attach(&self, name: &str, streams: Streams) -> Result<Option<i32>, EngineError> {
        self.attachment(name, streams)?.ended().await
    }

    /// Connects descriptors to a running container, until the attachment is dropped.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub fn attachment(&self, name: &str, streams: Streams) -> Result<Attachment, EngineError> {
        let (name, socket) = self.connect_monitor(name, "attach to")?;
        let sent = streams.send(socket.as_fd());
        let watched = sent.and_then(|()| crate::readiness::watch(socket, Interest::READABLE));
        match watched {
            Ok(socket) => Ok(Attachment { name, socket }),
            Err(error) => Err(attach_failed(&name, &error)),
        }
    }

    /// Sets the size of a container's terminal, in characters.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`]; [`EngineError::InvalidSpec`] where it has no terminal.
    pub fn resize(&self, name: &str, rows: u16, columns: u16) -> Result<(), EngineError> {
        if !self.find(name)?.definition.spec.terminal {
            return Err(EngineError::InvalidSpec {
                field: "name".into(),
                reason: format!("{name:?} has no terminal; create it with one"),
            });
        }
        let (row_name, socket) = self.connect_monitor(name, "resize the terminal of")?;
        let mut packet = [b'R', 0, 0, 0, 0];
        packet[1..3].copy_from_slice(&rows.to_le_bytes());
        packet[3..5].copy_from_slice(&columns.to_le_bytes());
        send_packet(socket.as_fd(), &packet, &[]).map_err(|errno| EngineError::Failed {
            attempted: format!("resize the terminal of {row_name:?}"),
            reason: errno.to_string(),
        })
    }

    fn connect_monitor(&self, name: &str, attempted: &'static str) -> Result<(String, OwnedFd), EngineError> {
        let row = self.find_row(name)?;
        let live = self.live(&row.id)?;
        if !live.phase.is_alive() {
            let state = live.phase;
            return Err(EngineError::WrongState { attempted, name: row.name, state, wanted: "running" });
        }
        if !live.supervised {
            return Err(EngineError::Failed {
                attempted: format!("{attempted} {name:?}"),
                reason: "its monitor was killed, and its streams went with it; restart it".to_owned(),
            });
        }
        let path = self.paths().run_container(&row.id).join(ATTACH_SOCKET);
        let connect = || -> Result<OwnedFd, rustix::io::Errno> {
            let socket = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // A path may be longer than an address has room for; the way through the directory's descriptor never is.
            let dir = rustix::fs::open(
                path.parent().unwrap_or(&path),
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )?;
            let short = format!("/proc/self/fd/{}/{ATTACH_SOCKET}", std::os::fd::AsRawFd::as_raw_fd(&dir));
            rustix::net::connect(&socket, &SocketAddrUnix::new(short)?)?;
            Ok(socket)
        };
        match connect() {
            Ok(socket) => Ok((row.name, socket)),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Err(EngineError::WrongState {
                attempted,
                name: row.name,
                state: Phase::Starting,
                wanted: "running",
            }),
            Err(errno) => Err(EngineError::io("connect to", path, errno.into())),
        }
    }
}
