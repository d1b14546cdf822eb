//! What is true of a container while the machine is up: the file `state` in its run directory.
//!
//! Only the monitor writes it, always whole and by rename(2), so that a reader sees an old or a new state and never
//! half of one. The engine reads it at each wake and believes it only together with [`ProcessRef::is_alive`]: a
//! `Running` whose init is gone has ended while nobody watched; a `Running` whose monitor is gone goes on without
//! supervision.
//!
//! The format is `key=value` lines rather than JSON, because the monitor writes it throughout its life and has no
//! other use for a JSON writer. A value has `\\`, `\n` and `\r` escaped by a backslash. Unknown keys are ignored, so
//! that a newer monitor can be read by an older engine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The name of this file in the run directory.
pub const FILE_NAME: &str = "state";

/// How far the payload has come.
///
/// ```text
/// Starting ──► Running ──► Exited
///    │  ▲                     │
///    ▼  └──── (restart) ──────┘
///  Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The payload is being made, or waits for its next start after an exit.
    Starting,
    /// The payload runs.
    Running,
    /// The payload has ended and is not started again.
    Exited,
    /// The payload could not be started.
    Failed,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Starting, Self::Running, Self::Exited, Self::Failed].into_iter().find(|p| p.as_str() == text)
    }
}

/// A process that cannot be mistaken for a later one with the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessRef {
    /// The pid in the host's pid namespace.
    pub pid: i32,
    /// When it was started, in clock ticks since boot. Source: proc_pid_stat(5), field 22.
    pub start_time: u64,
}

impl ProcessRef {
    /// Returns a reference to the process that has `pid` now, `None` if there is none.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start_time) = read_stat(pid)?;
        Some(Self { pid, start_time })
    }

    /// Whether this very process still exists and is not a zombie.
    pub fn is_alive(&self) -> bool {
        matches!(read_stat(self.pid), Some((state, start)) if start == self.start_time && !matches!(state, b'Z' | b'X'))
    }

    fn parse(text: &str) -> Option<Self> {
        let (pid, start_time) = text.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, start_time: start_time.parse().ok()? })
    }
}

/// Reads how a process ended that nobody has reaped yet, as wait(2) would tell; `None` if it is no zombie.
///
/// Source: proc_pid_stat(5), field 52.
pub(super) fn read_exit_status(process: ProcessRef) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{}/stat", process.pid)).ok()?;
    if parse_stat(&stat)? != (b'Z', process.start_time) {
        return None;
    }
    std::str::from_utf8(stat.trim_ascii_end()).ok()?.rsplit(' ').next()?.parse().ok()
}

/// Reads the state letter and the start time of a process; `None` if it does not exist.
fn read_stat(pid: i32) -> Option<(u8, u64)> {
    parse_stat(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Takes fields 3 and 22 out of `/proc/PID/stat`. The name in field 2 may hold spaces and parentheses.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let after_name = stat.iter().rposition(|b| *b == b')')? + 1;
    let mut fields = std::str::from_utf8(stat.get(after_name..)?).ok()?.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((state, start_time))
}

/// What the last health checks have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// None has passed since the start, and too few have failed to tell.
    Starting,
    /// The last one has passed, or too few have failed since.
    Healthy,
    /// So many in a row have failed that it counts.
    Unhealthy,
}

impl Health {
    /// The word that the interfaces use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Starting, Self::Healthy, Self::Unhealthy].into_iter().find(|h| h.as_str() == text)
    }
}

/// What is true of a container while the machine is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunState {
    /// How far the payload has come.
    pub phase: Phase,
    /// The monitor that wrote this.
    pub monitor: ProcessRef,
    /// The process that keeps the console open should the monitor die; only with a terminal.
    pub keeper: Option<ProcessRef>,
    /// The inode numbers of the payload's stdout and stderr pipes; only without a terminal.
    pub pipes: Option<[u64; 2]>,
    /// The payload's first process, from its start until its end.
    pub init: Option<ProcessRef>,
    /// The container's cgroup as in the spec.
    pub cgroup: String,
    /// When the payload was last started, in microseconds of CLOCK_REALTIME.
    pub started_at_usec: Option<u64>,
    /// When the payload last ended, in microseconds of CLOCK_REALTIME.
    pub finished_at_usec: Option<u64>,
    /// Whether `READY=1` has come since the last start; with no notify socket, whether it has started.
    pub ready: bool,
    /// When it became ready, in microseconds of CLOCK_REALTIME.
    pub ready_at_usec: Option<u64>,
    /// Whether `STOPPING=1` has come since the last start.
    pub stopping: bool,
    /// The last `STATUS=` of the payload.
    pub status_text: Option<String>,
    /// What its health checks have found; `None` if there are none.
    pub health: Option<Health>,
    /// How many of them in a row have failed.
    pub health_failures: u32,
    /// The exit code of the last run: its own, 128 + signal, or 0 for an inner power-off. `None` after an end that
    /// nobody could observe.
    pub exit_code: Option<i32>,
    /// The signal that ended the last run.
    pub exit_signal: Option<i32>,
    /// Whether the kernel's OOM killer struck in the container's cgroup during the last run.
    pub oom_killed: bool,
    /// How many times the payload has been started again.
    pub restarts: u32,
    /// When the next start comes, in microseconds of CLOCK_REALTIME, while a restart waits for its time.
    pub restart_at_usec: Option<u64>,
    /// Why the last start failed.
    pub error: Option<String>,
    /// Why output was not logged, since the first time that this happened in the last run.
    pub log_error: Option<String>,
    /// What the runtime had to do without, one sentence each, joined by `; `.
    pub warnings: Option<String>,
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error("cannot read the state {path:?} of a container")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the state {path:?} of a container")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A key has a value that it cannot have, or a key is missing.
    #[error("the state {path:?} of a container has no valid {key:?}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
    },
}

impl RunState {
    /// A state in which nothing has happened yet.
    pub fn starting(monitor: ProcessRef, cgroup: String) -> Self {
        Self {
            phase: Phase::Starting,
            monitor,
            keeper: None,
            pipes: None,
            init: None,
            cgroup,
            started_at_usec: None,
            finished_at_usec: None,
            ready: false,
            ready_at_usec: None,
            stopping: false,
            status_text: None,
            health: None,
            health_failures: 0,
            exit_code: None,
            exit_signal: None,
            oom_killed: false,
            restarts: 0,
            restart_at_usec: None,
            error: None,
            log_error: None,
            warnings: None,
        }
    }

    /// Reads the state from the run directory; `None` if no monitor has ever written one there.
    ///
    /// # Errors
    /// [`StateError::Read`] when it exists and cannot be read, [`StateError::Invalid`] when it is not a state.
    pub fn load(run_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = run_dir.join(FILE_NAME);
        match std::fs::read(&path) {
            Ok(bytes) => match Self::parse(&String::from_utf8_lossy(&bytes)) {
                Ok(state) => Ok(Some(state)),
                Err(key) => Err(StateError::Invalid { path, key }),
            },
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Puts this state in place of the one in the run directory, in one step.
    ///
    /// It is not synced to disk: the run directory does not outlive the machine's uptime.
    ///
    /// # Errors
    /// [`StateError::Write`]; the old state is still there then.
    pub fn store(&self, run_dir: &Path) -> Result<(), StateError> {
        let path = run_dir.join(FILE_NAME);
        let new = run_dir.join("state.new");
        std::fs::write(&new, self.format())
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|source| StateError::Write { path, source })
    }

    fn format(&self) -> String {
        let mut text = String::with_capacity(512);
        let mut line = |key: &str, value: Option<&dyn std::fmt::Display>| {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{key}={value}");
            }
        };
        line("phase", Some(&self.phase.as_str()));
        line("monitor", Some(&Reference(self.monitor)));
        line("keeper", self.keeper.map(Reference).as_ref().map(|v| v as _));
        line("pipes", self.pipes.map(|[a, b]| format!("{a} {b}")).as_ref().map(|v| v as _));
        line("init", self.init.map(Reference).as_ref().map(|v| v as _));
        line("cgroup", Some(&Escaped(&self.cgroup)));
        line("started_at_usec", self.started_at_usec.as_ref().map(|v| v as _));
        line("finished_at_usec", self.finished_at_usec.as_ref().map(|v| v as _));
        line("ready", Some(&self.ready));
        line("ready_at_usec", self.ready_at_usec.as_ref().map(|v| v as _));
        line("stopping", Some(&self.stopping));
        line("status_text", self.status_text.as_deref().map(Escaped).as_ref().map(|v| v as _));
        line("health", self.health.map(Health::as_str).as_ref().map(|v| v as _));
        line("health_failures", Some(&self.health_failures));
        line("exit_code", self.exit_code.as_ref().map(|v| v as _));
        line("exit_signal", self.exit_signal.as_ref().map(|v| v as _));
        line("oom_killed", Some(&self.oom_killed));
        line("restarts", Some(&self.restarts));
        line("restart_at_usec", self.restart_at_usec.as_ref().map(|v| v as _));
        line("error", self.error.as_deref().map(Escaped).as_ref().map(|v| v as _));
        line("log_error", self.log_error.as_deref().map(Escaped).as_ref().map(|v| v as _));
        line("warnings", self.warnings.as_deref().map(Escaped).as_ref().map(|v| v as _));
        text
    }

    /// Parses what [`Self::format`] makes; the error is the key that is missing or wrong.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let value = |wanted: &'static str| {
            text.lines().filter_map(|l| l.split_once('=')).find(|(key, _)| *key == wanted).map(|(_, v)| v)
        };
        fn optional<T>(
            value: Option<&str>,
            key: &'static str,
            parse: impl FnOnce(&str) -> Option<T>,
        ) -> Result<Option<T>, &'static str> {
            value.map(|v| parse(v).ok_or(key)).transpose()
        }
        let number = |key| optional(value(key), key, |v| v.parse::<u64>().ok());
        let code = |key| optional(value(key), key, |v| v.parse::<i32>().ok());
        let flag = |key| optional(value(key), key, |v| v.parse::<bool>().ok()).map(|v| v.unwrap_or(false));
        let process = |key| optional(value(key), key, ProcessRef::parse);
        let string = |key| value(key).map(unescape);
        Ok(Self {
            phase: value("phase").and_then(Phase::parse).ok_or("phase")?,
            monitor: process("monitor")?.ok_or("monitor")?,
            keeper: process("keeper")?,
            pipes: optional(value("pipes"), "pipes", |v| {
                let (stdout, stderr) = v.split_once(' ')?;
                Some([stdout.parse().ok()?, stderr.parse().ok()?])
            })?,
            init: process("init")?,
            cgroup: string("cgroup").ok_or("cgroup")?,
            started_at_usec: number("started_at_usec")?,
            finished_at_usec: number("finished_at_usec")?,
            ready: flag("ready")?,
            ready_at_usec: number("ready_at_usec")?,
            stopping: flag("stopping")?,
            status_text: string("status_text"),
            health: optional(value("health"), "health", Health::parse)?,
            health_failures: optional(value("health_failures"), "health_failures", |v| v.parse().ok())?
                .unwrap_or(0),
            exit_code: code("exit_code")?,
            exit_signal: code("exit_signal")?,
            oom_killed: flag("oom_killed")?,
            restarts: optional(value("restarts"), "restarts", |v| v.parse().ok())?.unwrap_or(0),
            restart_at_usec: number("restart_at_usec")?,
            error: string("error"),
            log_error: string("log_error"),
            warnings: string("warnings"),
        })
    }
}

struct Reference(ProcessRef);

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0.pid, self.0.start_time)
    }
}

struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

fn unescape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => text.push('\n'),
                Some('r') => text.push('\r'),
                Some(other) => text.push(other),
                None => text.push('\\'),
            },
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> RunState {
        RunState {
            phase: Phase::Running,
            monitor: ProcessRef { pid: 10, start_time: 11 },
            keeper: Some(ProcessRef { pid: 14, start_time: 15 }),
            pipes: Some([16, 17]),
            init: Some(ProcessRef { pid: 12, start_time: 13 }),
            cgroup: "/dormouse/x".into(),
            started_at_usec: Some(1),
            finished_at_usec: Some(2),
            ready: true,
            ready_at_usec: Some(3),
            stopping: true,
            status_text: Some("two\nlines \\ and = a back\\nslash\r".into()),
            health: Some(Health::Unhealthy),
            health_failures: 3,
            exit_code: Some(137),
            exit_signal: Some(9),
            oom_killed: true,
            restarts: 4,
            restart_at_usec: Some(5),
            error: Some("no".into()),
            log_error: Some("full".into()),
            warnings: Some(String::new()),
        }
    }

    #[test]
    fn what_was_stored_is_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(RunState::load(directory.path()).unwrap(), None);
        for state in
            [full(), RunState::starting(ProcessRef { pid: 1, start_time: 2 }, "/with\nnewline".into())]
        {
            state.store(directory.path()).unwrap();
            assert_eq!(RunState::load(directory.path()).unwrap(), Some(state));
        }
    }

    #[test]
    fn a_broken_state_names_the_key() {
        let directory = tempfile::tempdir().unwrap();
        for (from, to, key) in [
            ("phase=running", "phase=walking", "phase"),
            ("monitor=10 11", "monitor=10", "monitor"),
            ("restarts=4", "restarts=-4", "restarts"),
            ("cgroup=", "group=", "cgroup"),
        ] {
            std::fs::write(directory.path().join(FILE_NAME), full().format().replace(from, to)).unwrap();
            let error = RunState::load(directory.path()).unwrap_err();
            assert!(matches!(error, StateError::Invalid { key: k, .. } if k == key), "{error}");
        }
    }

    #[test]
    fn a_payload_cannot_forge_a_key_with_its_status() {
        let mut state = full();
        state.status_text = Some("x\nexit_code=0\r\nphase=exited".into());
        assert_eq!(RunState::parse(&state.format()).unwrap(), state);
    }

    #[test]
    fn a_process_is_alive_only_under_its_own_start_time() {
        let own = ProcessRef::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessRef { start_time: own.start_time + 1, ..own }.is_alive());
    }

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_confuse() {
        let stat =
            b"7 (a) S 1 (b) R 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 2 3 4 5 6 7 8 9 0 0 0 0 0";
        assert_eq!(parse_stat(stat), Some((b'R', 4711)));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) R 1"), None);
    }
}
