//! What the tests of the whole service share: a service of their own, calls to it, and a look at what it leaves.
//!
//! ```ignore
//! #[test]
//! fn a_container_runs_and_is_removed() {
//!     let host = host_or_skip!();
//!     let id = host.run_busybox("web", &["sleep", "60"]);
//!     assert_eq!(host.container("web")["state"], "running");
//! }
//! ```

#![allow(dead_code)] // each test file uses a part of it
#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod leaks;

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dormouse::varlink::client::{ClientError, Connection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

#[allow(unused_imports)] // not every test file looks for leaks
pub use leaks::LeakCheck;

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_dormouse");

/// How long anything may take here before the test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Says that the test cannot run here, and returns from it.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        eprintln!("SKIPPED: {}", format_args!($($reason)*));
        return;
    }};
}

/// A [`Host`] with the image `busybox`, and others named in the brackets; skips the test where it can't be had.
#[macro_export]
macro_rules! host_or_skip {
    ($($image:expr),*) => {
        match $crate::common::Host::with_images(&["busybox", $($image),*]) {
            Ok(host) => host,
            Err($crate::common::Skip(reason)) => $crate::skip!("{reason}"),
        }
    };
}

/// Why a test cannot run here.
#[derive(Debug)]
pub struct Skip(pub String);

/// An error reply, or why there is no reply.
#[derive(Debug, Clone, PartialEq)]
pub struct VarlinkError {
    /// The full name, as in `io.dormouse.Container.NotFound`; `transport` if there was no reply.
    pub error: String,
    pub parameters: Value,
}

impl VarlinkError {
    /// The name without its interface.
    pub fn kind(&self) -> &str {
        self.error.rsplit('.').next().unwrap()
    }

    /// What it says to a person.
    pub fn reason(&self) -> &str {
        self.parameters["reason"].as_str().unwrap_or_default()
    }

    /// The service went away instead of replying.
    pub fn is_transport(&self) -> bool {
        self.error == "transport"
    }
}

impl fmt::Display for VarlinkError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.error, self.parameters)
    }
}

impl From<ClientError> for VarlinkError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Service { error, parameters } => Self { error, parameters },
            other => {
                Self { error: "transport".to_owned(), parameters: json!({ "reason": other.to_string() }) }
            }
        }
    }
}

/// A service with directories of its own. Dropped, it removes its containers and ends.
#[derive(Debug)]
pub struct Host {
    dir: tempfile::TempDir,
    serve: Mutex<Option<Child>>,
}

impl Host {
    /// A service without images.
    ///
    /// # Errors
    /// [`Skip`] for anybody but root.
    pub fn start() -> Result<Self, Skip> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Skip("it needs root".to_owned()));
        }
        // On a disk: overlayfs takes no upper directory on another overlayfs, which /tmp may lie on.
        let dir = tempfile::Builder::new().prefix("dormouse-test-").tempdir_in("/var/tmp").unwrap();
        let host = Self { dir, serve: Mutex::new(None) };
        host.start_serve();
        Ok(host)
    }

    /// A service with images that `cargo xtask images` has made: `busybox`, `bookworm-systemd`, `trixie-systemd`.
    ///
    /// # Errors
    /// [`Skip`] for anybody but root, and where an image is not made.
    pub fn with_images(images: &[&str]) -> Result<Self, Skip> {
        let archives: Vec<PathBuf> = images.iter().map(|image| archive(image)).collect::<Result<_, _>>()?;
        let host = Self::start()?;
        for (image, archive) in images.iter().zip(archives) {
            host.import(image, &archive);
        }
        Ok(host)
    }

    /// Starts the service, if none is running, and waits until it can be reached.
    pub fn start_serve(&self) {
        let mut serve = self.serve.lock().unwrap();
        assert!(serve.is_none(), "a service is running");
        let child = Command::new(BINARY)
            .args(["serve", "--listen", &self.address(), "--idle-timeout", "0"])
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .stdin(Stdio::null())
            // Ctrl-C ends the test; the service is still needed to clean up.
            .process_group(0)
            .spawn()
            .unwrap();
        *serve = Some(child);
        drop(serve);
        wait_for("the service listens", || Connection::connect(&self.address()).is_ok());
    }

    /// Kills the service, without a chance to do anything.
    pub fn kill_serve(&self) {
        if let Some(mut child) = self.serve.lock().unwrap().take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends the service in good order, and gives its exit code.
    pub fn end_serve(&self) -> Option<i32> {
        let mut child = self.serve.lock().unwrap().take()?;
        let _ = kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM);
        let since = Instant::now();
        while since.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap().code()
    }

    pub fn serve_pid(&self) -> Option<i32> {
        self.serve.lock().unwrap().as_ref().map(|child| i32::try_from(child.id()).unwrap())
    }

    /// For `--connect`, and for [`Connection::connect`].
    pub fn address(&self) -> String {
        format!("unix:{}", self.dir.path().join("socket").display())
    }

    pub fn socket_path(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    /// A directory for the files of the test, which goes with the host.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn connect(&self) -> Connection {
        Connection::connect(&self.address()).unwrap()
    }

    /// Calls a method over a connection of its own: `Container.Start`, or with the full name of the interface.
    ///
    /// # Errors
    /// The error reply.
    pub fn call(&self, method: &str, parameters: Value) -> Result<Value, VarlinkError> {
        self.call_with_fds(method, parameters, &[])
    }

    /// The same, with descriptors.
    ///
    /// # Errors
    /// The error reply.
    pub fn call_with_fds(
        &self,
        method: &str,
        parameters: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value, VarlinkError> {
        let mut connection = Connection::connect(&self.address())?;
        connection.set_timeout(Some(PATIENCE * 3))?;
        Ok(connection.call(&full_name(method), parameters, fds)?.parameters)
    }

    /// Calls a method that must succeed.
    #[track_caller]
    pub fn must(&self, method: &str, parameters: Value) -> Value {
        match self.call(method, parameters.clone()) {
            Ok(reply) => reply,
            Err(error) => panic!("{method} {parameters} has failed: {error}"),
        }
    }

    /// Calls a method that must be refused, with an error of this kind, as in `NotFound`.
    #[track_caller]
    pub fn must_fail(&self, kind: &str, method: &str, parameters: Value) -> VarlinkError {
        match self.call(method, parameters.clone()) {
            Ok(reply) => panic!("{method} {parameters} was not refused: {reply}"),
            Err(error) => {
                assert_eq!(error.kind(), kind, "{method} {parameters}: {error}");
                error
            }
        }
    }

    /// Makes an image from a tar archive, passed as a descriptor, and gives its id.
    #[track_caller]
    pub fn import(&self, name: &str, archive: &Path) -> String {
        let file = File::open(archive).unwrap();
        let reply = self
            .call_with_fds("Image.Import", json!({ "name": name, "archive": 0 }), &[file.as_fd()])
            .unwrap_or_else(|error| panic!("cannot import {}: {error}", archive.display()));
        reply["id"].as_str().unwrap().to_owned()
    }

    /// Creates and starts a container of busybox, and gives its id.
    #[track_caller]
    pub fn run_busybox(&self, name: &str, command: &[&str]) -> String {
        self.run(json!({ "image": "busybox", "name": name, "command": command }))
    }

    /// Creates and starts a container, and gives its id.
    #[track_caller]
    pub fn run(&self, spec: Value) -> String {
        self.must("Container.Run", json!({ "spec": spec }))["id"].as_str().unwrap().to_owned()
    }

    /// Boots a systemd image, waits until the systemd inside is ready, and gives the container's id.
    #[track_caller]
    pub fn boot(&self, name: &str, image: &str) -> String {
        let spec = json!({ "image": image, "name": name, "command": ["/sbin/init"] });
        let reply =
            self.must("Container.Run", json!({ "spec": spec, "wait": "ready", "timeoutUSec": 60_000_000 }));
        reply["id"].as_str().unwrap().to_owned()
    }

    /// Runs a command in a container, which must succeed, and gives its output.
    #[track_caller]
    pub fn exec(&self, name: &str, command: &[&str]) -> String {
        let reply = self.must("Container.Exec", json!({ "name": name, "command": command }));
        assert_eq!(reply["exitCode"], 0, "{command:?} in {name}: {reply}");
        reply["stdout"].as_str().unwrap_or_default().to_owned()
    }

    /// The container as `List` tells of it.
    #[track_caller]
    pub fn container(&self, name: &str) -> Value {
        let reply = self.must("Container.List", json!({ "names": [name] }));
        reply["containers"][0].clone()
    }

    /// All containers as `List` tells of them.
    #[track_caller]
    pub fn containers(&self) -> Vec<Value> {
        self.must("Container.List", json!({}))["containers"].as_array().unwrap().clone()
    }

    /// Waits until a container is in a state.
    #[track_caller]
    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait_for(&format!("{name} is {state}"), || self.container(name)["state"] == state);
    }

    /// The lines that a container has written to a stream: `stdout` or `stderr`.
    #[track_caller]
    pub fn logged(&self, name: &str, stream: &str) -> Vec<String> {
        let reply = self.must("Container.Logs", json!({ "name": name }));
        let entries = reply["entries"].as_array().unwrap().iter();
        let of_stream = entries.filter(|entry| entry["stream"] == stream);
        of_stream.map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
    }

    /// The command line client, told where this service is.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("--address").arg(self.address()).args(arguments);
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.serve_pid().is_none() {
            self.start_serve();
        }
        if let Ok(reply) = self.call("Container.List", json!({})) {
            for container in reply["containers"].as_array().into_iter().flatten() {
                let gone = self.call("Container.Remove", json!({ "name": container["id"], "force": true }));
                if let Err(error) = gone {
                    eprintln!("cannot remove {}: {error}", container["name"]);
                }
            }
        }
        self.end_serve();
        // A test that has failed may have left monitors that no service knows of.
        for pid in leaks::processes_of(self.dir.path()) {
            eprintln!("process {pid} was left; killing it");
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The archive of an image that `cargo xtask images` has made.
///
/// # Errors
/// [`Skip`] where it is not there.
pub fn archive(image: &str) -> Result<PathBuf, Skip> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let archive = target.join("images").join(image).with_extension("tar");
    if archive.exists() {
        return Ok(archive);
    }
    Err(Skip(format!("there is no image {image}; cargo xtask images makes it")))
}

/// Waits until something is so.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(
            since.elapsed() < PATIENCE,
            "waited for {} s, and it is still not so: {what}",
            PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn full_name(method: &str) -> String {
    if method.split('.').count() > 2 { method.to_owned() } else { format!("io.dormouse.{method}") }
}
