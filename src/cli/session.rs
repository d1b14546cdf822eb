//! A container in the foreground, as `run`, `start --attach` and `attach` have it.
//!
//! The call that ends with the container runs in a thread. The main thread waits for what happens first: the end, a
//! signal, a new size of the terminal, or the detach keys. Sizes and signals go over a second connection, and are tried again
//! for a while, because the container may not be running yet when the first of them is due; to another host they go with
//! the streams.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use nix::sys::signal::Signal;
use sd_notify::NotifyState;
use serde_json::{Map, Value, json};

use crate::cli::errors::CliError;
use crate::cli::service::Service;
use crate::cli::signals;
use crate::cli::streams::{Streams, complain};
use crate::cli::terminal::{self, DetachKeys, RawMode, Size};
use crate::varlink::stream::Controller;

const RETRY_INTERVAL: Duration = Duration::from_millis(20);
const RETRIES_MAX: u32 = 1_000;

/// A container whose streams are ours.
#[derive(Debug)]
pub struct Session<'a> {
    /// The service that has it.
    pub service: &'a Service,
    /// Its id or name for the service.
    pub id: &'a str,
    /// Its name for people.
    pub name: &'a str,
    /// It has a terminal.
    pub terminal: bool,
    /// It gets our standard input.
    pub interactive: bool,
    /// Keys that leave it running.
    pub detach_keys: &'a DetachKeys,
    /// Ctrl-C stops it, as long as nothing else was typed: a systemd's console, where nobody has logged in.
    pub interrupt_stops: bool,
    /// It is the unit that this process was started for.
    pub as_unit: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With the container; the exit code, if the service knows it.
    Exited(Option<i64>),
    /// By the detach keys; the container runs on.
    Detached,
    /// By a second signal, or one that is not for the container; it runs on.
    Left(Signal),
}

impl Outcome {
    /// The exit code of the command.
    pub fn exit_code(self) -> u8 {
        match self {
            // Unknown if the monitor was lost; then it is our failure.
            Self::Exited(code) => code.and_then(|code| u8::try_from(code).ok()).unwrap_or(125),
            Self::Detached => 0,
            Self::Left(signal) => u8::try_from(128 + signal as i32).unwrap_or(125),
        }
    }
}

enum Event {
    /// Sizes and signals go this way.
    Begun(Controller),
    Ended(Result<Option<i64>, CliError>),
    Signal(Signal),
    DetachKeys,
    /// Ctrl-C, for us.
    Interrupt,
}

#[derive(serde::Deserialize)]
struct Ended {
    #[serde(rename = "exitCode")]
    exit_code: Option<i64>,
}

#[derive(serde::Deserialize)]
struct Stopped {
    #[serde(rename = "exitCode")]
    exit_code: Option<i64>,
}

impl Session<'_> {
    /// Calls `method` with `parameters` and our streams, and stays until it replies or the user leaves. All output is
    /// written and the terminal is as before when this returns.
    ///
    /// # Errors
    /// What the call says, and if streams, signals or the terminal can't be used.
    pub fn run(
        &self,
        attempted: &str,
        method: &str,
        mut parameters: Map<String, Value>,
    ) -> Result<Outcome, CliError> {
        let (sender, events) = mpsc::channel();
        let signals = sender.clone();
        signals::deliver_to(move |signal| forward(&signals, Event::Signal(signal)))
            .map_err(|error| CliError::io("take signals", &error))?;
        self.service.reach()?;
        let raw = if self.terminal && self.interactive { enter_raw()? } else { None };
        let keys = sender.clone();
        let no_keys = DetachKeys::none();
        let detach_keys = if raw.is_some() { self.detach_keys } else { &no_keys };
        let interrupt = sender.clone();
        let interrupted: Option<Box<dyn FnOnce() + Send>> = match raw.is_some() && self.interrupt_stops {
            true => Some(Box::new(move || forward(&interrupt, Event::Interrupt))),
            false => None,
        };
        let detached = move || forward(&keys, Event::DetachKeys);
        let streams = Streams::prepare(self.interactive, self.terminal, detach_keys, detached, interrupted)?;
        let (indices, descriptors, output) = streams.into_parts();
        parameters.extend(indices);

        if self.as_unit {
            self.tell_readiness()?;
        }
        let (service, attempted, method) = (self.service.clone(), attempted.to_owned(), method.to_owned());
        std::thread::Builder::new()
            .name("call".to_owned())
            .spawn(move || {
                let begun = |controller| forward(&sender, Event::Begun(controller));
                let parameters = Value::Object(parameters);
                let result: Result<Ended, CliError> =
                    service.call_with_fds(attempted, &method, parameters, descriptors, begun);
                forward(&sender, Event::Ended(result.map(|ended| ended.exit_code)));
            })
            .map_err(|error| CliError::io("make a thread", &error))?;

        let outcome = self.attend(&events);
        if !matches!(outcome, Ok(Outcome::Detached | Outcome::Left(_))) {
            // The container's monitor may still have some of it, if the screen is slow.
            output.finish_at_end();
        }
        drop(raw);
        outcome
    }

    /// Waits beside everything else until the container is ready, and tells the service manager.
    fn tell_readiness(&self) -> Result<(), CliError> {
        let (service, id) = (self.service.clone(), self.id.to_owned());
        let wait = move || {
            let parameters = json!({"name": id, "condition": "ready"});
            let ready: Result<Value, CliError> =
                service.call("wait for its readiness", "io.dormouse.Container.Wait", parameters);
            // An end before that is told by the session.
            if ready.is_ok() {
                notify(&[NotifyState::Ready]);
            }
        };
        std::thread::Builder::new()
            .name("readiness".to_owned())
            .spawn(wait)
            .map_err(|error| CliError::io("make a thread", &error))?;
        Ok(())
    }

    fn attend(&self, events: &Receiver<Event>) -> Result<Outcome, CliError> {
        let mut control =
            Control { session: self, controller: None, resize: self.terminal, kill: None, retries: 0 };
        let mut signalled = false;
        loop {
            let event = if control.is_due() {
                events.recv_timeout(RETRY_INTERVAL)
            } else {
                events.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match event {
                Ok(Event::Ended(result)) => return result.map(Outcome::Exited),
                Ok(Event::Begun(controller)) => control.begin(controller),
                Ok(Event::DetachKeys) => {
                    control.leave();
                    return Ok(Outcome::Detached);
                }
                Ok(Event::Interrupt) => {
                    complain(&format!("\r\ndormouse: stopping {:?}\r\n", self.name));
                    control.want_stop();
                }
                Ok(Event::Signal(Signal::SIGWINCH)) => control.want_resize(),
                // The terminal is gone, which is no wish to end the container.
                Ok(Event::Signal(signal @ Signal::SIGHUP)) => return Ok(Outcome::Left(signal)),
                Ok(Event::Signal(Signal::SIGTERM | Signal::SIGINT)) if self.as_unit => {
                    if !signalled {
                        signalled = true;
                        notify(&[NotifyState::Stopping]);
                        control.want_stop();
                    }
                }
                Ok(Event::Signal(signal)) if signalled => return Ok(Outcome::Left(signal)),
                Ok(Event::Signal(signal)) => {
                    signalled = true;
                    control.want_kill(signal);
                    if io::IsTerminal::is_terminal(&io::stderr()) {
                        complain(&format!(
                            "\rdormouse: sent {signal} to {:?}; once more leaves it running\r\n",
                            self.name
                        ));
                    }
                }
                Err(RecvTimeoutError::Timeout) => control.try_all(),
                Err(RecvTimeoutError::Disconnected) => return Err(CliError::new("the call was lost")),
            }
        }
    }
}

fn enter_raw() -> Result<Option<RawMode>, CliError> {
    RawMode::enter().map_err(|error| CliError::io("switch the terminal to raw mode", &error))
}

/// Tells the service manager, if there is one that wants to know.
pub fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        complain(&format!("dormouse: cannot notify the service manager: {error}\n"));
    }
}

fn forward(sender: &Sender<Event>, event: Event) {
    // Fails only when the session is over, and nobody wants to know any more.
    let _ = sender.send(event);
}

/// What is to be told to the container's process beside its streams.
struct Control<'a> {
    session: &'a Session<'a>,
    controller: Option<Controller>,
    resize: bool,
    kill: Option<Signal>,
    retries: u32,
}

impl Control<'_> {
    fn is_due(&self) -> bool {
        // On another host nothing can be done before the streams are there.
        !self.session.service.is_remote()
            && (self.resize || self.kill.is_some())
            && self.retries < RETRIES_MAX
    }

    fn begin(&mut self, controller: Controller) {
        self.controller = Some(controller);
        self.try_all();
    }

    fn leave(&self) {
        if let Some(controller) = &self.controller {
            // Closing the connection, which comes next, says the same.
            let _ = controller.leave();
        }
    }

    fn want_resize(&mut self) {
        self.resize = self.session.terminal;
        self.retries = 0;
        self.try_all();
    }

    fn want_kill(&mut self, signal: Signal) {
        self.kill = Some(signal);
        self.retries = 0;
        self.try_all();
    }

    /// In a thread of its own: it lasts as long as the container takes.
    fn want_stop(&self) {
        let (service, id) = (self.session.service.clone(), self.session.id.to_owned());
        let stop = move || {
            for _ in 0..RETRIES_MAX {
                let stopped: Result<Stopped, CliError> =
                    service.call("stop the container", "io.dormouse.Container.Stop", json!({"name": id}));
                match stopped {
                    // It may not have been started yet.
                    Ok(Stopped { exit_code: None }) => std::thread::sleep(RETRY_INTERVAL),
                    _ => return,
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("stop".to_owned()).spawn(stop) {
            complain(&format!("dormouse: cannot stop the container: {error}\n"));
        }
    }

    fn try_all(&mut self) {
        self.retries += 1;
        if let Some(signal) = self.kill
            && self.send_kill(signal)
        {
            self.kill = None;
        }
        if self.resize {
            self.resize = !terminal::size().is_none_or(|size| self.send_size(size));
        }
    }

    fn send_kill(&self, signal: Signal) -> bool {
        match &self.controller {
            Some(controller) => controller.signal(signal.as_str()).is_ok(),
            None => self.call("Kill", json!({"name": self.session.id, "signal": signal.as_str()})),
        }
    }

    fn send_size(&self, size: Size) -> bool {
        match &self.controller {
            Some(controller) => controller.resize(size.rows, size.columns).is_ok(),
            None => self
                .call("Resize", json!({"name": self.session.id, "rows": size.rows, "columns": size.columns})),
        }
    }

    /// Returns whether it worked. Refusals are not told: the container is not running yet, or not any more.
    fn call(&self, method: &str, parameters: Value) -> bool {
        if self.session.service.is_remote() {
            return false;
        }
        let method = format!("io.dormouse.Container.{method}");
        let result: Result<Value, CliError> =
            self.session.service.call("control the container", &method, parameters);
        result.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_passed_on() {
        assert_eq!(Outcome::Exited(Some(3)).exit_code(), 3);
        assert_eq!(Outcome::Exited(Some(255)).exit_code(), 255);
        assert_eq!(Outcome::Exited(None).exit_code(), 125);
        assert_eq!(Outcome::Detached.exit_code(), 0);
        assert_eq!(Outcome::Left(Signal::SIGINT).exit_code(), 130);
    }
}
