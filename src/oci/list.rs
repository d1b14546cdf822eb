//! `list` and `state`.

use std::io::Write as _;

use serde_json::{Value, json};

use super::Context;
use super::arguments::ListFormat;
use super::error::OciError;
use super::state::{Container, Status};

/// Tells all containers.
///
/// # Errors
/// [`OciError::File`].
pub fn list(context: &Context, format: ListFormat, quiet: bool) -> Result<(), OciError> {
    let containers = context.root.containers()?;
    if quiet {
        return containers.iter().try_for_each(|container| say(&container.record.id));
    }
    if format == ListFormat::Json {
        let all: Vec<Value> = containers.iter().map(whole_state).collect();
        return say(&json!(all).to_string());
    }
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    for container in &containers {
        let status = container.status();
        let pid = container.record.init.filter(|_| status != Status::Stopped).map_or(0, |init| init.pid);
        let record = &container.record;
        let bundle = record.bundle.display().to_string();
        let owner = owner(record.owner);
        rows.push([
            record.id.clone(),
            pid.to_string(),
            status.as_str().to_owned(),
            bundle,
            record.created.clone(),
            owner,
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        say(cells.join("   ").trim_end())?;
    }
    Ok(())
}

/// Tells the state of one.
///
/// # Errors
/// [`OciError::NotFound`].
pub fn state(context: &Context, id: &str) -> Result<(), OciError> {
    let state = whole_state(&context.root.container(id)?);
    say(&serde_json::to_string_pretty(&state).unwrap_or_default())
}

/// The state that the specification has, and what others tell beside it.
fn whole_state(container: &Container) -> Value {
    let record = &container.record;
    let status = container.status();
    let mut state = container.state(status);
    if status == Status::Stopped {
        state["pid"] = json!(0);
    }
    state["rootfs"] = json!(record.rootfs);
    state["created"] = json!(record.created);
    state["owner"] = json!(owner(record.owner));
    state
}

/// A user's name, from the host's own list.
fn owner(uid: u32) -> String {
    let found = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid));
    found.ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Writes a line to standard output.
///
/// # Errors
/// [`OciError::Host`].
pub fn say(line: &str) -> Result<(), OciError> {
    match writeln!(std::io::stdout(), "{line}") {
        // Who has seen enough has gone.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| OciError::Host { what: "write to standard output", source }),
    }
}
