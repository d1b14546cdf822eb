//! `dormouse exec`
//!
//! Without a terminal the streams go along with the call, and the call lasts as long as the command. With one, the
//! first reply brings the master side of a terminal in the container; its bytes are carried here, and its size is set
//! here. In both cases the service sends SIGHUP to the command when we leave.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::errors::CliError;
use crate::cli::service::{self, Service};
use crate::cli::session::Outcome;
use crate::cli::signals;
use crate::cli::spec::environment;
use crate::cli::streams::{OutputPumps, Streams, pump_input};
use crate::cli::terminal::{self, DetachKeys, RawMode};

const METHOD: &str = "io.dormouse.Container.Exec";

/// What ends input typed into a terminal, in its usual mode.
const END_OF_TRANSMISSION: u8 = 4;

/// Run a command in a running container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse exec -it web bash
  dormouse exec web systemctl --failed
  dormouse exec -i db psql < dump.sql

The exit code is that of the command; 125 tells of a failure of dormouse itself, 126 that the command can't be \
executed, 127 that there is none.")]
pub struct Exec {
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,
    /// Environment variable; KEY alone takes the value from here
    #[arg(short, long = "env", value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// File with a KEY=VALUE in each line
    #[arg(long = "env-file", value_name = "FILE")]
    env_files: Vec<PathBuf>,
    /// User and group, by name or number [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Working directory [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// All capabilities
    #[arg(long)]
    privileged: bool,
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    terminal_descriptor: Option<usize>,
    exit_code: Option<i64>,
}

enum Event {
    Terminal(OwnedFd),
    Ended(Result<Option<i64>, CliError>),
    Signal(Signal),
}

impl Exec {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        let attempted = format!("run {:?} in {:?}", self.command[0], self.name);
        let parameters = self.parameters()?;
        let outcome = if self.tty {
            self.with_terminal(service, attempted, parameters)?
        } else {
            self.with_streams(service, &attempted, parameters)?
        };
        Ok(outcome.exit_code())
    }

    fn parameters(&self) -> Result<Map<String, Value>, CliError> {
        let env = environment(&self.env, &self.env_files)?;
        let fields = json!({
            "name": self.name,
            "command": self.command,
            "env": (!env.is_empty()).then_some(env),
            "user": self.user,
            "workdir": self.workdir,
            "privileged": self.privileged.then_some(true),
        });
        Ok(fields.as_object().cloned().unwrap_or_default())
    }

    fn with_streams(
        &self,
        service: &Service,
        attempted: &str,
        mut parameters: Map<String, Value>,
    ) -> Result<Outcome, CliError> {
        let mut connection = service.connect()?;
        let streams = Streams::prepare(self.interactive, false, &DetachKeys::none(), || {})?;
        let (indices, descriptors, output) = streams.into_parts();
        parameters.extend(indices);
        let reply: Result<Progress, CliError> = service::call_with_fds(
            &mut connection,
            attempted,
            METHOD,
            Value::Object(parameters),
            descriptors,
        );
        output.finish();
        Ok(Outcome::Exited(reply?.exit_code))
    }

    fn with_terminal(
        &self,
        service: &Service,
        attempted: String,
        mut parameters: Map<String, Value>,
    ) -> Result<Outcome, CliError> {
        let io_error = |error: io::Error| CliError::io("connect to the terminal", &error);
        let (sender, events) = mpsc::channel();
        let signals = sender.clone();
        signals::deliver_to(move |signal| send(&signals, Event::Signal(signal))).map_err(io_error)?;
        parameters.insert("terminal".to_owned(), json!(true));
        if let Some(size) = terminal::size() {
            parameters.insert("rows".to_owned(), json!(size.rows));
            parameters.insert("columns".to_owned(), json!(size.columns));
        }
        let service = service.clone();
        std::thread::Builder::new()
            .name("call".to_owned())
            .spawn(move || {
                let mut exit_code = None;
                let result = service.stream_with_fds(
                    attempted,
                    METHOD,
                    Value::Object(parameters),
                    Vec::new(),
                    |progress: Progress, descriptors| {
                        if let Some(index) = progress.terminal_descriptor {
                            let master = descriptors.into_iter().nth(index).ok_or_else(|| {
                                CliError::bad_reply("connect to the terminal", "its descriptor is missing")
                            })?;
                            send(&sender, Event::Terminal(master));
                        }
                        exit_code = progress.exit_code.or(exit_code);
                        Ok(())
                    },
                );
                send(&sender, Event::Ended(result.map(|()| exit_code)));
            })
            .map_err(io_error)?;

        let mut raw = None;
        let mut master: Option<OwnedFd> = None;
        let mut output = OutputPumps::new().map_err(io_error)?;
        let outcome = loop {
            match events.recv() {
                Ok(Event::Terminal(new)) => {
                    if self.interactive {
                        raw = RawMode::enter().map_err(io_error)?;
                        type_into(&new).map_err(io_error)?;
                    }
                    let screen = io::stdout().as_fd().try_clone_to_owned().map_err(io_error)?;
                    output.carry(new.try_clone().map_err(io_error)?, screen).map_err(io_error)?;
                    master = Some(new);
                }
                Ok(Event::Ended(result)) => break result.map(Outcome::Exited),
                Ok(Event::Signal(Signal::SIGWINCH)) => {
                    if let (Some(master), Some(size)) = (&master, terminal::size()) {
                        // Refused only when the command has ended.
                        let _ = terminal::set_size(master, size);
                    }
                }
                Ok(Event::Signal(signal)) => return Ok(Outcome::Left(signal)),
                Err(mpsc::RecvError) => break Err(CliError::new("the call was lost")),
            }
        };
        output.finish();
        drop(raw);
        outcome
    }
}

/// Carries what is typed, or piped in, to the terminal of the command.
fn type_into(master: &OwnedFd) -> io::Result<()> {
    let stdin = io::stdin();
    let keyboard = File::from(stdin.as_fd().try_clone_to_owned()?);
    let at_end = (!stdin.is_terminal()).then_some(END_OF_TRANSMISSION);
    pump_input(keyboard, master.try_clone()?, &DetachKeys::none(), || {}, at_end)
}

fn send(sender: &mpsc::Sender<Event>, event: Event) {
    // Fails only when nobody wants to know any more.
    let _ = sender.send(event);
}
