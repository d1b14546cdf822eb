//! `dormouse stats`

use std::io::{self, IsTerminal as _};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_size, parse_duration};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::cli::table::{Table, short_id};
use crate::wire::container::Usage as Reading;

const ATTEMPTED: &str = "read statistics";
const METHOD: &str = "io.dormouse.Container.Stats";

/// Show what running containers use: CPU, memory, processes, traffic
#[derive(Debug, Args)]
#[command(after_help = "\
CPU % is of one CPU: since the last line, or with --no-stream since the container was started. MEM is without what the
kernel keeps of files and could drop at once. On a terminal the table is shown anew in each interval until you leave.

Examples:
  dormouse stats
  dormouse stats --no-stream --format json web
  dormouse stats --interval 5s --format jsonlines     one list in each line")]
pub struct Stats {
    /// Containers, by name, id or a prefix of the id [default: all that run]
    #[arg(value_name = "CONTAINER")]
    names: Vec<String>,
    #[command(flatten)]
    usage: UsageFlags,
}

/// How often it is shown, and how.
#[derive(Debug, Args)]
pub(super) struct UsageFlags {
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// From one reading to the next, in seconds or as in 500ms
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, default_value = "1s")]
    interval: i64,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Readings {
    stats: Vec<Value>,
}

impl Stats {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let names = (!self.names.is_empty()).then_some(&self.names);
        self.usage.show(service, METHOD, json!({ "names": names }))
    }
}

impl UsageFlags {
    /// Calls `method`, and shows what it tells.
    pub(super) fn show(
        &self,
        service: &Service,
        method: &str,
        mut parameters: Value,
    ) -> Result<(), CliError> {
        parameters["intervalUSec"] = json!(self.interval);
        if self.no_stream {
            let readings: Readings = service.call(ATTEMPTED, method, parameters)?;
            return print_list(self.form.format, &readings.stats, || self.table(&readings.stats));
        }
        service.stream(ATTEMPTED, method, parameters, |readings: Readings| {
            if self.form.format != Format::Table {
                return print_line(&Value::Array(readings.stats));
            }
            if io::stdout().is_terminal() {
                // The cursor to the corner, and nothing below it.
                print("\x1b[H\x1b[2J")?;
            }
            print(&self.table(&readings.stats)?)
        })
    }

    fn table(&self, readings: &[Value]) -> Result<String, CliError> {
        let mut table = Table::new(&[
            "CONTAINER ID",
            "NAME",
            "CPU %",
            "MEM",
            "LIMIT",
            "MEM %",
            "NET IN / OUT",
            "BLOCK READ / WRITTEN",
            "PIDS",
        ])
        .whole(self.no_trunc);
        for reading in readings {
            let reading: Reading = typed(ATTEMPTED, reading)?;
            table.row(self.row(&reading));
        }
        Ok(table.render())
    }

    fn row(&self, reading: &Reading) -> [String; 9] {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let size = |bytes: Option<i64>| or_dash(bytes.map(format_size));
        let both = |one: Option<i64>, other: Option<i64>| format!("{} / {}", size(one), size(other));
        let sum = |of: fn(&crate::wire::container::InterfaceStats) -> i64| {
            let some = !reading.interfaces.is_empty();
            some.then(|| reading.interfaces.iter().map(of).fold(0, i64::saturating_add))
        };
        [
            short_id(&reading.id, self.no_trunc),
            reading.name.clone(),
            or_dash(reading.cpuPercent.map(|percent| format!("{percent:.1}"))),
            size(reading.memoryBytes),
            size(reading.memoryMaxBytes),
            or_dash(percent(reading.memoryBytes, reading.memoryMaxBytes)),
            both(sum(|interface| interface.receivedBytes), sum(|interface| interface.sentBytes)),
            both(reading.ioReadBytes, reading.ioWrittenBytes),
            or_dash(reading.pids.map(|pids| pids.to_string())),
        ]
    }
}

fn percent(part: Option<i64>, whole: Option<i64>) -> Option<String> {
    let tenths = i128::from(part?) * 1000 / i128::from(whole.filter(|whole| *whole > 0)?);
    Some(format!("{}.{}", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_is_a_dash() {
        let stats = UsageFlags {
            no_stream: true,
            interval: 1_000_000,
            no_trunc: false,
            form: FormatFlag { format: Format::Table },
        };
        let interface = json!({"name": "eth0", "receivedBytes": 1024, "receivedPackets": 1, "receiveErrors": 0,
            "receiveDropped": 0, "sentBytes": 10, "sentPackets": 1, "sendErrors": 0, "sendDropped": 0});
        let reading = json!({"id": "0123456789abcdef", "name": "web", "timeUSec": 0, "cpuPercent": 12.345,
            "memoryBytes": 1_048_576, "memoryMaxBytes": 4_194_304, "pids": 3, "interfaces": [interface]});
        let bare = json!({"id": "0123456789abcdef", "name": "job", "timeUSec": 0, "interfaces": []});
        let text = stats.table(&[reading, bare]).unwrap();
        let words =
            |line: usize| text.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(1),
            format!(
                "0123456789ab web 12.3 {} {} 25.0 {} / {} - / - 3",
                format_size(1_048_576),
                format_size(4_194_304),
                format_size(1024),
                format_size(10)
            )
        );
        assert_eq!(words(2), "0123456789ab job - - - - - / - - / - -");
    }
}
