//! Makes the payload, in a short-lived child of the monitor.
//!
//! ```text
//! monitor ──fork──► launcher ──create, start──► init
//!    ▲  descriptors   │                          │
//!    └────────────────┘ exits                    │
//!    ◄───────────── is adopted (subreaper) ──────┘
//! ```
//!
//! The launcher reads the OCI spec and does everything that costs memory, so that the monitor never has it; a
//! restart begins from the same small process. It hands back the descriptors that the monitor keeps, and dies with
//! the monitor (PDEATHSIG) as long as it is not done.
//!
//! # How a payload outlives its monitor
//!
//! A pipe without a reader kills its writer. So the payload gets its stdout and stderr opened for reading and writing:
//! as long as it lives there is a reader, namely itself. When the monitor dies, output gathers in the pipe
//! until that is full; then the payload's writes wait (they do not fail) until a new monitor adopts it and reads on,
//! with nothing lost. The monitor still sees the end of file, because its own end is for reading only. A payload's
//! stdin that clients may write to does end with the monitor, as it would with its clients. For a terminal see
//! [`super::keeper`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::config::{ConfigError, MonitorConfig, RuntimeChoice, SPEC_FILE_NAME};
use super::external::{self, ExternalError};
use super::socket;
use super::state::ProcessRef;
use super::sys::{self, Fork};
use crate::runtime::{self, CreateRequest, RuntimeError, Stdio};

const ANSWER_BYTES_MAX: usize = 8192;

/// The payload as the monitor has it.
#[derive(Debug)]
pub struct Launched {
    /// The payload's first process.
    pub init: ProcessRef,
    /// The same.
    pub pidfd: OwnedFd,
    /// The monitor's ends of the payload's streams.
    pub streams: Streams,
    /// What the runtime had to do without, joined by `; `.
    pub warnings: Option<String>,
}

/// The monitor's ends of the payload's streams.
#[derive(Debug)]
pub enum Streams {
    /// Pipes.
    Pipes {
        /// To write to, where the payload's stdin is open.
        stdin: Option<OwnedFd>,
        /// To read from.
        stdout: OwnedFd,
        /// To read from.
        stderr: OwnedFd,
    },
    /// The master of the payload's terminal.
    Terminal(OwnedFd),
}

/// Why the payload was not started, in the words of the sync protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A short word for the step that failed.
    pub step: String,
    /// What the kernel said; 0 where it said nothing.
    pub errno: i32,
    /// For a person, on one line.
    pub message: String,
}

impl Failure {
    /// Makes a failure of an error and its causes.
    pub fn new(step: &str, errno: Option<i32>, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some errors repeat their cause.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { step: step.to_owned(), errno: errno.unwrap_or(0), message: one_line(&message) }
    }

    /// A failure of an I/O operation of the monitor itself.
    pub fn io(step: &str, what: &str, error: &io::Error) -> Self {
        Self {
            step: step.to_owned(),
            errno: error.raw_os_error().unwrap_or(0),
            message: one_line(&format!("cannot {what}: {error}")),
        }
    }

    /// `failed\t<step>\t<errno>\t<message>\n`.
    pub fn to_sync_line(&self) -> String {
        format!("failed\t{}\t{}\t{}\n", self.step, self.errno, self.message)
    }
}

/// Cut to what an answer may hold, without line ends or tabs.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        Self::new(error.step(), error.errno(), &error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new("config", None, &error)
    }
}

impl From<ExternalError> for Failure {
    fn from(error: ExternalError) -> Self {
        Self::new(error.step(), error.errno(), &error)
    }
}

/// Starts the payload and returns when its program has been executed. It gets copies of `sockets` as 3, 4, …
///
/// # Errors
/// A [`Failure`] that names the step; no process, mount or cgroup is left then.
pub fn launch(run_dir: &Path, config: &MonitorConfig, sockets: &[OwnedFd]) -> Result<Launched, Failure> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| Failure::io("launch", "make a socket pair", &error.into()))?;
    let monitor = rustix::process::getpid();
    match sys::fork().map_err(|error| Failure::io("launch", "fork", &error))? {
        Fork::Child => {
            drop(ours);
            // Nobody could be told about an error here; the worst is a launcher that outlives its monitor.
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            if rustix::process::getppid() == Some(monitor) {
                sys::reset_signals();
                answer(&theirs, start(run_dir, config, sockets));
            }
            sys::exit_now(0)
        }
        Fork::Parent(_) => {
            drop(theirs);
            receive_answer(&ours)
        }
    }
}

/// What the launcher has in hand when the payload runs.
struct Started {
    init: ProcessRef,
    pidfd: OwnedFd,
    streams: Streams,
    warnings: Vec<String>,
}

fn start(run_dir: &Path, config: &MonitorConfig, sockets: &[OwnedFd]) -> Result<Started, Failure> {
    let spec = load_spec(run_dir)?;
    let process = spec.process().as_ref();
    let terminal = process.and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let (stdio, ends) = if terminal {
        let size = process
            .and_then(oci_spec::runtime::Process::console_size)
            .and_then(|size| Some((u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?)));
        (Stdio::Terminal { size }, None)
    } else {
        let (stdio, ends) = pipes(config.stdin_open)
            .map_err(|error| Failure::io("stdio", "make the payload's pipes", &error))?;
        (stdio, Some(ends))
    };
    let (init, pidfd, console, warnings) = match &config.runtime {
        RuntimeChoice::Native => {
            let request = CreateRequest {
                id: &config.id,
                spec: &spec,
                rootfs: &config.rootfs,
                stdio,
                preserved_fds: sockets
                    .iter()
                    .map(OwnedFd::try_clone)
                    .collect::<io::Result<_>>()
                    .map_err(|error| Failure::io("descriptors", "pass sockets on", &error))?,
                reaper: config.reaper,
                options: runtime::CreateOptions::default(),
            };
            let running = runtime::create(request)?.start()?;
            let init = ProcessRef { pid: running.pid, start_time: running.start_time };
            (init, running.pidfd, running.console, running.warnings)
        }
        RuntimeChoice::External { program } => {
            let (init, pidfd, console) = external::start(program, run_dir, config, spec, stdio)?;
            (init, pidfd, console, Vec::new())
        }
    };
    let streams = match (ends, console) {
        (Some(ends), _) => ends,
        (None, Some(console)) => Streams::Terminal(console),
        (None, None) => {
            let error = io::Error::from(io::ErrorKind::NotConnected);
            return Err(Failure::io("console", "get the terminal from the runtime", &error));
        }
    };
    Ok(Started { init, pidfd, streams, warnings })
}

fn load_spec(run_dir: &Path) -> Result<Spec, ConfigError> {
    let path: PathBuf = run_dir.join(SPEC_FILE_NAME);
    let bytes = std::fs::read(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Invalid { path, source })
}

/// Makes the payload's streams; returns its ends and ours.
fn pipes(stdin_open: bool) -> io::Result<(Stdio, Streams)> {
    let (stdin, our_stdin) = if stdin_open {
        let (reader, writer) = io::pipe()?;
        (reader.into(), Some(writer.into()))
    } else {
        (File::open("/dev/null")?.into(), None)
    };
    let (our_stdout, stdout) = output_pipe()?;
    let (our_stderr, stderr) = output_pipe()?;
    Ok((
        Stdio::Pipes { stdin, stdout, stderr },
        Streams::Pipes { stdin: our_stdin, stdout: our_stdout, stderr: our_stderr },
    ))
}

/// A pipe whose writing end is its own reader too, see the module's documentation.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let both = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    Ok((reader.into(), both))
}

fn answer(monitor: &OwnedFd, result: Result<Started, Failure>) {
    let sent = match &result {
        Ok(started) => {
            let ProcessRef { pid, start_time } = started.init;
            let (kind, streams): (_, Vec<&OwnedFd>) = match &started.streams {
                Streams::Terminal(console) => ('t', vec![console]),
                Streams::Pipes { stdin: None, stdout, stderr } => ('o', vec![stdout, stderr]),
                Streams::Pipes { stdin: Some(stdin), stdout, stderr } => ('i', vec![stdout, stderr, stdin]),
            };
            let warnings = one_line(&started.warnings.join("; "));
            let message = format!("{kind} {pid} {start_time}\n{warnings}");
            let fds: Vec<_> = std::iter::once(&started.pidfd).chain(streams).map(|fd| fd.as_fd()).collect();
            socket::send_with_fds(monitor, message.as_bytes(), &fds, SendFlags::empty())
        }
        Err(failure) => {
            socket::send_with_fds(monitor, failure.to_sync_line().as_bytes(), &[], SendFlags::empty())
        }
    };
    // A monitor that does not listen any more has died: what was started goes on unsupervised.
    let _ = sent;
}

fn receive_answer(launcher: &OwnedFd) -> Result<Launched, Failure> {
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    let (length, fds) = loop {
        match socket::receive_with_fds(launcher, &mut buffer, RecvFlags::empty()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::io("launch", "hear from the launcher", &error)),
            Ok(received) => break received,
        }
    };
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
    parse_answer(&text, fds).unwrap_or_else(|| {
        Err(Failure {
            step: "launch".into(),
            errno: 0,
            message: "the launcher died without saying why; it may have been killed, or out of memory".into(),
        })
    })
}

fn parse_answer(text: &str, fds: Vec<OwnedFd>) -> Option<Result<Launched, Failure>> {
    if let Some(failure) = text.strip_prefix("failed\t") {
        let mut fields = failure.trim_end().splitn(3, '\t');
        return Some(Err(Failure {
            step: fields.next()?.to_owned(),
            errno: fields.next()?.parse().ok()?,
            message: fields.next()?.to_owned(),
        }));
    }
    let (first, warnings) = text.split_once('\n')?;
    let mut fields = first.split(' ');
    let kind = fields.next()?;
    let init = ProcessRef { pid: fields.next()?.parse().ok()?, start_time: fields.next()?.parse().ok()? };
    let mut fds = fds.into_iter();
    let pidfd = fds.next()?;
    let streams = match kind {
        "t" => Streams::Terminal(fds.next()?),
        "o" => Streams::Pipes { stdout: fds.next()?, stderr: fds.next()?, stdin: None },
        "i" => Streams::Pipes { stdout: fds.next()?, stderr: fds.next()?, stdin: Some(fds.next()?) },
        _ => return None,
    };
    let warnings = (!warnings.is_empty()).then(|| warnings.to_owned());
    Some(Ok(Launched { init, pidfd, streams, warnings }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_payloads_pipe_does_not_break_when_its_reader_goes() {
        let (reader, writer) = output_pipe().unwrap();
        drop(reader);
        assert_eq!(File::from(writer).write(b"still here").unwrap(), 10);
    }

    #[test]
    fn a_payloads_pipe_ends_for_the_monitor_when_the_payload_goes() {
        let (reader, writer) = output_pipe().unwrap();
        File::from(writer).write_all(b"last words").unwrap();
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot mount\n\"x\"")]
        struct Outer(#[source] io::Error);
        let failure = Failure::new("mount", Some(2), &Outer(io::Error::from_raw_os_error(2)));
        assert_eq!(
            failure.to_sync_line(),
            "failed\tmount\t2\tcannot mount \"x\": No such file or directory (os error 2)\n"
        );
        assert_eq!(parse_answer(&failure.to_sync_line(), Vec::new()).unwrap().unwrap_err(), failure);
    }

    #[test]
    fn a_launcher_that_says_nothing_is_a_failure() {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        drop(theirs);
        assert_eq!(receive_answer(&ours).unwrap_err().step, "launch");
    }
}
