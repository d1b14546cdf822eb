//! `dormouse pod`

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::port::port_text;
use super::stats::Stats;
use super::top::Top;
use super::{Nothing, for_each};
use crate::cli::errors::{CliError, FailureKind};
use crate::cli::human::{format_ago, now_usec, parse_duration, parse_size};
use crate::cli::output::{Format, FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::spec::{NetworkFlags, pairs, put};
use crate::cli::streams::print;
use crate::cli::table::{Table, printable, short_id};
use crate::wire::container::PublishedPort;
use crate::wire::pod::{State, Summary};

/// Make pods, and handle their containers together
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse pod create --name shop -p 8080:80
  dormouse run -d --pod shop --name web nginx && dormouse run -d --pod shop --name db postgres
  dormouse run -d --pod new:shop -p 8080:80 --name web nginx
  dormouse pod stop shop && dormouse pod rm shop")]
pub struct Pod {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<Create>),
    #[command(visible_aliases = ["ps", "list"])]
    Ls(List),
    Inspect(Names),
    Exists(Exists),
    /// Start all containers of pods
    Start(Names),
    /// Stop all containers of pods
    Stop(Stop),
    /// Stop all containers of pods, and start them
    Restart(Stop),
    Kill(Kill),
    /// Freeze all processes of pods
    Pause(Names),
    /// Let paused pods go on
    #[command(visible_alias = "unpause")]
    Resume(Names),
    Rm(Remove),
    /// Remove pods whose containers have all ended
    Prune,
    Top(Processes),
    Stats(Usage),
}

/// Make a pod
#[derive(Debug, Args)]
struct Create {
    /// Name [default: made from two words]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// What its containers share [default: net,ipc,uts]
    #[arg(long, value_enum, value_name = "KIND", value_delimiter = ',')]
    share: Option<Vec<Kind>>,
    /// Host name of its containers [default: the pod's name]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Size of the common /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    shm_size: Option<i64>,
    /// Label, as KEY=VALUE or KEY
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    #[command(flatten)]
    network: NetworkFlags,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Net,
    Ipc,
    Uts,
    Pid,
}

/// List pods
#[derive(Debug, Args)]
struct List {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those with: name=, id= or label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Pods of a command
#[derive(Debug, Args)]
struct Names {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
}

/// Tell by the exit code whether there is a pod: 0, or 1
#[derive(Debug, Args)]
struct Exists {
    /// Pod, by name, id or a prefix of the id
    #[arg(value_name = "POD")]
    name: String,
}

/// Pods that are stopped
#[derive(Debug, Args)]
struct Stop {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
    /// Time to SIGKILL, in seconds or as in 1m30s [default: each container's own]
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = parse_duration)]
    time: Option<i64>,
}

/// Send a signal to the first process of each container of pods
#[derive(Debug, Args)]
struct Kill {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
    /// Signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
}

/// Remove pods with all their containers
#[derive(Debug, Args)]
struct Remove {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
    /// Kill what runs first
    #[arg(short, long)]
    force: bool,
    /// No error for one that is not there
    #[arg(short, long)]
    ignore: bool,
}

/// List the processes of a pod
#[derive(Debug, Args)]
struct Processes {
    /// Pod, by name, id or a prefix of the id
    #[arg(value_name = "POD")]
    name: String,
}

/// Show what the containers of a pod use
#[derive(Debug, Args)]
struct Usage {
    /// Pod, by name, id or a prefix of the id
    #[arg(value_name = "POD")]
    name: String,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct Listed {
    pods: Vec<Value>,
}

impl Pod {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(given) => inspect(service, &given.names),
            Command::Exists(given) => summary(service, &given.name).map(drop),
            Command::Start(given) => each(service, &given.names, "start", "Start", json!({})),
            Command::Stop(given) => {
                each(service, &given.names, "stop", "Stop", json!({"timeoutUSec": given.time}))
            }
            Command::Restart(given) => {
                each(service, &given.names, "restart", "Restart", json!({"timeoutUSec": given.time}))
            }
            Command::Kill(given) => {
                each(service, &given.names, "kill", "Kill", json!({"signal": given.signal}))
            }
            Command::Pause(given) => each(service, &given.names, "pause", "Pause", json!({})),
            Command::Resume(given) => each(service, &given.names, "resume", "Resume", json!({})),
            Command::Rm(given) => for_each(&given.names, |name| {
                let parameters = json!({"name": name, "force": given.force});
                match call(service, &format!("remove the pod {name:?}"), "Remove", parameters) {
                    Ok(Nothing {}) => print(&format!("{name}\n")),
                    Err(error) if given.ignore && error.kind == FailureKind::NotFound => Ok(()),
                    Err(error) => Err(error),
                }
            }),
            Command::Prune => {
                let reply: Value = call(service, "remove pods", "Prune", json!({}))?;
                let removed = reply["removed"].as_array().into_iter().flatten().filter_map(Value::as_str);
                print(&removed.map(|id| format!("{}\n", printable(id))).collect::<String>())
            }
            Command::Top(given) => {
                for name in running(service, &given.name)? {
                    print(&format!("{}:\n", printable(&name)))?;
                    Top::of(&name).run(service)?;
                }
                Ok(())
            }
            Command::Stats(given) => {
                Stats::of(running(service, &given.name)?, given.no_stream, given.form).run(service)
            }
        }
    }
}

fn call<T: serde::de::DeserializeOwned>(
    service: &Service,
    attempted: &str,
    method: &str,
    parameters: Value,
) -> Result<T, CliError> {
    service.call(attempted, &format!("io.dormouse.Pod.{method}"), parameters)
}

fn each(
    service: &Service,
    names: &[String],
    verb: &str,
    method: &str,
    parameters: Value,
) -> Result<(), CliError> {
    for_each(names, |name| {
        let mut parameters = parameters.clone();
        parameters["name"] = json!(name);
        let Nothing {} = call(service, &format!("{verb} the pod {name:?}"), method, parameters)?;
        print(&format!("{name}\n"))
    })
}

fn summary(service: &Service, name: &str) -> Result<Summary, CliError> {
    let attempted = format!("inspect the pod {name:?}");
    let reply: Value = call(service, &attempted, "Inspect", json!({ "name": name }))?;
    typed(&attempted, &reply["pod"]["summary"])
}

/// The names of the containers that run.
fn running(service: &Service, name: &str) -> Result<Vec<String>, CliError> {
    use crate::wire::pod::Member_state as Member;
    let runs = |state: &Member| matches!(state, Member::running | Member::paused | Member::stopping);
    let members = summary(service, name)?.containers;
    let names: Vec<String> =
        members.into_iter().filter(|member| runs(&member.state)).map(|member| member.name).collect();
    if names.is_empty() {
        return Err(CliError::new(format!("no container of the pod {name:?} runs")));
    }
    Ok(names)
}

fn inspect(service: &Service, names: &[String]) -> Result<(), CliError> {
    let mut found = Vec::new();
    let told = for_each(names, |name| {
        let mut reply: Value =
            call(service, &format!("inspect the pod {name:?}"), "Inspect", json!({ "name": name }))?;
        found.push(reply["pod"].take());
        Ok(())
    });
    print_list(Format::Json, &found, || Ok(String::new()))?;
    told
}

impl Create {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let mut spec = Map::new();
        self.network.add_to(&mut spec)?;
        if spec.remove("networkNamespace").is_some() {
            put(&mut spec, "networks", Some(json!([])));
        }
        if spec.remove("publishAll").is_some() {
            return Err(CliError::usage("--publish-all: a pod has no image that says what it serves"));
        }
        put(&mut spec, "name", self.name.as_ref());
        put(&mut spec, "share", self.share.as_ref());
        put(&mut spec, "hostname", self.hostname.as_ref());
        put(&mut spec, "shmSizeBytes", self.shm_size);
        let labels = pairs("--label", &self.labels, true)?;
        put(&mut spec, "labels", (!labels.is_empty()).then_some(labels));
        let reply: Value = call(service, "make a pod", "Create", json!({ "spec": spec }))?;
        print(&format!("{}\n", printable(reply["id"].as_str().unwrap_or_default())))
    }
}

impl List {
    fn run(self, service: &Service) -> Result<(), CliError> {
        const ATTEMPTED: &str = "list pods";
        let (mut names, mut labels) = (Vec::new(), Map::new());
        for filter in &self.filters {
            match filter.split_once('=') {
                Some(("name" | "id", name)) => names.push(name),
                Some(("label", label)) => {
                    let (key, value) = label.split_once('=').unwrap_or((label, ""));
                    labels.insert(key.to_owned(), json!(value));
                }
                _ => {
                    return Err(CliError::usage(format!("--filter: {filter:?} is no filter"))
                        .with_hint("name=, id= and label= are known"));
                }
            }
        }
        let listed: Listed = call(service, ATTEMPTED, "List", json!({"names": names, "labels": labels}))?;
        print_list(self.form.format, &listed.pods, || {
            let pods: Vec<Summary> =
                listed.pods.iter().map(|pod| typed(ATTEMPTED, pod)).collect::<Result<_, _>>()?;
            self.text(&pods, now_usec())
        })
    }

    fn text(&self, pods: &[Summary], now: i64) -> Result<String, CliError> {
        if self.quiet {
            return Ok(pods.iter().map(|pod| short_id(&pod.id, self.no_trunc) + "\n").collect());
        }
        let mut table = Table::new(&["POD ID", "NAME", "STATUS", "CREATED", "CONTAINERS", "PORTS"]);
        for pod in pods {
            // The same fields as those of a container's.
            let ports: Vec<PublishedPort> =
                pod.ports.iter().map(|port| typed("list pods", &json!(port))).collect::<Result<_, _>>()?;
            table.row([
                short_id(&pod.id, self.no_trunc),
                pod.name.clone(),
                match pod.state {
                    State::created => "created",
                    State::running => "running",
                    State::degraded => "degraded",
                    State::paused => "paused",
                    State::exited => "exited",
                }
                .to_owned(),
                format_ago(pod.createdUSec, now),
                pod.containers.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", "),
                ports.iter().map(port_text).collect::<Vec<_>>().join(", "),
            ]);
        }
        Ok(table.render())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_a_row() {
        let pod: Summary = typed(
            "test",
            &json!({
                "id": "0123456789abcdef", "name": "shop", "state": "degraded", "createdUSec": 0, "labels": {}, "addresses": [],
                "containers": [{"id": "a", "name": "web", "state": "running"}, {"id": "b", "name": "db", "state": "exited"}],
                "ports": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "range": 1}],
            }),
        )
        .unwrap();
        let form = FormatFlag { format: Format::Table };
        let list = List { quiet: false, no_trunc: false, filters: vec![], form };
        assert_eq!(
            list.text(&[pod], 180_000_000).unwrap(),
            "POD ID        NAME  STATUS    CREATED        CONTAINERS  PORTS\n\
             0123456789ab  shop  degraded  3 minutes ago  web, db     8080->80/tcp\n"
        );
    }
}
