//! A client's own stdin, stdout and stderr, used without ever blocking the monitor.
//!
//! The descriptors share their open file with the client's shell, so O_NONBLOCK must not be set on them. A pipe or
//! a terminal is opened anew through /proc/self/fd, which gives an open file of our own; a socket has a flag per call; a
//! regular file does not block, and is used as it is, because its position is shared on purpose.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::net::{RecvFlags, SendFlags};

/// What a pipe takes without waiting when it is said to be writable.
const PIPE_BYTES: usize = 4096;
/// What a terminal takes: it is said to be writable as soon as it has room for one byte.
const TERMINAL_BYTES: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Calls have a flag for not blocking.
    Socket,
    /// Never blocks: opened anew with O_NONBLOCK, or a file.
    Prompt,
    /// May block: asked first, and written to in pieces of so many bytes.
    Cautious(usize),
}

/// One of a client's descriptors.
#[derive(Debug)]
pub struct Endpoint {
    fd: OwnedFd,
    kind: Kind,
}

impl Endpoint {
    /// Takes a descriptor to read from.
    pub fn input(fd: OwnedFd) -> Self {
        Self::new(fd, OFlags::RDONLY)
    }

    /// Takes a descriptor to write to.
    pub fn output(fd: OwnedFd) -> Self {
        Self::new(fd, OFlags::WRONLY)
    }

    fn new(fd: OwnedFd, access: OFlags) -> Self {
        let Ok(stat) = rustix::fs::fstat(&fd) else { return Self { fd, kind: Kind::Cautious(PIPE_BYTES) } };
        let file_type = FileType::from_raw_mode(stat.st_mode);
        // Opening /dev/ptmx again would make another terminal.
        let multiplexer = rustix::fs::major(stat.st_rdev) == 5 && rustix::fs::minor(stat.st_rdev) == 2;
        match file_type {
            FileType::Socket => Self { fd, kind: Kind::Socket },
            FileType::Fifo => Self::reopened(fd, access, PIPE_BYTES),
            FileType::CharacterDevice if rustix::termios::isatty(&fd) && !multiplexer => {
                Self::reopened(fd, access, TERMINAL_BYTES)
            }
            FileType::CharacterDevice if multiplexer => Self { fd, kind: Kind::Cautious(TERMINAL_BYTES) },
            _ => Self { fd, kind: Kind::Prompt },
        }
    }

    fn reopened(fd: OwnedFd, access: OFlags, bytes: usize) -> Self {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(own) => Self { fd: own, kind: Kind::Prompt },
            Err(_) => Self { fd, kind: Kind::Cautious(bytes) },
        }
    }

    /// Reads what is there; 0 means the end.
    ///
    /// # Errors
    /// EAGAIN when nothing is there, or what read(2) says.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.kind {
            Kind::Socket => Ok(rustix::net::recv(&self.fd, buffer, RecvFlags::DONTWAIT)?.0),
            Kind::Cautious(_) if !self.is_ready(PollFlags::IN) => Err(io::ErrorKind::WouldBlock.into()),
            Kind::Prompt | Kind::Cautious(_) => Ok(rustix::io::read(&self.fd, buffer)?),
        }
    }

    /// Writes as much as goes now.
    ///
    /// # Errors
    /// EAGAIN when nothing goes now, or what write(2) says.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        match self.kind {
            Kind::Socket => Ok(rustix::net::send(&self.fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?),
            Kind::Prompt => Ok(rustix::io::write(&self.fd, data)?),
            Kind::Cautious(_) if !self.is_ready(PollFlags::OUT) => Err(io::ErrorKind::WouldBlock.into()),
            Kind::Cautious(bytes) => Ok(rustix::io::write(&self.fd, &data[..bytes.min(data.len())])?),
        }
    }

    fn is_ready(&self, flags: PollFlags) -> bool {
        let mut poll = [PollFd::new(&self.fd, flags)];
        matches!(rustix::event::poll(&mut poll, Some(&Timespec::default())), Ok(1))
    }
}

impl AsFd for Endpoint {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes on their way to a descriptor that does not take them all at once.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    sent: usize,
}

impl Backlog {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes `data` behind what waits already; what does not go now waits.
    ///
    /// # Errors
    /// What `write` says, other than that it would block: the other side is gone.
    pub fn push(&mut self, data: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        if !self.is_empty() {
            self.bytes.extend_from_slice(data);
            return self.flush(write);
        }
        let sent = write_what_goes(data, &mut write)?;
        self.bytes.extend_from_slice(&data[sent..]);
        Ok(())
    }

    /// Writes as much of what waits as goes now.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        self.sent += write_what_goes(&self.bytes[self.sent..], &mut write)?;
        if self.sent == self.bytes.len() {
            // Given back to the allocator: most of the time nothing waits.
            *self = Self::default();
        } else if self.sent > self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        Ok(())
    }
}

fn write_what_goes(data: &[u8], write: &mut impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<usize> {
    let mut sent = 0;
    while sent < data.len() {
        match write(&data[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn a_full_pipe_does_not_block_and_its_flags_are_left_alone() {
        let (mut reader, writer) = io::pipe().unwrap();
        let shared = writer.try_clone().unwrap();
        let endpoint = Endpoint::output(writer.into());
        let mut backlog = Backlog::default();
        let data: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        for piece in data.chunks(7_000) {
            backlog.push(piece, |bytes| endpoint.write(bytes)).unwrap();
        }
        assert!(backlog.len() > 100_000);
        assert!(!rustix::fs::fcntl_getfl(&shared).unwrap().contains(OFlags::NONBLOCK));
        drop(shared);
        let mut received = Vec::new();
        let mut buffer = [0; 5_000];
        while !backlog.is_empty() {
            let length = reader.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..length]);
            backlog.flush(|bytes| endpoint.write(bytes)).unwrap();
        }
        drop(endpoint);
        reader.read_to_end(&mut received).unwrap();
        assert!(received == data);
    }

    #[test]
    fn a_file_is_written_at_its_shared_position() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before ").unwrap();
        let endpoint = Endpoint::output(file.try_clone().unwrap().into());
        endpoint.write(b"payload").unwrap();
        file.write_all(b" after").unwrap();
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "before payload after");
    }

    #[test]
    fn a_reader_that_is_gone_is_noticed() {
        let (reader, writer) = io::pipe().unwrap();
        let endpoint = Endpoint::output(writer.into());
        drop(reader);
        let mut backlog = Backlog::default();
        let error = backlog.push(b"x", |bytes| endpoint.write(bytes)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn nothing_to_read_is_no_end() {
        let (reader, writer) = io::pipe().unwrap();
        let endpoint = Endpoint::input(reader.into());
        let mut buffer = [0; 10];
        assert_eq!(endpoint.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(writer);
        assert_eq!(endpoint.read(&mut buffer).unwrap(), 0);
    }
}
