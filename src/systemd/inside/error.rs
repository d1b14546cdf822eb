//! What can go wrong with the systemd inside.

use std::{io, time::Duration};

use crate::systemd::bus::BusError;

/// Errors of [`crate::systemd::inside`]. Texts that come from inside are cut and cleaned of control characters.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InsideError {
    /// The container's PID 1 has ended.
    #[error("the container is not running")]
    NotRunning,
    /// There is no systemd at the usual place.
    #[error("there is no systemd inside that listens at /run/systemd/private: {reason}")]
    NotSystemd {
        /// What is there instead.
        reason: String,
    },
    /// It is there, but does not talk.
    #[error("the systemd inside cannot be reached")]
    Unreachable {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A text that is no name of a unit.
    #[error("{name:?} is not a unit name: {reason}")]
    BadUnitName {
        /// The text, cut to 256 bytes.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The systemd inside knows no such unit.
    #[error("there is no unit {unit:?} inside")]
    NoSuchUnit {
        /// Its full name.
        unit: String,
    },
    /// systemd has refused an order.
    #[error("the systemd inside refuses this for {unit:?}: {reason}")]
    Refused {
        /// The unit's full name.
        unit: String,
        /// The D-Bus error's name, as `org.freedesktop.systemd1.UnitMasked`.
        error: String,
        /// systemd's own words.
        reason: String,
    },
    /// A job has ended otherwise than wished.
    #[error("the job for {unit:?} has ended: {result}; see the unit's journal")]
    JobFailed {
        /// The unit's full name.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, `dependency`, `skipped`, …
        result: String,
    },
    /// A job takes longer than the caller wants to wait. It goes on.
    #[error("the job for {unit:?} has not ended within {} s; it goes on", waited.as_secs())]
    JobTimeout {
        /// The unit's full name.
        unit: String,
        /// How long was waited.
        waited: Duration,
    },
    /// No answer within 10 s.
    #[error("the systemd inside does not answer: no reply to {what} within 10 s")]
    Timeout {
        /// The method, or the step of connecting.
        what: &'static str,
    },
    /// It says something that makes no sense.
    #[error("the systemd inside does not speak as systemd does: {reason}")]
    Protocol {
        /// What is wrong.
        reason: String,
    },
}

/// How a call fails, before anybody has looked at what that means.
#[derive(Debug)]
pub(super) enum CallError {
    /// The connection, or what came over it.
    Bus(BusError),
    /// An error as answer.
    Refused {
        /// The D-Bus error's name.
        name: String,
        /// systemd's words.
        text: String,
    },
    /// No answer to this method in time.
    Late(&'static str),
}

impl InsideError {
    pub(super) fn from_bus(error: BusError) -> Self {
        match error {
            BusError::Broken(source) => Self::Unreachable { source },
            BusError::Nonsense(reason) => Self::Protocol { reason: clean(&reason) },
        }
    }

    /// Reads an error of a call that has nothing to do with a certain unit.
    pub(super) fn from_call(error: CallError) -> Self {
        match error {
            CallError::Bus(error) => Self::from_bus(error),
            CallError::Late(what) => Self::Timeout { what },
            CallError::Refused { name, text } => {
                Self::Protocol { reason: clean(&format!("it answers {name}: {text}")) }
            }
        }
    }

    /// Reads an error of a call for one unit.
    pub(super) fn from_unit_call(unit: &str, error: CallError) -> Self {
        let unit = unit.to_owned();
        match error {
            CallError::Refused { name, .. } if name == "org.freedesktop.systemd1.NoSuchUnit" => {
                Self::NoSuchUnit { unit }
            }
            CallError::Refused { name, text } => {
                Self::Refused { unit, error: clean(&name), reason: clean(&text) }
            }
            error => Self::from_call(error),
        }
    }
}

/// Makes a text from inside fit for a person's terminal: at most 512 characters, no control characters.
pub(super) fn clean(text: &str) -> String {
    text.chars().take(512).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
