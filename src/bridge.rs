//! The role `bridge`: standard input and output are a connection to the service. What `dormouse --connection ssh://…` runs on
//! the other host, through ssh; the socket may be one that systemd holds, and connecting wakes the service.
//!
//! Bytes are carried as they are. The end of standard input means that the client has left: the connection is closed then, as
//! if it had been the client's own, so that what the service does for it alone is cancelled.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

const BUFFER_BYTES: usize = 64 * 1024;

/// Plays the role: `dormouse bridge [--address ADDRESS]`.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let address = match arguments {
        [] => None,
        [option, address] if option == "--address" => address.to_str(),
        _ => {
            eprintln!("dormouse bridge: it takes --address ADDRESS and nothing else");
            return ExitCode::from(2);
        }
    };
    let socket = match crate::cli::connect(address) {
        Ok(socket) => socket,
        Err(text) => {
            eprint!("{text}");
            return ExitCode::FAILURE;
        }
    };
    match carry(&socket) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever is at the other end sees that the connection has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

/// Carries until the service closes the connection, or the client leaves.
fn carry(socket: &UnixStream) -> io::Result<()> {
    let (stdin, stdout) =
        (io::stdin().as_fd().try_clone_to_owned()?, io::stdout().as_fd().try_clone_to_owned()?);
    let to_service = socket.try_clone()?;
    std::thread::Builder::new().name("client".to_owned()).spawn(move || {
        // Whether it ends or fails: the client has left.
        let _ = io::copy(&mut File::from(stdin), &mut &to_service);
        let _ = to_service.shutdown(std::net::Shutdown::Both);
    })?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // Nobody reads our output any more: that shows here, where the service is silent for long.
        let mut waits = [PollFd::new(socket, PollFlags::IN), PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut waits, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if waits[0].revents().is_empty() {
            return Ok(());
        }
        match rustix::io::read(socket, &mut buffer[..]) {
            // The service closes a connection whose last words it did not want; what it has said has come before.
            Ok(0) | Err(Errno::CONNRESET) => return Ok(()),
            Ok(length) => write_fully(&stdout, &buffer[..length])?,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn write_fully(to: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            // sshd may have made it non-blocking.
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(to, PollFlags::OUT)], None)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
