//! The running payload as the monitor holds it: its first process and the ends of its streams.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use super::attach::Backlog;
use super::keeper;
use super::launch::{Launched, Streams};
use super::log::Stream;
use super::state::ProcessRef;

/// How long a terminal that cannot be held open is left alone before it is tried again.
const CONSOLE_PAUSE: Duration = Duration::from_millis(100);
/// How long the last output of a terminal may take to come through the kernel.
const CONSOLE_LINGER: Duration = Duration::from_millis(500);
/// More than a terminal holds of what nobody has read: its buffers in the kernel have 64 KiB.
const CONSOLE_BYTES_MAX: usize = 1 << 20;

/// What came of a read from the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// So many bytes.
    Bytes(usize),
    /// Nothing just now.
    Nothing,
    /// There will be no more.
    End,
}

/// The running payload.
#[derive(Debug)]
pub struct Payload {
    /// Its first process.
    pub init: ProcessRef,
    /// The same.
    pub pidfd: OwnedFd,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    stdin: Option<Stdin>,
    console: Option<Console>,
}

/// The way into the payload: its stdin's pipe, or the terminal.
#[derive(Debug)]
struct Stdin {
    fd: OwnedFd,
    backlog: Backlog,
    is_console: bool,
    /// Close it when everything that waits has been written.
    ending: bool,
}

/// The master of the payload's terminal.
///
/// Without a process that has the other side open, the master reports a hang-up for ever: so between two users of a
/// systemd's console, for instance. The monitor holds the other side open itself until the payload has ended.
#[derive(Debug)]
struct Console {
    master: OwnedFd,
    peer: Option<OwnedFd>,
    opened_at: Option<Instant>,
    paused_until: Option<Instant>,
}

impl Console {
    fn new(master: OwnedFd) -> Self {
        let mut console = Self { master, peer: None, opened_at: None, paused_until: None };
        console.hold_open();
        console
    }

    fn hold_open(&mut self) {
        let now = Instant::now();
        let just_opened = self.opened_at.is_some_and(|at| now - at < CONSOLE_PAUSE);
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.peer = rustix::pty::ioctl_tiocgptpeer(&self.master, flags).ok();
        self.opened_at = Some(now);
        if just_opened || self.peer.is_none() {
            self.paused_until = Some(now + CONSOLE_PAUSE);
        }
    }
}

impl Payload {
    /// Takes over what was launched.
    ///
    /// # Errors
    /// What fcntl(2) says to making the ends non-blocking.
    pub fn new(launched: Launched, stdin_open: bool) -> io::Result<Self> {
        let Launched { init, pidfd, streams, .. } = launched;
        let nonblocking = |fd: &OwnedFd| rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK);
        let stdin = |fd, is_console| Stdin { fd, backlog: Backlog::default(), is_console, ending: false };
        Ok(match streams {
            Streams::Pipes { stdin: our_stdin, stdout, stderr } => {
                nonblocking(&stdout)?;
                nonblocking(&stderr)?;
                our_stdin.as_ref().map(nonblocking).transpose()?;
                Self {
                    init,
                    pidfd,
                    stdout: Some(stdout),
                    stderr: Some(stderr),
                    stdin: our_stdin.map(|fd| stdin(fd, false)),
                    console: None,
                }
            }
            Streams::Terminal(master) => {
                nonblocking(&master)?;
                let typing = stdin_open.then(|| master.try_clone()).transpose()?;
                Self {
                    init,
                    pidfd,
                    stdout: None,
                    stderr: None,
                    stdin: typing.map(|fd| stdin(fd, true)),
                    console: Some(Console::new(master)),
                }
            }
        })
    }

    /// The inode numbers of the pipes for stdout and stderr; `None` with a terminal.
    pub fn pipes(&self) -> Option<[u64; 2]> {
        let inode = |fd: &Option<OwnedFd>| rustix::fs::fstat(fd.as_ref()?).ok().map(|stat| stat.st_ino);
        Some([inode(&self.stdout)?, inode(&self.stderr)?])
    }

    /// Starts the process that keeps the payload's terminal open should this one die; `None` without a terminal.
    ///
    /// # Errors
    /// What fork(2) says.
    pub fn start_keeper(&self) -> io::Result<Option<ProcessRef>> {
        match &self.console {
            Some(console) => keeper::start(console.master.as_fd(), self.pidfd.as_fd()),
            None => Ok(None),
        }
    }

    /// What to wait on for output of that stream; `None` if none will come, or not now.
    pub fn source(&self, stream: Stream) -> Option<BorrowedFd<'_>> {
        match (stream, &self.console) {
            (Stream::Stdout, Some(console)) => console.paused_until.is_none().then(|| console.master.as_fd()),
            (Stream::Stdout, None) => self.stdout.as_ref().map(|fd| fd.as_fd()),
            (Stream::Stderr, _) => self.stderr.as_ref().map(|fd| fd.as_fd()),
        }
    }

    /// When [`Self::tick`] wants to be called, if ever.
    pub fn next_tick(&self) -> Option<Instant> {
        self.console.as_ref()?.paused_until
    }

    /// Takes a terminal up again whose pause is over.
    pub fn tick(&mut self, now: Instant) {
        if let Some(console) = &mut self.console
            && console.paused_until.is_some_and(|until| until <= now)
        {
            console.paused_until = None;
        }
    }

    /// Reads output, after the source was said to be readable.
    pub fn read(&mut self, stream: Stream, buffer: &mut [u8]) -> Output {
        let Some(fd) = self.source(stream) else { return Output::End };
        match rustix::io::read(fd, buffer) {
            Ok(0) => self.ended(stream),
            Ok(length) => Output::Bytes(length),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Output::Nothing,
            Err(_) => self.ended(stream),
        }
    }

    fn ended(&mut self, stream: Stream) -> Output {
        match (stream, &mut self.console) {
            // The other side was hung up, by vhangup(2) for instance: it can be opened again.
            (Stream::Stdout, Some(console)) => {
                console.hold_open();
                return Output::Nothing;
            }
            (Stream::Stdout, None) => self.stdout = None,
            (Stream::Stderr, _) => self.stderr = None,
        }
        Output::End
    }

    /// Reads what the payload had still written when it ended, and hands it to `take`. Who else has got hold of its streams,
    /// from another container perhaps, may write on for ever: what comes after the end is not waited for.
    pub fn drain(&mut self, buffer: &mut [u8], mut take: impl FnMut(Stream, &[u8])) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let fd = match stream {
                Stream::Stdout => self.stdout.take(),
                Stream::Stderr => self.stderr.take(),
            };
            let Some(fd) = fd else { continue };
            let mut left = rustix::io::ioctl_fionread(&fd).unwrap_or(0);
            while left > 0 {
                match rustix::io::read(&fd, &mut *buffer) {
                    Ok(length) if length > 0 => {
                        left = left.saturating_sub(length as u64);
                        take(stream, &buffer[..length]);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    _ => break,
                }
            }
        }
        self.stdin = None;
        let Some(Console { master, peer, .. }) = self.console.take() else { return };
        // Now that nobody has the other side open, the master reports the end after the last byte.
        drop(peer);
        let deadline = Instant::now() + CONSOLE_LINGER;
        let mut left = CONSOLE_BYTES_MAX;
        while left > 0 {
            match rustix::io::read(&master, &mut *buffer) {
                Ok(length) if length > 0 => {
                    left = left.saturating_sub(length);
                    take(Stream::Stdout, &buffer[..length]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
                    let Ok(left) = Timespec::try_from(left) else { break };
                    let mut poll = [PollFd::new(&master, PollFlags::IN)];
                    if !matches!(rustix::event::poll(&mut poll, Some(&left)), Ok(1)) {
                        break;
                    }
                }
                _ => break,
            }
        }
    }

    /// Whether input would be taken now.
    pub fn wants_input(&self) -> bool {
        self.stdin.as_ref().is_some_and(|stdin| stdin.backlog.is_empty() && !stdin.ending)
    }

    /// Whether no input will ever be taken again.
    pub fn is_deaf(&self) -> bool {
        self.stdin.is_none()
    }

    /// What to wait on to write input that waits.
    pub fn input_waiting(&self) -> Option<BorrowedFd<'_>> {
        self.stdin.as_ref().filter(|stdin| !stdin.backlog.is_empty()).map(|stdin| stdin.fd.as_fd())
    }

    /// Gives input to the payload; what does not go now waits.
    pub fn input(&mut self, data: &[u8]) {
        if let Some(Stdin { fd, backlog, .. }) = &mut self.stdin
            && backlog.push(data, |bytes| Ok(rustix::io::write(&*fd, bytes)?)).is_err()
        {
            // The payload has closed its stdin.
            self.stdin = None;
        }
    }

    /// Writes input that waits.
    pub fn flush_input(&mut self) {
        if let Some(Stdin { fd, backlog, ending, .. }) = &mut self.stdin {
            let gone = backlog.flush(|bytes| Ok(rustix::io::write(&*fd, bytes)?)).is_err();
            if gone || (*ending && backlog.is_empty()) {
                self.stdin = None;
            }
        }
    }

    /// The client's input has ended, so the payload's does, unless it is a terminal, which has no end.
    pub fn end_input(&mut self) {
        if let Some(stdin) = &mut self.stdin
            && !stdin.is_console
        {
            stdin.ending = true;
            self.flush_input();
        }
    }

    /// Tells the terminal its size.
    pub fn resize(&self, rows: u16, columns: u16) {
        if let Some(console) = &self.console {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // A terminal that was hung up has no size.
            let _ = rustix::termios::tcsetwinsize(&console.master, size);
        }
    }
}
