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
use crate::wire::manager::{Event, Event_health as Health, Event_type as Type};

const ATTEMPTED: &str = "read events";
const METHOD: &str = "io.dormouse.Manager.Events";

/// Show what happens, as it happens
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse events --since 10m
  dormouse events --no-stream --filter container=web        what has happened since the host booted
  dormouse events --filter event=oom --filter event=health --format jsonlines
  dormouse events --cursor CURSOR --format jsonlines        goes on after the event that had this cursor

Several filters of the same kind are alternatives.")]
pub struct Events {
    /// Only from this time on: 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time; leaves when it comes
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only after the event that has this cursor; misses nothing, or fails
    #[arg(long, value_name = "CURSOR", conflicts_with = "since")]
    cursor: Option<String>,
    /// Only those with: event=, type=, name=, container=, image=, volume=, network= or pod=
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Only of what has this name or id
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Only this action: create, start, ready, health, exit, oom, remove, …
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
        let parameters = self.parameters(now_usec())?;
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

    fn parameters(&self, now: i64) -> Result<Value, CliError> {
        let time = |text: &Option<String>| {
            let parsed = text.as_deref().map(|text| parse_time(text, now)).transpose();
            parsed.map_err(|error| CliError::usage(error.to_string()))
        };
        let (mut names, mut actions, mut types) = (self.names.clone(), self.actions.clone(), Vec::new());
        for filter in &self.filters {
            match filter.split_once('=') {
                Some(("event" | "action", action)) => actions.push(action.to_owned()),
                Some(("type", kind)) => types.push(kind),
                Some(("name" | "id", name)) => names.push(name.to_owned()),
                // With what happens in it.
                Some(("container", name)) => {
                    types.extend(["container", "exec", "unit"]);
                    names.push(name.to_owned());
                }
                Some((kind @ ("image" | "volume" | "network" | "pod"), name)) => {
                    types.push(kind);
                    names.push(name.to_owned());
                }
                _ => {
                    return Err(CliError::usage(format!("--filter: {filter:?} is no filter")).with_hint(
                        "event=, type=, name=, container=, image=, volume=, network= and pod= are known",
                    ));
                }
            }
        }
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        Ok(json!({
            "sinceUSec": time(&self.since)?, "untilUSec": time(&self.until)?, "afterCursor": self.cursor,
            "names": some(&names), "actions": some(&actions), "types": (!types.is_empty()).then_some(types),
        }))
    }
}

fn line(event: &Value) -> Result<String, CliError> {
    let event: Event = typed(ATTEMPTED, event)?;
    let kind = match event.r#type {
        Type::container => "container",
        Type::exec => "exec",
        Type::image => "image",
        Type::volume => "volume",
        Type::network => "network",
        Type::pod => "pod",
        Type::unit => "unit",
        Type::secret => "secret",
    };
    let health = event.health.map(|health| match health {
        Health::starting => "starting",
        Health::healthy => "healthy",
        Health::unhealthy => "unhealthy",
    });
    let particulars: Vec<String> = [
        event.unit.clone(),
        health.map(str::to_owned),
        event.signal.clone(),
        event.oldName.map(|name| format!("was {name}")),
        event.container.map(|id| format!("container {}", short_id(&id, false))),
        event.pid.map(|pid| format!("pid {pid}")),
        event.exitCode.map(|code| format!("exit code {code}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let particulars =
        if particulars.is_empty() { String::new() } else { format!(" ({})", particulars.join(", ")) };
    Ok(format!(
        "{} {kind} {} {} {}{}\n",
        format_time(event.timeUSec),
        printable(&event.action),
        short_id(&event.id, false),
        printable(&event.name),
        printable(&particulars),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let event = json!({"cursor": "1-1", "timeUSec": 0, "type": "container", "action": "exit", "id": "0123456789abcdef", "name": "web", "exitCode": 3});
        assert_eq!(
            line(&event).unwrap(),
            "1970-01-01T00:00:00.000000Z container exit 0123456789ab web (exit code 3)\n"
        );
    }

    #[test]
    fn filters_are_those_of_podman_too() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            events: Events,
        }
        let parameters = |arguments: &[&str]| {
            use clap::Parser as _;
            let line = Line::parse_from(std::iter::once(&"events").chain(arguments));
            line.events.parameters(100_000_000)
        };
        let given =
            parameters(&["--filter", "container=web", "--filter", "event=oom", "--until", "10s"]).unwrap();
        assert_eq!(given["types"], json!(["container", "exec", "unit"]));
        assert_eq!(
            (&given["names"], &given["actions"], &given["untilUSec"]),
            (&json!(["web"]), &json!(["oom"]), &json!(90_000_000))
        );
        assert!(parameters(&["--filter", "colour=red"]).is_err());
    }
}
