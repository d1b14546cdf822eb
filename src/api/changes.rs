//! io.dormouse.Container: what a container has changed, and its ways out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::engine::{Change, ChangeKind, CommitRequest, EngineError, SaveTo};
use crate::image::Process;
use crate::varlink::{Call, CallError};

use super::container::{ContainerInterface, failed};
use super::{CancelOnDrop, Descriptors, looked_up, with_bytes};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn diff(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Diff_Args = call.parameters()?;
        let engine = self.engine.clone();
        let changes = looked_up(move || engine.diff(&given.name)).await.map_err(failed)?;
        call.reply(wire::Diff_Reply { changes: changes.into_iter().map(change).collect() }).await
    }

    pub(super) async fn export(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Export_Args = call.parameters()?;
        let to = match (Descriptors::of(call).take_output("archive", given.archive)?, given.path) {
            (Some(descriptor), None) => SaveTo::Descriptor(descriptor),
            (None, Some(path)) => SaveTo::Path(path.into()),
            _ => {
                let reason = "either a descriptor or a path is wanted".to_owned();
                return Err(failed(EngineError::InvalidSpec { field: "archive".into(), reason }));
            }
        };
        let (engine, name) = (self.engine.clone(), given.name);
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            engine.export(&name, to, cancelled, progress)
        };
        with_bytes(call, work, failed, |written| wire::Export_Reply { bytesWritten: written }).await
    }

    pub(super) async fn commit(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Commit_Args = call.parameters()?;
        let request = CommitRequest {
            image: given.image,
            config: given.config.map(config).unwrap_or_default(),
            author: given.author,
            comment: given.comment,
        };
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag, name) = (self.engine.clone(), Arc::clone(&cancelled.0), given.name);
        let id = looked_up(move || engine.commit(&name, request, &flag)).await.map_err(failed)?;
        call.reply(wire::Commit_Reply { id }).await
    }
}

fn change(change: Change) -> wire::Change {
    wire::Change {
        path: change.path,
        kind: match change.kind {
            ChangeKind::Added => wire::Change_kind::added,
            ChangeKind::Modified => wire::Change_kind::modified,
            ChangeKind::Deleted => wire::Change_kind::deleted,
        },
    }
}

fn config(config: wire::CommitConfig) -> Process {
    let mut env: Vec<String> =
        config.env.unwrap_or_default().iter().map(|(name, value)| format!("{name}={value}")).collect();
    env.sort();
    Process {
        user: config.user.unwrap_or_default(),
        env,
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.command.unwrap_or_default(),
        working_dir: config.workdir.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        stop_signal: config.stopSignal,
        ..Process::default()
    }
}
