//! Images from recipes: the context comes as a tar that was sent before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::api::convert::spec_from_wire;
use crate::api::{CancelOnDrop, finished};
use crate::engine::build::{BuildEvent, BuildFile, BuildNetwork, BuildRequest, StepState};
use crate::engine::spec::{Mount, MountKind};
use crate::engine::{Archive, PullWhen};

use super::super::errors::{failed, occurred};
use super::super::{Call, CallError, PodmanInterface, bare, wire};

/// What a build may be ahead of a client that reads slowly.
const EVENTS_QUEUED: usize = 64;

impl PodmanInterface {
    pub(super) async fn build_image(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::BuildImage_Args { build } = call.parameters()?;
        if build.contextDir.is_empty() {
            return Err(occurred("unable to open context dir tar file "));
        }
        let context = self.handles.known(&build.contextDir)?;
        let sent = self.handles.take(&context, true);
        if !call.wants_more() {
            return Err(occurred("endpoint requires a more connection"));
        }
        let flags = step_flags(&build);
        let mut request = request(build).map_err(occurred)?;
        let step = (self.read_flags)(flags)
            .map_err(|reason| occurred(format!("cannot build an image: {reason}")))?;
        let step = serde_json::from_value(serde_json::Value::Object(step))
            .map_err(|error| occurred(format!("cannot build an image: {error}")))?;
        request.step = spec_from_wire(step).map_err(failed)?;
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let (tell, mut told) = mpsc::channel::<BuildEvent>(EVENTS_QUEUED);
        let mut task = tokio::task::spawn_blocking(move || {
            request.context = Some(Archive::Path(context).open()?);
            engine.build(&request, &flag, &|event| {
                // Waits for a client that reads slowly. One that has left wants no more of it.
                let _ = tell.blocking_send(event);
            })
        });
        let result = loop {
            tokio::select! {
                biased;
                Some(event) = told.recv() => tell_client(call, event).await?,
                result = &mut task => break finished(result),
            }
        };
        // What came at the very end.
        while let Ok(event) = told.try_recv() {
            tell_client(call, event).await?;
        }
        let id = bare(&result.map_err(failed)?.id).to_owned();
        drop(sent);
        call.reply(wire::BuildImage_Reply { image: wire::MoreResponse { logs: vec![format!("{id}\n")], id } })
            .await
    }
}

async fn tell_client(call: &mut Call, event: BuildEvent) -> Result<(), CallError> {
    let logs: Vec<String> = lines(event);
    if logs.is_empty() {
        return Ok(());
    }
    call.reply_continues(wire::BuildImage_Reply { image: wire::MoreResponse { logs, id: String::new() } })
        .await
}

/// What the containers of RUN have beside, as the flags of `create` that say the same.
fn step_flags(build: &wire::BuildInfo) -> Vec<String> {
    let options = &build.buildOptions;
    let mut flags = Vec::new();
    let lists = [
        ("cap-add", &build.addCapabilities),
        ("cap-drop", &build.dropCapabilities),
        ("device", &build.devices),
        ("ulimit", &options.ulimit),
    ];
    for (flag, list) in lists {
        flags.extend(list.iter().map(|value| format!("--{flag}={value}")));
    }
    let texts = [
        ("cpuset-cpus", &options.cpusetCpus),
        ("cpuset-mems", &options.cpusetMems),
        ("shm-size", &options.shmSize),
    ];
    flags.extend(
        texts.iter().filter(|(_, text)| !text.is_empty()).map(|(flag, text)| format!("--{flag}={text}")),
    );
    let numbers = [
        ("cpu-period", options.cpuPeriod),
        ("cpu-quota", options.cpuQuota),
        ("cpu-shares", options.cpuShares),
        ("memory", options.memory),
        ("memory-swap", options.memorySwap),
    ];
    let given = numbers.iter().filter(|(_, number)| *number != 0);
    flags.extend(given.map(|(flag, number)| format!("--{flag}={number}")));
    flags.extend(["--".to_owned(), "build".to_owned()]);
    flags
}

fn request(build: wire::BuildInfo) -> Result<BuildRequest, String> {
    let options = build.buildOptions;
    if !build.signBy.is_empty() {
        return Err("cannot build an image with a signature: this program makes none".to_owned());
    }
    if build.dockerfiles.len() > 1 {
        return Err("cannot build an image of several files: give one".to_owned());
    }
    // The path is the client's; in the context it has only its name.
    let file = build.dockerfiles.first().map(|path| {
        let name = Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| path.clone())
    });
    if build.dockerfiles.first().is_some_and(|path| path.contains("://") || path.starts_with("github.com/")) {
        return Err("cannot build an image of an address: send its files".to_owned());
    }
    let pairs = |texts: Vec<String>, separator: char| -> Result<BTreeMap<String, String>, String> {
        let pair = |text: String| match text.split_once(separator) {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("{text:?} is no pair")),
        };
        texts.into_iter().map(pair).collect()
    };
    let mut tags = build.additionalTags;
    tags.splice(0..0, Some(build.output).filter(|name| !name.is_empty()));
    let volumes = options.volume.iter().chain(&build.transientMounts);
    let mounts = volumes.map(|text| mount(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(BuildRequest {
        mounts,
        containerfile: BuildFile::InContext(file),
        tags,
        target: Some(build.target).filter(|target| !target.is_empty()),
        arguments: build.buildArgs.into_iter().collect(),
        labels: pairs(build.label, '=')?,
        no_cache: build.nocache,
        pull: match build.pullPolicy.to_ascii_lowercase().as_str() {
            "pullalways" => PullWhen::Always,
            "pullifnewer" => PullWhen::Newer,
            "pullnever" => PullWhen::Never,
            _ => PullWhen::Missing,
        },
        docker_format: build.outputFormat.contains("docker"),
        squash: build.squash,
        network: BuildNetwork::Default,
        extra_hosts: pairs(options.addHosts, ':')?,
        ..BuildRequest::default()
    })
}

/// `HOST:CONTAINER[:OPTIONS]`, of the host of the service.
fn mount(text: &str) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(format!("{text:?} is no volume of a build; HOST:CONTAINER[:ro] is the form")),
    };
    if !source.starts_with('/') || !target.starts_with('/') {
        return Err(format!(
            "cannot build an image with the volume {text:?}: both of its paths must be absolute"
        ));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels of SELinux are the host's affair, and this is how binds are mounted.
            "rw" | "z" | "Z" | "rprivate" | "private" | "rbind" | "bind" => {}
            other => {
                return Err(format!(
                    "cannot build an image with a volume that is {other:?}: there is no such option"
                ));
            }
        }
    }
    let kind =
        MountKind::Bind { source: source.to_owned(), propagation: "rprivate".to_owned(), recursive: true };
    Ok(Mount::new(kind, target, read_only))
}

/// What a person reads of it.
fn lines(event: BuildEvent) -> Vec<String> {
    match event {
        BuildEvent::Step(step) => match step.state {
            StepState::Running => vec![format!("STEP {}: {}\n", step.number, step.instruction)],
            StepState::Cached => {
                vec![format!("STEP {}: {}\n", step.number, step.instruction), "--> Using cache\n".to_owned()]
            }
            StepState::Done => Vec::new(),
        },
        BuildEvent::Output { bytes, .. } => vec![String::from_utf8_lossy(&bytes).into_owned()],
        BuildEvent::Layer(_) => Vec::new(),
        BuildEvent::Warning(warning) => vec![format!("warning: {warning}\n")],
    }
}
