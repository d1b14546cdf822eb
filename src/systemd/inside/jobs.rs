//! Ordering jobs, and waiting for their end.

use std::time::Duration;

use zbus::OwnedObjectPath;

use super::{InsideError, MANAGER, MANAGER_PATH, Manager, call, error::clean, names::normalise_unit_name};
use crate::systemd::bus::{BusError, Incoming};

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
        let mut bus = self.bus.lock().await;
        // A job can end before its order's answer is here. To connections like this one systemd sends all signals;
        // there is nothing to subscribe to.
        let mut early = Vec::new();
        let arguments = (unit.clone(), "replace");
        let answer = call(&mut bus, MANAGER_PATH, MANAGER, kind.method(), &arguments, |message| {
            if early.len() >= EARLY_MAX {
                return Err(BusError::Nonsense("jobs end without end".to_owned()));
            }
            early.extend(job_end(&message)?);
            Ok(())
        });
        let answer = answer.await.map_err(|error| InsideError::from_unit_call(&unit, error))?;
        let (job,): (OwnedObjectPath,) = answer.body().map_err(InsideError::from_bus)?;
        let result = async {
            if let Some((_, result)) = early.into_iter().find(|(ended, _)| *ended == job) {
                return Ok(result);
            }
            loop {
                if let Some((ended, result)) = job_end(&bus.next().await?)?
                    && ended == job
                {
                    return Ok(result);
                }
            }
        };
        let result = match tokio::time::timeout(wait, result).await {
            Ok(result) => result.map_err(InsideError::from_bus)?,
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

/// Reads the signal JobRemoved: id, job, unit, result; `None` for any other message.
fn job_end(message: &Incoming) -> Result<Option<(OwnedObjectPath, String)>, BusError> {
    if !message.is_signal("JobRemoved") {
        return Ok(None);
    }
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = message.body()?;
    Ok(Some((job, result)))
}
