//! `dormouse generate`

use std::fs;
use std::io;
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::tell_warnings;
use crate::cli::done::{Done, tell_all};
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;
use crate::cli::output::{Format, FormatFlag};
use crate::cli::service::Service;
use crate::cli::streams::print;
use crate::wire::manager::GenerateUnits_Reply;

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
}

/// Make unit files for containers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse generate systemd --new web > /etc/systemd/system/web.service
  cd /etc/systemd/system && dormouse generate systemd --new --files --restart-policy always web db
  systemctl daemon-reload && systemctl enable --now container-web.service

The unit is ready when the container is, its stop is the container's, and so is its exit code. Quadlet files, which need \
no command, are described in docs/units.md.")]
struct Systemd {
    /// Containers, by name, id or a prefix of the id
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
    /// The unit makes the container anew at each start, and removes it at its end
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
    /// How the units' names begin [default: container]
    #[arg(long, value_name = "TEXT")]
    container_prefix: Option<String>,
    /// What is between that and the container's name [default: -]
    #[arg(long, value_name = "TEXT")]
    separator: Option<String>,
    #[command(flatten)]
    form: FormatFlag,
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
        }
    }
}

impl Systemd {
    fn run(self, service: &Service) -> Result<(), CliError> {
        let given = json!({
            "names": self.names, "new": self.new, "restartPolicy": self.restart_policy.map(Policy::as_wire),
            "restartUSec": self.restart_sec, "startTimeoutUSec": self.start_timeout,
            "stopTimeoutUSec": self.stop_timeout, "wants": self.wants, "after": self.after,
            "requires": self.requires, "prefix": self.container_prefix, "separator": self.separator,
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
