//! Times, sizes and states as Podman writes them.

use crate::engine::Phase;
use crate::image::{parse_rfc3339, rfc3339};

/// What Go writes for no time.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Microseconds of CLOCK_REALTIME.
pub(super) fn now_usec() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// RFC 3339 with a fraction, if there is one.
pub(super) fn time(usec: Option<i64>) -> String {
    usec.and_then(|usec| u64::try_from(usec).ok()).map_or_else(|| NEVER.to_owned(), rfc3339)
}

/// RFC 3339 to the second.
pub(super) fn time_of_second(usec: i64) -> String {
    rfc3339(u64::try_from(usec).unwrap_or_default() / 1_000_000 * 1_000_000)
}

/// The time of a log line: with nine digits, and a zone in numbers.
pub(super) fn log_time(usec: i64) -> String {
    let usec = u64::try_from(usec).unwrap_or_default();
    let second = rfc3339(usec / 1_000_000 * 1_000_000);
    format!("{}.{:06}000+00:00", second.trim_end_matches('Z'), usec % 1_000_000)
}

/// Reads RFC 3339, or seconds since 1970. Nothing, and times before 1970, are no bound.
pub(super) fn bound(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = match text.parse::<i64>() {
        Ok(seconds) => seconds.checked_mul(1_000_000),
        Err(_) => parse_rfc3339(text),
    };
    match parsed {
        Some(usec) => Ok(Some(usec).filter(|usec| *usec > 0)),
        None => Err(format!("{text:?} is no time of RFC 3339")),
    }
}

/// `5 seconds`, `About an hour`: as Go programs tell a person how long.
pub(super) fn duration(usec: i64) -> String {
    let seconds = usec.max(0) / 1_000_000;
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (2..60, ..) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..60, _) => format!("{minutes} minutes"),
        (_, _, 1) => "About an hour".to_owned(),
        (_, _, 2..48) => format!("{hours} hours"),
        (_, _, 48..336) => format!("{} days", hours / 24),
        (_, _, 336..1440) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..17_520) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// How long ago.
pub(super) fn ago(usec: i64) -> String {
    format!("{} ago", duration(now_usec() - usec))
}

/// The word for a state, in lower case.
pub(super) fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Created => "configured",
        Phase::Starting => "created",
        Phase::Running | Phase::Stopping => "running",
        Phase::Paused => "paused",
        Phase::Exited | Phase::Failed => "exited",
    }
}

/// The number for a state.
pub(super) fn state_number(phase: Phase) -> u8 {
    match phase {
        Phase::Created => 1,
        Phase::Starting => 2,
        Phase::Running | Phase::Stopping => 3,
        Phase::Paused => 5,
        Phase::Exited | Phase::Failed => 6,
    }
}

/// The words that a state may be asked for by.
pub(super) const STATES: [&str; 8] =
    ["unknown", "configured", "created", "running", "stopped", "paused", "exited", "removing"];

/// A number that the wire has no room for is the largest.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A count on the wire.
pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Bytes as Go programs show them: `3.2MB`.
pub(super) fn size(bytes: i64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut whole, mut tenths, mut unit) = (bytes.max(0), 0, 0);
    while whole >= 1000 && unit + 1 < units.len() {
        tenths = whole % 1000 / 100;
        whole /= 1000;
        unit += 1;
    }
    if tenths == 0 { format!("{whole}{}", units[unit]) } else { format!("{whole}.{tenths}{}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_go_reads() {
        assert_eq!(time(None), "0001-01-01T00:00:00Z");
        assert_eq!(time(Some(1_795_453_138_123_456)), "2026-11-23T16:58:58.123456Z");
        assert_eq!(time_of_second(1_795_453_138_123_456), "2026-11-23T16:58:58Z");
        assert_eq!(log_time(1_795_453_138_000_456), "2026-11-23T16:58:58.000456000+00:00");
        assert_eq!(bound(""), Ok(None));
        assert_eq!(bound(NEVER), Ok(None));
        assert_eq!(bound("2026-11-23T16:58:58Z"), Ok(Some(1_795_453_138_000_000)));
        assert!(bound("yesterday").is_err());
    }

    #[test]
    fn durations_are_what_people_say() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (3 * 3600, "3 hours"),
            (3 * 86_400, "3 days"),
            (21 * 86_400, "3 weeks"),
            (90 * 86_400, "3 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(duration(seconds * 1_000_000), text);
        }
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!((size(0), size(999), size(1_500), size(2_000_000)).3, "2MB");
        assert_eq!(size(1_500), "1.5kB");
    }
}
