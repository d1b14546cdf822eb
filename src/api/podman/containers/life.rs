//! From the start of a container to its end.

use serde_json::json;

use crate::api::{looked_up, ordered};
use crate::engine::{Condition, Phase, Streams};

use super::super::errors::{failed, failed_anyhow, failed_by_state, occurred};
use super::super::{Call, CallError, PodmanInterface, absolute, unsupported, wire};

/// Signals come as numbers, of which this one is none: the default is wanted.
const DEFAULT_SIGNAL: i64 = -1;

/// Seconds of a call, in microseconds.
pub(in super::super) fn usec_of_seconds(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000_000)
}

/// The signal that a call asks for.
pub(in super::super) fn signal_of(number: i64) -> Result<i32, CallError> {
    match number {
        DEFAULT_SIGNAL => Ok(libc::SIGTERM),
        1..=64 => Ok(i32::try_from(number).unwrap_or(libc::SIGTERM)),
        _ => Err(occurred(format!("{number} is no signal; numbers from 1 to 64 are"))),
    }
}

impl PodmanInterface {
    pub(super) async fn start_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::StartContainer_Args = call.parameters()?;
        let container = self.id_of(&given.name).await.map_err(failed)?;
        let (engine, id) = (self.engine.clone(), container.clone());
        ordered(call, async move { engine.start(&id, Streams::default()).await }).await.map_err(failed)?;
        call.reply(wire::StartContainer_Reply { container }).await
    }

    pub(super) async fn stop_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::StopContainer_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        match one.phase() {
            phase if phase.is_alive() => {}
            Phase::Created => {
                let reason = format!("cannot stop {:?}: it was never started", one.listed.name);
                let parameters = json!({"id": one.listed.id, "reason": reason});
                return Err(CallError::reply("io.podman.InvalidState", parameters));
            }
            _ => return Err(CallError::reply("io.podman.ErrCtrStopped", json!({"id": one.listed.id}))),
        }
        let (engine, id) = (self.engine.clone(), one.listed.id.clone());
        let timeout = usec_of_seconds(given.timeout);
        ordered(call, async move { engine.stop(&id, Some(timeout)).await }).await.map_err(failed)?;
        call.reply(wire::StopContainer_Reply { container: one.listed.id }).await
    }

    pub(super) async fn init_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::InitContainer_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        if one.phase().is_alive() {
            let reason = format!("cannot prepare {:?}: it runs already", one.listed.name);
            let parameters = json!({"id": one.listed.id, "reason": reason});
            return Err(CallError::reply("io.podman.InvalidState", parameters));
        }
        let (engine, id) = (self.engine.clone(), one.listed.id.clone());
        looked_up(move || engine.check_start(&id)).await.map_err(failed)?;
        call.reply(wire::InitContainer_Reply { container: one.listed.id }).await
    }

    pub(super) async fn restart_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::RestartContainer_Args = call.parameters()?;
        let container = self.id_of(&given.name).await.map_err(failed)?;
        let (engine, id, timeout) = (self.engine.clone(), container.clone(), usec_of_seconds(given.timeout));
        ordered(call, async move { engine.restart(&id, Some(timeout)).await }).await.map_err(failed)?;
        call.reply(wire::RestartContainer_Reply { container }).await
    }

    pub(super) async fn kill_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::KillContainer_Args = call.parameters()?;
        let container = self.id_of(&given.name).await.map_err(failed)?;
        self.engine.kill(&container, signal_of(given.signal)?).map_err(failed_by_state)?;
        call.reply(wire::KillContainer_Reply { container }).await
    }

    pub(super) async fn pause_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::PauseContainer_Args = call.parameters()?;
        let container = self.id_of(&given.name).await.map_err(failed)?;
        let (engine, id) = (self.engine.clone(), container.clone());
        ordered(call, async move { engine.pause(&id).await }).await.map_err(failed)?;
        call.reply(wire::PauseContainer_Reply { container }).await
    }

    pub(super) async fn unpause_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::UnpauseContainer_Args = call.parameters()?;
        let container = self.id_of(&given.name).await.map_err(failed)?;
        let (engine, id) = (self.engine.clone(), container.clone());
        ordered(call, async move { engine.resume(&id).await }).await.map_err(failed)?;
        call.reply(wire::UnpauseContainer_Reply { container }).await
    }

    pub(super) async fn wait_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::WaitContainer_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        let ended = self.engine.wait_known(one.id(), &one.listed.name, Condition::Exited, None);
        let exitcode = ended.await.map_err(failed)?.exit_code.map_or(-1, Into::into);
        call.reply(wire::WaitContainer_Reply { exitcode }).await
    }

    pub(super) async fn remove_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::RemoveContainer_Args = call.parameters()?;
        let container = self.remove_one(call, &given.name, given.force, given.removeVolumes).await?;
        call.reply(wire::RemoveContainer_Reply { container }).await
    }

    pub(super) async fn evict_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::EvictContainer_Args = call.parameters()?;
        let container = self.remove_one(call, &given.name, true, given.removeVolumes).await?;
        call.reply(wire::EvictContainer_Reply { container }).await
    }

    async fn remove_one(
        &self,
        call: &mut Call,
        name: &str,
        force: bool,
        volumes: bool,
    ) -> Result<String, CallError> {
        let id = self.id_of(name).await.map_err(failed)?;
        let (engine, same) = (self.engine.clone(), id.clone());
        ordered(call, async move { engine.remove(&same, force, volumes).await })
            .await
            .map_err(failed_by_state)?;
        Ok(id)
    }

    pub(super) async fn health_check(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::HealthCheckRun_Args = call.parameters()?;
        let id = self.id_of(&given.nameOrID).await.map_err(failed)?;
        let result = self.engine.check_health(&id).await.map_err(failed)?;
        let status = if result.passed { "healthy" } else { "unhealthy" };
        call.reply(wire::HealthCheckRun_Reply { healthCheckStatus: status.to_owned() }).await
    }

    pub(super) async fn checkpoint(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::MountContainer_Args = name_of(call)?;
        let one = self.one(given.name).await.map_err(failed)?;
        let reason = "criu(8) is needed for it, which does not work with this program's monitors; stop and start it instead";
        Err(failed(unsupported(&format!("a checkpoint of {:?}", one.listed.name), reason)))
    }

    pub(super) async fn list_mounts(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let mounts = looked_up(move || {
            let all = super::One::all(&engine)?;
            let mounted = all.into_iter().filter_map(|one| {
                // A directory of the host is there all the time.
                let root = one.container.definition.spec.rootfs.clone();
                let root = root.or_else(|| engine.mounted_root(&one.container))?;
                Some((one.listed.id, root.to_string_lossy().into_owned()))
            });
            Ok(mounted.collect())
        });
        call.reply(wire::ListContainerMounts_Reply { mounts: mounts.await.map_err(failed)? }).await
    }

    pub(super) async fn mount(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::MountContainer_Args = call.parameters()?;
        let id = self.id_of(&given.name).await.map_err(failed_anyhow)?;
        let engine = self.engine.clone();
        let path = ordered(call, async move { looked_up(move || engine.mount_container(&id)).await });
        let path = path.await.map_err(failed_anyhow)?.to_string_lossy().into_owned();
        call.reply(wire::MountContainer_Reply { path }).await
    }

    pub(super) async fn unmount(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::UnmountContainer_Args = call.parameters()?;
        let id = self.id_of(&given.name).await.map_err(failed_anyhow)?;
        let engine = self.engine.clone();
        let done =
            ordered(call, async move { looked_up(move || engine.unmount_container(&id, given.force)).await });
        done.await.map_err(failed_anyhow)?;
        call.reply_nothing().await
    }

    pub(super) async fn container_changes(&self, call: &mut Call) -> Result<(), CallError> {
        use crate::engine::ChangeKind;
        let given: wire::ListContainerChanges_Args = call.parameters()?;
        let (engine, id) = (self.engine.clone(), self.id_of(&given.name).await.map_err(failed)?);
        let changes = looked_up(move || engine.diff(&id)).await.map_err(failed)?;
        let mut told = wire::ContainerChanges { changed: Vec::new(), added: Vec::new(), deleted: Vec::new() };
        for change in changes {
            match change.kind {
                ChangeKind::Added => told.added.push(change.path),
                ChangeKind::Modified => told.changed.push(change.path),
                ChangeKind::Deleted => told.deleted.push(change.path),
            }
        }
        call.reply(wire::ListContainerChanges_Reply { container: told }).await
    }

    pub(super) async fn export_container(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ExportContainer_Args = call.parameters()?;
        let id = self.id_of(&given.name).await.map_err(failed)?;
        let target = match given.path.as_str() {
            "" => self.handles.reserve()?,
            path => absolute("the place of an export", path)?,
        };
        let (engine, path) = (self.engine.clone(), target.clone());
        self.write_file(call, target, move |to, cancelled| engine.export(&id, to, cancelled, &mut |_| {}))
            .await?;
        call.reply(wire::ExportContainer_Reply { tarfile: path.to_string_lossy().into_owned() }).await
    }
}

/// The `name` of a call that has one.
fn name_of(call: &Call) -> Result<wire::MountContainer_Args, CallError> {
    let all: serde_json::Value = call.parameters()?;
    serde_json::from_value(json!({"name": all["name"]}))
        .map_err(|_| CallError::invalid_parameter("parameters"))
}
