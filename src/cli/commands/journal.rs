//! `dormouse journal`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{HumanError, format_time, now_usec, parse_time};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::cli::table::printable;
use crate::wire::unit::JournalEntry;

const PRIORITIES: [&str; 8] = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];

/// Show the journal of the systemd in a container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse journal --unit nginx --lines 20 web
  dormouse journal --follow --priority warning web")]
pub struct Journal {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only of this unit; without a suffix it is a service
    #[arg(short, long, value_name = "UNIT")]
    unit: Option<String>,
    /// Only this priority and more urgent ones: emerg to debug, or 0 to 7
    #[arg(short, long, value_name = "PRIORITY", value_parser = parse_priority)]
    priority: Option<usize>,
    /// Only so many entries at the end [default: all; with --follow 10]
    #[arg(short = 'n', long, value_name = "COUNT")]
    lines: Option<u32>,
    /// Only from this time on: 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(short = 'S', long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time
    #[arg(short = 'U', long, value_name = "TIME")]
    until: Option<String>,
    /// Go on after the entry with this cursor
    #[arg(long, value_name = "CURSOR")]
    after_cursor: Option<String>,
    /// Go on with new entries
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Entries {
    entries: Vec<Value>,
}

impl Journal {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("read the journal in {:?}", self.name);
        let now = now_usec();
        let time = |text: &Option<String>| {
            let time = text.as_deref().map(|text| parse_time(text, now)).transpose();
            time.map_err(|error: HumanError| CliError::usage(error.to_string()))
        };
        let parameters = json!({
            "name": self.name,
            "unit": self.unit,
            "priority": self.priority,
            "lines": self.lines,
            "sinceUSec": time(&self.since)?,
            "untilUSec": time(&self.until)?,
            "afterCursor": self.after_cursor,
            "follow": self.follow.then_some(true),
        });
        let mut all = Vec::new();
        service.stream(&attempted, "io.dormouse.Unit.Journal", parameters, |reply: Entries| {
            match self.form.format {
                Format::Table => {
                    let mut text = String::new();
                    for entry in &reply.entries {
                        text.push_str(&line(&typed(&attempted, entry)?));
                    }
                    print(&text)
                }
                Format::Jsonlines => reply.entries.iter().try_for_each(print_line),
                Format::Json => {
                    all.extend(reply.entries);
                    Ok(())
                }
            }
        })?;
        if self.form.format == Format::Json {
            print_list(Format::Json, &all, || Ok(String::new()))
        } else {
            Ok(())
        }
    }
}

/// An entry as journalctl shows it; further lines of its message are indented.
fn line(entry: &JournalEntry) -> String {
    let source = entry.identifier.as_deref().or(entry.unit.as_deref()).unwrap_or("unknown");
    let pid = entry.pid.map_or(String::new(), |pid| format!("[{pid}]"));
    let message: Vec<String> = entry.message.lines().map(printable).collect();
    format!("{} {}{pid}: {}\n", format_time(entry.timeUSec), printable(source), message.join("\n    "))
}

pub(super) fn parse_priority(text: &str) -> Result<usize, String> {
    PRIORITIES
        .iter()
        .position(|name| *name == text)
        .or_else(|| text.parse().ok().filter(|number| *number < PRIORITIES.len()))
        .ok_or_else(|| format!("{text:?} is no priority; write one of {} or 0 to 7", PRIORITIES.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_look_as_in_journalctl_and_cannot_steer_the_terminal() {
        let entry: JournalEntry = typed(
            "test",
            &json!({"timeUSec": 0, "identifier": "cron", "pid": 7, "message": "one\n\u{1b}[2Jtwo", "cursor": "c"}),
        )
        .unwrap();
        assert_eq!(line(&entry), "1970-01-01T00:00:00.000000Z cron[7]: one\n    \u{fffd}[2Jtwo\n");
    }

    #[test]
    fn priorities_have_names_and_numbers() {
        assert_eq!(parse_priority("warning"), Ok(4));
        assert_eq!(parse_priority("7"), Ok(7));
        assert!(parse_priority("8").is_err());
        assert!(parse_priority("loud").is_err());
    }
}
