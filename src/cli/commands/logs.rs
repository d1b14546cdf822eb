//! `dormouse logs`

use std::io;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::journal::parse_priority;
use crate::cli::color;
use crate::cli::errors::CliError;
use crate::cli::human::{HumanError, now_usec, parse_time};
use crate::cli::lines::{LineWriter, Look};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::cli::several::{self, Order};
use crate::cli::streams::complain;
use crate::wire::container::LogEntry;

const METHOD: &str = "io.dormouse.Container.Logs";

/// Show what containers have written, or the journal of the systemd inside
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse logs --tail 20 --follow web
  dormouse logs --since 10m --timestamps web 2>/dev/null
  dormouse logs -f web db                     each line with the name of its container
  dormouse logs --unit nginx --priority warning web

While a systemd runs in a container, this is its journal. What was written to standard error comes out there again.

Exit codes: 0, 1 if a log could not be read, 2 for arguments that make no sense.")]
pub struct Logs {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// Go on until they end; a restart is no end
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines at the end, of each
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u32>,
    /// Only from this time on: 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time; with --follow, until then
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// When each line was written, in front of it
    #[arg(short, long)]
    timestamps: bool,
    /// The journal of the systemd inside
    #[arg(long, conflicts_with = "output")]
    journal: bool,
    /// What was written to the container's own streams, also where there is a journal
    #[arg(long)]
    output: bool,
    /// Of the journal, only this unit; without a suffix it is a service
    #[arg(short, long, value_name = "UNIT", conflicts_with = "output")]
    unit: Option<String>,
    /// Of the journal, only this priority and more urgent ones: emerg to debug, or 0 to 7
    #[arg(short, long, value_name = "PRIORITY", value_parser = parse_priority, conflicts_with = "output")]
    priority: Option<usize>,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Entries {
    entries: Vec<Value>,
}

impl Logs {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let parameters = self.parameters()?;
        if let [name] = self.names.as_slice() {
            let attempted = attempted(name);
            let mut sink = Sink::new(&self, vec![self.look(None, 0)]);
            service.stream(&attempted, METHOD, named(&parameters, name), |reply: Entries| {
                sink.take(0, reply.entries)
            })?;
            return sink.finish();
        }
        let width = self.names.iter().map(String::len).max().unwrap_or(0);
        let looks =
            self.names.iter().enumerate().map(|(number, name)| self.look(Some((name, width)), number));
        let mut sink = Sink::new(&self, looks.collect());
        let order = if self.follow { Order::AsItComes } else { Order::ByTime };
        let mut failed = false;
        several::stream(
            &self.names,
            order,
            |name, each| {
                service.stream(attempted(name), METHOD, named(&parameters, name), |reply: Entries| {
                    each(reply.entries)
                })
            },
            |number, entries| sink.take(number, entries),
            |error| {
                complain(&error.render());
                failed = true;
            },
        )?;
        sink.finish()?;
        if failed { Err(CliError::told()) } else { Ok(()) }
    }

    fn parameters(&self) -> Result<Value, CliError> {
        let now = now_usec();
        let time = |text: &Option<String>| {
            let time = text.as_deref().map(|text| parse_time(text, now)).transpose();
            time.map_err(|error: HumanError| CliError::usage(error.to_string()))
        };
        let source = match (self.journal, self.output) {
            (true, _) => Some("journal"),
            (_, true) => Some("output"),
            _ => None,
        };
        Ok(json!({
            "follow": self.follow.then_some(true),
            "tail": self.tail,
            "sinceUSec": time(&self.since)?,
            "untilUSec": time(&self.until)?,
            "source": source,
            "unit": self.unit,
            "priority": self.priority,
        }))
    }

    fn look(&self, name: Option<(&String, usize)>, number: usize) -> Look {
        Look {
            prefix: name.map(|(name, width)| format!("{name:<width$} | ")),
            number,
            timestamps: self.timestamps,
            colours: (color::on_stdout(), color::on_stderr()),
        }
    }
}

fn attempted(name: &str) -> String {
    format!("read the log of {name:?}")
}

fn named(parameters: &Value, name: &str) -> Value {
    let mut parameters = parameters.clone();
    parameters["name"] = json!(name);
    parameters
}

/// Where the entries go, from whichever container.
struct Sink<'a> {
    logs: &'a Logs,
    writers: Vec<LineWriter>,
    all: Vec<Value>,
}

impl<'a> Sink<'a> {
    fn new(logs: &'a Logs, looks: Vec<Look>) -> Self {
        Self { logs, writers: looks.into_iter().map(LineWriter::new).collect(), all: Vec::new() }
    }

    fn take(&mut self, number: usize, mut entries: Vec<Value>) -> Result<(), CliError> {
        if self.logs.form.format == Format::Table {
            let attempted = attempted(&self.logs.names[number]);
            let entries: Vec<LogEntry> =
                entries.iter().map(|entry| typed(&attempted, entry)).collect::<Result<_, _>>()?;
            return self.writers[number]
                .write(&entries, &mut io::stdout().lock(), &mut io::stderr().lock())
                .map_err(|error| CliError::io("write the log", &error));
        }
        if self.writers.len() > 1 {
            for entry in &mut entries {
                entry["name"] = json!(self.logs.names[number]);
            }
        }
        if self.logs.form.format == Format::Jsonlines {
            return entries.iter().try_for_each(print_line);
        }
        self.all.extend(entries);
        Ok(())
    }

    fn finish(mut self) -> Result<(), CliError> {
        if self.logs.form.format == Format::Json {
            return print_list(Format::Json, &self.all, || Ok(String::new()));
        }
        for writer in &mut self.writers {
            writer
                .finish(&mut io::stdout().lock(), &mut io::stderr().lock())
                .map_err(|error| CliError::io("write the log", &error))?;
        }
        Ok(())
    }
}
