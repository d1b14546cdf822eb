//! io.dormouse.Container: what a container tells of itself.

use crate::engine::{LogFilter, LogLine, LogRequest, LogSource, LogStream};
use crate::varlink::{Call, CallError};

use super::Gathered;
use super::container::{ContainerInterface, failed, signed, unsigned};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn logs(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Logs_Args = call.parameters()?;
        let follow = given.follow.unwrap_or_default();
        if follow && !call.wants_more() {
            return Err(CallError::ExpectedMore);
        }
        let priority = match given.priority {
            None => None,
            Some(level @ 0..=7) => u8::try_from(level).ok(),
            Some(_) => return Err(CallError::invalid_parameter("priority")),
        };
        let request = LogRequest {
            source: given.source.map(|source| match source {
                wire::Logs_Args_source::output => LogSource::Output,
                wire::Logs_Args_source::journal => LogSource::Journal,
            }),
            unit: given.unit,
            priority,
            filter: LogFilter {
                tail: given.tail.map(|tail| unsigned("tail", tail)).transpose()?,
                since_usec: given.sinceUSec,
                until_usec: given.untilUSec,
            },
            follow,
        };
        let mut log = self.engine.read_log(&given.name, request).await.map_err(failed)?;
        let mut all = Gathered::new();
        loop {
            let lines = log.next().await.map_err(failed)?;
            if lines.is_empty() {
                return call.reply(wire::Logs_Reply { entries: all.entries }).await;
            }
            let entries = lines.into_iter().map(entry);
            if call.wants_more() {
                call.reply_continues(wire::Logs_Reply { entries: entries.collect() }).await?;
            } else {
                all.extend(entries, |entry| entry.message.len())?;
            }
        }
    }
}

fn entry(line: LogLine) -> wire::LogEntry {
    match line {
        LogLine::Output(entry) => wire::LogEntry {
            timeUSec: entry.time_usec,
            stream: match entry.stream {
                LogStream::Stdout => wire::LogEntry_stream::stdout,
                LogStream::Stderr => wire::LogEntry_stream::stderr,
            },
            message: entry.message,
            partial: entry.partial,
            unit: None,
            identifier: None,
            pid: None,
            priority: None,
        },
        LogLine::Journal(entry) => wire::LogEntry {
            timeUSec: signed(entry.time_usec),
            stream: wire::LogEntry_stream::journal,
            message: entry.message,
            partial: false,
            unit: entry.unit,
            identifier: entry.identifier,
            pid: entry.pid.map(Into::into),
            priority: entry.priority.map(Into::into),
        },
    }
}
