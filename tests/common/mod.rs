//! A host for whole-system tests: a service of its own below a temporary directory, with verbs that make a test read
//! as a sentence, and a look for leaks.
//!
//! Everything here is real: the binary, its monitors, the kernel. It needs root and /bin/busybox (Debian:
//! busybox-static); without them a test says SKIPPED on standard error and passes.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations, unused_imports)]
// The lint's exception for tests does not reach helpers, and each test binary uses a part of them.

mod images;
mod leaks;
mod user;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use dormouse::varlink::client::{ClientError, Connection, Reply};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use images::{SYSTEMD_IMAGES, busybox_tar, systemd_archive, systemd_image};
pub use leaks::Leaks;
pub use user::TestUser;

/// How long anything may take before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An error reply: its full name and its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub error: String,
    pub parameters: Value,
}

impl Refusal {
    /// The name without its interface, as in `NotFound`.
    pub fn name(&self) -> &str {
        self.error.rsplit('.').next().unwrap()
    }

    /// What it tells a person.
    pub fn reason(&self) -> &str {
        self.parameters["reason"].as_str().unwrap_or_default()
    }
}

pub type Answer = Result<Value, Refusal>;

/// Turns a client's result into a reply or an error reply; anything else fails the test.
pub fn answer(result: Result<Reply, ClientError>) -> Answer {
    match result {
        Ok(reply) => Ok(reply.parameters),
        Err(ClientError::Service { error, parameters }) => Err(Refusal { error, parameters }),
        Err(error) => panic!("no reply: {error:?}"),
    }
}

/// A service of its own, with its own directories. Leaves nothing behind.
pub struct Host {
    dir: TempDir,
    serve: Option<Child>,
    environment: Vec<(String, String)>,
    /// Whose service it is; root's without one.
    pub user: Option<TestUser>,
}

impl Host {
    /// Starts a service without images. `None`, said aloud, where such a test can't run.
    pub fn empty() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: containers with all their parts need root");
            return None;
        }
        Self::with_environment(&[])
    }

    /// As [`Self::empty`], with variables in the service's environment.
    pub fn with_environment(environment: &[(&str, &Path)]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: containers with all their parts need root");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("dormouse-test-").tempdir().unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.display().to_string()))
            .collect();
        let mut host = Self { dir, serve: None, environment, user: None };
        host.wake();
        Some(host)
    }

    /// Starts a service of an ordinary user, without images. `None`, said aloud, where such a test can't run.
    pub fn of_user(user: TestUser) -> Self {
        let dir = tempfile::Builder::new().prefix("dormouse-test-").tempdir().unwrap();
        user.settle_in(dir.path());
        let mut host = Self { dir, serve: None, environment: Vec::new(), user: Some(user) };
        host.wake();
        host
    }

    /// Starts a service that has the image `busybox`. `None`, said aloud, where such a test can't run.
    pub fn new() -> Option<Self> {
        if !Path::new(images::BUSYBOX).exists() {
            eprintln!("SKIPPED: {} is missing (apt install busybox-static)", images::BUSYBOX);
            return None;
        }
        let host = Self::empty()?;
        host.import_busybox();
        Some(host)
    }

    /// The temporary directory that everything of this host lies below.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.path().join("run")
    }

    /// Where the service listens.
    pub fn address(&self) -> String {
        format!("unix:{}", self.path().join("sock").display())
    }

    /// Starts the service, and waits until it answers.
    pub fn wake(&mut self) {
        self.serve = Some(self.spawn());
        wait_until("the service answers", || {
            // What a killed service was just about to execute may still hold its socket for a moment, and a live socket is
            // not taken over.
            if self.serve.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.serve = Some(self.spawn());
            }
            Connection::connect(&self.address())
                .and_then(|mut connection| connection.call("org.varlink.service.GetInfo", json!({}), &[]))
                .is_ok()
        });
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path().join("serve.log")).unwrap();
        let mut command = match &self.user {
            Some(user) => user.program(self.path()),
            None => Command::new(env!("CARGO_BIN_EXE_dormouse")),
        };
        command
            .args(["serve", "--listen", &self.address(), "--idle-timeout", "0"])
            .env("DORMOUSE_STATE_DIR", self.state_dir())
            .env("DORMOUSE_RUN_DIR", self.run_dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// The process id of the service.
    pub fn serve_pid(&self) -> i32 {
        i32::try_from(self.serve.as_ref().unwrap().id()).unwrap()
    }

    /// Kills the service on the spot, as a crash would.
    pub fn crash(&mut self) {
        let mut serve = self.serve.take().unwrap();
        serve.kill().unwrap();
        serve.wait().unwrap();
    }

    /// Wakes the service anew, and waits until it has swept: who is killed from now on is not found by a sweep any more.
    pub fn wake_and_sweep(&mut self) {
        if self.serve.is_some() {
            self.crash();
        }
        // The socket of a unit whose process is gone, which goes after containers without monitors have got another one.
        let swept_last = self.run_dir().join("unit-0");
        File::create(&swept_last).unwrap();
        self.wake();
        wait_until("the service has swept", || !swept_last.exists());
    }

    /// A new connection, on which a reply may take [`PATIENCE`].
    pub fn connect(&self) -> Connection {
        let connection = Connection::connect(&self.address()).unwrap();
        connection.set_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Calls `method` of `io.dormouse`, as in `Container.Start`, on a connection of its own.
    pub fn call(&self, method: &str, parameters: Value) -> Answer {
        self.call_with_fds(method, parameters, &[])
    }

    pub fn call_with_fds(&self, method: &str, parameters: Value, fds: &[BorrowedFd<'_>]) -> Answer {
        answer(self.connect().call(&full_name(method), parameters, fds))
    }

    /// Calls with `more`, and collects all replies.
    pub fn call_more(&self, method: &str, parameters: Value) -> Result<Vec<Value>, Refusal> {
        let mut connection = self.connect();
        connection.call_more(&full_name(method), parameters, &[]).unwrap().map(answer).collect()
    }

    pub fn import_busybox(&self) {
        let tar = images::busybox_tar();
        self.call_with_fds("Image.Import", json!({"name": "busybox", "archive": 0}), &[tar.as_fd()]).unwrap();
    }

    /// A container to be made of busybox that runs `script` in its shell.
    pub fn sh(&self, script: &str) -> Plan<'_> {
        self.command(&["sh", "-c", script])
    }

    /// A container to be made of busybox that runs `command`, on no network: most tests want none.
    pub fn command(&self, command: &[&str]) -> Plan<'_> {
        let spec = json!({"image": "busybox", "command": command, "networkNamespace": {"kind": "private"}});
        Plan { host: self, spec }
    }

    /// A container to be made that runs until it is stopped. Only `run_until_stoppable` and `until_stoppable` know when
    /// it does so by itself: a process 1 does not hear a signal before it has said that it wants to.
    pub fn sleeper(&self) -> Plan<'_> {
        self.sh("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
    }

    /// A container to be made from the image alone.
    pub fn image(&self, image: &str) -> Plan<'_> {
        Plan { host: self, spec: json!({"image": image, "networkNamespace": {"kind": "private"}}) }
    }

    /// The names of all containers, oldest first.
    pub fn names(&self) -> Vec<String> {
        self.names_where(json!({}))
    }

    /// The names of the containers that fit a filter.
    pub fn names_where(&self, filter: Value) -> Vec<String> {
        let reply = self.call("Container.List", filter).unwrap();
        let name = |container: &Value| container["name"].as_str().unwrap().to_owned();
        reply["containers"].as_array().unwrap().iter().map(name).collect()
    }

    /// What the service has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("serve.log")).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the service has logged:\n{}", self.log());
        }
        if let Ok(mut connection) = Connection::connect(&self.address()) {
            let _ = connection.set_timeout(Some(Duration::from_secs(10)));
            if let Ok(reply) = connection.call("io.dormouse.Container.List", json!({}), &[]) {
                for container in reply.parameters["containers"].as_array().into_iter().flatten() {
                    let victim = json!({"name": container["id"], "force": true});
                    let _ = connection.call("io.dormouse.Container.Remove", victim, &[]);
                }
            }
        }
        if let Some(mut serve) = self.serve.take() {
            let _ = kill(Pid::from_raw(i32::try_from(serve.id()).unwrap()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(serve.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = serve.kill();
            let _ = serve.wait();
        }
        leaks::clear(self.path());
    }
}

/// A container that is still only a specification.
#[derive(Clone)]
pub struct Plan<'a> {
    host: &'a Host,
    pub spec: Value,
}

impl<'a> Plan<'a> {
    pub fn named(self, name: &str) -> Self {
        self.with(json!({"name": name}))
    }

    /// Adds fields of the specification.
    pub fn with(mut self, fields: Value) -> Self {
        let spec = self.spec.as_object_mut().unwrap();
        spec.extend(fields.as_object().unwrap().clone());
        self
    }

    pub fn try_create(&self) -> Answer {
        self.host.call("Container.Create", json!({"spec": self.spec}))
    }

    pub fn create(&self) -> Container<'a> {
        let reply = self.try_create().unwrap();
        Container { host: self.host, name: reply["name"].as_str().unwrap().to_owned(), reply }
    }

    /// Runs it, and waits until it has started.
    pub fn try_run(&self) -> Answer {
        self.host.call("Container.Run", json!({"spec": self.spec}))
    }

    pub fn run(&self) -> Container<'a> {
        self.run_until("started")
    }

    /// Runs it, and waits until it handles SIGTERM.
    pub fn run_until_stoppable(&self) -> Container<'a> {
        let container = self.run();
        container.until_stoppable();
        container
    }

    /// Runs it, and waits for a condition.
    pub fn run_until(&self, condition: &str) -> Container<'a> {
        let reply = self.host.call("Container.Run", json!({"spec": self.spec, "wait": condition})).unwrap();
        Container { host: self.host, name: reply["name"].as_str().unwrap().to_owned(), reply }
    }

    /// Runs it to its end and removes it; its exit code and both streams.
    pub fn finish(&self) -> (i64, String) {
        let mut output = tempfile::tempfile().unwrap();
        let plan = self.clone().with(json!({"autoRemove": true}));
        let parameters = json!({"spec": plan.spec, "wait": "exited", "stdout": 0, "stderr": 1});
        let fds = [output.as_fd(), output.as_fd()];
        let reply = self.host.call_with_fds("Container.Run", parameters, &fds).unwrap();
        let mut text = String::new();
        output.rewind().unwrap();
        output.read_to_string(&mut text).unwrap();
        (reply["exitCode"].as_i64().expect("the exit code is known"), text)
    }

    /// Runs it to its end, which must be a good one; what it has written.
    pub fn output(&self) -> String {
        let (code, text) = self.finish();
        assert_eq!(code, 0, "{text}");
        text
    }
}

/// A container that exists, or has existed.
pub struct Container<'a> {
    pub host: &'a Host,
    pub name: String,
    /// The reply that made it.
    pub reply: Value,
}

impl<'a> Container<'a> {
    pub fn id(&self) -> &str {
        self.reply["id"].as_str().unwrap()
    }

    /// Calls a method of `io.dormouse.Container` on it, with further parameters.
    pub fn call(&self, method: &str, mut parameters: Value) -> Answer {
        parameters["name"] = json!(self.name);
        self.host.call(&format!("Container.{method}"), parameters)
    }

    /// Calls a method of `io.dormouse.Unit` on it, with further parameters.
    pub fn unit(&self, method: &str, mut parameters: Value) -> Answer {
        parameters["name"] = json!(self.name);
        self.host.call(&format!("Unit.{method}"), parameters)
    }

    pub fn start(&self) -> Answer {
        self.call("Start", json!({}))
    }

    pub fn stop(&self) -> Answer {
        self.call("Stop", json!({}))
    }

    pub fn kill(&self, signal: &str) -> Answer {
        self.call("Kill", json!({"signal": signal}))
    }

    pub fn remove(&self) -> Answer {
        self.call("Remove", json!({}))
    }

    pub fn remove_by_force(&self) -> Answer {
        self.call("Remove", json!({"force": true}))
    }

    /// Waits until it has ended; its exit code.
    pub fn exit_code(&self) -> Option<i64> {
        self.call("Wait", json!({})).unwrap()["exitCode"].as_i64()
    }

    pub fn inspect(&self) -> Value {
        self.call("Inspect", json!({})).unwrap()["container"].take()
    }

    pub fn summary(&self) -> Value {
        self.inspect()["summary"].take()
    }

    pub fn state(&self) -> String {
        self.summary()["state"].as_str().unwrap().to_owned()
    }

    /// The process id of its first process on the host.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.summary()["pid"].as_i64().expect("it runs")).unwrap()
    }

    /// Waits until its first process handles SIGTERM.
    pub fn until_stoppable(&self) {
        let status = format!("/proc/{}/status", self.pid());
        wait_until("SIGTERM is handled", || {
            let status = std::fs::read_to_string(&status).unwrap();
            let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).unwrap();
            u64::from_str_radix(caught, 16).unwrap() & (1 << (libc::SIGTERM - 1)) != 0
        });
    }

    /// Its whole log, a line per line.
    pub fn log(&self) -> Vec<String> {
        messages(&self.call("Logs", json!({})).unwrap())
    }

    /// Runs a script in it; the whole reply.
    pub fn exec(&self, script: &str) -> Value {
        self.call("Exec", json!({"command": ["sh", "-c", script]})).unwrap()
    }

    /// Runs a script in it that must end well; what it has written.
    pub fn exec_output(&self, script: &str) -> String {
        let reply = self.exec(script);
        assert_eq!(reply["exitCode"], 0, "{reply}");
        reply["stdout"].as_str().unwrap().to_owned()
    }

    /// Of what a systemd inside says at the notification socket, nobody but root can say anything.
    pub fn assert_root_alone_notifies(&self) {
        let say = |user: &str| {
            let command = ["systemd-notify", &format!("--status=said by {user}")];
            let env = json!({"NOTIFY_SOCKET": "/run/host/notify"});
            self.call("Exec", json!({"user": user, "env": env, "command": command})).unwrap()
        };
        assert_eq!(self.exec_output("stat -c '%a %u %g' /run/host/notify"), "600 0 0\n");
        let refused = say("nobody");
        assert_ne!(refused["exitCode"], 0, "{refused}");
        assert!(refused["stderr"].as_str().unwrap().contains("Permission denied"), "{refused}");
        assert_eq!(say("root")["exitCode"], 0);
        wait_until("root has said it", || self.summary()["statusText"] == "said by root");
    }
}

/// Runs a command of the client, in the host's directory.
pub fn dormouse(host: &Host, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(arguments)
        .env("DORMOUSE_ADDRESS", host.address())
        .current_dir(host.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a command has written to standard output; it must have ended well.
#[track_caller]
pub fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The messages of a reply of `Logs`.
pub fn messages(reply: &Value) -> Vec<String> {
    let message = |entry: &Value| entry["message"].as_str().unwrap().to_owned();
    reply["entries"].as_array().unwrap().iter().map(message).collect()
}

/// `io.dormouse.Container.Start` from `Container.Start`; names with more dots stay.
pub fn full_name(method: &str) -> String {
    if method.matches('.').count() == 1 { format!("io.dormouse.{method}") } else { method.to_owned() }
}

/// Waits for a condition that has no event to wait for.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that an answer is the error of this short name, and gives it.
#[track_caller]
pub fn assert_refused(answer: Answer, name: &str) -> Refusal {
    match answer {
        Ok(reply) => panic!("{name} was expected, but the call succeeded: {reply}"),
        Err(refusal) => {
            assert_eq!(refusal.name(), name, "{refusal:?}");
            refusal
        }
    }
}
