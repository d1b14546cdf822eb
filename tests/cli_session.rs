//! The client's side of a foreground container, without one: the service here is the real transport with a toy behind
//! it, which runs the commands as plain processes on the streams that the client passed.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach the toy and the helpers

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dormouse::varlink::{BoxFuture, Call, CallError, Interface, Listener, ServeOptions, Service, serve};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use serde_json::{Value, json};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs what `Create` was given when `Start` comes, and notes the calls beside that.
struct Toy {
    command: Mutex<Vec<String>>,
    process: Mutex<Option<i32>>,
    calls: Mutex<Sender<(String, Value)>>,
}

impl Toy {
    async fn answer(&self, call: &mut Call) -> Result<(), CallError> {
        let parameters: Value = call.parameters()?;
        let method = call.method().to_owned();
        self.calls.lock().unwrap().send((method.clone(), parameters.clone())).unwrap();
        match method.as_str() {
            "Create" => {
                *self.command.lock().unwrap() =
                    serde_json::from_value(parameters["spec"]["command"].clone()).unwrap();
                call.reply(json!({"id": ID, "name": "toy", "warnings": ["a limit was lowered"]})).await
            }
            "Start" => {
                let command = self.command.lock().unwrap().clone();
                if command[0] == "missing" {
                    let reason = "cannot run \"missing\" in \"toy\": there is no such program";
                    let error = json!({"name": "toy", "command": "missing", "reason": reason});
                    return Err(CallError::reply("io.dormouse.Container.CommandNotFound", error));
                }
                let mut streams: HashMap<usize, OwnedFd> = call.take_fds().into_iter().enumerate().collect();
                let mut stream = |name: &str| match parameters[name].as_u64() {
                    Some(index) => Stdio::from(streams.remove(&usize::try_from(index).unwrap()).unwrap()),
                    None => Stdio::null(),
                };
                let (stdin, stdout, stderr) = (stream("stdin"), stream("stdout"), stream("stderr"));
                let code = self.execute(&command, stdin, stdout, stderr).await;
                call.reply(json!({"exitCode": code, "warnings": []})).await
            }
            "Exec" => {
                let command: Vec<String> = serde_json::from_value(parameters["command"].clone()).unwrap();
                let side = |name: &str| u16::try_from(parameters[name].as_u64().unwrap()).unwrap();
                let pty = pty(side("rows"), side("columns"));
                call.reply_continues_with_fds(json!({"terminalDescriptor": 0}), vec![pty.master]).await?;
                let stream = || Stdio::from(pty.slave.try_clone().unwrap());
                let code = self.execute(&command, stream(), stream(), stream()).await;
                call.reply(json!({"exitCode": code})).await
            }
            "Kill" => {
                let Some(process) = *self.process.lock().unwrap() else {
                    let error = json!({"name": "toy", "state": "created", "wanted": "running", "reason": "it does not run"});
                    return Err(CallError::reply("io.dormouse.Container.WrongState", error));
                };
                let signal: Signal = parameters["signal"].as_str().unwrap().parse().unwrap();
                kill(Pid::from_raw(process), signal).unwrap();
                call.reply(json!({})).await
            }
            "Inspect" => {
                let error = json!({"reason": "the toy does not know more of it"});
                Err(CallError::reply("io.dormouse.Container.Failed", error))
            }
            _ => call.reply(json!({})).await,
        }
    }

    async fn execute(&self, command: &[String], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> i32 {
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]).stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let mut child = child.spawn().unwrap();
        *self.process.lock().unwrap() = Some(i32::try_from(child.id()).unwrap());
        tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap().code().unwrap_or(-1)
    }
}

impl Interface for Toy {
    fn name(&self) -> &'static str {
        "io.dormouse.Container"
    }

    fn description(&self) -> &'static str {
        include_str!("../interfaces/io.dormouse.Container.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.answer(call))
    }
}

/// The service, and what was asked of it.
struct Host {
    directory: tempfile::TempDir,
    calls: Receiver<(String, Value)>,
    toy: Arc<Toy>,
}

struct Shared(Arc<Toy>);

impl Interface for Shared {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn description(&self) -> &'static str {
        self.0.description()
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Interface::call(self.0.as_ref(), call)
    }
}

fn host() -> Host {
    let directory = tempfile::tempdir().unwrap();
    let (sender, calls) = channel();
    let toy =
        Arc::new(Toy { command: Mutex::default(), process: Mutex::default(), calls: Mutex::new(sender) });
    let listener =
        Listener::bind(&format!("unix:{}/socket", directory.path().display()).parse().unwrap()).unwrap();
    let service = Service {
        vendor: "test".into(),
        product: "toy".into(),
        version: "0".into(),
        url: "none".into(),
        interfaces: vec![Box::new(Shared(toy.clone()))],
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = ServeOptions { idle_timeout: None, ..ServeOptions::default() };
        runtime.block_on(serve(service, vec![listener], options)).unwrap();
    });
    Host { directory, calls, toy }
}

impl Host {
    fn dormouse(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command
            .args(arguments)
            .env("DORMOUSE_ADDRESS", format!("unix:{}/socket", self.directory.path().display()));
        command
    }

    /// Runs a command of the client to its end.
    fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut command = self.dormouse(arguments);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs a command of the client on a terminal of its own.
    fn on_terminal(&self, arguments: &[&str], rows: u16, columns: u16) -> OnTerminal {
        let pty = pty(rows, columns);
        let stream = || Stdio::from(pty.slave.try_clone().unwrap());
        let child =
            self.dormouse(arguments).stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap();
        OnTerminal { child, master: File::from(pty.master), slave: pty.slave, shown: String::new() }
    }

    fn asked(&self, method: &str) -> Value {
        loop {
            let (asked, parameters) =
                self.calls.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no call of {method}"));
            if asked == method {
                return parameters;
            }
        }
    }
}

struct OnTerminal {
    child: Child,
    master: File,
    slave: OwnedFd,
    shown: String,
}

impl OnTerminal {
    fn wait_for_text(&mut self, text: &str) {
        let mut buffer = [0; 4096];
        while !self.shown.contains(text) {
            let length = self.master.read(&mut buffer).unwrap();
            self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    fn exit_code(&mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(Instant::now() < deadline, "the client does not end; shown: {}", self.shown);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn pty(rows: u16, columns: u16) -> OpenptyResult {
    openpty(&Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }, None).unwrap()
}

#[test]
fn run_passes_the_streams_and_the_exit_code_on() {
    let host = host();
    let output = host.run(
        &["run", "--network", "none", "-i", "image", "sh", "-c", "tr a-z A-Z; echo oops >&2; exit 3"],
        b"hello\n",
    );
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "HELLO\n");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "dormouse: warning: a limit was lowered\noops\n");
}

#[test]
fn without_interactive_standard_input_is_not_passed_on() {
    let host = host();
    let output = host.run(&["run", "--network", "none", "image", "cat"], b"secret\n");
    assert_eq!((output.status.code(), output.stdout), (Some(0), Vec::new()));
}

#[test]
fn a_missing_command_is_127_and_leaves_no_container() {
    let host = host();
    let output = host.run(&["run", "--network", "none", "image", "missing"], b"");
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "dormouse: warning: a limit was lowered\ndormouse: cannot run \"missing\" in \"toy\": there is no such program\n"
    );
    assert_eq!(host.asked("Remove"), json!({"name": ID, "volumes": true}));
}

#[test]
fn sigterm_goes_to_the_container_and_its_end_ends_the_client() {
    let host = host();
    let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = host.dormouse(&["run", "--network", "none", "image", "sh", "-c", script]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut begin = [0; 6];
    stdout.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"ready\n");
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(host.asked("Kill"), json!({"name": ID, "signal": "SIGTERM"}));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("bye\n", Some(7)));
}

#[test]
fn a_second_signal_leaves_a_container_that_does_not_care() {
    let host = host();
    let mut command = host.dormouse(&[
        "run",
        "--network",
        "none",
        "image",
        "sh",
        "-c",
        "trap '' INT; echo ready; exec sleep 300",
    ]);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    let client = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(client, Signal::SIGINT).unwrap();
    host.asked("Kill");
    kill(client, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let process = Pid::from_raw(host.toy.process.lock().unwrap().unwrap());
    kill(process, Signal::SIGKILL).expect("the container runs on");
}

#[test]
fn all_output_is_on_the_terminal_before_the_client_ends() {
    let host = host();
    let mut terminal = host.on_terminal(
        &["run", "--network", "none", "image", "sh", "-c", "seq 1 20000; echo the end"],
        24,
        80,
    );
    terminal.wait_for_text("the end");
    assert_eq!(terminal.exit_code(), 0);
    assert!(terminal.shown.contains("\r\n19999\r\n20000\r\nthe end"));
}

#[test]
fn keys_go_through_raw_and_the_detach_keys_restore_the_terminal() {
    let host = host();
    let mut terminal = host.on_terminal(
        &["run", "--network", "none", "-it", "image", "sh", "-c", "echo ready; exec cat"],
        33,
        101,
    );
    terminal.wait_for_text("ready");
    assert!(terminal.is_raw());
    assert_eq!(host.asked("Resize"), json!({"name": ID, "rows": 33, "columns": 101}));
    terminal.master.write_all(b"typed\x03\n").unwrap();
    terminal.wait_for_text("typed\x03");
    terminal.master.write_all(b"\x10\x11").unwrap();
    assert_eq!(terminal.exit_code(), 0);
    assert!(!terminal.is_raw());
}

#[test]
fn the_terminal_is_restored_when_the_container_ends_and_when_the_client_is_told_to_leave() {
    let host = host();
    let mut terminal = host.on_terminal(
        &["run", "--network", "none", "-it", "image", "sh", "-c", "echo ready; read line; exit 5"],
        24,
        80,
    );
    terminal.wait_for_text("ready");
    assert!(terminal.is_raw());
    terminal.master.write_all(b"\n").unwrap();
    assert_eq!(terminal.exit_code(), 5);
    assert!(!terminal.is_raw());

    let mut terminal = host.on_terminal(
        &["run", "--network", "none", "-it", "image", "sh", "-c", "echo ready; read line"],
        24,
        80,
    );
    terminal.wait_for_text("ready");
    kill(Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()), Signal::SIGHUP).unwrap();
    assert_eq!(terminal.exit_code(), 129);
    assert!(!terminal.is_raw());
}

#[test]
fn exec_with_a_terminal_carries_bytes_size_and_exit_code() {
    let host = host();
    let script = "stty size; read line; echo \"got $line\"; exit 9";
    let mut terminal = host.on_terminal(&["exec", "-it", "toy", "sh", "-c", script], 40, 120);
    terminal.wait_for_text("40 120");
    assert!(terminal.is_raw());
    terminal.master.write_all(b"keys\r").unwrap();
    terminal.wait_for_text("got keys");
    assert_eq!(terminal.exit_code(), 9);
    assert!(!terminal.is_raw());
}

#[test]
fn a_password_prompt_that_a_signal_ends_leaves_a_terminal_that_shows_what_is_typed() {
    let host = host();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = host.on_terminal(&["login", "--username", "me", "registry.example"], 24, 80);
        let shows = |terminal: &OnTerminal| {
            tcgetattr(&terminal.slave).unwrap().local_flags.contains(LocalFlags::ECHO)
        };
        terminal.wait_for_text("Password: ");
        let deadline = Instant::now() + PATIENCE;
        while shows(&terminal) {
            assert!(Instant::now() < deadline, "what is typed is shown");
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(i32::try_from(terminal.child.id()).unwrap()), signal).unwrap();
        let status = terminal.child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal as i32));
        assert!(shows(&terminal), "{signal}");
    }
}
