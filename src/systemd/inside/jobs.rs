//! Ordering jobs, and waiting for their end.

use std::{num::NonZeroUsize, pin::Pin, time::Duration};

use zbus::{MatchRule, MessageStream, OwnedObjectPath, export::futures_core::Stream, message::Type};

use super::{InsideError, MANAGER, Manager, error::clean, names::normalise_unit_name, units::body};

/// Ends of other units' jobs that may be waiting to be looked at.
const QUEUED_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("64 is not zero");

/// Ends of other units' jobs that come before the answer to the order.
const EARLY_MAX: usize = 10_000;

/// What a job is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// Start it, with what it needs; one that runs is left alone.
    Start,
    /// Stop it, with what needs it.
    Stop,
    /// Stop and start it; one that does not run is started.
    Restart,
    /// Make it read its configuration again.
    Reload,
}

impl JobKind {
    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::Reload => "ReloadUnit",
        }
    }
}

impl Manager {
    /// Orders a job and waits, at most `wait`, for its end. If the future is dropped, the job goes on.
    /// # Errors
    /// [`InsideError::JobFailed`] for a job that did not end well; [`InsideError::Refused`] for one that systemd does
    /// not even begin (a masked unit, a reload of what has no reload); [`InsideError::NoSuchUnit`].
    pub async fn run_job(&self, kind: JobKind, unit: &str, wait: Duration) -> Result<(), InsideError> {
        let unit = normalise_unit_name(unit)?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(InsideError::malformed)?;
        // Before the order: a job can end before its order's answer is here. To connections like this one systemd
        // sends all signals; there is nothing to subscribe to.
        let mut ends = MessageStream::for_match_rule(rule, &self.connection, Some(QUEUED_MAX))
            .await
            .map_err(InsideError::from_connection)?;
        let mut early = Vec::new();
        let arguments = (unit.clone(), "replace");
        let order = self.call(kind.method(), &arguments);
        tokio::pin!(order);
        // The queue of ends is emptied while waiting for the answer, for a full one would hold the answer back.
        let answer = loop {
            if early.len() > EARLY_MAX {
                return Err(InsideError::malformed("jobs end without end"));
            }
            tokio::select! {
                end = next(&mut ends) => early.push(job_end(end?)?),
                answer = &mut order => break answer,
            }
        };
        let answer = answer.map_err(|error| InsideError::from_unit_call(&unit, error))?;
        let job: OwnedObjectPath = body(&answer)?;
        let result = async {
            if let Some((_, result)) = early.into_iter().find(|(ended, _)| *ended == job) {
                return Ok(result);
            }
            loop {
                let (ended, result) = job_end(next(&mut ends).await?)?;
                if ended == job {
                    return Ok(result);
                }
            }
        };
        let result = match tokio::time::timeout(wait, result).await {
            Ok(result) => result?,
            Err(_) => return Err(InsideError::JobTimeout { unit, waited: wait }),
        };
        if result == "done" { Ok(()) } else { Err(InsideError::JobFailed { unit, result: clean(&result) }) }
    }

    /// Forgets that a unit, or all of them, have failed.
    pub async fn reset_failed(&self, unit: Option<&str>) -> Result<(), InsideError> {
        match unit {
            Some(unit) => {
                let unit = normalise_unit_name(unit)?;
                let reply = self.call("ResetFailedUnit", &(&unit,)).await;
                reply.map_err(|error| InsideError::from_unit_call(&unit, error))?;
            }
            None => {
                self.call("ResetFailed", &()).await.map_err(InsideError::from_call)?;
            }
        }
        Ok(())
    }
}

async fn next(stream: &mut MessageStream) -> Result<zbus::Message, InsideError> {
    match std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await {
        Some(message) => message.map_err(InsideError::from_connection),
        None => Err(InsideError::Unreachable { source: std::io::ErrorKind::ConnectionReset.into() }),
    }
}

/// Reads the signal JobRemoved: id, job, unit, result.
fn job_end(signal: zbus::Message) -> Result<(OwnedObjectPath, String), InsideError> {
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = body(&signal)?;
    Ok((job, result))
}
