//! `ps`: which processes run in a container.

use std::process::{Command, Stdio};

use serde_json::json;

use super::Context;
use super::arguments::ListFormat;
use super::create::is_up;
use super::error::OciError;
use super::kill::with_cgroup;
use super::list::say;

/// Tells their pids, or has the host's ps(1) tell more of them.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], [`OciError::Host`] without ps(1).
pub fn ps(context: &Context, id: &str, format: ListFormat, options: &[String]) -> Result<(), OciError> {
    let container = context.root.container(id)?;
    let status = container.status();
    if !is_up(status) {
        return Err(container.wrong("list the processes of", status, "running"));
    }
    let mut pids = with_cgroup(&container)?.processes()?;
    pids.sort_unstable();
    if format == ListFormat::Json {
        return say(&json!(pids).to_string());
    }
    let failed = |source| OciError::Host { what: "run ps(1), which --format json does without", source };
    let default = ["-ef".to_owned()];
    let output = Command::new("ps")
        .args(if options.is_empty() { &default[..] } else { options })
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let Some(head) = lines.next() else { return Ok(()) };
    let column =
        head.split_whitespace().position(|name| name == "PID").ok_or_else(|| OciError::Argument {
            argument: "OPTION",
            reason: "with these, ps(1) does not tell the PID, by which the container's processes are found"
                .to_owned(),
        })?;
    say(head)?;
    let of_container = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse::<i32>().ok());
        pid.is_some_and(|pid| pids.binary_search(&pid).is_ok())
    };
    lines.filter(of_container).try_for_each(say)
}
