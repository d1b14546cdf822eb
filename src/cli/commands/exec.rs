//! `dormouse exec`
//!
//! Without a terminal the streams go along with the call, and the call lasts as long as the command. With one, the
//! first reply brings the master side of a terminal in the container; its bytes are carried here, and its size is set
//! here. On another host both come as channels. The service hangs the command up when we leave, unless by the detach keys.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;

use clap::Args;
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::session::Outcome;
use crate::cli::signals;
use crate::cli::spec::environment;
use crate::cli::streams::{OutputPumps, Streams, complain, pump_input};
use crate::cli::terminal::{self, DetachKeys, RawMode};
use crate::varlink::stream::Controller;

const METHOD: &str = "io.dormouse.Container.Exec";

/// What ends input typed into a terminal, in its usual mode.
const END_OF_TRANSMISSION: u8 = 4;

/// Run a command in a running container
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse exec -it web bash
  dormouse exec web systemctl --failed
  dormouse exec -d web backup.sh          in the background; `dormouse execs` lists what runs
  dormouse exec -i db psql < dump.sql

The exit code is that of the command; 125 tells of a failure of dormouse itself, 126 that the command can't be \
executed, 127 that there is none. SIGINT and SIGTERM are passed on; a second one leaves, which hangs it up.")]
pub struct Exec {
    /// Leave it running in the background, and print its id
    #[arg(short, long, conflicts_with = "interactive")]
    detach: bool,
    /// With a terminal: keys that leave it running; "" for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
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
    #[command(flatten)]
    form: FormatFlag,
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
    #[serde(default)]
    exec: Option<String>,
    terminal_descriptor: Option<usize>,
    exit_code: Option<i64>,
}

enum Event {
    /// It runs here, by this id.
    Started(String),
    Terminal(OwnedFd),
    /// It runs on another host.
    Begun(Controller),
    Ended(Result<Option<i64>, CliError>),
    Signal(Signal),
    DetachKeys,
}

impl Exec {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        self.form.only_with("--detach", self.detach)?;
        let attempted = format!("run {:?} in {:?}", self.command[0], self.name);
        let mut parameters = self.parameters()?;
        if self.detach {
            parameters.insert("detach".to_owned(), json!(true));
            let started: Progress = service.call(&attempted, METHOD, Value::Object(parameters))?;
            let id = started.exec.ok_or_else(|| CliError::bad_reply(&attempted, "it has no id"))?;
            tell(&self.form, Done::made(&self.name, &id))?;
            return Ok(0);
        }
        let outcome = Session { exec: &self, service, attempted }.run(parameters)?;
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
            "terminal": self.tty.then_some(true),
        });
        Ok(fields.as_object().cloned().unwrap_or_default())
    }
}

/// A command in the foreground.
struct Session<'a> {
    exec: &'a Exec,
    service: &'a Service,
    attempted: String,
}

impl Session<'_> {
    fn run(&self, mut parameters: Map<String, Value>) -> Result<Outcome, CliError> {
        let io_error = |error: io::Error| CliError::io("connect to the command", &error);
        let (sender, events) = mpsc::channel();
        let signals = sender.clone();
        signals::deliver_to(move |signal| send(&signals, Event::Signal(signal))).map_err(io_error)?;
        self.service.reach()?;
        let mut descriptors = Vec::new();
        let mut raw = None;
        let output = if !self.exec.tty {
            let streams = Streams::prepare(self.exec.interactive, false, &DetachKeys::none(), || {}, None)?;
            let (indices, fds, output) = streams.into_parts();
            parameters.extend(indices);
            descriptors = fds;
            output
        } else {
            if let Some(size) = terminal::size() {
                parameters.insert("rows".to_owned(), json!(size.rows));
                parameters.insert("columns".to_owned(), json!(size.columns));
            }
            let mut output = OutputPumps::new().map_err(io_error)?;
            if self.service.is_remote() {
                raw = self.enter_raw()?;
                let (screen, from_there) = io::pipe().map_err(io_error)?;
                output.carry(screen.into(), own_stdout().map_err(io_error)?).map_err(io_error)?;
                parameters.insert("stdout".to_owned(), json!(0));
                descriptors.push(from_there.into());
                if self.exec.interactive {
                    let keyboard = self.keyboard(sender.clone()).map_err(io_error)?;
                    parameters.insert("stdin".to_owned(), json!(1));
                    descriptors.push(keyboard.into());
                }
            }
            output
        };
        self.call(parameters, descriptors, sender.clone()).map_err(io_error)?;
        self.attend(&events, &sender, raw, output)
    }

    /// Makes the call, in a thread.
    fn call(
        &self,
        parameters: Map<String, Value>,
        descriptors: Vec<OwnedFd>,
        events: mpsc::Sender<Event>,
    ) -> io::Result<()> {
        let (service, attempted) = (self.service.clone(), self.attempted.clone());
        let parameters = Value::Object(parameters);
        let call = move || {
            let result = if service.is_remote() {
                let begun = |controller| send(&events, Event::Begun(controller));
                let ended: Result<Progress, CliError> =
                    service.call_with_fds(&attempted, METHOD, parameters, descriptors, begun);
                ended.map(|ended| ended.exit_code)
            } else {
                call_here(&service, &attempted, parameters, descriptors, &events)
            };
            send(&events, Event::Ended(result));
        };
        std::thread::Builder::new().name("call".to_owned()).spawn(call).map(drop)
    }

    fn attend(
        &self,
        events: &mpsc::Receiver<Event>,
        sender: &mpsc::Sender<Event>,
        mut raw: Option<RawMode>,
        mut output: OutputPumps,
    ) -> Result<Outcome, CliError> {
        let io_error = |error: io::Error| CliError::io("connect to the terminal", &error);
        let mut handle = Handle::default();
        let mut signalled = false;
        let outcome = loop {
            match events.recv() {
                Ok(Event::Started(id)) => handle.id = Some(id),
                Ok(Event::Begun(controller)) => {
                    handle.controller = Some(controller);
                    handle.resize();
                }
                Ok(Event::Terminal(master)) => {
                    raw = self.enter_raw()?;
                    if self.exec.interactive {
                        self.type_into(&master, sender.clone()).map_err(io_error)?;
                    }
                    let copy = master.try_clone().map_err(io_error)?;
                    output.carry(copy, own_stdout().map_err(io_error)?).map_err(io_error)?;
                    handle.master = Some(master);
                }
                Ok(Event::Ended(result)) => break result.map(Outcome::Exited),
                Ok(Event::DetachKeys) => {
                    handle.detach(self)?;
                    return Ok(Outcome::Detached);
                }
                Ok(Event::Signal(Signal::SIGWINCH)) => handle.resize(),
                // The terminal is gone, and the command is hung up with it.
                Ok(Event::Signal(signal @ Signal::SIGHUP)) => return Ok(Outcome::Left(signal)),
                Ok(Event::Signal(signal)) if signalled => return Ok(Outcome::Left(signal)),
                Ok(Event::Signal(signal)) => {
                    signalled = true;
                    handle.kill(self, signal);
                    if io::stderr().is_terminal() {
                        let command = &self.exec.command[0];
                        complain(&format!("\rdormouse: sent {signal} to {command:?}; once more leaves\r\n"));
                    }
                }
                Err(mpsc::RecvError) => break Err(CliError::new("the call was lost")),
            }
            // What it was too early for.
            handle.kill_again(self);
        };
        output.finish();
        drop(raw);
        outcome
    }

    fn enter_raw(&self) -> Result<Option<RawMode>, CliError> {
        let enter =
            || RawMode::enter().map_err(|error| CliError::io("switch the terminal to raw mode", &error));
        if self.exec.interactive { enter() } else { Ok(None) }
    }

    /// What is typed or piped in, as it comes out of a pipe.
    fn keyboard(&self, events: mpsc::Sender<Event>) -> io::Result<PipeReader> {
        let (reader, writer) = io::pipe()?;
        self.type_into(&writer.into(), events)?;
        Ok(reader)
    }

    /// Carries what is typed, or piped in, to the terminal of the command.
    fn type_into(&self, master: &OwnedFd, events: mpsc::Sender<Event>) -> io::Result<()> {
        let stdin = io::stdin();
        let keyboard = File::from(stdin.as_fd().try_clone_to_owned()?);
        let is_terminal = stdin.is_terminal();
        let at_end = (!is_terminal).then_some(END_OF_TRANSMISSION);
        let none = DetachKeys::none();
        let keys = if is_terminal { &self.exec.detach_keys } else { &none };
        let detached = move || send(&events, Event::DetachKeys);
        pump_input(keyboard, master.try_clone()?, keys, detached, None, at_end)
    }
}

/// As long as the command runs; tells its id, and hands over the master of its terminal.
fn call_here(
    service: &Service,
    attempted: &str,
    parameters: Value,
    descriptors: Vec<OwnedFd>,
    events: &mpsc::Sender<Event>,
) -> Result<Option<i64>, CliError> {
    let mut exit_code = None;
    service.stream_with_fds(attempted, METHOD, parameters, descriptors, |progress: Progress, passed| {
        if let Some(id) = progress.exec {
            send(events, Event::Started(id));
        }
        if let Some(index) = progress.terminal_descriptor {
            let master = passed
                .into_iter()
                .nth(index)
                .ok_or_else(|| CliError::bad_reply("connect to the terminal", "its descriptor is missing"))?;
            send(events, Event::Terminal(master));
        }
        exit_code = progress.exit_code.or(exit_code);
        Ok(())
    })?;
    Ok(exit_code)
}

/// How the command is reached beside its streams.
#[derive(Default)]
struct Handle {
    id: Option<String>,
    master: Option<OwnedFd>,
    controller: Option<Controller>,
    /// A signal that could not be sent yet.
    due: Option<Signal>,
}

impl Handle {
    fn resize(&self) {
        let Some(size) = terminal::size() else { return };
        // Refused only when the command has ended.
        if let Some(master) = &self.master {
            let _ = terminal::set_size(master, size);
        }
        if let Some(controller) = &self.controller {
            let _ = controller.resize(size.rows, size.columns);
        }
    }

    fn kill(&mut self, session: &Session<'_>, signal: Signal) {
        self.due = Some(signal);
        self.kill_again(session);
    }

    fn kill_again(&mut self, session: &Session<'_>) {
        let Some(signal) = self.due else { return };
        match (&self.controller, &self.id) {
            (Some(controller), _) => {
                let _ = controller.signal(signal.as_str());
            }
            (None, Some(id)) => {
                let parameters = json!({"name": session.exec.name, "exec": id, "signal": signal.as_str()});
                let sent: Result<Value, CliError> =
                    session.service.call("signal the command", "io.dormouse.Container.KillExec", parameters);
                // It has ended just now.
                drop(sent);
            }
            (None, None) => return,
        }
        self.due = None;
    }

    fn detach(&self, session: &Session<'_>) -> Result<(), CliError> {
        if let Some(controller) = &self.controller {
            return controller.leave().map_err(|error| CliError::io("detach", &error));
        }
        let parameters = json!({"name": session.exec.name, "exec": self.id});
        let detached: Value =
            session.service.call("detach", "io.dormouse.Container.DetachExec", parameters)?;
        drop(detached);
        Ok(())
    }
}

fn own_stdout() -> io::Result<OwnedFd> {
    io::stdout().as_fd().try_clone_to_owned()
}

fn send(sender: &mpsc::Sender<Event>, event: Event) {
    // Fails only when nobody wants to know any more.
    let _ = sender.send(event);
}
