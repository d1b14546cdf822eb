//! The method Build of io.dormouse.Image.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::sync::mpsc;

use super::{ImageInterface, failed, wire};
use crate::api::{CancelOnDrop, Descriptors, finished};
use crate::engine::build::{BuildEvent, BuildFile, BuildNetwork, BuildRequest, StepState};
use crate::engine::spec::{ContainerSpec, Mount, MountKind, Resources};
use crate::engine::{Archive, EngineError, PullWhen};
use crate::image::DescriptorReader;
use crate::varlink::stream::Finish;
use crate::varlink::{Call, CallError};

/// What a build may be ahead of a client that reads slowly.
const EVENTS_QUEUED: usize = 64;
const SECRET_MAX_BYTES: u64 = 1 << 20;

impl ImageInterface {
    pub(super) async fn build(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Build_Args = call.parameters()?;
        let mut descriptors = Descriptors::of(call);
        let context = match (descriptors.take("context", given.context)?, &given.contextPath) {
            (Some(_), Some(_)) => return Err(failed(invalid("contextPath", "a descriptor is given too"))),
            (Some(descriptor), None) => Some(Archive::Descriptor(descriptor)),
            (None, Some(path)) => Some(Archive::Path(path.into())),
            (None, None) => None,
        };
        let mut secrets = Vec::new();
        for secret in given.secrets.iter().flatten() {
            secrets.push((secret.id.clone(), descriptors.need("secrets", secret.descriptor)?));
        }
        let mut request = request(given).map_err(failed)?;
        call.begin_stream(nothing(), Finish::AtEnd).await?;
        let wants_more = call.wants_more();
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let (tell, mut told) = mpsc::channel::<BuildEvent>(EVENTS_QUEUED);
        let mut build = tokio::task::spawn_blocking(move || {
            request.context = context.map(open_context).transpose()?;
            request.secrets =
                secrets.into_iter().map(|secret| read_secret(secret, &flag)).collect::<Result<_, _>>()?;
            let tell = |event| {
                // Waits for a client that reads slowly. One that has left wants no more of it.
                if wants_more {
                    let _ = tell.blocking_send(event);
                }
            };
            engine.build(&request, &flag, &tell)
        });
        let result = loop {
            tokio::select! {
                biased;
                Some(event) = told.recv() => call.reply_continues(reply_of(event)).await?,
                result = &mut build => break finished(result),
            }
        };
        // What came at the very end.
        while let Ok(event) = told.try_recv() {
            call.reply_continues(reply_of(event)).await?;
        }
        let built = result.map_err(failed)?;
        call.reply(wire::Build_Reply { id: Some(built.id), names: built.names, ..nothing() }).await
    }
}

fn invalid(field: &str, reason: &str) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason: reason.to_owned() }
}

fn request(given: wire::Build_Args) -> Result<BuildRequest, EngineError> {
    let containerfile = match (given.containerfileText, given.containerfile) {
        (Some(text), name) => {
            BuildFile::Text { name: name.unwrap_or_else(|| "Containerfile".to_owned()), text }
        }
        (None, path) => BuildFile::InContext(path),
    };
    let mut mounts = Vec::new();
    for (index, volume) in given.volumes.into_iter().flatten().enumerate() {
        if !volume.target.starts_with('/') {
            let reason = format!("{:?} is not absolute", volume.target);
            return Err(invalid(&format!("volumes[{index}].target"), &reason));
        }
        let kind = if volume.source.starts_with('/') {
            MountKind::Bind { source: volume.source, propagation: "rprivate".to_owned(), recursive: true }
        } else {
            MountKind::Volume { name: Some(volume.source), copy: false, options: BTreeMap::new() }
        };
        mounts.push(Mount::new(kind, volume.target, volume.readOnly.unwrap_or(false)));
    }
    let shm_size_bytes = given.shmSizeBytes.map(u64::try_from).transpose();
    let shm_size_bytes = shm_size_bytes.map_err(|_| invalid("shmSizeBytes", "it must not be negative"))?;
    let timestamp_sec = match given.timestampUSec {
        Some(usec) if usec < 0 => return Err(invalid("timestampUSec", "it is before 1970")),
        usec => usec.map(|usec| usec / 1_000_000),
    };
    Ok(BuildRequest {
        context: None,
        containerfile,
        ignore: given.ignoreText,
        tags: given.tags.unwrap_or_default(),
        target: given.target,
        arguments: given.arguments.unwrap_or_default().into_iter().collect(),
        labels: given.labels.unwrap_or_default().into_iter().collect(),
        no_cache: given.noCache.unwrap_or(false),
        pull: match given.pull {
            None | Some(wire::Build_Args_pull::missing) => PullWhen::Missing,
            Some(wire::Build_Args_pull::always) => PullWhen::Always,
            Some(wire::Build_Args_pull::newer) => PullWhen::Newer,
            Some(wire::Build_Args_pull::never) => PullWhen::Never,
        },
        docker_format: given.format == Some(wire::Build_Args_format::docker),
        squash: given.squash.unwrap_or(false),
        timestamp_sec,
        network: match given.network.as_deref() {
            None | Some("" | "default") => BuildNetwork::Default,
            Some("none") => BuildNetwork::None,
            Some("host") => BuildNetwork::Host,
            Some(name) => BuildNetwork::Named(name.to_owned()),
        },
        mounts,
        step: ContainerSpec {
            capabilities_add: given.addCapabilities.unwrap_or_default(),
            capabilities_drop: given.dropCapabilities.unwrap_or_default(),
            shm_size_bytes,
            resources: Resources { memory_bytes: given.memoryBytes, ..Resources::default() },
            ..ContainerSpec::default()
        },
        secrets: BTreeMap::new(),
        extra_hosts: given.extraHosts.unwrap_or_default().into_iter().collect(),
        platform: given.platform,
    })
}

fn open_context(context: Archive) -> Result<OwnedFd, EngineError> {
    context.open().map_err(|error| match error {
        EngineError::InvalidSpec { reason, .. } => invalid("contextPath", &reason),
        error => error,
    })
}

fn read_secret(
    (id, descriptor): (String, OwnedFd),
    cancelled: &AtomicBool,
) -> Result<(String, Vec<u8>), EngineError> {
    let mut content = Vec::new();
    let unusable = |reason: &str| invalid("secrets", &format!("the secret {id:?} can't be used: {reason}"));
    DescriptorReader::new(descriptor, cancelled)
        .take(SECRET_MAX_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(|error| unusable(&error.to_string()))?;
    if content.len() as u64 > SECRET_MAX_BYTES {
        return Err(unusable("it is larger than 1 MiB"));
    }
    Ok((id, content))
}

fn nothing() -> wire::Build_Reply {
    wire::Build_Reply {
        id: None,
        names: Vec::new(),
        step: None,
        output: None,
        layers: Vec::new(),
        warnings: Vec::new(),
    }
}

fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn reply_of(event: BuildEvent) -> wire::Build_Reply {
    match event {
        BuildEvent::Step(step) => wire::Build_Reply {
            step: Some(wire::BuildStep {
                number: number(step.number),
                total: number(step.total),
                stage: step.stage,
                line: number(step.line),
                instruction: step.instruction,
                state: match step.state {
                    StepState::Running => wire::BuildStep_state::running,
                    StepState::Cached => wire::BuildStep_state::cached,
                    StepState::Done => wire::BuildStep_state::done,
                },
            }),
            ..nothing()
        },
        BuildEvent::Output { number: step, is_error, bytes } => wire::Build_Reply {
            output: Some(wire::BuildOutput {
                number: number(step),
                stream: match is_error {
                    true => wire::BuildOutput_stream::stderr,
                    false => wire::BuildOutput_stream::stdout,
                },
                data: BASE64.encode(bytes),
            }),
            ..nothing()
        },
        BuildEvent::Layer(layer) => {
            wire::Build_Reply { layers: vec![super::transfer::layer_to_wire(layer)], ..nothing() }
        }
        BuildEvent::Warning(warning) => wire::Build_Reply { warnings: vec![warning], ..nothing() },
    }
}
