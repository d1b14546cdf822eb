//! Our side: a service of its own for each measurement.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dormouse::varlink::client::Connection;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::figure::{Result, failed};
use crate::host::Bench;

pub const BINARY: &str = env!("CARGO_BIN_EXE_dormouse");

/// A running `dormouse serve`. Dropped, it takes its containers along.
#[derive(Debug)]
pub struct Dormouse {
    place: PathBuf,
    run_place: PathBuf,
    child: Option<Child>,
    environment: Vec<(String, PathBuf)>,
}

impl Dormouse {
    /// Starts a service with images of these names.
    pub fn start(bench: &Bench, name: &str, images: &[&str]) -> Result<Self> {
        let dormouse = Self::start_with(bench, name, &[])?;
        for image in images {
            dormouse.import(&mut dormouse.connect()?, image, &bench.image(image))?;
        }
        Ok(dormouse)
    }

    /// Starts a service without images, with variables in its environment.
    pub fn start_with(bench: &Bench, name: &str, environment: &[(&str, &Path)]) -> Result<Self> {
        let place = bench.directory(&format!("dormouse-{name}"))?;
        let run_place = bench.run_directory(&format!("dormouse-{name}"))?;
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut dormouse = Self { place, run_place, child: None, environment };
        dormouse.wake()?;
        Ok(dormouse)
    }

    /// Starts the service again after [`Self::end`].
    pub fn wake(&mut self) -> Result<()> {
        let mut command = Command::new(BINARY);
        command
            .arg("serve")
            .arg("--listen")
            .arg(self.address())
            .args(["--idle-timeout", "0"])
            .args(self.directories())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        // Ctrl-C is for us: the service is still needed to clean up.
        let child =
            command.stdin(Stdio::null()).process_group(0).spawn().map_err(failed("start dormouse serve"))?;
        self.child = Some(child);
        let since = Instant::now();
        while let Err(failure) = self.connect() {
            if since.elapsed() > Duration::from_secs(5) {
                return Err(failure);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends the service. The containers go on.
    pub fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&mut child);
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).unwrap_or(0)
    }

    pub fn connect(&self) -> Result<Connection> {
        Connection::connect(&self.address()).map_err(failed("connect to dormouse"))
    }

    pub fn run_directory(&self) -> PathBuf {
        self.run_place.join("run")
    }

    pub fn import(&self, connection: &mut Connection, name: &str, archive: &Path) -> Result<()> {
        let file = std::fs::File::open(archive).map_err(failed(format!("open {}", archive.display())))?;
        let parameters = json!({ "name": name, "archive": 0 });
        let method = "io.dormouse.Image.Import";
        connection.call(method, parameters, &[file.as_fd()]).map(drop).map_err(failed(method))
    }

    pub fn address(&self) -> String {
        format!("unix:{}", self.place.join("socket").display())
    }

    fn directories(&self) -> Vec<String> {
        let (state, run) = (self.place.join("state"), self.run_directory());
        let text = |path: PathBuf| path.display().to_string();
        vec!["--state-dir".to_owned(), text(state), "--run-dir".to_owned(), text(run)]
    }

    fn remove_containers(&self) -> Result<()> {
        let mut connection = self.connect()?;
        let reply = call(&mut connection, "Container.List", json!({}))?;
        for container in reply["containers"].as_array().into_iter().flatten() {
            call(&mut connection, "Container.Remove", json!({ "name": container["id"], "force": true }))?;
        }
        Ok(())
    }
}

impl Drop for Dormouse {
    fn drop(&mut self) {
        let woken = if self.child.is_none() { self.wake() } else { Ok(()) };
        if let Err(failure) = woken.and_then(|()| self.remove_containers()) {
            eprintln!("figures: {failure}, ignoring");
        }
        self.end();
        let _ = std::fs::remove_dir_all(&self.place);
        let _ = std::fs::remove_dir_all(&self.run_place);
    }
}

/// Calls a method of `io.dormouse`.
pub fn call(connection: &mut Connection, method: &str, parameters: Value) -> Result<Value> {
    let method = format!("io.dormouse.{method}");
    let reply = connection.call(&method, parameters, &[]).map_err(|error| match error {
        dormouse::varlink::client::ClientError::Service { error, parameters } => {
            failed(method.clone())(format!("{error} {parameters}"))
        }
        other => failed(method.clone())(other.to_string()),
    })?;
    Ok(reply.parameters)
}

/// Asks a program to end, and waits until it has.
pub fn terminate(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(5) {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
}
