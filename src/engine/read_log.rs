//! What a container tells of itself: what it has written, or the journal of the systemd inside, which is where the services of
//! such a container write to.

use std::time::Duration;

use crate::systemd::journal::{JournalEntry, JournalFilter};

use super::units::JournalReader;
use super::{Condition, Engine, EngineError, LogEntry, LogFilter, LogFollower, Phase, now_usec};

/// When journalctl has ended inside, its container is given so long to end too.
const END_PATIENCE: Duration = Duration::from_secs(90);

/// Where lines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// What its processes have written to the container's own streams.
    Output,
    /// The journal inside.
    Journal,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// `None`: the journal of a container whose systemd runs, or what a unit or a priority is asked for; else its output.
    pub source: Option<LogSource>,
    /// Only of this unit.
    pub unit: Option<String>,
    /// Only of this priority (0 to 7) and more urgent ones.
    pub priority: Option<u8>,
    /// Which of them.
    pub filter: LogFilter,
    /// Go on until the container has ended.
    pub follow: bool,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogLine {
    /// Of the output.
    Output(LogEntry),
    /// Of the journal.
    Journal(JournalEntry),
}

/// Gives the lines. May be dropped at any time.
#[derive(Debug)]
pub struct LogReader {
    from: From,
}

#[derive(Debug)]
enum From {
    Output(Box<LogFollower>),
    Journal(Box<JournalLog>),
}

impl Engine {
    /// Opens what a container tells of itself.
    ///
    /// # Errors
    /// Those of [`Engine::logs`] for its output, those of [`Engine::journal`] for its journal.
    pub async fn read_log(&self, name: &str, request: LogRequest) -> Result<LogReader, EngineError> {
        let wants_journal = request.unit.is_some() || request.priority.is_some();
        let source = match request.source {
            Some(LogSource::Output) if wants_journal => {
                return Err(EngineError::InvalidSpec {
                    field: "source".to_owned(),
                    reason: "only the journal has units and priorities".to_owned(),
                });
            }
            None if wants_journal => Some(LogSource::Journal),
            source => source,
        };
        let journal = match source {
            Some(LogSource::Output) => None,
            Some(LogSource::Journal) => Some(JournalLog::open(self, name, &request).await?),
            None if self.has_journal(name)? => match JournalLog::open(self, name, &request).await {
                Ok(journal) => Some(journal),
                // It has called itself one, and is none.
                Err(EngineError::NotSystemd { .. }) => None,
                Err(error) => return Err(error),
            },
            None => None,
        };
        let from = match journal {
            Some(journal) => From::Journal(Box::new(journal)),
            None => From::Output(Box::new(self.logs(name, request.filter, request.follow)?)),
        };
        Ok(LogReader { from })
    }

    fn has_journal(&self, name: &str) -> Result<bool, EngineError> {
        let container = self.find(name)?;
        Ok(container.definition.systemd
            && matches!(self.live(&container.row.id)?.phase, Phase::Running | Phase::Stopping))
    }

    /// Whether a container that has ended was only being started anew, and runs again.
    pub(super) async fn was_restarted(&self, id: &str) -> Result<bool, EngineError> {
        drop(self.lock(&restart_lock(id)).await?);
        Ok(self.live(id)?.phase.is_alive())
    }
}

/// Held by whoever stops a container in order to start it, so that nobody takes its end for its last.
pub(super) fn restart_lock(id: &str) -> String {
    format!("{id}.restart")
}

impl LogReader {
    /// The next lines; an empty array when it is over.
    ///
    /// # Errors
    /// Those of the log, or the journal, when it is read.
    pub async fn next(&mut self) -> Result<Vec<LogLine>, EngineError> {
        Ok(match &mut self.from {
            From::Output(log) => log.next().await?.into_iter().map(LogLine::Output).collect(),
            From::Journal(journal) => journal.next().await?.into_iter().map(LogLine::Journal).collect(),
        })
    }
}

/// A journal that is followed over restarts of its container.
#[derive(Debug)]
struct JournalLog {
    engine: Engine,
    id: String,
    name: String,
    filter: JournalFilter,
    /// When a follower leaves by itself.
    until_usec: Option<i64>,
    reader: JournalReader,
}

impl JournalLog {
    async fn open(engine: &Engine, name: &str, request: &LogRequest) -> Result<Self, EngineError> {
        let row = engine.find_row(name)?;
        let time = |usec: Option<i64>| usec.map(|usec| u64::try_from(usec).unwrap_or(0));
        let wanted = &request.filter;
        let filter = JournalFilter {
            unit: request.unit.clone(),
            priority: request.priority,
            since_usec: time(wanted.since_usec),
            // journalctl does not end by itself at a time to come.
            until_usec: time(wanted.until_usec).filter(|_| !request.follow),
            lines: wanted.tail.map(|tail| u64::try_from(tail).unwrap_or(u64::MAX)),
            follow: request.follow,
            ..JournalFilter::default()
        };
        let reader = engine.journal(&row.id, filter.clone(), None).await?;
        let until_usec = wanted.until_usec.filter(|_| request.follow);
        Ok(Self { engine: engine.clone(), id: row.id, name: row.name, filter, until_usec, reader })
    }

    async fn next(&mut self) -> Result<Vec<JournalEntry>, EngineError> {
        loop {
            let Some(until) = self.until_usec else {
                let read = self.reader.next().await;
                match self.judge(read).await? {
                    Some(entries) => return Ok(entries),
                    None => continue,
                }
            };
            let left = Duration::from_micros(u64::try_from(until - now_usec()).unwrap_or(0));
            let Ok(read) = tokio::time::timeout(left, self.reader.next()).await else {
                return Ok(Vec::new());
            };
            if let Some(mut entries) = self.judge(read).await? {
                let all = entries.len();
                entries.retain(|entry| i64::try_from(entry.time_usec).is_ok_and(|time| time < until));
                if entries.len() < all || !entries.is_empty() || all == 0 {
                    return Ok(entries);
                }
            }
        }
    }

    /// What was read; `None` where the container was started anew meanwhile, and reading goes on there.
    async fn judge(
        &mut self,
        read: Result<Vec<JournalEntry>, EngineError>,
    ) -> Result<Option<Vec<JournalEntry>>, EngineError> {
        match &read {
            Ok(entries) if !entries.is_empty() => {
                // Where to go on from, should the container be started anew.
                if let Some(last) = entries.last() {
                    self.filter.since_usec = Some(last.time_usec + 1);
                    self.filter.lines = None;
                }
                return read.map(Some);
            }
            _ if !self.filter.follow => return read.map(Some),
            _ => {}
        }
        // journalctl is gone, and with it most likely everything inside.
        match self.engine.wait_known(&self.id, &self.name, Condition::Exited, Some(END_PATIENCE)).await {
            Ok(_) => {}
            Err(EngineError::NotFound { .. }) => return Ok(Some(Vec::new())),
            Err(EngineError::Timeout { .. }) => {}
            Err(error) => return Err(error),
        }
        if !self.engine.was_restarted(&self.id).await? {
            return Ok(Some(Vec::new()));
        }
        match self.engine.wait_known(&self.id, &self.name, Condition::Ready, None).await {
            Ok(_) => {}
            Err(EngineError::WrongState { .. } | EngineError::NotFound { .. }) => {
                return Ok(Some(Vec::new()));
            }
            Err(error) => return Err(error),
        }
        self.reader = self.engine.journal(&self.id, self.filter.clone(), None).await?;
        Ok(None)
    }
}
