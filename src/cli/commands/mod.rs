//! One verb, one file. Each is thin: what it takes, what it calls, what it shows.

mod attach;
mod build;
mod commit;
mod completions;
mod connection;
mod cp;
mod create;
mod diff;
mod events;
mod exec;
mod execs;
mod export;
mod generate;
mod healthcheck;
mod history;
mod image;
mod images;
mod import;
mod info;
mod inspect;
mod journal;
mod kill;
mod kube;
mod load;
mod login;
mod logout;
mod logs;
mod man;
mod mount;
mod network;
mod noun;
mod pause;
mod pod;
mod port;
mod ps;
mod pull;
mod push;
mod rename;
mod restart;
mod resume;
mod rm;
mod rmi;
mod run;
mod save;
mod search;
mod secret;
mod start;
mod stats;
mod stop;
mod tag;
mod top;
mod units;
mod untag;
mod update;
mod version;
mod volume;
mod wait;

use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::streams::complain;

#[derive(Debug, Subcommand)]
#[command(disable_help_subcommand = true)]
pub enum Command {
    Run(Box<run::Run>),
    Create(Box<create::Create>),
    Start(start::Start),
    Stop(stop::Stop),
    Restart(restart::Restart),
    Kill(kill::Kill),
    Pause(pause::Pause),
    Resume(resume::Resume),
    Wait(wait::Wait),
    Rm(rm::Rm),
    Rename(rename::Rename),
    Update(Box<update::Update>),
    Ps(ps::Ps),
    Stats(stats::Stats),
    Top(top::Top),
    Inspect(inspect::Inspect),
    Logs(logs::Logs),
    Exec(exec::Exec),
    Healthcheck(healthcheck::Healthcheck),
    Execs(execs::Execs),
    Attach(attach::Attach),
    Units(units::Units),
    Journal(journal::Journal),
    Network(Box<network::Network>),
    Pod(Box<pod::Pod>),
    Generate(generate::Generate),
    Kube(Box<kube::Kube>),
    Volume(volume::Volume),
    Secret(secret::Secret),
    Port(port::Port),
    Build(Box<build::Build>),
    Images(images::Images),
    Import(import::Import),
    Rmi(rmi::Rmi),
    Cp(cp::Cp),
    Mount(mount::Mount),
    #[command(visible_alias = "umount")]
    Unmount(mount::Unmount),
    Commit(commit::Commit),
    Export(export::Export),
    Diff(diff::Diff),
    Pull(pull::Pull),
    Push(push::Push),
    Search(search::Search),
    Login(login::Login),
    Logout(logout::Logout),
    Tag(tag::Tag),
    Untag(untag::Untag),
    History(history::History),
    Load(load::Load),
    Save(save::Save),
    Image(image::Image),
    Events(events::Events),
    Info(info::Info),
    Version(version::Version),
    Connection(connection::Connection),
    Completions(completions::Completions),
    #[command(hide = true)]
    Man(man::Man),
}

pub use run::Run;
pub use start::Start;

impl Command {
    /// Whether the exit code is that of a program in a container, so that our own failures need codes apart from it.
    pub fn passes_codes(&self) -> bool {
        match self {
            Self::Run(_) | Self::Exec(_) | Self::Attach(_) => true,
            Self::Start(start) => start.is_attached(),
            _ => false,
        }
    }

    /// Whether it says something to the service: the others work also where none can be found.
    pub fn needs_service(&self) -> bool {
        !matches!(self, Self::Connection(_) | Self::Completions(_) | Self::Man(_))
    }

    /// Runs the command; returns the exit code.
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        match self {
            Self::Run(command) => return command.run(service),
            Self::Start(command) => return command.run(service),
            Self::Exec(command) => return command.run(service),
            Self::Attach(command) => return command.run(service),
            Self::Healthcheck(command) => return command.run(service),
            Self::Kube(command) => return command.run(service),
            Self::Create(command) => command.run(service),
            Self::Stop(command) => command.run(service),
            Self::Restart(command) => command.run(service),
            Self::Kill(command) => command.run(service),
            Self::Pause(command) => command.run(service),
            Self::Resume(command) => command.run(service),
            Self::Wait(command) => command.run(service),
            Self::Rm(command) => command.run(service),
            Self::Rename(command) => command.run(service),
            Self::Update(command) => command.run(service),
            Self::Ps(command) => command.run(service),
            Self::Stats(command) => command.run(service),
            Self::Top(command) => command.run(service),
            Self::Inspect(command) => command.run(service),
            Self::Execs(command) => command.run(service),
            Self::Logs(command) => command.run(service),
            Self::Units(command) => command.run(service),
            Self::Journal(command) => command.run(service),
            Self::Network(command) => command.run(service),
            Self::Pod(command) => command.run(service),
            Self::Generate(command) => command.run(service),
            Self::Volume(command) => command.run(service),
            Self::Secret(command) => command.run(service),
            Self::Port(command) => command.run(service),
            Self::Build(command) => command.run(service),
            Self::Images(command) => command.run(service),
            Self::Import(command) => command.run(service),
            Self::Rmi(command) => command.run(service),
            Self::Cp(command) => command.run(service),
            Self::Mount(command) => command.run(service),
            Self::Unmount(command) => command.run(service),
            Self::Commit(command) => command.run(service),
            Self::Export(command) => command.run(service),
            Self::Diff(command) => command.run(service),
            Self::Pull(command) => command.run(service),
            Self::Push(command) => command.run(service),
            Self::Search(command) => command.run(service),
            Self::Login(command) => command.run(service),
            Self::Logout(command) => command.run(service),
            Self::Tag(command) => command.run(service),
            Self::Untag(command) => command.run(service),
            Self::History(command) => command.run(service),
            Self::Load(command) => command.run(service),
            Self::Save(command) => command.run(service),
            Self::Image(command) => command.run(service),
            Self::Events(command) => command.run(service),
            Self::Info(command) => command.run(service),
            Self::Version(command) => command.run(service),
            Self::Connection(command) => command.run(),
            Self::Completions(command) => command.run(),
            Self::Man(command) => command.run(),
        }?;
        Ok(0)
    }
}

/// What a call waits for: that the command has been executed, that the systemd inside (or another payload with a notify
/// socket) has said that it is ready, that the health check has passed, or that the process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Condition {
    // No texts here: with one for each value, clap would spread every flag of `run --help` over three lines.
    Started,
    Ready,
    Healthy,
    Exited,
}

/// The answer of a method that has nothing to tell.
#[derive(Debug, Deserialize)]
struct Nothing {}

/// The answer with the exit code of what has ended.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ended {
    exit_code: Option<i64>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Does the same to several things. A failure is told, and does not keep the others from being done.
fn for_each(names: &[String], mut act: impl FnMut(&str) -> Result<(), CliError>) -> Result<(), CliError> {
    if let [name] = names {
        return act(name);
    }
    let mut failed = false;
    for name in names {
        if let Err(error) = act(name) {
            complain(&error.render());
            failed = true;
        }
    }
    if failed { Err(CliError::told()) } else { Ok(()) }
}

/// The containers that a command is for: those named, or with `--all` all in these states.
fn targets(
    service: &Service,
    names: Vec<String>,
    all: bool,
    states: Option<&[&str]>,
) -> Result<Vec<String>, CliError> {
    #[derive(Deserialize)]
    struct List {
        containers: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        name: String,
    }
    if !all {
        return Ok(names);
    }
    let list: List =
        service.call("list containers", "io.dormouse.Container.List", json!({ "states": states }))?;
    Ok(list.containers.into_iter().map(|listed| listed.name).collect())
}

/// Tells what the service lowered or left out.
fn tell_warnings(warnings: &[String]) {
    for warning in warnings {
        complain(&format!("dormouse: warning: {}\n", crate::cli::table::printable(warning)));
    }
}
