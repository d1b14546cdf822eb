//! RUN: a command in a container of its own, on the layers so far; what it has written is the next one.

use std::collections::BTreeMap;
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;

use super::mounts::{Prepared, RunMount};
use super::request::BuildNetwork;
use super::stage::Working;
use super::trouble::{StepError, refused};
use super::{Build, BuildEvent, StepState, notes};
use crate::engine::changes::merged;
use crate::engine::spec::{ContainerSpec, Log, Namespace, NetworkAttachment, SystemdMode};
use crate::engine::{Condition, Engine, EngineError, Streams};
use crate::image::build::{Instruction, exec_form};
use crate::image::{Digest, ImageConfig, Process, Rewrite};

/// How soon a command is ended that nobody wants any more.
const TICK: Duration = Duration::from_millis(50);
/// What of a step's output is kept for the error.
const TAIL_BYTES: usize = 8 << 10;
const CHUNK_BYTES: usize = 32 << 10;
/// The same for every step, so that what a step finds out about its host is the same every time.
const HOSTNAME: &str = "build";
/// Where a document that is a script is seen.
const SCRIPT: &str = "/dev/build-script";

/// What RUN executes.
struct Command {
    words: Vec<String>,
    /// A file that must be there, as [`SCRIPT`].
    script: Option<String>,
}

impl Working<'_> {
    pub fn run_command(&mut self, instruction: &Instruction) -> Result<StepState, StepError> {
        if let Some(flag) = instruction.flag("security")
            && flag.value.as_deref() != Some("sandbox")
        {
            return Err(refused(instruction, "--security: only sandbox is possible"));
        }
        let command = self.command(instruction);
        let mounts = self.run_mounts(instruction)?;
        let network = self.network(instruction)?;
        let created_by = instruction.to_string();
        let declared = self.declared();
        let mut seen = Vec::new();
        for mount in &mounts {
            seen.push(self.mount_key(instruction, mount)?);
        }
        let key = self.key(&json!([
            "run",
            command.words,
            command.script,
            declared,
            seen,
            self.build.request.mounts,
            format!("{network:?}"),
            self.rights(),
        ]));
        if let Some(found) = self.cached(&key)? {
            return Ok(self.done_before(&created_by, found));
        }
        self.tell(instruction, StepState::Running);
        let layer = self.execute(instruction, &command, &mounts, network)?;
        self.made(&created_by, vec![key], layer)
    }

    /// What a command may do, as far as it may do more or less than others; limits make no other result.
    fn rights(&self) -> serde_json::Value {
        let step = &self.build.request.step;
        let (add, drop) = (&step.capabilities_add, &step.capabilities_drop);
        match add.is_empty() && drop.is_empty() && step.devices.is_empty() {
            true => serde_json::Value::Null,
            false => json!([add, drop, step.devices]),
        }
    }

    fn command(&self, instruction: &Instruction) -> Command {
        if let Some(words) = exec_form(&instruction.rest) {
            return Command { words, script: None };
        }
        let mut words = notes::shell(self);
        let [heredoc] = instruction.heredocs.as_slice() else {
            words.push(with_documents(instruction));
            return Command { words, script: None };
        };
        // Nothing but a document is what is to be run.
        if instruction.rest.split_whitespace().count() != 1 || !instruction.rest.starts_with("<<") {
            words.push(with_documents(instruction));
            return Command { words, script: None };
        }
        if heredoc.content.starts_with("#!") {
            return Command { words: vec![SCRIPT.to_owned()], script: Some(heredoc.content.clone()) };
        }
        words.push(heredoc.content.clone());
        Command { words, script: None }
    }

    fn network(&self, instruction: &Instruction) -> Result<BuildNetwork, StepError> {
        match instruction.flag("network").map(|flag| flag.value.as_deref().unwrap_or_default()) {
            None | Some("default") => Ok(self.build.request.network.clone()),
            Some("none") => Ok(BuildNetwork::None),
            // Only who may give the whole build the host's network may give it to a step.
            Some("host") if self.build.request.network == BuildNetwork::Host => Ok(BuildNetwork::Host),
            Some("host") => Err(refused(
                instruction,
                "--network=host is for builds with --network host, which this one is not",
            )),
            Some(other) => {
                Err(refused(instruction, format!("--network: {other:?} is none of default, none, host")))
            }
        }
    }

    fn execute(
        &mut self,
        instruction: &Instruction,
        command: &Command,
        mounts: &[RunMount],
        network: BuildNetwork,
    ) -> Result<Digest, StepError> {
        let build = self.build;
        let mut prepared = Prepared::default();
        for mount in mounts {
            self.prepare_mount(instruction, mount, &mut prepared)?;
        }
        for mount in &build.request.mounts {
            prepared.add(mount.clone());
        }
        let script = match &command.script {
            Some(content) => Some(prepared.add_script(&build.place, content, SCRIPT)?),
            None => None,
        };
        let env: BTreeMap<String, String> = self.declared().into_iter().chain(self.proxies()).collect();
        let (network_namespace, networks) = match network {
            BuildNetwork::Default => (None, None),
            BuildNetwork::None => (Some(Namespace::Private), None),
            BuildNetwork::Host => (Some(Namespace::Host), None),
            BuildNetwork::Named(name) => {
                (None, Some(vec![NetworkAttachment { network: name, ..NetworkAttachment::default() }]))
            }
        };
        let name = build.place.container_name();
        let spec = ContainerSpec {
            // Not looked up: the layers are given.
            image: Some("build".to_owned()),
            command: Some(command.words.clone()),
            entrypoint: Some(Vec::new()),
            env,
            hostname: Some(HOSTNAME.to_owned()),
            mounts: std::mem::take(&mut prepared.mounts),
            network_namespace,
            networks,
            extra_hosts: build.request.extra_hosts.clone(),
            systemd: SystemdMode::Off,
            log: Log::None,
            ..build.request.step.clone()
        };
        // Of the image's volumes, ports and so on a step has no need.
        let process = Process {
            env: self.draft.list("Env"),
            user: self.draft.text("User").to_owned(),
            working_dir: self.draft.text("WorkingDir").to_owned(),
            ..Process::default()
        };
        let config = ImageConfig { config: process, ..ImageConfig::default() };
        let layers = self.draft.layers.iter().map(ToString::to_string).collect();
        let created =
            build.runtime.block_on(build.engine.create_on_layers(name.clone(), spec, &config, layers))?;
        let container = StepContainer { build, id: created.id };
        let exit_code = self.watch(&container, &name)?;
        drop(script);
        if exit_code != Some(0) {
            let reason = match exit_code {
                Some(code) => format!("the command has ended with exit code {code}"),
                None => "how the command ended is unknown: its monitor was killed".to_owned(),
            };
            return Err(refused(instruction, reason));
        }
        let (upper, lower) = (
            merged(&[build.engine.paths().container(&container.id).join("upper")])?,
            merged(&build.directories(&self.draft.layers)?)?,
        );
        let rewrite = Rewrite { mtime: build.request.timestamp_sec, ..Rewrite::default() };
        let attempted = instruction.to_string();
        let trees = (upper.as_fd(), lower.as_fd());
        let layer = build.engine.import_upper(trees, &prepared.places, rewrite, &attempted, &build.stop)?;
        Ok(layer.diff_id)
    }

    /// Runs a container to its end, and tells what it writes.
    fn watch(&mut self, container: &StepContainer<'_>, name: &str) -> Result<Option<i32>, StepError> {
        let build = self.build;
        let pipe = || std::io::pipe().map_err(|source| EngineError::io("make a pipe for", name, source));
        let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
        let streams = Streams { stdin: None, stdout: Some(out_end.into()), stderr: Some(err_end.into()) };
        let tail = Mutex::new(Vec::new());
        let number = self.number;
        let ended = std::thread::scope(|scope| {
            scope.spawn(|| listen(build, number, out, false, &tail));
            scope.spawn(|| listen(build, number, err, true, &tail));
            let ended = build.runtime.block_on(run_to_end(build, &container.id, name, streams));
            if ended.is_err() {
                // The streams end with the container, and those who listen with them.
                container.remove();
            }
            ended
        });
        self.output = tail.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(ended?)
    }
}

async fn run_to_end(
    build: &Build<'_>,
    id: &str,
    name: &str,
    streams: Streams,
) -> Result<Option<i32>, EngineError> {
    let engine: &Engine = build.engine;
    engine.start(id, streams).await?;
    let mut wait = std::pin::pin!(engine.wait_known(id, name, Condition::Exited, None));
    loop {
        tokio::select! {
            ended = &mut wait => return Ok(ended?.exit_code),
            () = tokio::time::sleep(TICK) => {
                if build.stop.load(Ordering::Relaxed) {
                    return Err(EngineError::Cancelled);
                }
            }
        }
    }
}

/// Tells what comes out of a pipe, until its end.
fn listen(build: &Build<'_>, number: usize, mut pipe: PipeReader, is_error: bool, tail: &Mutex<Vec<u8>>) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match pipe.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                let bytes = chunk[..count].to_vec();
                let mut tail = tail.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                tail.extend_from_slice(&bytes);
                let surplus = tail.len().saturating_sub(TAIL_BYTES);
                tail.drain(..surplus);
                drop(tail);
                (build.tell)(BuildEvent::Output { number, is_error, bytes });
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read what a step writes, ignoring");
                return;
            }
        }
    }
}

/// The line and its documents, as a shell wants them.
fn with_documents(instruction: &Instruction) -> String {
    let mut text = instruction.rest.clone();
    for heredoc in &instruction.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    if !instruction.heredocs.is_empty() {
        text.push('\n');
    }
    text
}

/// The container of a step; removed when this is dropped.
struct StepContainer<'a> {
    build: &'a Build<'a>,
    id: String,
}

impl StepContainer<'_> {
    fn remove(&self) {
        match self.build.runtime.block_on(self.build.engine.remove(&self.id, true, true)) {
            Ok(()) | Err(EngineError::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(
                    error = error.full_text(),
                    "cannot remove the container of a step, left for the next wake"
                );
            }
        }
    }
}

impl Drop for StepContainer<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}
