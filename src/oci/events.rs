//! `events`: what a container uses, in the form that runc tells it in.

use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::create::is_up;
use super::error::OciError;
use super::kill::with_cgroup;
use super::list::say;
use crate::runtime::cgroup::Usage;

/// Tells it once, or for as long as the container runs; then also that memory has run out.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], [`OciError::Cgroup`], [`OciError::Argument`].
pub fn events(context: &Context, id: &str, once: bool, interval: &str) -> Result<(), OciError> {
    let interval = duration(interval).ok_or_else(|| OciError::Argument {
        argument: "--interval",
        reason: format!("{interval:?} is no time like 5s or 500ms"),
    })?;
    let container = context.root.container(id)?;
    let status = container.status();
    if !is_up(status) {
        return Err(container.wrong("watch", status, "running"));
    }
    let cgroup = with_cgroup(&container)?;
    let mut kills_before = None;
    loop {
        let usage = match cgroup.usage() {
            // It has ended meanwhile.
            Err(_) if !is_up(container.status()) => return Ok(()),
            other => other?,
        };
        if kills_before.is_some_and(|before| usage.oom_kills.unwrap_or(0) > before) {
            say(&json!({"type": "oom", "id": id}).to_string())?;
        }
        kills_before = Some(usage.oom_kills.unwrap_or(0));
        say(&json!({"type": "stats", "id": id, "data": statistics(&usage)}).to_string())?;
        if once {
            return Ok(());
        }
        if let Some(pidfd) = container.record.init.and_then(super::process::ProcessRef::open) {
            super::process::ends_within(&pidfd, interval);
        }
        if !is_up(container.status()) {
            return Ok(());
        }
    }
}

fn statistics(usage: &Usage) -> Value {
    let nanoseconds = |usec: Option<u64>| usec.unwrap_or(0).saturating_mul(1000);
    let io = usage.io.unwrap_or_default();
    json!({
        "cpu": {
            "usage": {
                "total": nanoseconds(usage.cpu_usec),
                "kernel": nanoseconds(usage.cpu_system_usec),
                "user": nanoseconds(usage.cpu_user_usec),
            },
            "throttling": {"throttledTime": nanoseconds(usage.cpu_throttled_usec)},
        },
        "memory": {
            "cache": usage.memory_cache_bytes.unwrap_or(0),
            "usage": {
                "usage": usage.memory_bytes.unwrap_or(0),
                "max": usage.memory_peak_bytes.unwrap_or(0),
                "limit": usage.memory_max_bytes.unwrap_or(u64::MAX),
                "failcnt": usage.oom_kills.unwrap_or(0),
            },
            "swap": {"usage": usage.swap_bytes.unwrap_or(0)},
        },
        "pids": {"current": usage.pids.unwrap_or(0), "limit": usage.pids_max.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": [{"op": "Read", "value": io.read_bytes}, {"op": "Write", "value": io.written_bytes}],
            "ioServicedRecursive": [{"op": "Read", "value": io.read_operations}, {"op": "Write", "value": io.write_operations}],
        },
    })
}

/// `5s`, `500ms`, `1m`.
fn duration(text: &str) -> Option<Duration> {
    let at = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().ok().filter(|number| *number > 0)?;
    let milliseconds = match unit {
        "ms" => number,
        "s" | "" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    Some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        for bad in ["0s", "", "-1s", "5x", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
