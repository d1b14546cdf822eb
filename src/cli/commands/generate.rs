//! `dormouse generate`

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::tell_warnings;
use crate::cli::done::{Done, tell_all};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::{Format, FormatFlag};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::wire::manager::{GenerateKube_Reply, GenerateUnits_Reply};

/// Make files for other programs of what is there
#[derive(Debug, Args)]
pub struct Generate {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_alias = "units")]
    Systemd(Box<Systemd>),
    Kube(Kube),
}

/// Make unit files for containers and pods
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse generate systemd --new web > /etc/systemd/system/web.service
  dormouse generate systemd --new --files shop      of a pod: its unit, and one for each of its containers
  cd /etc/systemd/system && dormouse generate systemd --new --files --restart-policy always web db
  systemctl daemon-reload && systemctl enable --now container-web.service

The unit is ready when the container is, its stop is the container's, and so is its exit code. Quadlet files, which need \
no command, are described in docs/units.md.")]
struct Systemd {
    /// Containers and pods, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER|POD")]
    names: Vec<String>,
    /// The unit makes the container, or the pod, anew at each start, and removes it at its end
    #[arg(long)]
    new: bool,
    /// Write files to this directory instead of printing them
    #[arg(short, long)]
    files: bool,
    /// Units are named by containers' names, which they are in any case
    #[arg(short, long)]
    name: bool,
    /// When systemd starts it again [default: on-failure]
    #[arg(long, value_enum, value_name = "POLICY")]
    restart_policy: Option<Policy>,
    /// Time until systemd starts it again
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    restart_sec: Option<i64>,
    /// How long it may take until the container is ready
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    start_timeout: Option<i64>,
    /// Time from the container's stop signal to SIGKILL [default: as the container has it]
    #[arg(short = 't', long, visible_alias = "time", value_name = "TIME", value_parser = parse_duration)]
    stop_timeout: Option<i64>,
    /// Unit that is started with it
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    wants: Vec<String>,
    /// Unit that is started before it
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    after: Vec<String>,
    /// Unit without which it does not run
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    requires: Vec<String>,
    /// How the names of containers' units begin [default: container]
    #[arg(long, value_name = "TEXT")]
    container_prefix: Option<String>,
    /// How the names of pods' units begin [default: pod]
    #[arg(long, value_name = "TEXT")]
    pod_prefix: Option<String>,
    /// What is between that and the name [default: -]
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
}

/// Describe containers, pods and volumes for Kubernetes, in YAML
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse generate kube --service web > web.yaml && kubectl create -f web.yaml
  dormouse generate kube --type deployment --replicas 3 -f shop.yaml shop

Containers that are named together come into one pod. What Kubernetes has no word for is left out, and told.")]
pub(super) struct Kube {
    /// Containers, pods and volumes, by name, id or a prefix of the id
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Write a file, where none may be, instead of printing
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Also a service for each pod that publishes ports
    #[arg(short, long)]
    service: bool,
    /// What holds the containers
    #[arg(short = 't', long = "type", value_enum, value_name = "KIND", default_value = "pod")]
    kind: Kind,
    /// How many pods a deployment has [default: 1]
    #[arg(short, long, value_name = "NUMBER")]
    replicas: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    // No texts here: they would spread the flag over many lines of the help.
    Pod,
    Deployment,
    Daemonset,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    // No texts here: they would spread the flag over many lines of the help.
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnWatchdog,
    OnAbort,
    Always,
}

impl Policy {
    fn as_wire(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnSuccess => "onSuccess",
            Self::OnFailure => "onFailure",
            Self::OnAbnormal => "onAbnormal",
            Self::OnWatchdog => "onWatchdog",
            Self::OnAbort => "onAbort",
            Self::Always => "always",
        }
    }
}

impl Generate {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        match self.command {
            Command::Systemd(systemd) => systemd.run(service),
            Command::Kube(kube) => kube.run(service),
        }
    }
}

impl Kube {
    pub(super) fn run(self, service: &Service) -> Result<(), CliError> {
        let kind = match self.kind {
            Kind::Pod => "pod",
            Kind::Deployment => "deployment",
            Kind::Daemonset => "daemonSet",
        };
        let given =
            json!({"names": self.names, "service": self.service, "kind": kind, "replicas": self.replicas});
        let generated: GenerateKube_Reply =
            service.call("describe for Kubernetes", "io.dormouse.Manager.GenerateKube", given)?;
        tell_warnings(&generated.warnings);
        let Some(path) = self.filename else { return print(&generated.yaml) };
        let failed = |error: io::Error| CliError::io(format!("write {path:?}"), &error);
        let mut file = File::create_new(&path).map_err(failed)?;
        file.write_all(generated.yaml.as_bytes()).map_err(failed)
    }
}

impl Systemd {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let given = json!({
            "names": self.names, "new": self.new, "restartPolicy": self.restart_policy.map(Policy::as_wire),
            "restartUSec": self.restart_sec, "startTimeoutUSec": self.start_timeout,
            "stopTimeoutUSec": self.stop_timeout, "wants": self.wants, "after": self.after,
            "requires": self.requires, "prefix": self.container_prefix, "podPrefix": self.pod_prefix,
            "separator": self.separator,
        });
        let generated: GenerateUnits_Reply =
            service.call("make unit files", "io.dormouse.Manager.GenerateUnits", given)?;
        tell_warnings(&generated.warnings);
        let mut done = Vec::new();
        for unit in generated.units {
            let told = Done::to(&unit.name);
            if self.files {
                // The service may be another host's: a name is a name, and no way to another directory.
                if Path::new(&unit.name).file_name().is_none_or(|name| name != unit.name.as_str()) {
                    return Err(CliError::bad_reply("make unit files", "a unit's name is a path"));
                }
                let path = std::env::current_dir().map(|dir| dir.join(&unit.name));
                let path = path.and_then(|path| fs::write(&path, &unit.text).map(|()| path));
                let failed = |error: io::Error| CliError::io(format!("write {:?}", unit.name), &error);
                let path = path.map_err(failed)?.display().to_string();
                done.push(told.saying(&path).with("path", path));
            } else if self.form.format == Format::Table {
                print(&unit.text)?;
            } else {
                done.push(told.with("text", unit.text));
            }
        }
        tell_all(&self.form, done)
    }
}
