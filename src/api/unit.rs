//! io.dormouse.Unit.

use std::time::Duration;

use crate::engine::{Engine, EngineError};
use crate::systemd::inside::{JobKind, UnitDetails, UnitFilter, UnitInfo};
use crate::systemd::journal::{JournalEntry, JournalFilter};
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::{Gathered, ordered};
use crate::wire::unit as wire;

const NAME: &str = "io.dormouse.Unit";
/// What systemd itself gives a job by default (DefaultTimeoutStartSec=).
const JOB_TIMEOUT: Duration = Duration::from_secs(90);

/// The interface over an engine.
pub(super) struct UnitInterface {
    engine: Engine,
}

impl Interface for UnitInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Unit.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Status" => self.status(call).await,
                "List" => self.list(call).await,
                "Start" => self.job(call, JobKind::Start).await,
                "Stop" => self.job(call, JobKind::Stop).await,
                "Restart" => self.job(call, JobKind::Restart).await,
                "Reload" => self.job(call, JobKind::Reload).await,
                "Journal" => self.journal(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl UnitInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn status(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Status_Args = call.parameters()?;
        let session = self.engine.units(&given.name).await.map_err(failed)?;
        let system = session.system_state().await.map_err(failed)?;
        let details = match &given.unit {
            Some(unit) => Some(details(session.unit(unit).await.map_err(failed)?)),
            None => None,
        };
        let reply = wire::Status_Reply {
            systemState: system.state,
            version: system.version,
            units: system.names.into(),
            failedUnits: system.failed_units.into(),
            jobs: system.jobs.into(),
            details,
        };
        call.reply(reply).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let session = self.engine.units(&given.name).await.map_err(failed)?;
        let patterns = given.kinds.unwrap_or_default().iter().map(|kind| format!("*.{kind}")).collect();
        let filter = UnitFilter { states: given.activeStates.unwrap_or_default(), patterns };
        let units = session.list_units(&filter).await.map_err(failed)?;
        call.reply(wire::List_Reply { units: units.into_iter().map(summary).collect() }).await
    }

    async fn job(&self, call: &mut Call, kind: JobKind) -> Result<(), CallError> {
        // All four have the same parameters.
        let given: wire::Start_Args = call.parameters()?;
        let timeout = match given.timeoutUSec {
            None => JOB_TIMEOUT,
            Some(usec) => u64::try_from(usec)
                .map(Duration::from_micros)
                .map_err(|_| CallError::InvalidParameter { parameter: "timeoutUSec".to_owned() })?,
        };
        let engine = self.engine.clone();
        ordered(
            call,
            async move { engine.units(&given.name).await?.run_job(kind, &given.unit, timeout).await },
        )
        .await
        .map_err(failed)?;
        call.reply(wire::Start_Reply {}).await
    }

    async fn journal(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Journal_Args = call.parameters()?;
        let follow = given.follow.unwrap_or_default();
        if follow && !call.wants_more() {
            return Err(CallError::ExpectedMore);
        }
        let unsigned = |field: &str, value: Option<i64>| {
            value
                .map(u64::try_from)
                .transpose()
                .map_err(|_| CallError::InvalidParameter { parameter: field.to_owned() })
        };
        let priority = match given.priority {
            None => None,
            Some(level @ 0..=7) => u8::try_from(level).ok(),
            Some(_) => return Err(CallError::InvalidParameter { parameter: "priority".to_owned() }),
        };
        let filter = JournalFilter {
            unit: given.unit,
            priority,
            since_usec: unsigned("sinceUSec", given.sinceUSec)?,
            until_usec: unsigned("untilUSec", given.untilUSec)?,
            lines: unsigned("lines", given.lines)?,
            follow,
            ..JournalFilter::default()
        };
        let mut journal =
            self.engine.journal(&given.name, filter, given.afterCursor).await.map_err(failed)?;
        let mut all = Gathered::new();
        loop {
            let entries = journal.next().await.map_err(failed)?;
            if entries.is_empty() {
                return call.reply(wire::Journal_Reply { entries: all.entries }).await;
            }
            let entries = entries.into_iter().map(journal_entry);
            if call.wants_more() {
                call.reply_continues(wire::Journal_Reply { entries: entries.collect() }).await?;
            } else {
                all.extend(entries, |entry| entry.message.len() + entry.cursor.len())?;
            }
        }
    }
}

fn summary(unit: UnitInfo) -> wire::Summary {
    wire::Summary {
        name: unit.name,
        description: unit.description,
        loadState: unit.load_state,
        activeState: unit.active_state,
        subState: unit.sub_state,
    }
}

fn details(unit: UnitDetails) -> wire::Details {
    let wide = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok());
    wire::Details {
        summary: summary(unit.info),
        mainPid: unit.main_pid.map(Into::into),
        result: unit.result,
        exitStatus: unit.exit_code.map(Into::into),
        memoryBytes: wide(unit.memory_bytes),
        activeEnterUSec: wide(unit.active_enter_usec),
        inactiveEnterUSec: wide(unit.inactive_enter_usec),
        fragmentPath: unit.fragment_path,
        unitFileState: unit.unit_file_state,
    }
}

fn journal_entry(entry: JournalEntry) -> wire::JournalEntry {
    wire::JournalEntry {
        timeUSec: i64::try_from(entry.time_usec).unwrap_or(i64::MAX),
        priority: entry.priority.map(Into::into),
        unit: entry.unit,
        identifier: entry.identifier,
        pid: entry.pid.map(Into::into),
        message: entry.message,
        cursor: entry.cursor.unwrap_or_default(),
    }
}
