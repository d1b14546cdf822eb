//! What a shell completes: the arguments, and names that the service knows at that moment.
//!
//! The shell's script calls this program with a variable set, and gets words back. An argument's name in the help tells what it
//! stands for, so that a new command completes without a line of its own. A service that does not answer at once has no names;
//! one on another host is not asked: ssh might want a password.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use serde_json::{Value, json};

use crate::cli::Cli;
use crate::cli::connections::Connections;
use crate::cli::errors::CliError;
use crate::cli::service;

/// Set by the scripts: which shell asks.
const VARIABLE: &str = "DORMOUSE_COMPLETE";
/// Nobody waits longer for a word.
const PATIENCE: Duration = Duration::from_secs(1);
const NAME: &str = "dormouse";

/// Answers a shell that asks; does nothing for anybody else.
pub fn answer() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(command).var(VARIABLE).bin(NAME).completer(NAME).complete();
    }
}

/// The script for a shell.
///
/// # Errors
/// For a shell that is not known.
pub fn script(shell: &str) -> Result<Vec<u8>, CliError> {
    let shells = Shells::builtins();
    let Some(completer) = shells.completer(shell) else {
        let known: Vec<&str> = shells.names().collect();
        return Err(CliError::usage(format!("{shell:?} is no shell that is known here"))
            .with_hint(format!("known are {}", known.join(", "))));
    };
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, NAME, NAME, NAME, &mut script)
        .map_err(|error| CliError::io("make the script", &error))?;
    Ok(script)
}

fn command() -> Command {
    with_names(Cli::command())
}

fn with_names(command: Command) -> Command {
    command
        .mut_args(|argument| {
            let stands_for =
                argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_string());
            let names: fn() -> Vec<CompletionCandidate> = match stands_for.as_deref() {
                Some("CONTAINER") => containers,
                Some("IMAGE") => images,
                Some("NETWORK") => networks,
                Some("VOLUME") => volumes,
                Some("SECRET") => secrets,
                Some("POD") => pods,
                Some("EXEC") => execs,
                Some("CONNECTION") => connections,
                _ => return argument,
            };
            argument.add(ArgValueCandidates::new(names))
        })
        .mut_subcommands(with_names)
}

fn containers() -> Vec<CompletionCandidate> {
    let state = |container: &Value| {
        let of = |field: &str| container[field].as_str().unwrap_or_default().to_owned();
        format!("{}, {}", of("state"), of("image"))
    };
    listed("Container", "containers", |container| {
        vec![(container["name"].as_str().unwrap_or_default().to_owned(), state(container))]
    })
}

fn images() -> Vec<CompletionCandidate> {
    // As people write them: localhost and its library need not be said.
    let short = |name: &str| {
        let name = name
            .strip_prefix("localhost/")
            .or_else(|| name.strip_prefix("docker.io/library/"))
            .unwrap_or(name);
        name.strip_suffix(":latest").unwrap_or(name).to_owned()
    };
    listed("Image", "images", |image| {
        let names = image["names"].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(|name| (short(name), String::new())).collect()
    })
}

fn networks() -> Vec<CompletionCandidate> {
    listed("Network", "networks", named)
}

fn volumes() -> Vec<CompletionCandidate> {
    listed("Volume", "volumes", named)
}

fn secrets() -> Vec<CompletionCandidate> {
    listed("Secret", "secrets", named)
}

fn pods() -> Vec<CompletionCandidate> {
    listed("Pod", "pods", named)
}

fn execs() -> Vec<CompletionCandidate> {
    let reply = ask("io.dormouse.Container.ListExecs").unwrap_or_default();
    candidates(&reply["execs"], |exec| {
        let command = exec["command"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let id: String = exec["exec"].as_str().unwrap_or_default().chars().take(12).collect();
        vec![(id, command.collect::<Vec<_>>().join(" "))]
    })
}

fn connections() -> Vec<CompletionCandidate> {
    let known = Connections::load().unwrap_or_default();
    known.connections.iter().map(|(name, address)| candidate(name, address)).collect()
}

fn named(object: &Value) -> Vec<(String, String)> {
    vec![(object["name"].as_str().unwrap_or_default().to_owned(), String::new())]
}

fn listed(
    interface: &str,
    field: &str,
    names: impl Fn(&Value) -> Vec<(String, String)>,
) -> Vec<CompletionCandidate> {
    let reply = ask(&format!("io.dormouse.{interface}.List")).unwrap_or_default();
    candidates(&reply[field], names)
}

fn candidates(list: &Value, names: impl Fn(&Value) -> Vec<(String, String)>) -> Vec<CompletionCandidate> {
    let list = list.as_array().into_iter().flatten();
    list.flat_map(names).map(|(name, help)| candidate(&name, &help)).collect()
}

fn candidate(name: &str, help: &str) -> CompletionCandidate {
    let help = crate::cli::table::printable(help);
    CompletionCandidate::new(OsString::from(name)).help((!help.is_empty()).then(|| help.into()))
}

/// What the service on this host says at once; `None` if it does not.
fn ask(method: &str) -> Option<Value> {
    let is_set = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    if is_set("DORMOUSE_CONNECTION").is_some() {
        return None;
    }
    let address = is_set("DORMOUSE_ADDRESS").unwrap_or_else(service::default_address);
    let mut connection = service::connect(&address).ok()?;
    connection.set_timeout(Some(PATIENCE)).ok()?;
    connection.call(method, json!({}), &[]).ok().map(|reply| reply.parameters)
}
