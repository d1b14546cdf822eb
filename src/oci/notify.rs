//! Readiness: what a payload says of itself goes on to the service manager that waits for it (sd_notify(3)).
//!
//! ```text
//! payload ──► /run/notify/notify.sock = ROOT/ID/notify/notify.sock ──► `start` or `run` ──► NOTIFY_SOCKET of the caller
//! ```
//!
//! An engine with a proxy of its own has given the payload a NOTIFY_SOCKET, and is not interfered with. The socket is there
//! from the start on; `start` and `run --detach` wait until the payload is ready or has ended, and `run` in the
//! foreground passes on what comes as long as it runs. A status is passed on a few times a second at most, and the last one
//! always; all else at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Instant;

use oci_spec::runtime::{MountBuilder, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::error::{OciError, on_file};
use crate::pace::Pace;

const VARIABLE: &str = "NOTIFY_SOCKET";
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the payload finds it, as other runtimes have it.
const INSIDE: &str = "/run/notify";
/// What a payload may say; the rest would be about processes and descriptors that are not the service's.
const PASSED_ON: [&str; 7] =
    ["READY=", STATUS, "RELOADING=", "STOPPING=", "ERRNO=", "WATCHDOG=", "EXTEND_TIMEOUT_USEC="];
const STATUS: &str = "STATUS=";
const MESSAGE_BYTES_MAX: usize = 4096;
/// No more are read at once, so that a payload that floods its socket can be stopped.
const MESSAGES_AT_ONCE: usize = 32;
/// More than wait in a socket's queue: what was said last, by a payload that has ended.
const MESSAGES_AT_END: usize = 1000;

/// The service manager's socket, if it waits for this container and nobody else cares for that.
pub fn wanted(spec: &Spec) -> Option<String> {
    let process = spec.process().as_ref()?;
    let has_one = |variable: &String| variable.split_once('=').is_some_and(|(name, _)| name == VARIABLE);
    let upstream = std::env::var(VARIABLE).ok().filter(|path| path.starts_with(['/', '@']))?;
    (!process.env().iter().flatten().any(has_one)).then_some(upstream)
}

/// Shows the payload the directory in which the socket will be.
///
/// # Errors
/// [`OciError::File`].
pub fn lead_in(spec: &mut Spec, state: &Path) -> Result<(), OciError> {
    let directory = state.join(DIRECTORY);
    std::fs::DirBuilder::new().mode(0o755).create(&directory).map_err(on_file("make", &directory))?;
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    let mount = MountBuilder::default().destination(INSIDE).typ("bind").source(&directory).options(options);
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(mount.build().ok());
    spec.set_mounts(Some(mounts));
    if let Some(process) = spec.process_mut() {
        let mut environment = process.env().clone().unwrap_or_default();
        environment.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
        process.set_env(Some(environment));
    }
    Ok(())
}

/// Between a payload and the service manager.
#[derive(Debug)]
pub struct Proxy {
    socket: OwnedFd,
    upstream: SocketAddrUnix,
    statuses: Pace<String>,
}

impl Proxy {
    /// Makes the payload's socket.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn listen(state: &Path, upstream: &str) -> Result<Self, OciError> {
        let path = state.join(DIRECTORY);
        let listen = || -> rustix::io::Result<Self> {
            let upstream = match upstream.strip_prefix('@') {
                Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
                None => SocketAddrUnix::new(upstream)?,
            };
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(&path, flags, Mode::empty())?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
            // A socket's path is short, and that of a state directory need not be.
            let number = std::os::fd::AsRawFd::as_raw_fd(&directory);
            rustix::net::bind(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{number}/{SOCKET}"))?)?;
            // Whatever user the payload becomes.
            rustix::fs::chmodat(
                &directory,
                SOCKET,
                Mode::from_raw_mode(0o666),
                rustix::fs::AtFlags::empty(),
            )?;
            Ok(Self { socket, upstream, statuses: Pace::default() })
        };
        listen().map_err(|errno| on_file("listen in", path)(errno.into()))
    }

    /// Waits until the payload is ready or has ended.
    ///
    /// # Errors
    /// [`OciError::Host`].
    pub fn until_ready(mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<(), OciError> {
        loop {
            let mut sources =
                [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
            match rustix::event::poll(&mut sources, self.timeout().as_ref()) {
                Err(Errno::INTR) => continue,
                other => other.map_err(|errno| OciError::Host {
                    what: "wait for the container to be ready",
                    source: errno.into(),
                })?,
            };
            let ended = !sources[1].revents().is_empty();
            if self.pass(pid) || ended {
                self.finish(pid);
                return Ok(());
            }
        }
    }

    /// Passes on what has come or is due; whether the payload has said that it is ready.
    pub fn pass(&mut self, pid: i32) -> bool {
        let ready = self.receive(pid, MESSAGES_AT_ONCE);
        if let Some(status) = self.statuses.due(Instant::now()) {
            self.tell(&status);
        }
        ready
    }

    /// Passes on the last of it.
    pub fn finish(&mut self, pid: i32) {
        self.receive(pid, MESSAGES_AT_END);
        if let Some(status) = self.statuses.take() {
            self.tell(&status);
        }
    }

    /// How long until something is due.
    pub fn timeout(&self) -> Option<Timespec> {
        let left = self.statuses.deadline()?.saturating_duration_since(Instant::now());
        Timespec::try_from(left).ok()
    }

    fn receive(&mut self, pid: i32, most: usize) -> bool {
        let mut ready = false;
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        for _ in 0..most {
            let Ok((length, _)) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty()) else {
                break;
            };
            let Some((mut text, status)) = translate(&buffer[..length.min(MESSAGE_BYTES_MAX)], pid) else {
                continue;
            };
            ready |= text.starts_with("READY=1\n");
            let status = status.and_then(|status| self.statuses.offer(status, Instant::now()));
            text.push_str(&status.unwrap_or_default());
            if !text.is_empty() {
                self.tell(&text);
            }
        }
        ready
    }

    fn tell(&self, text: &str) {
        // A manager that is gone waits for nobody.
        let _ = rustix::net::sendto(&self.socket, text.as_bytes(), SendFlags::NOSIGNAL, &self.upstream);
    }
}

impl AsFd for Proxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A payload's message as the service manager gets it: readiness first, and with it which process the service is; apart, the
/// status.
fn translate(message: &[u8], pid: i32) -> Option<(String, Option<String>)> {
    let text = std::str::from_utf8(message).ok()?;
    let known = |line: &&str| PASSED_ON.iter().any(|name| line.starts_with(name));
    let status = text.lines().rfind(|line| line.starts_with(STATUS)).map(|line| format!("{line}\n"));
    let rest = text.lines().filter(known).filter(|line| !line.starts_with(STATUS));
    let (ready, others): (Vec<_>, Vec<_>) = rest.partition(|line| *line == "READY=1");
    let mut told = String::new();
    if !ready.is_empty() {
        told = format!("READY=1\nMAINPID={pid}\n");
    }
    others.iter().filter(|line| !line.starts_with("READY=")).for_each(|line| {
        told.push_str(line);
        told.push('\n');
    });
    Some((told, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_payloads_to_say_is_passed_on() {
        let told = |text: &str| translate(text.as_bytes(), 7).unwrap();
        let both = told("STATUS=coming\nSTATUS=up\nREADY=1\nERRNO=2\nMAINPID=1");
        assert_eq!(both, ("READY=1\nMAINPID=7\nERRNO=2\n".to_owned(), Some("STATUS=up\n".to_owned())));
        assert_eq!(told("WATCHDOG=1"), ("WATCHDOG=1\n".to_owned(), None));
        for nothing in ["", "MAINPID=1", "FDSTORE=1\nFDNAME=x", "BARRIER=1", "READY=0"] {
            assert_eq!(told(nothing), (String::new(), None), "{nothing}");
        }
        assert_eq!(translate(b"READY=1\n\xff", 7), None);
    }
}
