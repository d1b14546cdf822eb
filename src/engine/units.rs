//! The systemd inside a container, reached from outside: its units over its private socket, its journal through the
//! container's own journalctl.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;

use crate::systemd::inside::{InsideError, JobKind, Manager, SystemState, UnitDetails, UnitFilter, UnitInfo};
use crate::systemd::journal::{JournalEntry, JournalFilter, LINE_BYTES_MAX, journalctl_arguments};

use super::exec::pipe_pair;
use super::stop::open_process;
use super::{Engine, EngineError, ExecRequest, ExecSession, Streams};

/// How many entries one reply of a long journal holds.
const BATCH_ENTRIES: usize = 500;

/// A connection to the systemd inside a container.
#[derive(Debug)]
pub struct UnitSession {
    name: String,
    manager: Manager,
}

impl Engine {
    /// Connects to the systemd inside a running container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`], [`EngineError::NotSystemd`],
    /// [`EngineError::Unreachable`].
    pub async fn units(&self, name: &str) -> Result<UnitSession, EngineError> {
        let row = self.find_row(name)?;
        let live = self.live(&row.id)?;
        let wrong = || EngineError::WrongState {
            attempted: "reach the systemd in",
            name: row.name.clone(),
            state: live.phase,
            wanted: "running",
        };
        if !live.phase.is_alive() {
            return Err(wrong());
        }
        let init = live.told.as_ref().and_then(|told| told.init).ok_or_else(wrong)?;
        let pidfd = open_process(init).ok_or_else(wrong)?;
        let manager = Manager::connect(init.pid, std::os::fd::AsFd::as_fd(&pidfd))
            .await
            .map_err(|error| inside_error(&row.name, error))?;
        Ok(UnitSession { name: row.name, manager })
    }

    /// Reads the journal inside a running container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`], [`EngineError::NotSystemd`] where there is no journalctl.
    pub async fn journal(
        &self,
        name: &str,
        filter: JournalFilter,
        after_cursor: Option<String>,
    ) -> Result<JournalReader, EngineError> {
        let mut command = journalctl_arguments(&filter);
        if let Some(cursor) = after_cursor {
            command.push(format!("--after-cursor={cursor}"));
        }
        let failed = |error: std::io::Error| EngineError::Failed {
            attempted: "read the journal".to_owned(),
            reason: error.to_string(),
        };
        let (lines, out) = pipe_pair().map_err(failed)?;
        let (complaints, err) = pipe_pair().map_err(failed)?;
        // Whoever the payload runs as, its journal is root's.
        let request = ExecRequest {
            command,
            user: Some("0:0".to_owned()),
            workdir: Some("/".to_owned()),
            unasked: true,
            ..ExecRequest::default()
        };
        let streams = Streams { stdin: None, stdout: Some(out), stderr: Some(err) };
        let session = self.exec(name, request, streams).await.map_err(|error| match error {
            EngineError::CommandNotFound { name, .. } => {
                EngineError::NotSystemd { name, reason: "it has no journalctl".to_owned() }
            }
            other => other,
        })?;
        let name = name.to_owned();
        Ok(JournalReader {
            name,
            lines: BufReader::new(lines),
            complaints,
            session: Some(session),
            line: Vec::new(),
        })
    }
}

impl UnitSession {
    /// How the system inside is.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`].
    pub async fn system_state(&self) -> Result<SystemState, EngineError> {
        self.manager.system_state().await.map_err(|error| inside_error(&self.name, error))
    }

    /// The units that are loaded, by name.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`].
    pub async fn list_units(&self, filter: &UnitFilter) -> Result<Vec<UnitInfo>, EngineError> {
        self.manager.list_units(filter).await.map_err(|error| inside_error(&self.name, error))
    }

    /// All of one unit.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUnit`], [`EngineError::Unreachable`].
    pub async fn unit(&self, unit: &str) -> Result<UnitDetails, EngineError> {
        self.manager.unit(unit).await.map_err(|error| inside_error(&self.name, error))
    }

    /// Has a job done, and waits for its end.
    ///
    /// # Errors
    /// [`EngineError::NoSuchUnit`], [`EngineError::JobFailed`], [`EngineError::Timeout`],
    /// [`EngineError::Unreachable`].
    pub async fn run_job(&self, kind: JobKind, unit: &str, wait: Duration) -> Result<(), EngineError> {
        self.manager.run_job(kind, unit, wait).await.map_err(|error| inside_error(&self.name, error))
    }
}

/// Gives entries as journalctl prints them. Dropped, journalctl ends.
#[derive(Debug)]
pub struct JournalReader {
    name: String,
    lines: BufReader<pipe::Receiver>,
    complaints: pipe::Receiver,
    session: Option<ExecSession>,
    line: Vec<u8>,
}

impl JournalReader {
    /// The next entries; an empty array when it is over.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`] where journalctl fails, or prints what is no journal.
    pub async fn next(&mut self) -> Result<Vec<JournalEntry>, EngineError> {
        let mut entries = Vec::new();
        loop {
            let limit = LINE_BYTES_MAX as u64 + 1 - self.line.len() as u64;
            let mut limited = (&mut self.lines).take(limit);
            let read = limited.read_until(b'\n', &mut self.line).await;
            let length = read.map_err(|error| self.unreachable(error.to_string()))?;
            if length == 0 {
                if entries.is_empty() {
                    self.finish().await?;
                }
                return Ok(entries);
            }
            let line = std::mem::take(&mut self.line);
            match JournalEntry::parse(&line) {
                Ok(entry) => entries.push(entry),
                Err(error) => return Err(self.unreachable(error.to_string())),
            }
            // What is there already goes out together; what is not is not waited for.
            if entries.len() >= BATCH_ENTRIES || !self.lines.buffer().contains(&b'\n') {
                return Ok(entries);
            }
        }
    }

    /// journalctl has ended; if it failed, it has said why.
    async fn finish(&mut self) -> Result<(), EngineError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        let mut complaint = Vec::new();
        let _ = (&mut self.complaints).take(4096).read_to_end(&mut complaint).await;
        match session.wait().await? {
            0 => Ok(()),
            // grep's way of saying that nothing fits; so does journalctl.
            1 if complaint.is_empty() => Ok(()),
            code => {
                let complaint = String::from_utf8_lossy(&complaint);
                Err(self.unreachable(format!("journalctl ended with {code}: {}", complaint.trim())))
            }
        }
    }

    fn unreachable(&self, reason: String) -> EngineError {
        EngineError::Unreachable { name: self.name.clone(), reason }
    }
}

fn inside_error(name: &str, error: InsideError) -> EngineError {
    use std::error::Error;
    let name = name.to_owned();
    let mut reason = error.to_string();
    if let Some(source) = error.source() {
        reason = format!("{reason}: {source}");
    }
    match error {
        InsideError::NotRunning => EngineError::WrongState {
            attempted: "reach the systemd in",
            name,
            state: super::Phase::Exited,
            wanted: "running",
        },
        InsideError::NotSystemd { .. } => EngineError::NotSystemd { name, reason },
        InsideError::BadUnitName { .. } => EngineError::InvalidSpec { field: "unit".to_owned(), reason },
        InsideError::NoSuchUnit { unit } => EngineError::NoSuchUnit { name, unit },
        InsideError::JobFailed { unit, result } => EngineError::JobFailed { name, unit, result },
        InsideError::JobTimeout { unit, .. } => {
            EngineError::Timeout { name, what: format!("to get the job for {unit:?} done") }
        }
        InsideError::Refused { unit, .. } => EngineError::JobFailed { name, unit, result: reason },
        InsideError::Unreachable { .. } | InsideError::Timeout { .. } | InsideError::Protocol { .. } => {
            EngineError::Unreachable { name, reason }
        }
    }
}
