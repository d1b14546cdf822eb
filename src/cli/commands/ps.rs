//! `dormouse ps`

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::port::port_text;
use crate::cli::color::Style;
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, format_duration, now_usec};
use crate::cli::output::{Format, FormatFlag, print_line, print_list, typed};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::cli::table::{Table, short_id, truncated};
use crate::wire::container::{Health, State, Summary};

const ATTEMPTED: &str = "list containers";
const METHOD: &str = "io.dormouse.Container.List";

/// List containers
#[derive(Debug, Args)]
#[command(
    visible_alias = "list",
    after_help = "\
Examples:
  dormouse ps --all
  dormouse ps --filter label=team=web --filter status=running
  dormouse ps --quiet --all | xargs dormouse rm
  dormouse ps --watch --format jsonlines     changes as they happen, one list of them in each line"
)]
pub struct Ps {
    /// Those that don't run too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Only those with: name=, id=, status= or label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// Show the list again whenever it changes
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct List {
    containers: Vec<Value>,
    #[serde(default)]
    gone: Vec<String>,
}

impl Ps {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let parameters = self.parameters()?;
        if self.watch {
            return self.watched(service, parameters);
        }
        let list: List = service.call(ATTEMPTED, METHOD, parameters)?;
        self.show(&list.containers)
    }

    /// Shows what is there, and again after each change until the user leaves.
    fn watched(&self, service: &Service, parameters: Value) -> Result<(), CliError> {
        let mut known: BTreeMap<(i64, String), Value> = BTreeMap::new();
        service.stream(ATTEMPTED, METHOD, parameters, |list: List| {
            if self.form.format == Format::Jsonlines {
                return print_line(&json!({"containers": list.containers, "gone": list.gone}));
            }
            known.retain(|(_, id), _| !list.gone.contains(id));
            for container in list.containers {
                let summary: Summary = typed(ATTEMPTED, &container)?;
                known.insert((summary.createdUSec, summary.id), container);
            }
            if io::stdout().is_terminal() {
                // The cursor to the corner, and nothing below it.
                print("\x1b[H\x1b[2J")?;
            }
            self.show(&known.values().cloned().collect::<Vec<_>>())
        })
    }

    fn parameters(&self) -> Result<Value, CliError> {
        let (mut names, mut states, mut labels) = (Vec::new(), Vec::new(), BTreeMap::new());
        for filter in &self.filters {
            match filter.split_once('=') {
                Some(("name" | "id", name)) => names.push(name),
                Some(("status" | "state", state)) => states.push(state),
                Some(("label", label)) => {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    labels.insert(key, value);
                }
                _ => {
                    return Err(CliError::usage(format!("--filter: {filter:?} is no filter"))
                        .with_hint("name=, id=, status= and label= are known"));
                }
            }
        }
        if states.is_empty() && !self.all {
            states = vec!["starting", "running", "paused", "stopping"];
        }
        Ok(json!({
            "names": (!names.is_empty()).then_some(names),
            "states": (!states.is_empty()).then_some(states),
            "labels": (!labels.is_empty()).then_some(labels),
        }))
    }

    fn show(&self, containers: &[Value]) -> Result<(), CliError> {
        print_list(self.form.format, containers, || {
            let summaries: Vec<Summary> =
                containers.iter().map(|container| typed(ATTEMPTED, container)).collect::<Result<_, _>>()?;
            Ok(if self.quiet { self.ids(&summaries) } else { self.table(&summaries, now_usec()) })
        })
    }

    fn ids(&self, summaries: &[Summary]) -> String {
        summaries.iter().map(|summary| short_id(&summary.id, self.no_trunc) + "\n").collect()
    }

    fn table(&self, summaries: &[Summary], now: i64) -> String {
        let mut table =
            Table::new(&["CONTAINER ID", "NAME", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS"])
                .whole(self.no_trunc)
                .styled(|head, cell| if head == "STATUS" { style(cell) } else { None });
        for summary in summaries {
            let command = summary.command.join(" ");
            table.row([
                short_id(&summary.id, self.no_trunc),
                summary.name.clone(),
                summary.image.clone().unwrap_or_else(|| "-".to_owned()),
                if self.no_trunc { command } else { truncated(&command, 30) },
                format_ago(summary.createdUSec, now),
                status(summary, now),
                summary.ports.iter().map(port_text).collect::<Vec<_>>().join(", "),
            ]);
        }
        table.render()
    }
}

/// What works, what is on its way, and what does not work.
fn style(status: &str) -> Option<Style> {
    match status {
        "created" => None,
        status if status.starts_with("exited (0)") => Some(Style::Faint),
        status if status.starts_with("exited") || status.starts_with("failed") => Some(Style::Red),
        status if status.contains("unhealthy") => Some(Style::Red),
        status if status.starts_with("up") && !status.contains("not ready") => Some(Style::Green),
        _ => Some(Style::Yellow),
    }
}

fn health_word(health: &Health) -> &'static str {
    match health {
        Health::starting => "starting",
        Health::healthy => "healthy",
        Health::unhealthy => "unhealthy",
    }
}

/// The state in words, with what matters in it.
fn status(summary: &Summary, now: i64) -> String {
    let ended = || summary.finishedUSec.map_or(String::new(), |then| format!(" {}", format_ago(then, now)));
    match summary.state {
        State::created => "created".to_owned(),
        State::starting => "starting".to_owned(),
        State::running => {
            let up = match summary.startedUSec {
                Some(then) => format!("up {}", format_duration(now.saturating_sub(then))),
                None => "up".to_owned(),
            };
            let up = match &summary.health {
                Some(health) => format!("{up} ({})", health_word(health)),
                None => up,
            };
            match (summary.systemd, summary.ready, &summary.statusText) {
                (false, ..) => up,
                (true, true, _) => format!("{up}, ready"),
                (true, false, Some(text)) => format!("{up}, not ready: {}", truncated(text, 40)),
                (true, false, None) => format!("{up}, not ready"),
            }
        }
        State::paused => "paused".to_owned(),
        State::stopping => "stopping".to_owned(),
        State::exited => {
            let code = summary.exitCode.map_or("?".to_owned(), |code| code.to_string());
            format!("exited ({code}){}", ended())
        }
        State::failed => format!("failed{}", ended()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(changes: Value) -> Summary {
        let mut summary = json!({
            "id": "0123456789abcdef", "name": "web", "image": "debian", "command": ["/sbin/init"], "state": "running",
            "ready": false, "systemd": false, "restarts": 0, "createdUSec": 0, "startedUSec": 60_000_000, "labels": {}, "addresses": [],
            "ports": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "range": 1}],
        });
        for (key, value) in changes.as_object().unwrap() {
            summary[key] = value.clone();
        }
        typed("test", &summary).unwrap()
    }

    fn check(changes: Value, expected: &str) {
        assert_eq!(status(&summary(changes), 240_000_000), expected);
    }

    #[test]
    fn the_status_tells_what_matters_in_each_state() {
        check(json!({}), "up 3 minutes");
        check(json!({"systemd": true, "ready": true}), "up 3 minutes, ready");
        check(
            json!({"systemd": true, "statusText": "Starting cron…"}),
            "up 3 minutes, not ready: Starting cron…",
        );
        check(
            json!({"state": "exited", "exitCode": 3, "finishedUSec": 120_000_000}),
            "exited (3) 2 minutes ago",
        );
        check(json!({"state": "exited", "exitCode": null}), "exited (?)");
        check(json!({"health": "unhealthy"}), "up 3 minutes (unhealthy)");
        check(json!({"state": "created"}), "created");
    }

    #[test]
    fn a_table_has_a_row_for_each_container() {
        let ps = Ps {
            all: true,
            quiet: false,
            no_trunc: false,
            filters: vec![],
            watch: false,
            form: FormatFlag { format: Format::Table },
        };
        let long = summary(
            json!({"name": "job", "image": null, "command": ["sh", "-c", "a very long command, that goes on"]}),
        );
        assert_eq!(
            ps.table(&[summary(json!({})), long], 240_000_000),
            "CONTAINER ID  NAME  IMAGE   COMMAND                         CREATED        STATUS        PORTS\n\
             0123456789ab  web   debian  /sbin/init                      4 minutes ago  up 3 minutes  8080->80/tcp\n\
             0123456789ab  job   -       sh -c a very long command, th…  4 minutes ago  up 3 minutes  8080->80/tcp\n"
        );
    }

    #[test]
    fn only_what_runs_is_asked_for_unless_all_is_wanted() {
        let ps = |all, filters: &[&str]| Ps {
            all,
            quiet: false,
            no_trunc: false,
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            watch: false,
            form: FormatFlag { format: Format::Table },
        };
        let running = json!(["starting", "running", "paused", "stopping"]);
        assert_eq!(ps(false, &[]).parameters().unwrap()["states"], running);
        assert_eq!(ps(true, &[]).parameters().unwrap()["states"], Value::Null);
        let filtered =
            ps(false, &["status=exited", "label=a=b", "label=c", "name=web"]).parameters().unwrap();
        assert_eq!(filtered, json!({"names": ["web"], "states": ["exited"], "labels": {"a": "b", "c": ""}}));
        assert!(ps(false, &["color=red"]).parameters().is_err());
    }
}
