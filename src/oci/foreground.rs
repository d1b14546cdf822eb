//! Waiting for a process that this one has made: signals go on to it, and so do keys and output, where it has a terminal
//! of this process's own to show, and what it tells the service manager.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions};

use super::console::{self, Raw};
use super::error::OciError;
use super::notify::Proxy;
use crate::runtime;

/// Signals that are kept for the process from a moment on at which it is not there yet.
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
}

impl Signals {
    /// Begins to keep them.
    ///
    /// # Errors
    /// [`OciError::Host`].
    pub fn keep() -> Result<Self, OciError> {
        let failed =
            |errno: nix::errno::Errno| OciError::Host { what: "wait for signals", source: errno.into() };
        let mut set = SigSet::all();
        // What a mistake of this process's own would raise must end it.
        for own in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGABRT,
            Signal::SIGPIPE,
        ] {
            set.remove(own);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set), None).map_err(failed)?;
        let source =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(failed)?;
        Ok(Self { source })
    }
}

/// Waits until the process has ended; its exit code, 128 and the signal for a violent end.
///
/// # Errors
/// [`OciError::Host`].
pub fn wait(
    signals: &Signals,
    pid: i32,
    pidfd: &OwnedFd,
    terminal: Option<OwnedFd>,
    mut proxy: Option<Proxy>,
) -> Result<u8, OciError> {
    let failed = |source: io::Error| OciError::Host { what: "wait for the process", source };
    let mut relay = terminal.map(Relay::new);
    loop {
        let stdin = io::stdin();
        let mut sources =
            vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(&signals.source, PollFlags::IN)];
        let (mut output, mut input) = (false, false);
        if let Some(relay) = &relay {
            (output, input) = (relay.output_open, relay.input_open);
            if output {
                sources.push(PollFd::new(&relay.master, PollFlags::IN));
            }
            if input {
                sources.push(PollFd::new(&stdin, PollFlags::IN));
            }
        }
        // The last one, if it is there.
        sources.extend(proxy.as_ref().map(|proxy| PollFd::new(proxy, PollFlags::IN)));
        let timeout = proxy.as_ref().and_then(Proxy::timeout);
        match rustix::event::poll(&mut sources, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(|errno| failed(errno.into()))?,
        };
        let ready: Vec<bool> = sources.iter().map(|source| !source.revents().is_empty()).collect();
        drop(sources);
        if let Some(relay) = &mut relay {
            if output && ready.get(2) == Some(&true) {
                relay.output_open = relay.output();
            }
            if input && ready.get(2 + usize::from(output)) == Some(&true) {
                relay.input();
            }
        }
        if let Some(proxy) = &mut proxy {
            proxy.pass(pid);
        }
        if ready[1] {
            while let Ok(Some(signal)) = signals.source.read_signal() {
                pass(signal.ssi_signo.cast_signed(), pidfd, relay.as_ref());
            }
        }
        if ready[0] {
            if let Some(mut relay) = relay.take() {
                relay.drain();
            }
            if let Some(proxy) = &mut proxy {
                proxy.finish(pid);
            }
            let pid = Pid::from_raw(pid).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            let status =
                rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()))
                    .map_err(|errno| failed(errno.into()))?;
            let code = status.and_then(|(_, status)| {
                status.exit_status().or_else(|| Some(128 + status.terminating_signal()?))
            });
            return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255));
        }
    }
}

fn pass(signal: i32, pidfd: &OwnedFd, relay: Option<&Relay>) {
    match signal {
        libc::SIGCHLD => {}
        libc::SIGWINCH if relay.is_some() => {
            if let Some(relay) = relay {
                relay.resize();
            }
        }
        // A process that has just ended needs none.
        signal => drop(runtime::pidfd_send_signal(pidfd.as_fd(), signal)),
    }
}

/// Between the container's terminal and this process's own.
struct Relay {
    master: OwnedFd,
    /// Until nobody has the other side open any more.
    output_open: bool,
    input_open: bool,
    _raw: Raw,
}

impl Relay {
    fn new(master: OwnedFd) -> Self {
        let relay = Self { master, output_open: true, input_open: true, _raw: Raw::enter() };
        relay.resize();
        relay
    }

    fn resize(&self) {
        if let Some((rows, columns)) = console::own_size() {
            let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    /// Shows what there is; whether there was anything.
    fn output(&mut self) -> bool {
        let mut buffer = [0; 8192];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(length) if length > 0 => {
                let mut out = io::stdout().lock();
                // Nobody may be looking any more; the process goes on.
                let _ = out.write_all(&buffer[..length]).and_then(|()| out.flush());
                true
            }
            _ => false,
        }
    }

    fn input(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(io::stdin(), &mut buffer) {
            Ok(length) if length > 0 => {
                let mut rest = &buffer[..length];
                while let Ok(written @ 1..) = rustix::io::write(&self.master, rest) {
                    rest = rest.get(written..).unwrap_or_default();
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // A terminal's end of input is a key.
            _ => {
                self.input_open = false;
                let _ = rustix::io::write(&self.master, &[4]);
            }
        }
    }

    /// What was written before the end.
    fn drain(&mut self) {
        loop {
            let mut source = [PollFd::new(&self.master, PollFlags::IN)];
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            let there = matches!(rustix::event::poll(&mut source, Some(&none)), Ok(1));
            if !there || !self.output() {
                return;
            }
        }
    }
}
