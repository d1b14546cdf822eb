//! The client's side, with threads that block: one for each channel that it sends on; who asks for replies receives.

use std::io::{self, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::frame::{self, DATA_BYTES_MAX, HEADER_BYTES, Header, Kind};
use crate::varlink::client::{ClientError, Reply, reply_of};

/// Says what is no data, from any thread.
#[derive(Debug, Clone)]
pub struct Controller {
    socket: Arc<Mutex<UnixStream>>,
}

impl Controller {
    /// Tells the size of the terminal.
    ///
    /// # Errors
    /// What the socket says.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        self.send(Kind::Window, 0, &frame::encode_window(rows, columns))
    }

    /// Sends a signal to the process, by its name.
    ///
    /// # Errors
    /// What the socket says.
    pub fn signal(&self, name: &str) -> io::Result<()> {
        self.send(Kind::Signal, 0, name.as_bytes())
    }

    /// Detaches: the process goes on.
    ///
    /// # Errors
    /// What the socket says.
    pub fn leave(&self) -> io::Result<()> {
        self.send(Kind::Leave, 0, &[])
    }

    fn send(&self, kind: Kind, channel: u8, body: &[u8]) -> io::Result<()> {
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.write_all(&frame::encode(kind, channel, body))
    }
}

/// A call whose descriptors are channels. Dropped before its last reply, the client has left.
#[derive(Debug)]
pub struct ClientStream {
    from: BufReader<UnixStream>,
    controller: Controller,
    channels: Vec<Channel>,
    first: Option<Reply>,
    ended: bool,
}

/// A descriptor of ours, by what the service does with it.
#[derive(Debug)]
enum Channel {
    /// It has not said yet.
    Unused(OwnedFd),
    /// It is read from here, in a thread.
    Sending(Sender),
    /// It is written to here.
    Receiving(OwnedFd),
    Closed,
}

impl ClientStream {
    /// `socket` has been upgraded by the reply `first`.
    pub(in crate::varlink) fn new(
        socket: UnixStream,
        first: Reply,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        let controller = Controller { socket: Arc::new(Mutex::new(socket.try_clone()?)) };
        let channels = descriptors.into_iter().map(Channel::Unused).collect();
        let from = BufReader::with_capacity(HEADER_BYTES + DATA_BYTES_MAX, socket);
        Ok(Self { from, controller, channels, first: Some(first), ended: false })
    }

    /// What other threads can say meanwhile.
    pub fn controller(&self) -> Controller {
        self.controller.clone()
    }

    /// Carries bytes until the next reply, and returns it; `None` after the last one.
    pub fn next_reply(&mut self) -> Option<Result<Reply, ClientError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        if self.ended {
            return None;
        }
        let reply = self.carry();
        self.ended = !matches!(&reply, Ok(Reply { continues: true, .. }));
        Some(reply)
    }

    fn carry(&mut self) -> Result<Reply, ClientError> {
        let broken = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => ClientError::Closed,
            _ => ClientError::Transport { source },
        };
        let mut body = Vec::new();
        loop {
            let mut header = [0; HEADER_BYTES];
            self.from.read_exact(&mut header).map_err(broken)?;
            let header = Header::decode(header).map_err(|error| broken(error.into()))?;
            body.resize(header.length, 0);
            self.from.read_exact(&mut body).map_err(broken)?;
            match header.kind {
                Kind::Reply => return reply_of(&body, Vec::new()),
                Kind::Data => self.receive(header.channel, &body),
                Kind::Credit => {
                    let count = u32::from_be_bytes(body.as_slice().try_into().unwrap_or_default());
                    self.give_credit(header.channel, count).map_err(broken)?;
                }
                Kind::Closed => {
                    if let Some(channel) = self.channels.get_mut(usize::from(header.channel)) {
                        *channel = Channel::Closed;
                    }
                }
                kind @ (Kind::Window | Kind::Signal | Kind::Leave) => {
                    return Err(broken(frame::FrameError::Direction { kind }.into()));
                }
            }
        }
    }

    fn receive(&mut self, number: u8, bytes: &[u8]) {
        let Some(channel) = self.channels.get_mut(usize::from(number)) else { return };
        if let Channel::Unused(_) = channel {
            let Channel::Unused(fd) = std::mem::replace(channel, Channel::Closed) else { return };
            *channel = Channel::Receiving(fd);
        }
        let Channel::Receiving(fd) = channel else { return };
        if bytes.is_empty() {
            *channel = Channel::Closed;
        } else if write_fully(fd.as_fd(), bytes).is_err() {
            // Whoever reads from us has left, and who writes shall know. If that can't be told, the stream is broken, which
            // shows in the next frame.
            *channel = Channel::Closed;
            let _ = self.controller.send(Kind::Closed, number, &[]);
        }
    }

    fn give_credit(&mut self, number: u8, count: u32) -> io::Result<()> {
        let Some(channel) = self.channels.get_mut(usize::from(number)) else { return Ok(()) };
        if let Channel::Unused(_) = channel {
            let Channel::Unused(fd) = std::mem::replace(channel, Channel::Closed) else { return Ok(()) };
            *channel = Channel::Sending(Sender::start(number, fd, self.controller.clone())?);
        }
        if let Channel::Sending(sender) = channel {
            sender.credit.add(usize::try_from(count).unwrap_or(0));
        }
        Ok(())
    }
}

/// A thread that reads a descriptor and sends what is there. Dropped, it lets go of the descriptor.
#[derive(Debug)]
struct Sender {
    credit: Arc<Credit>,
    _stop: PipeWriter,
}

impl Sender {
    fn start(channel: u8, from: OwnedFd, to: Controller) -> io::Result<Self> {
        let credit = Arc::new(Credit::default());
        let (stopped, stop) = io::pipe()?;
        let given = Arc::clone(&credit);
        std::thread::Builder::new()
            .name("channel".to_owned())
            .spawn(move || send_all(channel, &from, &to, &given, &stopped))?;
        Ok(Self { credit, _stop: stop })
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.credit.stop();
    }
}

/// How much may be sent; `None` when nothing more shall be.
#[derive(Debug)]
struct Credit {
    bytes: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Default for Credit {
    fn default() -> Self {
        Self { bytes: Mutex::new(Some(0)), changed: Condvar::new() }
    }
}

impl Credit {
    fn bytes(&self) -> MutexGuard<'_, Option<usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, count: usize) {
        if let Some(bytes) = &mut *self.bytes() {
            *bytes = bytes.saturating_add(count);
        }
        self.changed.notify_all();
    }

    fn stop(&self) {
        *self.bytes() = None;
        self.changed.notify_all();
    }

    /// Waits until something may be sent, and tells how much.
    fn wait(&self) -> Option<usize> {
        let mut bytes = self.bytes();
        while *bytes == Some(0) {
            bytes = self.changed.wait(bytes).unwrap_or_else(PoisonError::into_inner);
        }
        *bytes
    }

    fn spend(&self, count: usize) {
        if let Some(bytes) = &mut *self.bytes() {
            *bytes = bytes.saturating_sub(count);
        }
    }
}

fn send_all(channel: u8, from: &OwnedFd, to: &Controller, credit: &Credit, stopped: &PipeReader) {
    let mut buffer = vec![0; DATA_BYTES_MAX];
    while let Some(room) = credit.wait() {
        let mut waits = [PollFd::new(from, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut waits, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return,
        }
        if !waits[1].revents().is_empty() {
            return;
        }
        let room = room.min(buffer.len());
        match rustix::io::read(from, &mut buffer[..room]) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(length) if length > 0 => {
                credit.spend(length);
                if to.send(Kind::Data, channel, &buffer[..length]).is_err() {
                    return;
                }
            }
            // What can't be read, as a terminal that is gone, has ended too. Where that can't be told, the stream is broken.
            Ok(_) | Err(_) => {
                let _ = to.send(Kind::Data, channel, &[]);
                return;
            }
        }
    }
}

/// Writes all, also to a descriptor that another process has made non-blocking.
fn write_fully(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&to, PollFlags::OUT)], None);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
