//! The client commands: arguments in, varlink calls out, results as tables or JSON.
//!
//! Everything goes through the service's public interface; nothing here knows the engine. One verb is one file in
//! `commands`; what they share is beside this file.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::Parser;

use crate::varlink::client::Connection;

mod color;
mod commands;
mod completion;
mod connections;
mod done;
mod errors;
mod grammar;
mod human;
mod lines;
mod output;
mod progress;
mod remote;
mod service;
mod session;
mod several;
mod signals;
mod spec;
mod steps;
mod streams;
mod table;
mod terminal;

use errors::CliError;

pub use grammar::{has_flag, has_verb, takes};
pub use spec::of_flags as spec_of_flags;

/// Containers, and the systemd inside them, through a service that sleeps.
#[derive(Debug, Parser)]
#[command(
    name = "dormouse",
    version,
    max_term_width = 120,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "\
Examples:
  dormouse import debian.tar.zst debian            make an image of a root file system
  dormouse run --name web -d --wait ready debian /sbin/init
  dormouse units list --failed web                 what does not work in it
  dormouse run --rm -it debian bash                a shell in a container of its own

`dormouse serve --help` tells of the service itself.

--format json makes one JSON document of what a command lists, tells or did; jsonlines one in each line, as it comes. \
Commands that do something write an object for each thing: `name`; `id` if it was made now; `error` if nothing was done to it; and \
what else they know. The exit code is the same in any form.

Exit codes: 0 for success, 1 for a failure, 2 for arguments that make no sense. Commands that run a program in the \
foreground (run, exec, attach, start --attach, wait on one) pass its exit code on: then 125 is a failure of dormouse itself, 126 a \
command that can't be executed, 127 one that is not there, 128 and N the end by signal N."
)]
struct Cli {
    /// Where the service listens [default: unix:/run/dormouse/io.dormouse, or your own in $XDG_RUNTIME_DIR]
    #[arg(
        long,
        global = true,
        env = "DORMOUSE_ADDRESS",
        value_name = "ADDRESS",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    address: Option<String>,

    /// The service of another host: ssh://[USER@]HOST[:PORT][/SOCKET], or a name that `dormouse connection add` has given
    #[arg(
        long,
        global = true,
        env = "DORMOUSE_CONNECTION",
        value_name = "CONNECTION",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    connection: Option<String>,

    /// Colours: on terminals (unless NO_COLOR is set), always, or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = "Global options")]
    color: color::When,

    #[command(subcommand)]
    command: commands::Command,
}

/// Runs the command that the arguments of this process tell.
///
/// The exit code is that of the program for the commands that run one; else 0, 1 for a failure and 2 for arguments
/// that make no sense.
pub fn main() -> ExitCode {
    completion::answer();
    let cli = Cli::parse();
    color::set(cli.color);
    let service = match cli.service() {
        Ok(service) => service,
        Err(error) => {
            streams::complain(&error.render());
            return ExitCode::from(error.exit_code(cli.command.passes_codes()));
        }
    };
    let passes_codes = cli.command.passes_codes();
    match cli.command.run(&service) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            streams::complain(&error.render());
            ExitCode::from(error.exit_code(passes_codes))
        }
    }
}

impl Cli {
    fn service(&self) -> Result<service::Service, CliError> {
        let wanted = self.connection.as_deref().filter(|connection| !connection.is_empty());
        match wanted.filter(|_| self.command.needs_service()) {
            Some(connection) => connections::resolve(connection),
            None => Ok(service::Service::at(self.address.as_deref())),
        }
    }
}

/// Connects to the service on this host, at `address` or where it usually listens. The error is the text for the user.
///
/// # Errors
/// If nobody listens there, or not for this user.
pub fn connect(address: Option<&str>) -> Result<UnixStream, String> {
    let address = address.map_or_else(service::default_address, str::to_owned);
    service::connect(&address).map(Connection::into_stream).map_err(|error| error.render())
}

/// `dormouse run` or `dormouse start --attach` in the foreground, without an address of a service: what the main process of a
/// unit does in its own way.
#[derive(Debug)]
pub struct ForegroundRun(Foreground);

#[derive(Debug)]
enum Foreground {
    Run(Box<commands::Run>),
    Start(commands::Start),
}

impl ForegroundRun {
    /// Reads the arguments of this process; `None` if they mean something else. Arguments that make no sense end it.
    pub fn parse() -> Option<Self> {
        let cli = Cli::parse();
        if cli.address.is_some() || cli.connection.is_some() {
            return None;
        }
        match cli.command {
            commands::Command::Run(run) if run.is_in_foreground() => Some(Self(Foreground::Run(run))),
            commands::Command::Start(start) if start.is_attached() => Some(Self(Foreground::Start(start))),
            _ => None,
        }
    }

    /// Runs the container through the service at `address`, as a unit: the service manager is told of its readiness, and
    /// SIGTERM stops it. The exit code is the container's.
    pub fn main(self, address: &str) -> ExitCode {
        let service = service::Service::at(Some(address));
        let result = match self.0 {
            Foreground::Run(run) => run.run_as_unit(&service),
            Foreground::Start(start) => start.run_as_unit(&service),
        };
        match result {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                streams::complain(&error.render());
                ExitCode::from(error.exit_code(true))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_tells_programs_what_it_did() {
        // Their output is somebody else's, or a script or page; the --format of build and save is that of an image, as podman's.
        const OTHERS: [&str; 8] =
            ["attach", "build", "save", "completions", "man", "pod exists", "generate kube", "kube generate"];
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                check(sub, format!("{path} {}", sub.get_name()).trim());
            }
            if command.has_subcommands() || OTHERS.contains(&path) {
                return;
            }
            let format = command.get_arguments().find(|argument| argument.get_long() == Some("format"));
            let known = format.expect(path).get_possible_values();
            assert!(known.iter().any(|value| value.get_name() == "json"), "{path}");
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn every_command_and_argument_has_a_help_text() {
        fn check(command: &clap::Command, path: &str) {
            assert!(command.get_about().is_some(), "{path} has no help text");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{path} {} has no help text", argument.get_id());
            }
            for sub in command.get_subcommands() {
                check(sub, &format!("{path} {}", sub.get_name()));
            }
        }
        check(&Cli::command(), "dormouse");
    }
}
