//! One health check: a command in the container, its end, and what it has written; and the files of checks.
//!
//! The monitor, or the engine, executes this program as `health-check RUN_DIR` for each. That process reads what to do from
//! `health.json`, which the engine wrote before the start, does it, adds what came of it to `health.log`, and says it by its
//! exit code. Like an exec session it enters the container itself: what it needs of the host afterwards is open before.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::{LinuxSeccomp, Process};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use super::launch::Failure;
use super::restart::Outcome;
use super::state::ProcessRef;
use super::sys;
use crate::runtime::{self, ExecRequest, Running, Stdio};

/// The exit code after a check that has passed.
pub const PASSED: i32 = 0;
/// The exit code after one that has failed.
pub const FAILED: i32 = 1;
/// The exit code where nothing can be told: the container is paused, or does not run, or is still booting.
pub const SKIPPED: i32 = 75;

/// The name of the file in the run directory that says what to do.
const REQUEST: &str = "health.json";
/// The name of the file in the run directory with what the last checks have found, one in each line.
const RESULTS: &str = "health.log";
const RESULTS_MAX: usize = 5;
const OUTPUT_BYTES_MAX: usize = 4096;
/// So much is read before the time is looked at again: a command may write faster than it is read.
const READS_MAX: usize = 64;

/// What a check has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckRequest {
    /// The container's full id.
    pub id: String,
    /// The container's name, for events.
    pub name: String,
    /// The container's cgroup.
    pub cgroup: String,
    /// When a check that has not ended is killed.
    pub timeout_usec: u64,
    /// Where events go.
    pub events_path: PathBuf,
    /// What is looked at.
    pub kind: CheckKind,
}

/// What is looked at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckKind {
    /// How a command in the container ends.
    Command {
        /// The process to execute.
        process: Box<Process>,
        /// The container's seccomp filter, if it has one.
        seccomp: Option<LinuxSeccomp>,
    },
    /// The state of the systemd inside, and of its units.
    Systemd,
}

impl CheckRequest {
    /// Writes it to the run directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn store(&self, run_dir: &Path) -> io::Result<()> {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(run_dir.join(REQUEST))?;
        file.write_all(&serde_json::to_vec(self)?)
    }

    /// Reads it from the run directory.
    ///
    /// # Errors
    /// What the kernel says, or what is wrong with the file.
    pub fn load(run_dir: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(run_dir.join(REQUEST))?)?)
    }
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// Microseconds of CLOCK_REALTIME.
    pub started_usec: i64,
    /// Microseconds of CLOCK_REALTIME.
    pub ended_usec: i64,
    /// The payload works.
    pub passed: bool,
    /// 128 and the signal's number, if a signal ended it; `None` if nothing was executed.
    pub exit_code: Option<i32>,
    /// The beginning of what it has written, or why it could not be executed.
    pub output: String,
}

impl CheckResult {
    /// Reads one from the line that the process has written; `None` if it is none.
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

/// Everything of checks that is in a run directory.
pub fn files(run_dir: &Path) -> [PathBuf; 3] {
    [run_dir.join(REQUEST), run_dir.join(RESULTS), run_dir.join(FAILED_UNITS)]
}

/// The failed units that are known, one in each line, after the start time of the systemd that they are of.
pub const FAILED_UNITS: &str = "failed-units";

/// What the last checks have found, oldest first.
pub fn results(run_dir: &Path) -> Vec<CheckResult> {
    let read = || -> io::Result<String> {
        let mut file = File::open(run_dir.join(RESULTS))?;
        rustix::fs::flock(&file, FlockOperation::LockShared)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    text.lines().filter_map(|line| CheckResult::parse(line.as_bytes())).collect()
}

/// Where results go, also after this process has entered the container.
#[derive(Debug)]
pub struct Results(File);

impl Results {
    /// Opens the file in the run directory.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true).mode(0o600);
        Ok(Self(options.open(run_dir.join(RESULTS))?))
    }

    /// Adds a result, and drops the oldest one that is too many.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(&mut self, result: &CheckResult) -> io::Result<()> {
        let file = &mut self.0;
        rustix::fs::flock(&*file, FlockOperation::LockExclusive)?;
        let mut text = String::new();
        file.rewind()?;
        file.read_to_string(&mut text)?;
        let lines: Vec<&str> = text.lines().collect();
        let kept = lines.len().min(RESULTS_MAX - 1);
        let mut whole = lines[lines.len() - kept..].join("\n");
        if kept > 0 {
            whole.push('\n');
        }
        whole.push_str(&serde_json::to_string(result)?);
        whole.push('\n');
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(whole.as_bytes())
    }
}

/// Microseconds of CLOCK_REALTIME.
pub fn now_usec() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Runs a command in the container of `leader` to its end, or its time-out. Afterwards this process is in the container.
pub fn run_command(
    leader: ProcessRef,
    cgroup: &str,
    timeout: Duration,
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
) -> CheckResult {
    let started_usec = now_usec();
    let deadline = Instant::now() + timeout;
    let result = |passed, exit_code, output| CheckResult {
        started_usec,
        ended_usec: now_usec(),
        passed,
        exit_code,
        output,
    };
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    match start(leader, cgroup, process, seccomp) {
        Ok((running, output)) => {
            let (text, in_time) = watch(&running, output, deadline);
            if !in_time && let Some(pid) = Pid::from_raw(running.pid) {
                // It leads a process group; who has left that ends with the container.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            let code = wait_for(running.pid);
            let mut text = String::from_utf8_lossy(&text).into_owned();
            if !in_time {
                text.push_str("\n(killed: it has not ended in time)");
            }
            result(in_time && code == Some(0), code, text)
        }
        Err(failure) => result(false, None, failure.message),
    }
}

fn start(
    leader: ProcessRef,
    cgroup: &str,
    process: &Process,
    seccomp: Option<&LinuxSeccomp>,
) -> Result<(Running, OwnedFd), Failure> {
    let stdio = || -> io::Result<(Stdio, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        rustix::io::ioctl_fionbio(&reader, true)?;
        let stderr = writer.try_clone()?;
        let stdin = File::open("/dev/null")?;
        Ok((
            Stdio::Pipes { stdin: stdin.into(), stdout: writer.into(), stderr: stderr.into() },
            reader.into(),
        ))
    };
    let (stdio, output) = stdio().map_err(|error| Failure::io("stdio", "make a pipe", &error))?;
    let running = runtime::exec(ExecRequest {
        leader: leader.pid,
        leader_start_time: leader.start_time,
        process,
        seccomp,
        memory_policy: None,
        cgroup,
        stdio,
        preserved_fds: Vec::new(),
        state: None,
    })?;
    Ok((running, output))
}

/// Takes the command's output until it has ended; false if its time is over before.
fn watch(running: &Running, output: OwnedFd, deadline: Instant) -> (Vec<u8>, bool) {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    let mut take = |kept: &mut Vec<u8>| -> bool {
        for _ in 0..READS_MAX {
            match rustix::io::read(&output, &mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    let room = OUTPUT_BYTES_MAX - kept.len();
                    kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    };
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (kept, false);
        }
        let Ok(left) = Timespec::try_from(left) else { return (kept, false) };
        let pidfd = running.pidfd.as_fd();
        let mut sources = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        if open {
            sources.push(PollFd::new(&output, PollFlags::IN));
        }
        match rustix::event::poll(&mut sources, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return (kept, false),
        }
        let ended = !sources[0].revents().is_empty();
        drop(sources);
        // Others may hold the pipe beyond the end of the command; they are not waited for.
        open = open && take(&mut kept);
        if ended {
            return (kept, true);
        }
    }
}

fn wait_for(pid: i32) -> Option<i32> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended.as_raw_nonzero().get() == pid => {
                return Outcome::of(status, false).code;
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// Gives up what ties this process to where it was started from.
pub fn detach() {
    sys::close_all_but(&[]);
    // It does not depend on it; failures show in what comes of it.
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    sys::reset_signals();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_results_are_kept_oldest_first() {
        let directory = tempfile::tempdir().unwrap();
        assert!(results(directory.path()).is_empty());
        let result = |number| CheckResult {
            started_usec: number,
            ended_usec: number,
            passed: true,
            exit_code: Some(0),
            output: "two\nlines".into(),
        };
        for number in 0..7 {
            Results::open(directory.path()).unwrap().add(&result(number)).unwrap();
        }
        assert_eq!(results(directory.path()), (2..7).map(result).collect::<Vec<_>>());
    }
}
