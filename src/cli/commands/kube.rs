//! `dormouse kube`

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use clap::{ArgAction, Args, Subcommand, ValueEnum};
use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::generate;
use super::tell_warnings;
use crate::cli::done::{Done, tell_all};
use crate::cli::errors::{CliError, FailureKind};
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::session::notify;
use crate::cli::signals;
use crate::cli::spec::{LogDriver, log_config, of_played_pods, put};
use crate::cli::streams::complain;
use crate::cli::table::printable;
use crate::wire::pod::{PlayKube_Reply, RemoveKube_Reply};

/// While pods run the service may be restarted, or may have slept too soon.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const TRIES_MAX: u32 = 60;

/// Make pods of files for Kubernetes
#[derive(Debug, Args)]
pub struct Kube {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Play(Box<Play>),
    Down(Down),
    Generate(generate::Kube),
}

/// Make and start what a file for Kubernetes describes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse kube play shop.yaml
  dormouse kube play --replace -p 8080:80 --configmap settings.yaml shop.yaml
  dormouse generate kube web | dormouse kube play -

Pods, Deployments (as one pod), DaemonSets and Jobs become pods, PersistentVolumeClaims volumes, Secrets secrets; ConfigMaps \
give variables and files. All of it is made, or nothing. Images that are not here come from their registry, unless \
imagePullPolicy says otherwise. What can't be carried out is told; what would weaken the isolation if it were left out is refused.")]
struct Play {
    /// YAML or JSON; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Stop and remove pods that have the names first
    #[arg(long)]
    replace: bool,
    /// Start what is made
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = ArgAction::Set)]
    start: bool,
    /// File with ConfigMaps
    #[arg(long = "configmap", value_name = "FILE", value_delimiter = ',')]
    config_maps: Vec<PathBuf>,
    /// Network of the pods: NAME[:ip=…,mac=…,alias=…,interface_name=…], none (loopback only), host [default: dormouse; without root pasta]
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK")]
    networks: Vec<String>,
    /// Publish a port, in place of what the file says of it: [[HOST-IP:][HOST-PORT]:]PORT[/tcp|udp|sctp]
    #[arg(short = 'p', long = "publish", value_name = "PORTS")]
    ports: Vec<String>,
    /// Where the output of containers goes
    #[arg(long, value_name = "DRIVER", value_enum)]
    log_driver: Option<LogDriver>,
    /// Option of the log driver: max-size=SIZE, max-file=COUNT
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    log_options: Vec<String>,
    /// Stay until all containers have ended, or a signal comes, and remove the pods then; tells a service manager when they run
    #[arg(short, long)]
    wait: bool,
    /// Whether failures of containers are one of this command: of all of them, of any, or none
    #[arg(long, value_name = "WHICH", value_enum, default_value = "none", requires = "wait")]
    service_exit_code_propagation: Propagation,
    /// Remove what the file has made instead
    #[arg(long)]
    down: bool,
    /// With --wait and --down: remove also the volumes of claims
    #[arg(long)]
    force: bool,
    /// Don't tell which images are fetched
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Propagation {
    // No texts here: they would spread the flag over many lines of the help.
    All,
    Any,
    None,
}

/// Stop and remove what a file for Kubernetes has made
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse kube down shop.yaml
  dormouse kube down --force shop.yaml     also the volumes of its claims, with all that is in them")]
struct Down {
    /// YAML or JSON; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Remove also the volumes of claims
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    form: FormatFlag,
}

impl Kube {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        match self.command {
            Command::Play(play) => play.run(service),
            Command::Down(down) => {
                let removed = remove(service, &down.file, &text(&down.file)?, down.force)?;
                tell_removed(&down.form, removed).map(|()| 0)
            }
            Command::Generate(generate) => generate.run(service).map(|()| 0),
        }
    }
}

/// What a file, or standard input, says.
fn text(file: &Path) -> Result<String, CliError> {
    let attempted = format!("read {file:?}");
    let failed = |error: io::Error| CliError::io(&attempted, &error);
    if file != Path::new("-") {
        return fs::read_to_string(file).map_err(failed);
    }
    if io::stdin().is_terminal() {
        return Err(CliError::usage("standard input is a terminal").with_hint("pipe it in, or name a file"));
    }
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn remove(service: &Service, file: &Path, yaml: &str, volumes: bool) -> Result<RemoveKube_Reply, CliError> {
    let given = json!({"yaml": yaml, "volumes": volumes});
    let removed: RemoveKube_Reply =
        service.call(format!("remove what {file:?} has made"), "io.dormouse.Pod.RemoveKube", given)?;
    tell_warnings(&removed.warnings);
    Ok(removed)
}

fn tell_removed(form: &FormatFlag, removed: RemoveKube_Reply) -> Result<(), CliError> {
    let kinds = [("pod", removed.pods), ("volume", removed.volumes), ("secret", removed.secrets)];
    let all = kinds.into_iter().flat_map(|(kind, names)| {
        names.into_iter().map(move |name| Done::to(&name).with("kind", kind).with("removed", true))
    });
    tell_all(form, all.collect())
}

impl Play {
    fn run(self, service: &Service) -> Result<u8, CliError> {
        let yaml = text(&self.file)?;
        if self.down {
            return tell_removed(&self.form, remove(service, &self.file, &yaml, self.force)?).map(|()| 0);
        }
        if self.force && !self.wait {
            return Err(CliError::usage("--force is for --down and --wait"));
        }
        if self.wait && !self.start {
            return Err(CliError::usage("--wait waits for what is not started"));
        }
        let parameters = self.parameters(&yaml)?;
        if !self.wait {
            let played = self.play(service, parameters)?;
            return self.tell(&played).map(|()| 0);
        }
        let (sender, events) = mpsc::channel();
        let to_signals = sender.clone();
        let take = signals::deliver_to(move |signal| drop(to_signals.send(Event::Signal(signal))));
        take.map_err(|error| CliError::io("take signals", &error))?;
        let played = self.play(service, parameters)?;
        self.tell(&played)?;
        notify(&[NotifyState::Ready]);
        let pods = played.pods.iter().map(|pod| pod.id.clone()).collect();
        let containers: Vec<String> = (played.pods.iter())
            .flat_map(|pod| pod.containers.iter().map(|container| container.id.clone()))
            .collect();
        watch(service.clone(), pods, sender)?;
        let mut code = 0;
        for event in events {
            match event {
                Event::Signal(Signal::SIGWINCH) => continue,
                Event::Signal(_) => {}
                Event::Ended => code = self.exit_code(service, &containers)?,
                Event::Lost(error) => complain(&error.render()),
            }
            break;
        }
        notify(&[NotifyState::Stopping]);
        remove(service, &self.file, &yaml, self.force)?;
        Ok(code)
    }

    fn parameters(&self, yaml: &str) -> Result<Map<String, Value>, CliError> {
        let mut parameters = Map::new();
        put(&mut parameters, "yaml", Some(yaml));
        let maps = self.config_maps.iter().map(|file| text(file)).collect::<Result<Vec<_>, _>>()?;
        put(&mut parameters, "configMaps", (!maps.is_empty()).then_some(maps));
        put(&mut parameters, "replace", Some(self.replace));
        put(&mut parameters, "start", Some(self.start));
        of_played_pods(&self.networks, &self.ports, &mut parameters)?;
        put(&mut parameters, "log", log_config(self.log_driver, &self.log_options)?);
        Ok(parameters)
    }

    fn play(&self, service: &Service, parameters: Map<String, Value>) -> Result<PlayKube_Reply, CliError> {
        let attempted = format!("play {:?}", self.file);
        let mut played = None;
        let each = |reply: PlayKube_Reply| {
            match &reply.pulling {
                Some(image) if !self.quiet => complain(&format!("pulling {}\n", printable(image))),
                Some(_) => {}
                None => played = Some(reply),
            }
            Ok(())
        };
        service.stream(&attempted, "io.dormouse.Pod.PlayKube", parameters.into(), each)?;
        let played = played.ok_or_else(|| CliError::bad_reply(&attempted, "the last reply is missing"))?;
        tell_warnings(&played.warnings);
        Ok(played)
    }

    fn tell(&self, played: &PlayKube_Reply) -> Result<(), CliError> {
        let made = |(kind, name): (&str, &String)| Done::to(name).silently().with("kind", kind);
        let pods = played.pods.iter().map(|pod| {
            let containers = pod.containers.iter().map(|one| json!({"id": one.id, "name": one.name}));
            let told = Done::made(&pod.name, &pod.id).with("kind", "pod");
            told.with("containers", containers.collect::<Vec<_>>())
        });
        let volumes = played.volumes.iter().map(|name| made(("volume", name)));
        let secrets = played.secrets.iter().map(|name| made(("secret", name)));
        tell_all(&self.form, pods.chain(volumes).chain(secrets).collect())
    }

    fn exit_code(&self, service: &Service, containers: &[String]) -> Result<u8, CliError> {
        if self.service_exit_code_propagation == Propagation::None {
            return Ok(0);
        }
        let mut failures = 0;
        for id in containers {
            let attempted = "look how a container has ended";
            let found: Result<Value, CliError> =
                service.call(attempted, "io.dormouse.Container.Inspect", json!({ "name": id }));
            match found {
                Ok(details) if details["container"]["summary"]["exitCode"] == json!(0) => {}
                // Who has removed it did not care how it ended.
                Err(error) if error.kind == FailureKind::NotFound => {}
                Ok(_) => failures += 1,
                Err(error) => return Err(error),
            }
        }
        let failed = match self.service_exit_code_propagation {
            Propagation::All => failures == containers.len() && failures > 0,
            Propagation::Any => failures > 0,
            Propagation::None => false,
        };
        Ok(u8::from(failed))
    }
}

enum Event {
    Signal(Signal),
    /// Of the last container.
    Ended,
    /// It is not known any more what the pods do.
    Lost(CliError),
}

#[derive(Deserialize)]
struct Changes {
    pods: Vec<Listed>,
    gone: Vec<String>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    state: String,
}

/// Watches in a thread until no container of these pods runs any more.
fn watch(service: Service, pods: Vec<String>, events: Sender<Event>) -> Result<(), CliError> {
    let watch = move || {
        let mut tries = 0;
        let event = loop {
            // Each time, the first reply has all that are still there.
            let (mut running, mut is_first, mut over) = (BTreeMap::new(), true, pods.is_empty());
            let each = |changes: Changes| {
                tries = 0;
                if std::mem::take(&mut is_first) {
                    running = pods.iter().map(|id| (id.clone(), false)).collect();
                }
                for pod in changes.pods {
                    running.insert(pod.id, !matches!(pod.state.as_str(), "exited" | "created"));
                }
                for id in changes.gone {
                    running.insert(id, false);
                }
                over = !running.values().any(|runs| *runs);
                // Ends the stream.
                if over { Err(CliError::told()) } else { Ok(()) }
            };
            let told = match pods.is_empty() {
                true => Ok(()),
                false => service.stream("watch pods", "io.dormouse.Pod.List", json!({ "names": pods }), each),
            };
            match told {
                _ if over => break Event::Ended,
                Err(error) if tries >= TRIES_MAX => break Event::Lost(error),
                _ => {}
            }
            tries += 1;
            std::thread::sleep(AGAIN_AFTER);
        };
        drop(events.send(event));
    };
    std::thread::Builder::new()
        .name("watch".to_owned())
        .spawn(watch)
        .map(drop)
        .map_err(|error| CliError::io("make a thread", &error))
}
