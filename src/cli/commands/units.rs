//! `dormouse units`

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Nothing;
use crate::cli::color::Style;
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_size, format_time, now_usec, parse_duration};
use crate::cli::output::{FormatFlag, print_list, print_one, typed};
use crate::cli::service::Service;
use crate::cli::table::{Table, render_fields};
use crate::wire::unit::{Details, Summary};

/// See and handle the units of the systemd in a container
#[derive(Debug, Args)]
#[command(
    visible_alias = "unit",
    after_help = "\
Examples:
  dormouse units list --failed web
  dormouse units status web nginx
  dormouse units restart web nginx cron"
)]
pub struct Units {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Status(Status),
    /// Start units, and wait until that is done
    Start(Job),
    /// Stop units, and wait until that is done
    Stop(Job),
    /// Stop units that run, and start them
    Restart(Job),
    /// Make units read their configuration again
    Reload(Job),
}

/// List units
#[derive(Debug, Args)]
struct List {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only units in these active states, as in active,failed
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',')]
    states: Vec<String>,
    /// Only units that have failed
    #[arg(long, conflicts_with = "states")]
    failed: bool,
    /// Only units of these kinds, as in service,timer
    #[arg(short = 't', long = "type", value_name = "TYPE", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Tell how the systemd inside is, or one of its units
#[derive(Debug, Args)]
struct Status {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Unit; without a suffix it is a service
    #[arg(value_name = "UNIT")]
    unit: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Something to be done to units
#[derive(Debug, Args)]
struct Job {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Units; without a suffix they are services
    #[arg(required = true, value_name = "UNIT")]
    units: Vec<String>,
    /// How long to wait at most for each, in seconds or as in 1m30s [default: 90]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<i64>,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Listed {
    units: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SystemStatus {
    system_state: String,
    version: String,
    units: i64,
    failed_units: i64,
    jobs: i64,
    details: Option<Details>,
}

impl Units {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::List(list) => list.run(service),
            Command::Status(status) => status.run(service),
            Command::Start(job) => job.run(service, "start", "io.dormouse.Unit.Start"),
            Command::Stop(job) => job.run(service, "stop", "io.dormouse.Unit.Stop"),
            Command::Restart(job) => job.run(service, "restart", "io.dormouse.Unit.Restart"),
            Command::Reload(job) => job.run(service, "reload", "io.dormouse.Unit.Reload"),
        }
    }
}

impl List {
    fn run(mut self, service: &Service) -> Result<(), CliError> {
        if self.failed {
            self.states = vec!["failed".to_owned()];
        }
        let attempted = format!("list the units in {:?}", self.name);
        let parameters = json!({
            "name": self.name,
            "activeStates": (!self.states.is_empty()).then_some(&self.states),
            "kinds": (!self.kinds.is_empty()).then_some(&self.kinds),
        });
        let listed: Listed = service.call(&attempted, "io.dormouse.Unit.List", parameters)?;
        print_list(self.form.format, &listed.units, || {
            let units: Vec<Summary> =
                listed.units.iter().map(|unit| typed(&attempted, unit)).collect::<Result<_, _>>()?;
            Ok(self.text(&units))
        })
    }

    fn text(&self, units: &[Summary]) -> String {
        if self.quiet {
            return units
                .iter()
                .map(|unit| format!("{}\n", crate::cli::table::printable(&unit.name)))
                .collect();
        }
        let mut table = Table::new(&["UNIT", "LOAD", "ACTIVE", "SUB", "DESCRIPTION"])
            .styled(|_, cell| (cell == "failed").then_some(Style::Red));
        for unit in units {
            table.row(
                [&unit.name, &unit.loadState, &unit.activeState, &unit.subState, &unit.description]
                    .map(Clone::clone),
            );
        }
        table.render()
    }
}

impl Status {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = match &self.unit {
            Some(unit) => format!("tell the status of {unit:?} in {:?}", self.name),
            None => format!("tell the status of the systemd in {:?}", self.name),
        };
        let parameters = json!({"name": self.name, "unit": self.unit});
        let reply: Value = service.call(&attempted, "io.dormouse.Unit.Status", parameters)?;
        print_one(self.form.format, &reply, || {
            let status: SystemStatus = typed(&attempted, &reply)?;
            Ok(match &status.details {
                Some(details) => unit_text(details, now_usec()),
                None => system_text(&status),
            })
        })
    }
}

impl Job {
    fn run(self, service: &Service, verb: &str, method: &str) -> Result<(), CliError> {
        each(&self.form, &self.units, |unit| {
            let attempted = format!("{verb} {unit:?} in {:?}", self.name);
            let parameters = json!({"name": self.name, "unit": unit, "timeoutUSec": self.timeout});
            let Nothing {} = service.call(attempted, method, parameters)?;
            Ok(Done::to(unit).silently())
        })
    }
}

fn system_text(status: &SystemStatus) -> String {
    render_fields(&[
        ("State", status.system_state.clone()),
        ("Version", status.version.clone()),
        ("Units", status.units.to_string()),
        ("Failed", status.failed_units.to_string()),
        ("Jobs", status.jobs.to_string()),
    ])
}

fn unit_text(details: &Details, now: i64) -> String {
    let unit = &details.summary;
    let time = |usec: i64| format!("{} ({})", format_time(usec), format_ago(usec, now));
    let mut fields = vec![
        ("Unit", format!("{} ({})", unit.name, unit.description)),
        ("Loaded", unit.loadState.clone()),
        ("Active", format!("{} ({})", unit.activeState, unit.subState)),
    ];
    let optional = [
        ("File", details.fragmentPath.clone()),
        ("Enabled", details.unitFileState.clone()),
        ("Main PID", details.mainPid.map(|pid| pid.to_string())),
        ("Memory", details.memoryBytes.map(format_size)),
        ("Result", details.result.clone()),
        ("Exit status", details.exitStatus.map(|status| status.to_string())),
        ("Since", details.activeEnterUSec.filter(|_| unit.activeState == "active").map(time)),
        ("Inactive since", details.inactiveEnterUSec.filter(|_| unit.activeState != "active").map(time)),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))));
    render_fields(&fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_of_a_unit_has_no_line() {
        let details: Details = typed(
            "test",
            &json!({
                "summary": {"name": "cron.service", "description": "Jobs", "loadState": "loaded", "activeState": "active", "subState": "running"},
                "mainPid": 42, "memoryBytes": 1_572_864, "activeEnterUSec": 1_000_000, "inactiveEnterUSec": null,
            }),
        )
        .unwrap();
        assert_eq!(
            unit_text(&details, 181_000_000),
            "Unit:      cron.service (Jobs)\nLoaded:    loaded\nActive:    active (running)\nMain PID:  42\nMemory:    1.5 MiB\n\
             Since:     1970-01-01T00:00:01.000000Z (3 minutes ago)\n"
        );
    }
}
