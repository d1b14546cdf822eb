//! Processes of containers as tables.

use crate::api::looked_up;
use crate::engine::Process;

use super::super::errors::{failed, occurred};
use super::super::text::now_usec;
use super::super::{Call, CallError, PodmanInterface, wire};

type Column = (&'static str, &'static str, fn(&Process) -> String);

/// What ps(1) calls them, their heads, and what is in them.
const COLUMNS: &[Column] = &[
    ("user", "USER", user),
    ("pid", "PID", |process| process.pid.to_string()),
    ("ppid", "PPID", |process| process.parent_pid.to_string()),
    ("pcpu", "%CPU", share),
    ("etime", "ELAPSED", |process| elapsed(lifetime(process))),
    ("tty", "TTY", |process| process.terminal.clone().unwrap_or_else(|| "?".to_owned())),
    ("time", "TIME", |process| elapsed_cpu(process.cpu_usec)),
    ("args", "COMMAND", arguments),
    ("comm", "COMMAND", |process| process.name.clone()),
    ("group", "GROUP", |process| process.gid.to_string()),
    ("hgroup", "HGROUP", |process| process.gid.to_string()),
    ("hpid", "HPID", |process| process.host_pid.to_string()),
    ("huser", "HUSER", |process| process.uid.to_string()),
    ("nice", "NI", |process| process.nice.to_string()),
    ("state", "STATE", |process| process.state.to_string()),
    ("stime", "STIME", |process| super::super::text::time(Some(process.started_usec))),
    ("vsz", "VSZ", |process| (process.virtual_bytes >> 10).to_string()),
    ("rss", "RSS", |process| (process.resident_bytes >> 10).to_string()),
    ("uid", "UID", |process| process.uid.to_string()),
    ("gid", "GID", |process| process.gid.to_string()),
];

/// What is shown unless something is asked for.
const USUAL: [&str; 8] = ["user", "pid", "ppid", "pcpu", "etime", "tty", "time", "args"];

/// Columns of a table.
pub(in super::super) struct Columns(Vec<&'static Column>);

impl Columns {
    /// Reads descriptors, as in `pid`, `%C` for some of them, or several in one with commas.
    pub(in super::super) fn parse(descriptors: &[String]) -> Result<Self, CallError> {
        let mut columns = Vec::new();
        for word in descriptors.iter().flat_map(|text| text.split([',', ' '])).filter(|word| !word.is_empty())
        {
            let plain = word.to_ascii_lowercase();
            let name = match plain.trim_start_matches('%') {
                "cpu" => "pcpu",
                "command" | "cmd" => "args",
                other => other,
            };
            let column = COLUMNS.iter().find(|(known, ..)| *known == name).ok_or_else(|| {
                let known: Vec<&str> = COLUMNS.iter().map(|(known, ..)| *known).collect();
                occurred(format!("there is no descriptor {word:?}; {} are known", known.join(", ")))
            })?;
            columns.push(column);
        }
        if columns.is_empty() {
            columns = COLUMNS.iter().filter(|(name, ..)| USUAL.contains(name)).collect();
        }
        Ok(Self(columns))
    }
}

/// The heads and a line for each process, separated by tabs.
pub(in super::super) fn table(columns: &Columns, processes: &[Process]) -> Vec<String> {
    let heads = columns.0.iter().map(|(_, head, _)| *head).collect::<Vec<_>>().join("\t");
    let line =
        |process: &Process| columns.0.iter().map(|(.., text)| text(process)).collect::<Vec<_>>().join("\t");
    std::iter::once(heads).chain(processes.iter().map(line)).collect()
}

impl PodmanInterface {
    pub(super) async fn top(&self, call: &mut Call) -> Result<(), CallError> {
        let of_top = call.method() == "Top";
        let (name, descriptors) = if of_top {
            let given: wire::Top_Args = call.parameters()?;
            (given.nameOrID, given.descriptors)
        } else {
            // Options of ps(1), which is not run.
            let given: wire::ListContainerProcesses_Args = call.parameters()?;
            (given.name, Vec::new())
        };
        let columns = Columns::parse(&descriptors)?;
        let id = self.id_of(&name).await.map_err(failed)?;
        let engine = self.engine.clone();
        let lines = table(&columns, &looked_up(move || engine.top(&id)).await.map_err(failed)?);
        if of_top {
            call.reply(wire::Top_Reply { top: lines }).await
        } else {
            call.reply(wire::ListContainerProcesses_Reply { container: lines }).await
        }
    }
}

fn user(process: &Process) -> String {
    process.user.clone().unwrap_or_else(|| process.uid.to_string())
}

fn arguments(process: &Process) -> String {
    if process.command.is_empty() { format!("[{}]", process.name) } else { process.command.join(" ") }
}

fn lifetime(process: &Process) -> u64 {
    u64::try_from(now_usec() - process.started_usec).unwrap_or_default()
}

/// Percent of a CPU over its life, with three digits.
fn share(process: &Process) -> String {
    let thousandths = process.cpu_usec.saturating_mul(100_000) / lifetime(process).max(1);
    format!("{}.{:03}", thousandths / 1000, thousandths % 1000)
}

/// As Go prints a duration: `1h2m3.5s`.
fn elapsed(usec: u64) -> String {
    let seconds = usec / 1_000_000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = format!("{}.{:06}", seconds % 60, usec % 1_000_000);
    let rest = rest.trim_end_matches('0').trim_end_matches('.');
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn elapsed_cpu(usec: u64) -> String {
    elapsed(usec / 10_000 * 10_000)
}
