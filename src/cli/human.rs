//! Sizes, durations and times as people write and read them. Knows nothing of containers.
//!
//! Times are microseconds of CLOCK_REALTIME throughout; they are shown in UTC, so that the output of two hosts compares.

use std::time::{SystemTime, UNIX_EPOCH};

const USEC_PER_SEC: i64 = 1_000_000;
const SEC_PER_DAY: i64 = 86_400;

/// A text that is no size, duration or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HumanError {
    /// Not a number with a unit of size.
    #[error("{text:?} is no size; write a number and b, k, m, g or t, as in 512m")]
    Size {
        /// What was given.
        text: String,
    },
    /// Not a number with a unit of time.
    #[error("{text:?} is no duration; write seconds, or numbers with us, ms, s, m, h or d, as in 1m30s")]
    Duration {
        /// What was given.
        text: String,
    },
    /// Neither a duration nor a point in time.
    #[error(
        "{text:?} is no time; write 2026-01-31, 2026-01-31T12:00:00Z, seconds since 1970, or 10m for ten minutes ago"
    )]
    Time {
        /// What was given.
        text: String,
    },
}

/// Returns the present time in microseconds.
pub fn now_usec() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Reads a size in bytes: `10m`, `1g`, `1.5GiB`, `4096`. Units count by 1024, as podman's do.
///
/// # Errors
/// [`HumanError::Size`] for anything else, and for what does not fit.
pub fn parse_size(text: &str) -> Result<i64, HumanError> {
    let error = || HumanError::Size { text: text.to_owned() };
    let (number, unit) = split_number(text);
    let factor: i64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return Err(error()),
    };
    scaled(number, factor).ok_or_else(error)
}

/// Reads a duration in microseconds: `90` (seconds), `500ms`, `1m30s`, `2d`.
///
/// # Errors
/// [`HumanError::Duration`] for anything else, and for what does not fit.
pub fn parse_duration(text: &str) -> Result<i64, HumanError> {
    let error = || HumanError::Duration { text: text.to_owned() };
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return Err(error());
    }
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_length);
        let factor = match unit {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "" | "s" | "sec" => USEC_PER_SEC,
            "m" | "min" => 60 * USEC_PER_SEC,
            "h" => 3_600 * USEC_PER_SEC,
            "d" => SEC_PER_DAY * USEC_PER_SEC,
            "w" => 7 * SEC_PER_DAY * USEC_PER_SEC,
            _ => return Err(error()),
        };
        let part = scaled(number, factor).ok_or_else(error)?;
        total = total.checked_add(part).ok_or_else(error)?;
        rest = next;
    }
    Ok(total)
}

/// Reads a point in time: RFC 3339 (the zone may be missing: UTC), a date, seconds since 1970, or a duration before `now`.
///
/// # Errors
/// [`HumanError::Time`] for anything else.
pub fn parse_time(text: &str, now: i64) -> Result<i64, HumanError> {
    let error = || HumanError::Time { text: text.to_owned() };
    if text == "now" {
        return Ok(now);
    }
    let (number, unit) = split_number(text.strip_prefix('@').unwrap_or(text));
    if !number.is_empty() && unit.is_empty() {
        return scaled(number, USEC_PER_SEC).ok_or_else(error);
    }
    if let Ok(before) = parse_duration(text) {
        return Ok(now.saturating_sub(before));
    }
    parse_rfc3339(text).ok_or_else(error)
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let mut parts = date.split('-');
    let year = digits(parts.next()?, 4)?;
    let month = digits(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = digits(parts.next()?, 2).filter(|day| (1..=days_in_month(year, month)).contains(day))?;
    if parts.next().is_some() {
        return None;
    }

    let (clock, offset_sec) = split_zone(time)?;
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = whole.split(':');
    let hour = digits(parts.next()?, 2).filter(|hour| *hour < 24)?;
    let minute = digits(parts.next()?, 2).filter(|minute| *minute < 60)?;
    let second = parts.next().map_or(Some(0), |second| digits(second, 2)).filter(|second| *second <= 60)?;
    if parts.next().is_some() || fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let usec: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let sec =
        days_from_civil(year, month, day) * SEC_PER_DAY + hour * 3_600 + minute * 60 + second - offset_sec;
    sec.checked_mul(USEC_PER_SEC)?.checked_add(usec)
}

/// Splits a time of day from its zone; the offset is in seconds east of UTC.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.rfind(['+', '-']) else { return Some((time, 0)) };
    let (clock, zone) = time.split_at(at);
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    Some((clock, sign * (digits(hours, 2)? * 3_600 + digits(minutes, 2)? * 60)))
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Splits the leading decimal number from what follows.
fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// Multiplies a decimal number, with or without fraction, exactly; the result is rounded down.
fn scaled(number: &str, factor: i64) -> Option<i64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: i64 = whole.parse().ok()?;
    let mut total = i128::from(whole) * i128::from(factor);
    if number.contains('.') {
        if fraction.is_empty() || fraction.len() > 12 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = u32::try_from(fraction.len()).ok()?;
        total += i128::from(fraction.parse::<i64>().ok()?) * i128::from(factor) / 10_i128.pow(digits);
    }
    i64::try_from(total).ok()
}

/// Shows a size: `117.5 MiB`.
pub fn format_size(bytes: i64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut tenths = i128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1_024;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

/// Shows how long something lasts or lasted, in its largest unit: `3 minutes`.
pub fn format_duration(usec: i64) -> String {
    let sec = usec.max(0) / USEC_PER_SEC;
    let (count, unit) = match sec {
        0 => return "less than a second".to_owned(),
        1..=119 => (sec, "second"),
        120..=7_199 => (sec / 60, "minute"),
        7_200..=172_799 => (sec / 3_600, "hour"),
        172_800..=5_183_999 => (sec / SEC_PER_DAY, "day"),
        5_184_000..=63_071_999 => (sec / (30 * SEC_PER_DAY), "month"),
        _ => (sec / (365 * SEC_PER_DAY), "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// Shows how long ago something was: `3 minutes ago`.
pub fn format_ago(then: i64, now: i64) -> String {
    format!("{} ago", format_duration(now.saturating_sub(then)))
}

/// Shows a point in time as RFC 3339 in UTC, to the microsecond.
pub fn format_time(usec: i64) -> String {
    let (sec, fraction) = (usec.div_euclid(USEC_PER_SEC), usec.rem_euclid(USEC_PER_SEC));
    let (days, of_day) = (sec.div_euclid(SEC_PER_DAY), sec.rem_euclid(SEC_PER_DAY));
    let (year, month, day) = civil_from_days(days);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days_from_civil(next_year, next_month, 1) - days_from_civil(year, month, 1)
}

// Days since 1970-01-01 in the Gregorian calendar and back. The year begins in March here, so that the leap day is its
// last; source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_by_1024_and_may_have_a_fraction() {
        let check = |text: &str, expected: i64| assert_eq!(parse_size(text), Ok(expected), "{text}");
        check("0", 0);
        check("4096", 4096);
        check("10m", 10 << 20);
        check("1G", 1 << 30);
        check("1.5GiB", 3 << 29);
        check("64kb", 64 << 10);
        check("7b", 7);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "m", "1x", "-1", "1..5m", "1.m", "9999999999g", "1 g", "10mm"] {
            assert!(parse_size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        let check = |text: &str, expected: i64| assert_eq!(parse_duration(text), Ok(expected), "{text}");
        check("90", 90_000_000);
        check("0", 0);
        check("500ms", 500_000);
        check("1m30s", 90_000_000);
        check("1.5h", 5_400_000_000);
        check("2d", 172_800_000_000);
        check("7us", 7);
        for text in ["", "m", "-5", "1y", "1m30q", "99999999999d"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_are_points_or_durations_ago() {
        let now = 1_000_000_000_000_000;
        let check = |text: &str, expected: i64| assert_eq!(parse_time(text, now), Ok(expected), "{text}");
        check("now", now);
        check("10m", now - 600_000_000);
        check("1700000000", 1_700_000_000_000_000);
        check("1700000000.25", 1_700_000_000_250_000);
        check("@5", 5_000_000);
        check("1970-01-02", 86_400_000_000);
        check("2024-02-29T12:30:15.5Z", 1_709_209_815_500_000);
        check("2024-02-29T14:30:15.5+02:00", 1_709_209_815_500_000);
        check("2024-02-29 12:30", 1_709_209_800_000_000);
        for text in [
            "",
            "yesterday",
            "2023-02-29",
            "2024-13-01",
            "2024-01-01T25:00:00Z",
            "2024-01-01T10:00:00.Z",
            "2024-1-1",
        ] {
            assert!(parse_time(text, now).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_shown_time_reads_back_as_itself() {
        for usec in [0, 1, 951_782_400_000_000, 1_709_209_815_500_000, 4_102_444_799_999_999, -1] {
            assert_eq!(parse_rfc3339(&format_time(usec)), Some(usec), "{}", format_time(usec));
        }
        assert_eq!(format_time(1_709_209_815_500_000), "2024-02-29T12:30:15.500000Z");
    }

    #[test]
    fn sizes_and_durations_are_shown_in_their_largest_unit() {
        assert_eq!(format_size(0), "0 B");
        assert_eq!(format_size(1023), "1023 B");
        assert_eq!(format_size(1536), "1.5 KiB");
        assert_eq!(format_size(123_207_680), "117.5 MiB");
        assert_eq!(format_size(i64::MAX), "8192.0 PiB");
        assert_eq!(format_duration(400), "less than a second");
        assert_eq!(format_duration(1_000_000), "1 second");
        assert_eq!(format_duration(180_000_000), "3 minutes");
        assert_eq!(format_ago(0, 3 * 86_400_000_000), "3 days ago");
        assert_eq!(format_ago(10, 0), "less than a second ago");
    }
}
