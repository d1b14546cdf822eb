//! The role `exec-session`: one more process in a running container, and its exit code.
//!
//! Started by the engine as `dormouse exec-session`, with one SOCK_SEQPACKET socket as its standard input. The first
//! packet is `Q` with four descriptors: a file that holds the request, as JSON, and the process's stdin, stdout and
//! stderr (the client's own: nothing is copied). Results are packets:
//!
//! | packet | meaning |
//! |---|---|
//! | `T`, 1 descriptor | the terminal's master, first, where the process has one |
//! | `P` pid (i32, little endian) | it runs; the pid is the host's |
//! | `X` code (i32, little endian) | it ended with this code, or 128 + signal; last |
//! | `E` `step\terrno\tmessage` | it did not start; last |
//!
//! The session's size is set by whoever has the master. Should the other side close the socket, the exec'ed process is
//! sent SIGHUP; should this process die, the exec'ed one goes on.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::launch::Failure;
use super::restart::Outcome;
use super::{socket, sys};
use crate::runtime::{self, ExecRequest, Running, Stdio};

/// What is to be executed, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SessionRequest {
    /// The container's first process.
    pub leader: i32,
    /// Its start time, as in the state.
    pub leader_start_time: u64,
    /// The container's cgroup.
    pub cgroup: String,
    /// The process to execute.
    pub process: Process,
    /// The container's seccomp filter, if it has one.
    #[serde(default)]
    pub seccomp: Option<LinuxSeccomp>,
}

/// Runs the role. It has no arguments.
pub fn main() -> ExitCode {
    sys::close_all_but(&[]);
    let taken = sys::take_standard_input().and_then(|socket| Ok((receive_request(&socket)?, socket)));
    let (request, result) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("dormouse exec-session: standard input is not the socket that it should be: {error}");
            return ExitCode::from(2);
        }
    };
    // The session does not depend on where it was started from; failures show in what comes of it.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    sys::reset_signals();
    match start(request) {
        Ok(Running { pid, pidfd, console, .. }) => {
            sys::ignore_signals();
            if let Some(console) = console {
                send(&result, b"T", &[console.as_fd()]);
            }
            send(&result, &packet(b'P', pid), &[]);
            hang_up_without_client(&result, &pidfd);
            let code = wait_for(pid);
            send(&result, &packet(b'X', code), &[]);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            let Failure { step, errno, message } = failure;
            send(&result, format!("E{step}\t{errno}\t{message}").as_bytes(), &[]);
            ExitCode::FAILURE
        }
    }
}

/// The request's file, and the streams.
struct Passed {
    request: OwnedFd,
    streams: [OwnedFd; 3],
}

fn receive_request(socket: &OwnedFd) -> io::Result<Passed> {
    let mut packet = [0; 16];
    let (length, fds) = socket::receive_with_fds(socket, &mut packet, RecvFlags::empty())?;
    match (packet.get(..length), <[OwnedFd; 4]>::try_from(fds)) {
        (Some(b"Q"), Ok([request, stdin, stdout, stderr])) => {
            Ok(Passed { request, streams: [stdin, stdout, stderr] })
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn start(passed: Passed) -> Result<Running, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::from(passed.request)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("request", "read the request", &error))?;
    let request: SessionRequest =
        serde_json::from_slice(&bytes).map_err(|error| Failure::new("request", None, &error))?;
    drop(bytes);
    let stdio = if request.process.terminal().unwrap_or(false) {
        let size = request
            .process
            .console_size()
            .and_then(|size| Some((u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?)));
        Stdio::Terminal { size }
    } else {
        let [stdin, stdout, stderr] = passed.streams;
        Stdio::Pipes { stdin, stdout, stderr }
    };
    let running = runtime::exec(ExecRequest {
        leader: request.leader,
        leader_start_time: request.leader_start_time,
        process: &request.process,
        seccomp: request.seccomp.as_ref(),
        cgroup: &request.cgroup,
        stdio,
        preserved_fds: Vec::new(),
        state: None,
    })?;
    drop(request);
    sys::shrink();
    Ok(running)
}

/// Returns when the process has ended, or has been sent SIGHUP because nobody waits for its result any more.
fn hang_up_without_client(result: &OwnedFd, process: &OwnedFd) {
    loop {
        let mut sources = [PollFd::new(process, PollFlags::IN), PollFd::new(result, PollFlags::empty())];
        match rustix::event::poll(&mut sources, None) {
            Err(rustix::io::Errno::INTR) => {}
            // Without poll(2) the process is only waited for.
            Err(_) => return,
            Ok(_) if !sources[0].revents().is_empty() => return,
            Ok(_) if !sources[1].revents().is_empty() => {
                // Where it has ended just now there is nobody to tell.
                let _ = rustix::process::pidfd_send_signal(process, Signal::HUP);
                return;
            }
            Ok(_) => {}
        }
    }
}

fn wait_for(pid: i32) -> i32 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == pid => {
                return Outcome::of(status, false).code.unwrap_or(255);
            }
            // Another child, or a signal.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // No child any more: somebody else has reaped it.
            Err(_) => return 255,
        }
    }
}

fn packet(kind: u8, number: i32) -> [u8; 5] {
    let [a, b, c, d] = number.to_le_bytes();
    [kind, a, b, c, d]
}

fn send(result: &OwnedFd, message: &[u8], fds: &[BorrowedFd<'_>]) {
    // Whoever waited for the result may have gone; the process goes on all the same.
    let _ = socket::send_with_fds(result, message, fds, SendFlags::empty());
}
