//! `dormouse events`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_time, now_usec, parse_time};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::cli::table::{printable, short_id};
use crate::wire::manager::{Event, Event_type as Type};

const ATTEMPTED: &str = "read events";
const METHOD: &str = "io.dormouse.Manager.Events";

/// Show what happens to containers and images, as it happens
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse events --since 10m
  dormouse events --no-stream --name web        what has happened since the host booted
  dormouse events --action oom --format jsonlines")]
pub struct Events {
    /// Only from this time on: 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only of this container or image
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only this action: create, start, ready, exit, oom, remove, …
    #[arg(long = "action", value_name = "ACTION", value_delimiter = ',')]
    actions: Vec<String>,
    /// Show what has happened, and leave
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Happened {
    events: Vec<Value>,
}

impl Events {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let since = self.since.as_deref().map(|text| parse_time(text, now_usec())).transpose();
        let parameters = json!({
            "sinceUSec": since.map_err(|error| CliError::usage(error.to_string()))?,
            "names": (!self.names.is_empty()).then_some(&self.names),
            "actions": (!self.actions.is_empty()).then_some(&self.actions),
        });
        if self.no_stream {
            let happened: Happened = service.call(ATTEMPTED, METHOD, parameters)?;
            return print_list(self.form.format, &happened.events, || {
                happened.events.iter().map(line).collect()
            });
        }
        service.stream(ATTEMPTED, METHOD, parameters, |happened: Happened| match self.form.format {
            Format::Table => print(&happened.events.iter().map(line).collect::<Result<String, _>>()?),
            // A stream has no end at which an array could be closed.
            Format::Json | Format::Jsonlines => happened.events.iter().try_for_each(print_line),
        })
    }
}

fn line(event: &Value) -> Result<String, CliError> {
    let event: Event = typed(ATTEMPTED, event)?;
    let kind = match event.r#type {
        Type::container => "container",
        Type::image => "image",
        Type::network => "network",
        Type::volume => "volume",
        Type::secret => "secret",
    };
    let code = event.exitCode.map_or(String::new(), |code| format!(" (exit code {code})"));
    Ok(format!(
        "{} {kind} {} {} {}{code}\n",
        format_time(event.timeUSec),
        printable(&event.action),
        short_id(&event.id, false),
        printable(&event.name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = json!({"timeUSec": 0, "type": "container", "action": "exit", "id": "0123456789abcdef", "name": "web", "exitCode": 3});
        assert_eq!(
            line(&event).unwrap(),
            "1970-01-01T00:00:00.000000Z container exit 0123456789ab web (exit code 3)\n"
        );
    }
}
