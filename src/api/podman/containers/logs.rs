//! What containers have written.

use crate::api::{Gathered, looked_up};
use crate::engine::{LogEntry, LogFilter, LogFollower, LogStream, Phase};

use super::super::errors::{failed, occurred};
use super::super::text::{bound, log_time};
use super::super::{Call, CallError, PodmanInterface, wire};
use super::One;

impl PodmanInterface {
    pub(super) async fn container_logs(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainerLogs_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        // Before it was ever started, there is nothing that could end.
        let follow = call.wants_more() && one.phase().is_alive();
        let mut log = self.engine.logs(one.id(), LogFilter::default(), follow).map_err(failed)?;
        let mut all = Gathered::new();
        loop {
            let entries = log.next().await.map_err(failed)?;
            if entries.is_empty() {
                break;
            }
            let lines = entries.iter().map(line);
            if call.wants_more() {
                call.reply_continues(wire::GetContainerLogs_Reply { container: lines.collect() }).await?;
            } else {
                all.extend(lines, String::len)?;
            }
        }
        if call.wants_more() {
            // What clients take for the end of a stream that went on as long as the container did.
            return Err(occurred(format!("{} is no longer running", one.id())));
        }
        call.reply(wire::GetContainerLogs_Reply { container: all.entries }).await
    }

    pub(super) async fn containers_logs(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetContainersLogs_Args = call.parameters()?;
        if given.since.is_empty() {
            return Err(occurred(
                "cannot read the logs: since is missing; give a time of RFC 3339, 0001-01-01T00:00:00Z for all",
            ));
        }
        let filter = LogFilter {
            tail: usize::try_from(given.tail).ok(),
            since_usec: bound(&given.since).map_err(occurred)?,
            until_usec: None,
        };
        let mut names = given.names;
        if given.latest {
            let engine = self.engine.clone();
            let newest = looked_up(move || Ok(One::all(&engine)?.pop().map(|one| one.listed.id)));
            names = newest.await.map_err(failed)?.into_iter().collect();
        }
        let mut followers = Vec::new();
        for name in names {
            let one = self.one(name).await.map_err(failed)?;
            let follow = given.follow && call.wants_more() && one.phase() != Phase::Created;
            followers
                .push((one.id().to_owned(), self.engine.logs(one.id(), filter, follow).map_err(failed)?));
        }
        let end = wire::LogLine {
            device: String::new(),
            parseLogType: String::new(),
            time: String::new(),
            msg: String::new(),
            cid: String::new(),
        };
        let (tell, mut told) = tokio::sync::mpsc::channel(4);
        let mut readers = tokio::task::JoinSet::new();
        for (id, follower) in followers {
            readers.spawn(read(id, follower, tell.clone()));
        }
        drop(tell);
        while let Some(batch) = told.recv().await {
            for log in batch.map_err(failed)? {
                if !call.wants_more() {
                    return call.reply(wire::GetContainersLogs_Reply { log }).await;
                }
                call.reply_continues(wire::GetContainersLogs_Reply { log }).await?;
            }
        }
        call.reply(wire::GetContainersLogs_Reply { log: end }).await
    }
}

type Batch = Result<Vec<wire::LogLine>, crate::engine::EngineError>;

async fn read(id: String, mut follower: LogFollower, tell: tokio::sync::mpsc::Sender<Batch>) {
    loop {
        let batch = follower.next().await;
        let over = batch.as_ref().map_or(true, Vec::is_empty);
        let lines = batch.map(|entries| entries.into_iter().map(|entry| log_line(&id, entry)).collect());
        if tell.send(lines).await.is_err() || over {
            return;
        }
    }
}

fn device(entry: &LogEntry) -> &'static str {
    match entry.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
    }
}

fn kind(entry: &LogEntry) -> &'static str {
    if entry.partial { "P" } else { "F" }
}

/// As the file has it.
fn line(entry: &LogEntry) -> String {
    format!("{} {} {} {}\n", log_time(entry.time_usec), device(entry), kind(entry), entry.message)
}

fn log_line(id: &str, entry: LogEntry) -> wire::LogLine {
    wire::LogLine {
        device: device(&entry).to_owned(),
        parseLogType: kind(&entry).to_owned(),
        time: log_time(entry.time_usec),
        cid: id.to_owned(),
        msg: entry.message,
    }
}
