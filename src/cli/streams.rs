//! Our standard streams on their way to a container.
//!
//! A file, pipe or socket is handed over itself: nothing is copied, and its end is exact. A terminal never is, for the
//! container's monitor lives on when we leave, and must not read the keys or disturb the screen of the shell after us:
//! a pipe goes instead, and a thread here carries the bytes.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value, json};

use crate::cli::errors::CliError;
use crate::cli::terminal::{DetachKeys, DetachScanner};

const BUFFER_BYTES: usize = 64 * 1024;

/// The descriptors for a call, and the threads behind those that are pipes of ours.
#[derive(Debug)]
pub struct Streams {
    descriptors: Vec<OwnedFd>,
    indices: Map<String, Value>,
    output: OutputPumps,
}

impl Streams {
    /// Prepares standard output, standard error (unless the container has a `terminal`, where it is the same) and, if
    /// `interactive`, standard input. `detached` is called when the detach keys were typed, `interrupted` if Ctrl-C is what
    /// is typed first.
    ///
    /// # Errors
    /// If there are no descriptors or threads left.
    pub fn prepare(
        interactive: bool,
        terminal: bool,
        detach_keys: &DetachKeys,
        detached: impl FnOnce() + Send + 'static,
        interrupted: Option<Box<dyn FnOnce() + Send>>,
    ) -> Result<Self, CliError> {
        Self::try_prepare(interactive, terminal, detach_keys, detached, interrupted)
            .map_err(|error| CliError::io("hand over the standard streams", &error))
    }

    fn try_prepare(
        interactive: bool,
        terminal: bool,
        detach_keys: &DetachKeys,
        detached: impl FnOnce() + Send + 'static,
        interrupted: Option<Box<dyn FnOnce() + Send>>,
    ) -> io::Result<Self> {
        let mut streams = Self { descriptors: Vec::new(), indices: Map::new(), output: OutputPumps::new()? };
        if interactive {
            let stdin = io::stdin();
            let handed = if stdin.is_terminal() {
                let (reader, writer) = io::pipe()?;
                let keyboard = File::from(stdin.as_fd().try_clone_to_owned()?);
                pump_input(keyboard, writer.into(), detach_keys, detached, interrupted, None)?;
                reader.into()
            } else {
                stdin.as_fd().try_clone_to_owned()?
            };
            streams.add("stdin", handed);
        }
        let stdout = streams.output.hand_over(io::stdout())?;
        streams.add("stdout", stdout);
        if !terminal {
            let stderr = streams.output.hand_over(io::stderr())?;
            streams.add("stderr", stderr);
        }
        Ok(streams)
    }

    fn add(&mut self, name: &str, descriptor: OwnedFd) {
        self.indices.insert(name.to_owned(), json!(self.descriptors.len()));
        self.descriptors.push(descriptor);
    }

    /// Takes apart: the fields `stdin`, `stdout` and `stderr` for the call, the descriptors to pass, and the threads.
    pub fn into_parts(self) -> (Map<String, Value>, Vec<OwnedFd>, OutputPumps) {
        (self.indices, self.descriptors, self.output)
    }
}

/// The threads that carry output to terminals.
#[derive(Debug)]
pub struct OutputPumps {
    threads: Vec<JoinHandle<()>>,
    stop: PipeWriter,
    stopped: PipeReader,
}

impl OutputPumps {
    /// Begins with none.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (stopped, stop) = io::pipe()?;
        Ok(Self { threads: Vec::new(), stop, stopped })
    }

    fn hand_over(&mut self, stream: impl AsFd + IsTerminal) -> io::Result<OwnedFd> {
        let own = stream.as_fd().try_clone_to_owned()?;
        if !stream.is_terminal() {
            return Ok(own);
        }
        let (reader, writer) = io::pipe()?;
        self.carry(reader.into(), own)?;
        Ok(writer.into())
    }

    /// Carries bytes from one to the other until the end, or until [`Self::finish`].
    ///
    /// # Errors
    /// If there are no threads left.
    pub fn carry(&mut self, from: OwnedFd, to: OwnedFd) -> io::Result<()> {
        let stopped = self.stopped.try_clone()?;
        let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || {
            // A screen that is gone, or a source that fails as a terminal does after its last user: no more output.
            let _ = pump_output(File::from(from), &to, &stopped);
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Waits until the sources have ended and all is on the screen.
    pub fn finish_at_end(self) {
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }

    /// Waits until all that was written up to now is on the screen. Whoever may still hold the other end of a pipe
    /// is not waited for.
    pub fn finish(self) {
        drop(self.stop);
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

fn pump_output(mut from: File, to: &OwnedFd, stopped: &PipeReader) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let mut waits =
            [PollFd::new(from.as_fd(), PollFlags::POLLIN), PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if !waits[0].any().unwrap_or(true) {
            // Only the wish to stop: all that was there has been carried.
            return Ok(());
        }
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => write_fully(to.as_fd(), &buffer[..length])?,
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
    }
}

/// What Ctrl-C is in raw mode.
const INTERRUPT: u8 = 3;

/// Carries what is typed or piped in to `to`, in a thread that ends with the process. At the end of input `at_end` is
/// written, if given, and `to` is closed. If the very first key is Ctrl-C, `interrupted` is told in place of `to`, if given.
pub fn pump_input(
    mut from: File,
    to: OwnedFd,
    detach_keys: &DetachKeys,
    detached: impl FnOnce() + Send + 'static,
    mut interrupted: Option<Box<dyn FnOnce() + Send>>,
    at_end: Option<u8>,
) -> io::Result<()> {
    let mut scanner = DetachScanner::new(detach_keys);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    if let Some(interrupted) = interrupted.take()
                        && buffer[0] == INTERRUPT
                    {
                        interrupted();
                        continue;
                    }
                    let (pass, detach) = scanner.feed(&buffer[..length]);
                    if write_fully(to.as_fd(), &pass).is_err() {
                        // The container reads no more.
                        return;
                    }
                    if detach {
                        detached();
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(from.as_fd(), PollFlags::POLLIN)
                }
                Err(_) => break,
            }
        }
        if let Some(byte) = at_end {
            let _ = write_fully(to.as_fd(), &[byte]);
        }
    })?;
    Ok(())
}

/// Writes all, also to a descriptor that another process of the same terminal has made non-blocking.
fn write_fully(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::EAGAIN) => wait_for(to, PollFlags::POLLOUT),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn wait_for(descriptor: BorrowedFd<'_>, events: PollFlags) {
    // A failure shows in the read or write that follows.
    let _ = poll(&mut [PollFd::new(descriptor, events)], PollTimeout::NONE);
}

/// Writes to standard output at once; a reader that has left is an error that says nothing.
///
/// # Errors
/// If standard output takes no more.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| CliError::io("write to standard output", &error))
}

/// The failure that says nothing, if what takes our output is a pipe or socket whose reader has left.
pub fn reader_left(output: &OwnedFd) -> Option<CliError> {
    let mut waits = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
    poll(&mut waits, PollTimeout::ZERO).ok()?;
    let left = waits[0].revents()?.contains(PollFlags::POLLERR);
    left.then(|| CliError::io("write", &io::ErrorKind::BrokenPipe.into()))
}

/// Writes to standard error; there is nobody to tell if that fails.
pub fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_output_is_carried_though_somebody_still_holds_the_other_end() {
        let (from, mut source) = io::pipe().unwrap();
        let (mut sink, to) = io::pipe().unwrap();
        let mut pumps = OutputPumps::new().unwrap();
        pumps.carry(from.into(), to.into()).unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            sink.read_to_end(&mut all).unwrap();
            all
        });
        let text = vec![b'x'; 300_000];
        source.write_all(&text).unwrap();
        source.write_all(b"end").unwrap();
        pumps.finish();
        let all = reader.join().unwrap();
        assert_eq!(all.len(), 300_003);
        assert!(all.ends_with(b"end"));
        drop(source);
    }

    #[test]
    fn input_ends_with_the_source_or_with_the_detach_keys() {
        let (from, mut source) = io::pipe().unwrap();
        let (mut sink, to) = io::pipe().unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let from = File::from(OwnedFd::from(from));
        let detached = move || sender.send(()).unwrap();
        pump_input(from, to.into(), &"ctrl-p,ctrl-q".parse().unwrap(), detached, None, None).unwrap();
        source.write_all(b"ls\n\x10\x11never").unwrap();
        receiver.recv().unwrap();
        let mut all = Vec::new();
        sink.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"ls\n");
    }

    #[test]
    fn the_end_of_piped_input_is_typed_into_a_terminal() {
        let (from, source) = io::pipe().unwrap();
        let (mut sink, to) = io::pipe().unwrap();
        let from = File::from(OwnedFd::from(from));
        pump_input(from, to.into(), &"".parse().unwrap(), || {}, None, Some(4)).unwrap();
        drop(source);
        let mut all = Vec::new();
        sink.read_to_end(&mut all).unwrap();
        assert_eq!(all, [4]);
    }
}
