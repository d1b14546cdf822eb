//! Clients that watch a payload's output and type into it.
//!
//! A client hands its own stdin, stdout and stderr over; the monitor copies between them and the payload. The client's
//! connection carries only control packets (SOCK_SEQPACKET):
//!
//! | packet | from | meaning |
//! |---|---|---|
//! | `A` flags, 3 descriptors | client, first | attach; flag bit 0: the client's stdin goes to the payload |
//! | `R` rows columns (u16, little endian) | client | the terminal's new size |
//! | `D` | client | detach; output that waits for this client is dropped |
//! | `X` code (i32, little endian) | monitor, last | the payload ended and all of its output was delivered |
//!
//! A slow client holds the payload's output back once [`BACKLOG_BYTES_MAX`] wait for it; nothing is lost. A client
//! that hangs up is forgotten. The end of an attached stdin ends the payload's stdin; a detached or lost client does not.

mod client;
mod endpoint;

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::config::ATTACH_SOCKET;
use super::log::Stream;
use super::socket;

pub use self::client::AttachConnection;
pub use self::endpoint::{Backlog, Endpoint};

/// The payload's output is not read while more than this waits for one client.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024;
/// More clients than this are turned away.
const CLIENTS_MAX: usize = 64;

const ATTACH: u8 = b'A';
const RESIZE: u8 = b'R';
const DETACH: u8 = b'D';
const EXITED: u8 = b'X';
const FLAG_STDIN: u8 = 1;

/// The streams of one client.
#[derive(Debug)]
pub struct Streams {
    /// Only if it goes to the payload.
    pub stdin: Option<OwnedFd>,
    /// Where the payload's stdout goes.
    pub stdout: OwnedFd,
    /// Where the payload's stderr goes.
    pub stderr: OwnedFd,
}

impl Streams {
    /// From the three descriptors of an attach packet, with its flags.
    fn from_packet(flags: u8, fds: Vec<OwnedFd>) -> Option<Self> {
        let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds).ok()?;
        Some(Self { stdin: (flags & FLAG_STDIN != 0).then_some(stdin), stdout, stderr })
    }
}

/// Takes the attach packet that comes first over a connection.
///
/// # Errors
/// What recvmsg(2) says; `InvalidData` for anything but an attach packet.
pub fn receive_streams(socket: &OwnedFd) -> io::Result<Streams> {
    let mut packet = [0; 16];
    let (length, fds) = socket::receive_with_fds(socket, &mut packet, RecvFlags::empty())?;
    match packet.get(..length).unwrap_or_default() {
        [ATTACH, flags] => Streams::from_packet(*flags, fds).ok_or_else(|| io::ErrorKind::InvalidData.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What came over a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing that concerns the payload.
    Nothing,
    /// The terminal has a new size: rows, columns.
    Resize(u16, u16),
}

/// What came from a client's stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// So many bytes.
    Bytes(usize),
    /// Nothing just now.
    Nothing,
    /// The client's stdin has ended, and so shall the payload's.
    End,
}

#[derive(Debug)]
struct Output {
    endpoint: Endpoint,
    backlog: Backlog,
}

impl Output {
    fn new(fd: OwnedFd) -> Self {
        Self { endpoint: Endpoint::output(fd), backlog: Backlog::default() }
    }

    fn push(&mut self, data: &[u8]) -> io::Result<()> {
        self.backlog.push(data, |bytes| self.endpoint.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.backlog.flush(|bytes| self.endpoint.write(bytes))
    }
}

/// One client.
#[derive(Debug, Default)]
pub struct Client {
    socket: Option<OwnedFd>,
    stdin: Option<Endpoint>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// The payload that it watched has ended, with this code: what waits is still delivered.
    leaving: Option<i32>,
    gone: bool,
}

impl Client {
    fn output(&self, stream: Stream) -> Option<&Output> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    fn output_mut(&mut self, stream: Stream) -> &mut Option<Output> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    /// The control connection, to wait for packets or the client's end.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(|socket| socket.as_fd())
    }

    /// The client's stdin, to wait for input.
    pub fn stdin(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|_| self.leaving.is_none()).map(|stdin| stdin.as_fd())
    }

    /// The client's output of that stream if something waits for it.
    pub fn waiting(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        self.output(stream).filter(|output| !output.backlog.is_empty()).map(|output| output.endpoint.as_fd())
    }

    fn backlog(&self) -> usize {
        [Stream::Stdout, Stream::Stderr]
            .into_iter()
            .filter_map(|stream| self.output(stream))
            .map(|o| o.backlog.len())
            .sum()
    }

    fn attach(&mut self, streams: Streams) {
        self.stdin = streams.stdin.map(Endpoint::input);
        self.stdout = Some(Output::new(streams.stdout));
        self.stderr = Some(Output::new(streams.stderr));
    }

    fn deliver(&mut self, stream: Stream, data: &[u8]) {
        if self.leaving.is_none()
            && let Some(output) = self.output_mut(stream)
            && output.push(data).is_err()
        {
            *self.output_mut(stream) = None;
        }
        self.settle();
    }

    /// Delivers what waits, as far as it goes.
    pub fn flush(&mut self, stream: Stream) {
        if let Some(output) = self.output_mut(stream)
            && output.flush().is_err()
        {
            *self.output_mut(stream) = None;
        }
        self.settle();
    }

    /// Lets the client go when everything that it waited for has been delivered.
    fn settle(&mut self) {
        if let Some(code) = self.leaving
            && self.backlog() == 0
        {
            if let Some(socket) = self.socket.take() {
                let mut packet = [EXITED, 0, 0, 0, 0];
                packet[1..].copy_from_slice(&code.to_le_bytes());
                // A client that does not take five bytes is gone.
                let _ = rustix::net::send(&socket, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            }
            self.gone = true;
        }
        if self.socket.is_none() && self.stdin.is_none() && self.stdout.is_none() && self.stderr.is_none() {
            self.gone = true;
        }
    }

    /// Reads one packet from the connection, after it was said to be readable.
    pub fn control(&mut self) -> Control {
        let Some(socket) = &self.socket else { return Control::Nothing };
        let mut packet = [0; 16];
        let (length, fds) = match socket::receive_with_fds(socket, &mut packet, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.gone = true;
                return Control::Nothing;
            }
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Control::Nothing;
            }
            Err(_) => {
                self.gone = true;
                return Control::Nothing;
            }
        };
        match packet.get(..length).unwrap_or_default() {
            [ATTACH, flags] if self.stdout.is_none() && self.stderr.is_none() => {
                match Streams::from_packet(*flags, fds) {
                    Some(streams) => self.attach(streams),
                    None => self.gone = true,
                }
                Control::Nothing
            }
            [RESIZE, r0, r1, c0, c1] => {
                Control::Resize(u16::from_le_bytes([*r0, *r1]), u16::from_le_bytes([*c0, *c1]))
            }
            // Detached, or talking nonsense.
            _ => {
                self.gone = true;
                Control::Nothing
            }
        }
    }

    /// Reads what the client has typed, after its stdin was said to be readable.
    pub fn read(&mut self, buffer: &mut [u8]) -> Typed {
        let Some(stdin) = &self.stdin else { return Typed::Nothing };
        match stdin.read(buffer) {
            Ok(0) => {
                self.stdin = None;
                self.settle();
                // Both may be seen in one turn: who has left has not ended the payload's input.
                if self.gone { Typed::Nothing } else { Typed::End }
            }
            Ok(length) => Typed::Bytes(length),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Typed::Nothing
            }
            // A terminal that is gone; the client goes with it.
            Err(_) => {
                self.stdin = None;
                self.settle();
                Typed::Nothing
            }
        }
    }
}

/// The attach socket and all clients.
#[derive(Debug)]
pub struct Clients {
    listener: Option<OwnedFd>,
    path: PathBuf,
    /// In the order in which they came.
    pub list: Vec<Client>,
}

impl Clients {
    /// Makes the attach socket in the run directory.
    ///
    /// # Errors
    /// What the kernel says to making it.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(ATTACH_SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        // The mode of the socket's file is that of the socket, less the umask.
        rustix::fs::fchmod(&listener, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        let directory = socket::short_path(run_dir)?;
        let address = SocketAddrUnix::new(directory.join(ATTACH_SOCKET).as_ref())?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, 64)?;
        Ok(Self { listener: Some(listener), path, list: Vec::new() })
    }

    /// The socket, to wait for clients.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.as_fd())
    }

    /// Takes no more clients.
    pub fn close(&mut self) {
        if self.listener.take().is_some() {
            // A socket file that is left refuses connections; the engine removes the directory.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Adds the client that is there from the start, with its own three descriptors and no connection.
    pub fn add_first(&mut self, streams: Streams) {
        let mut client = Client::default();
        client.attach(streams);
        self.list.push(client);
    }

    /// Accepts one client, after the socket was said to be readable.
    pub fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        if let Some(listener) = &self.listener
            && let Ok(socket) = rustix::net::accept_with(listener, flags)
            && self.list.len() < CLIENTS_MAX
        {
            self.list.push(Client { socket: Some(socket), ..Client::default() });
        }
    }

    /// Whether no client holds the payload's output back.
    pub fn have_room(&self) -> bool {
        self.list.iter().all(|client| client.leaving.is_some() || client.backlog() < BACKLOG_BYTES_MAX)
    }

    /// Hands a piece of the payload's output to every client.
    pub fn deliver(&mut self, stream: Stream, data: &[u8]) {
        for client in &mut self.list {
            client.deliver(stream, data);
        }
    }

    /// The payload reads no more input: the clients' stdins are let go.
    pub fn close_stdins(&mut self) {
        for client in &mut self.list {
            client.stdin = None;
            client.settle();
        }
    }

    /// Accepts who waits at the socket, and hears what they want; for the moment at which the payload has ended.
    pub fn welcome(&mut self) {
        loop {
            let count = self.list.len();
            self.accept();
            if self.list.len() == count {
                break;
            }
        }
        for client in &mut self.list {
            client.control();
        }
        self.forget_gone();
    }

    /// The payload has ended: every client gets the code as soon as it has all of the output.
    pub fn dismiss(&mut self, code: i32) {
        for client in &mut self.list {
            if client.leaving.is_none() {
                client.leaving = Some(code);
                client.stdin = None;
            }
            client.settle();
        }
        self.forget_gone();
    }

    /// Forgets the clients that are gone.
    pub fn forget_gone(&mut self) {
        self.list.retain(|client| !client.gone);
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.close();
    }
}
