//! The role `exec-session`: one more process in a running container, and its exit code.
//!
//! Started by the engine as `dormouse exec-session`, with one SOCK_SEQPACKET socket as its standard input. The first
//! packet is `Q` with four descriptors: a file that holds the request, as JSON, and the process's stdin, stdout and
//! stderr (the client's own: nothing is copied). Results are packets:
//!
//! | packet | from | meaning |
//! |---|---|---|
//! | `T`, 1 descriptor | session | the terminal's master, first, where the process has one |
//! | `P` pid (i32, little endian) | session | it runs; the pid is the host's |
//! | `X` code (i32, little endian) | session | it ended with this code, or 128 + signal; last |
//! | `E` `step\terrno\tmessage` | session | it did not start; last |
//! | `K` signal (i32, little endian) | client | sends the process a signal |
//! | `D` | client | detaches: the process goes on without a client |
//!
//! The size of a terminal is set by whoever has the master. Should the other side close the socket without having detached, the
//! process is hung up: its terminal is closed, and it is sent SIGHUP. Should this process die, the exec'ed one goes on. What a
//! process without a client writes to its terminal is dropped.
//!
//! With a [`Record`] in the request, the session is known to everybody: a file tells of it while it lasts, and a datagram
//! socket beside that file takes the client's packets from others too. The end of one without a client stays in the file, for
//! nobody else has heard of it. Both are made before the container is entered, and
//! reached through a descriptor afterwards: names lead elsewhere in there.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::events::{Action, Events};
use super::launch::Failure;
use super::restart::Outcome;
use super::state::ProcessRef;
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
    /// Where the session is told of, if anywhere.
    #[serde(default)]
    pub record: Option<Record>,
    /// Where its start and its end are told; nowhere for what nobody has asked for.
    #[serde(default)]
    pub events: Option<EventsOf>,
    /// There is no client from the start.
    #[serde(default)]
    pub detached: bool,
}

/// Whose events go where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsOf {
    /// The container's full id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The name of the session.
    pub exec: String,
    /// The record of events.
    pub path: PathBuf,
}

/// A session that others can find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The directory of a container's sessions.
    pub directory: PathBuf,
    /// The name of the session, and of its file.
    pub id: String,
    /// Who started it, as it was asked for.
    pub user: Option<String>,
}

/// What the file of a session holds, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// The command, as the host sees it.
    pub pid: i32,
    /// The session itself, and since when that has run.
    pub session_pid: i32,
    /// See [`ProcessRef::start_time`].
    pub session_start_time: u64,
    /// When the command was started, in microseconds of CLOCK_REALTIME.
    pub started_usec: u64,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// As it was asked for.
    pub user: Option<String>,
    /// It has a terminal.
    pub terminal: bool,
    /// It was started without a client.
    pub detached: bool,
    /// How it ended: the exit code, or 128 and the number of the signal. Null while it runs.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// When it ended, in microseconds of CLOCK_REALTIME.
    #[serde(default)]
    pub ended_usec: Option<u64>,
}

impl SessionState {
    /// Whether the session that wrote this still lasts.
    pub fn lasts(&self) -> bool {
        ProcessRef { pid: self.session_pid, start_time: self.session_start_time }.is_alive()
    }
}

/// The name of a session's socket, beside its file.
pub fn socket_name(id: &str) -> String {
    format!("{id}.socket")
}

/// A packet that has a session send its command a signal.
pub fn signal_packet(signal: i32) -> [u8; 5] {
    packet(b'K', signal)
}

/// A packet that has a session go on without its client.
pub const DETACH_PACKET: &[u8] = b"D";

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
        Ok(started) => {
            sys::ignore_signals();
            started.attend(result);
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

fn start(passed: Passed) -> Result<Session, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::from(passed.request)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("request", "read the request", &error))?;
    let request: SessionRequest =
        serde_json::from_slice(&bytes).map_err(|error| Failure::new("request", None, &error))?;
    drop(bytes);
    let known = request.record.clone().map(Known::new).transpose();
    let known = known.map_err(|error| Failure::io("record", "tell of the session", &error))?;
    let terminal = request.process.terminal().unwrap_or(false);
    let stdio = if terminal {
        let size = request
            .process
            .console_size()
            .and_then(|size| Some((u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?)));
        Stdio::Terminal { size }
    } else {
        let [stdin, stdout, stderr] = passed.streams;
        Stdio::Pipes { stdin, stdout, stderr }
    };
    let teller = request.events.as_ref().map(|of| Teller {
        events: Events::new(&of.path, &of.id, &of.name).from_inside(),
        exec: of.exec.clone(),
    });
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
    if let Some(known) = &known {
        let state = SessionState {
            pid: running.pid,
            session_pid: known.own.pid,
            session_start_time: known.own.start_time,
            started_usec: super::supervise::now_usec(),
            command: request.process.args().clone().unwrap_or_default(),
            user: known.record.user.clone(),
            terminal,
            detached: request.detached,
            exit_code: None,
            ended_usec: None,
        };
        // A session that can't be told of, for want of space, works as well.
        let _ = known.write(&state);
    }
    let detached = request.detached;
    drop(request);
    crate::memory::shrink();
    Ok(Session { running, known, teller, detached })
}

/// What makes a session known. Dropped, it is forgotten, unless its end was kept.
struct Known {
    record: Record,
    kept: bool,
    own: ProcessRef,
    directory: OwnedFd,
    socket: OwnedFd,
}

impl Known {
    fn new(record: Record) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&record.directory, flags, Mode::empty())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        let short = socket::short_path(&record.directory)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(short.join(&socket_name(&record.id)).as_ref())?)?;
        let own = ProcessRef::of(rustix::process::getpid().as_raw_nonzero().get());
        let own = own.ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { record, kept: false, own, directory, socket })
    }

    fn write(&self, state: &SessionState) -> io::Result<()> {
        use std::io::Write as _;
        let unfinished = format!("{}.new", self.record.id);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &unfinished, flags, Mode::RUSR | Mode::WUSR)?;
        std::fs::File::from(file).write_all(&serde_json::to_vec(state)?)?;
        rustix::fs::renameat(&self.directory, &unfinished, &self.directory, &self.record.id)?;
        Ok(())
    }
}

impl Known {
    /// Has the file tell of the end from now on. Without it, or without space for it, the session is forgotten.
    fn keep_end(&mut self, code: i32) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, &self.record.id, flags, Mode::empty())?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).read_to_end(&mut bytes)?;
        let mut state: SessionState = serde_json::from_slice(&bytes)?;
        state.exit_code = Some(code);
        state.ended_usec = Some(super::supervise::now_usec());
        self.write(&state)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let file = (!self.kept).then(|| self.record.id.clone());
        let others = [socket_name(&self.record.id), format!("{}.new", self.record.id)];
        for name in file.into_iter().chain(others) {
            // With the container's directory they are gone already.
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// Tells of the command in the events.
struct Teller {
    events: Events,
    exec: String,
}

impl Teller {
    fn tell(&self, pid: i32, exit_code: Option<i32>) {
        let action = Action::Exec { id: &self.exec, pid, exit_code };
        self.events.write(super::supervise::now_usec(), action);
    }
}

/// A command that runs.
struct Session {
    running: Running,
    known: Option<Known>,
    teller: Option<Teller>,
    detached: bool,
}

/// What a session waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    End,
    Client,
    Others,
    Terminal,
}

impl Session {
    /// Serves the client until the command has ended, and tells it how.
    fn attend(self, client: OwnedFd) {
        let Self { running: Running { pid, pidfd, mut console, .. }, known, teller, mut detached } = self;
        if let Some(teller) = &teller {
            teller.tell(pid, None);
        }
        if let Some(console) = console.as_ref().filter(|_| !detached) {
            send(&client, b"T", &[console.as_fd()]);
        }
        send(&client, &packet(b'P', pid), &[]);
        let mut client = Some(client);
        let mut ended = false;
        while !ended {
            let mut sources = vec![(Source::End, PollFd::new(&pidfd, PollFlags::IN))];
            // First: who detaches this way leaves next.
            if let Some(known) = &known {
                sources.push((Source::Others, PollFd::new(&known.socket, PollFlags::IN)));
            }
            if let Some(client) = &client {
                sources.push((Source::Client, PollFd::new(client, PollFlags::IN)));
            }
            if let Some(console) = console.as_ref().filter(|_| detached) {
                sources.push((Source::Terminal, PollFd::new(console, PollFlags::IN)));
            }
            let (sources, mut fds): (Vec<_>, Vec<_>) = sources.into_iter().unzip();
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // Without poll(2) the process is only waited for.
                Err(_) => break,
            }
            let ready: Vec<Source> = sources
                .into_iter()
                .zip(fds.iter().map(PollFd::revents))
                .filter(|(_, events)| !events.is_empty())
                .map(|(source, _)| source)
                .collect();
            for source in ready {
                match source {
                    Source::End => ended = true,
                    Source::Client => {
                        let said = client.as_ref().map_or(Said::Gone, hear);
                        if said == Said::Gone {
                            client = None;
                            if !detached {
                                // The kernel hangs a terminal up with its last master.
                                console = None;
                                signal(&pidfd, Signal::HUP.as_raw());
                            }
                        }
                        detached |= obey(said, &pidfd);
                    }
                    Source::Others => {
                        let hear = || known.as_ref().map_or(Said::Nothing, |known| hear(&known.socket));
                        for said in std::iter::from_fn(|| Some(hear()).filter(|said| said.is_something())) {
                            detached |= obey(said, &pidfd);
                        }
                    }
                    Source::Terminal => drop_output(&mut console),
                }
            }
        }
        let code = wait_for(pid);
        // Who hears of the end finds it among those that have ended, or in no list any more.
        if let Some(mut known) = known
            && detached
        {
            let _ = known.keep_end(code);
        }
        if let Some(teller) = &teller {
            teller.tell(pid, Some(code));
        }
        if let Some(client) = client {
            send(&client, &packet(b'X', code), &[]);
        }
    }
}

/// What came over a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Signal(i32),
    Detach,
    Gone,
}

impl Said {
    fn is_something(self) -> bool {
        matches!(self, Self::Signal(_) | Self::Detach)
    }
}

fn hear(socket: &OwnedFd) -> Said {
    let mut packet = [0; 16];
    match socket::receive_with_fds(socket, &mut packet, RecvFlags::DONTWAIT) {
        Ok((length, _)) => match packet.get(..length).unwrap_or_default() {
            [] => Said::Gone,
            [b'K', a, b, c, d] => Said::Signal(i32::from_le_bytes([*a, *b, *c, *d])),
            DETACH_PACKET => Said::Detach,
            _ => Said::Nothing,
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Said::Nothing
        }
        Err(_) => Said::Gone,
    }
}

/// Does what was said; says whether it was to detach.
fn obey(said: Said, process: &OwnedFd) -> bool {
    if let Said::Signal(number) = said {
        signal(process, number);
    }
    said == Said::Detach
}

fn signal(process: &OwnedFd, signal: i32) {
    // It may have ended just now.
    let _ = runtime::pidfd_send_signal(process.as_fd(), signal);
}

/// Takes what was written to a terminal that nobody looks at, so that its writers don't wait.
fn drop_output(console: &mut Option<OwnedFd>) {
    let mut buffer = [0; 4096];
    match console.as_ref().map(|console| rustix::io::read(console, &mut buffer)) {
        Some(Ok(length)) if length > 0 => {}
        Some(Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN)) => {}
        // Its last user has left.
        _ => *console = None,
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
