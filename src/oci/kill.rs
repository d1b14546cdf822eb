//! `kill`, `pause` and `resume`.

use std::os::fd::AsFd as _;

use super::Context;
use super::arguments::KillArguments;
use super::create::is_up;
use super::error::OciError;
use super::process::ProcessRef;
use super::state::{Container, Status};
use crate::runtime::{self, Cgroup};

/// Sends a signal.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], [`OciError::Argument`], [`OciError::Host`].
pub fn kill(context: &Context, arguments: &KillArguments) -> Result<(), OciError> {
    let signal = signal_number(&arguments.signal).ok_or_else(|| OciError::Argument {
        argument: "SIGNAL",
        reason: format!("{:?} is no signal", arguments.signal),
    })?;
    let container = context.root.container(&arguments.id)?;
    let status = container.status();
    let cgroup = container.cgroup()?;
    if arguments.all
        && let Some(cgroup) = cgroup.filter(Cgroup::exists)
    {
        // Of one that has stopped, processes may be left.
        return Ok(cgroup.kill_all(signal)?);
    }
    if !is_up(status) {
        return Err(container.wrong("kill", status, "created or running"));
    }
    let gone = || container.wrong("kill", Status::Stopped, "created or running");
    let pidfd = container.record.init.and_then(ProcessRef::open).ok_or_else(gone)?;
    match runtime::pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(rustix::io::Errno::SRCH) => Err(gone()),
        other => other.map_err(|errno| OciError::Host { what: "send the signal", source: errno.into() }),
    }
}

/// Stops all processes where they are.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], [`OciError::Cgroup`].
pub fn pause(context: &Context, id: &str) -> Result<(), OciError> {
    let container = context.root.container_to_change(id)?;
    match container.status() {
        Status::Running => {
            let cgroup = with_cgroup(&container)?;
            cgroup.freeze().map_err(|error| {
                // All or nothing.
                let _ = cgroup.thaw();
                error.into()
            })
        }
        other => Err(container.wrong("pause", other, "running")),
    }
}

/// Lets them go on.
///
/// # Errors
/// As [`pause`].
pub fn resume(context: &Context, id: &str) -> Result<(), OciError> {
    let container = context.root.container_to_change(id)?;
    match container.status() {
        Status::Paused => Ok(with_cgroup(&container)?.thaw()?),
        other => Err(container.wrong("resume", other, "paused")),
    }
}

/// The cgroup of a container, without which some things can't be.
///
/// # Errors
/// [`OciError::Argument`].
pub fn with_cgroup(container: &Container) -> Result<Cgroup, OciError> {
    container.cgroup()?.filter(|cgroup| !cgroup.is_none()).ok_or_else(|| OciError::Argument {
        argument: "ID",
        reason: format!(
            "container {:?} has no cgroup: its user may not make any, but where one is delegated to it",
            container.record.id
        ),
    })
}

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |name: &str, base: i32, sign: i32| {
        let rest = name.strip_prefix(if sign > 0 { "RTMIN" } else { "RTMAX" })?;
        let offset = if rest.is_empty() { 0 } else { rest.strip_prefix(['+', '-'])?.parse::<i32>().ok()? };
        (0..=30).contains(&offset).then_some(base + sign * offset)
    };
    // What the C library calls the first and the last; it keeps two for itself.
    if let Some(number) = real_time(name, 34, 1).or_else(|| real_time(name, 64, -1)) {
        return Some(number);
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("15", Some(15)),
            ("SIGTERM", Some(15)),
            ("kill", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("rtmax", Some(64)),
            ("RTMAX-1", Some(63)),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
            ("RTMIN+99", None),
            ("", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
