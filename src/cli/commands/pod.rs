//! `dormouse pod`

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::noun::{Noun, filters};
use super::port::port_text;
use super::stats::UsageFlags;
use super::top::Columns;
use crate::cli::done::{Done, tell, tell_all};
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, now_usec, parse_duration, parse_size};
use crate::cli::output::{DocumentFlag, FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::spec::{NetworkFlags, pairs, put};
use crate::cli::table::{Table, short_id};
use crate::wire::container::PublishedPort;
use crate::wire::pod::{State, Summary};

/// Make pods, and handle their containers together
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse pod create -p 8080:80 shop
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
    Inspect(Inspect),
    Exists(Exists),
    /// Start all containers of pods
    Start(Names),
    /// Stop all containers of pods
    Stop(Stop),
    /// Stop all containers of pods, and start them
    Restart(Restart),
    Kill(Kill),
    /// Freeze all processes of pods
    Pause(Names),
    /// Let paused pods go on
    #[command(visible_alias = "unpause")]
    Resume(Names),
    Rm(Remove),
    /// Remove pods whose containers have all ended
    Prune(FormatFlag),
    Top(Processes),
    Stats(Usage),
}

/// Make a pod
#[derive(Debug, Args)]
struct Create {
    /// Name [default: made from two words]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// The same, as a flag
    #[arg(long = "name", value_name = "NAME", conflicts_with = "name")]
    named: Option<String>,
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
    #[command(flatten)]
    form: FormatFlag,
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
    #[command(flatten)]
    form: FormatFlag,
}

/// Tell all of pods, as JSON
#[derive(Debug, Args)]
struct Inspect {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
    #[command(flatten)]
    form: DocumentFlag,
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
struct Restart {
    /// Pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "POD")]
    names: Vec<String>,
    /// Time to SIGKILL, in seconds or as in 1m30s [default: each container's own]
    #[arg(short, long, visible_alias = "timeout", value_name = "TIME", value_parser = parse_duration)]
    time: Option<i64>,
    #[command(flatten)]
    form: FormatFlag,
}

/// As for a restart, and which may be gone
#[derive(Debug, Args)]
struct Stop {
    #[command(flatten)]
    given: Restart,
    /// No error for one that is not there
    #[arg(short, long)]
    ignore: bool,
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
    #[command(flatten)]
    form: FormatFlag,
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
    #[command(flatten)]
    form: FormatFlag,
}

/// List the processes of a pod
#[derive(Debug, Args)]
struct Processes {
    /// Pod, by name, id or a prefix of the id
    #[arg(value_name = "POD")]
    name: String,
    #[command(flatten)]
    columns: Columns,
}

/// Show what the containers of a pod use
#[derive(Debug, Args)]
struct Usage {
    /// Pod, by name, id or a prefix of the id
    #[arg(value_name = "POD")]
    name: String,
    #[command(flatten)]
    usage: UsageFlags,
}

const PODS: Noun = Noun { one: "pod", many: "pods", interface: "io.dormouse.Pod" };

impl Pod {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Create(create) => create.run(service),
            Command::Ls(list) => list.run(service),
            Command::Inspect(given) => PODS.print_details(service, &given.form, &given.names),
            Command::Exists(given) => PODS.inspect(service, &given.name).map(drop),
            Command::Start(given) => given.act(service, "Start"),
            Command::Stop(Stop { given, ignore }) => PODS.act(
                service,
                &given.form,
                &given.names,
                ignore,
                "Stop",
                json!({"timeoutUSec": given.time}),
            ),
            Command::Restart(given) => PODS.act(
                service,
                &given.form,
                &given.names,
                false,
                "Restart",
                json!({"timeoutUSec": given.time}),
            ),
            Command::Kill(given) => {
                PODS.act(service, &given.form, &given.names, false, "Kill", json!({"signal": given.signal}))
            }
            Command::Pause(given) => given.act(service, "Pause"),
            Command::Resume(given) => given.act(service, "Resume"),
            Command::Rm(given) => PODS.act(
                service,
                &given.form,
                &given.names,
                given.ignore,
                "Remove",
                json!({"force": given.force}),
            ),
            Command::Prune(form) => {
                let reply: Value = PODS.call(service, "remove pods", "Prune", json!({}))?;
                let removed = reply["removed"].as_array().into_iter().flatten().filter_map(Value::as_str);
                tell_all(&form, removed.map(Done::to).collect())
            }
            Command::Top(given) => given.run(service),
            Command::Stats(given) => {
                given.usage.show(service, "io.dormouse.Pod.Stats", json!({"name": given.name}))
            }
        }
    }
}

impl Names {
    fn act(&self, service: &Service, method: &str) -> Result<(), CliError> {
        PODS.act(service, &self.form, &self.names, false, method, json!({}))
    }
}

impl Processes {
    fn run(self, service: &Service) -> Result<(), CliError> {
        #[derive(Deserialize)]
        struct Member {
            name: String,
            processes: Vec<Value>,
        }
        let attempted = format!("list the processes of the pod {:?}", self.name);
        let reply: Value = PODS.call(service, &attempted, "Top", json!({ "name": self.name }))?;
        let containers: Vec<Value> = typed(&attempted, &reply["containers"])?;
        print_list(self.columns.form.format, &containers, || {
            let members: Vec<Member> =
                containers.iter().map(|member| typed(&attempted, member)).collect::<Result<_, _>>()?;
            let named = members.iter().map(|member| (Some(&*member.name), &*member.processes));
            self.columns.table(&attempted, &named.collect::<Vec<_>>())
        })
    }
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
        put(&mut spec, "name", self.name.as_ref().or(self.named.as_ref()));
        put(&mut spec, "share", self.share.as_ref());
        put(&mut spec, "hostname", self.hostname.as_ref());
        put(&mut spec, "shmSizeBytes", self.shm_size);
        let labels = pairs("--label", &self.labels, true)?;
        put(&mut spec, "labels", (!labels.is_empty()).then_some(labels));
        let reply: Value = PODS.call(service, "make a pod", "Create", json!({ "spec": spec }))?;
        let text = |field: &str| reply[field].as_str().unwrap_or_default();
        tell(&self.form, Done::made(text("name"), text("id")))
    }
}

impl List {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let wanted = filters(&self.filters, "name=, id= and label=", |_, _| false)?;
        PODS.print_list(service, &self.form, wanted, |pods| self.text(pods, now_usec()))
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
        let form = FormatFlag { format: crate::cli::output::Format::Table };
        let list = List { quiet: false, no_trunc: false, filters: vec![], form };
        assert_eq!(
            list.text(&[pod], 180_000_000).unwrap(),
            "POD ID        NAME  STATUS    CREATED        CONTAINERS  PORTS\n\
             0123456789ab  shop  degraded  3 minutes ago  web, db     8080->80/tcp\n"
        );
    }
}
