//! `dormouse logs`

use std::io::{self, Write};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_time, now_usec, parse_time};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::wire::container::{LogEntry, LogEntry_stream as Stream};

/// Show what a container has written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse logs --tail 20 --follow web
  dormouse logs --since 10m --timestamps web 2>/dev/null

What was written to standard error comes out there again.")]
pub struct Logs {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Go on until it ends
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines at the end
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u32>,
    /// Only from this time on: 10m (ago), 2026-01-31, 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// When each line was written, in front of it
    #[arg(short, long)]
    timestamps: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Entries {
    entries: Vec<Value>,
}

impl Logs {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("read the log of {:?}", self.name);
        let now = now_usec();
        let time = |text: &Option<String>| text.as_deref().map(|text| parse_time(text, now)).transpose();
        let usage = |error: crate::cli::human::HumanError| CliError::usage(error.to_string());
        let parameters = json!({
            "name": self.name,
            "follow": self.follow.then_some(true),
            "tail": self.tail,
            "sinceUSec": time(&self.since).map_err(usage)?,
            "untilUSec": time(&self.until).map_err(usage)?,
        });
        let mut writer = LineWriter { timestamps: self.timestamps, begun: [false; 2] };
        let mut all = Vec::new();
        service.stream(&attempted, "io.dormouse.Container.Logs", parameters, |reply: Entries| match self
            .form
            .format
        {
            Format::Table => {
                let entries: Vec<LogEntry> =
                    reply.entries.iter().map(|entry| typed(&attempted, entry)).collect::<Result<_, _>>()?;
                writer
                    .write(&entries, &mut io::stdout().lock(), &mut io::stderr().lock())
                    .map_err(|error| CliError::io("write the log", &error))
            }
            Format::Jsonlines => reply.entries.iter().try_for_each(print_line),
            Format::Json => {
                all.extend(reply.entries);
                Ok(())
            }
        })?;
        if self.form.format == Format::Json {
            print_list(Format::Json, &all, || Ok(String::new()))
        } else {
            Ok(())
        }
    }
}

/// Puts entries together to lines again, each stream for itself.
struct LineWriter {
    timestamps: bool,
    /// Whether a line of standard output and of standard error has begun and not ended.
    begun: [bool; 2],
}

impl LineWriter {
    fn write(
        &mut self,
        entries: &[LogEntry],
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> io::Result<()> {
        let mut pending = String::new();
        let mut pending_is_stderr = false;
        for entry in entries {
            let is_stderr = entry.stream == Stream::stderr;
            if is_stderr != pending_is_stderr {
                flush(&mut pending, pending_is_stderr, stdout, stderr)?;
                pending_is_stderr = is_stderr;
            }
            let begun = &mut self.begun[usize::from(is_stderr)];
            if self.timestamps && !*begun {
                pending.push_str(&format_time(entry.timeUSec));
                pending.push(' ');
            }
            pending.push_str(&entry.message);
            *begun = entry.partial;
            if !entry.partial {
                pending.push('\n');
            }
        }
        flush(&mut pending, pending_is_stderr, stdout, stderr)
    }
}

fn flush(
    text: &mut String,
    is_stderr: bool,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> io::Result<()> {
    if is_stderr {
        stderr.write_all(text.as_bytes())?;
    } else {
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
    }
    text.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stream: Stream, message: &str, partial: bool) -> LogEntry {
        LogEntry { timeUSec: 1_000_000, stream, message: message.to_owned(), partial }
    }

    #[test]
    fn lines_go_back_to_the_stream_that_they_came_from() {
        let mut writer = LineWriter { timestamps: false, begun: [false; 2] };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let entries = [
            entry(Stream::stdout, "one ", true),
            entry(Stream::stderr, "oops", false),
            entry(Stream::stdout, "line", false),
            entry(Stream::stdout, "two", false),
        ];
        writer.write(&entries, &mut out, &mut err).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "one line\ntwo\n");
        assert_eq!(String::from_utf8(err).unwrap(), "oops\n");
    }

    #[test]
    fn a_line_in_parts_has_one_time_stamp() {
        let mut writer = LineWriter { timestamps: true, begun: [false; 2] };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        writer.write(&[entry(Stream::stdout, "a", true)], &mut out, &mut err).unwrap();
        writer.write(&[entry(Stream::stdout, "b", false)], &mut out, &mut err).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "1970-01-01T00:00:01.000000Z ab\n");
    }
}
