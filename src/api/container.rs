//! io.dormouse.Container.

use std::time::Duration;

use crate::engine::{Condition, ContainerFilter, ContainerSummary, Engine, EngineError, Phase, signals};
use crate::varlink::stream::Finish;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::convert::{spec_from_wire, spec_to_wire};
use super::errors::to_reply;
use super::streams::{condition_of, streams};
use super::{health, listing, looked_up, mount_types, network_types, ordered};
use crate::wire::container as wire;

const NAME: &str = "io.dormouse.Container";

/// The interface over an engine.
pub(super) struct ContainerInterface {
    pub(super) engine: Engine,
}

impl Interface for ContainerInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Container.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Create" => self.create(call).await,
                "Run" => self.run(call).await,
                "Start" => self.start(call).await,
                "Stop" => self.stop(call).await,
                "Kill" => self.kill(call).await,
                "Restart" => self.restart(call).await,
                "Pause" => self.pause(call).await,
                "Resume" => self.resume(call).await,
                "Wait" => self.wait(call).await,
                "HealthCheck" => self.health_check(call).await,
                "Remove" => self.remove(call).await,
                "Diff" => self.diff(call).await,
                "Export" => self.export(call).await,
                "StatPath" => self.stat_path(call).await,
                "CopyOut" => self.copy_out(call).await,
                "CopyIn" => self.copy_in(call).await,
                "Commit" => self.commit(call).await,
                "Mount" => self.mount(call).await,
                "Unmount" => self.unmount(call).await,
                "Rename" => self.rename(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Logs" => self.logs(call).await,
                "Exec" => self.exec(call).await,
                "InspectExec" => self.inspect_exec(call).await,
                "ListExecs" => self.list_execs(call).await,
                "KillExec" => self.kill_exec(call).await,
                "DetachExec" => self.detach_exec(call).await,
                "Attach" => self.attach(call).await,
                "Stats" => self.stats(call).await,
                "Top" => self.top(call).await,
                "Update" => self.update(call).await,
                "Resize" => self.resize(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

pub(super) fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl ContainerInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn create(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Create_Args = call.parameters()?;
        let spec = spec_from_wire(given.spec).map_err(failed)?;
        let engine = self.engine.clone();
        let created = ordered(call, async move { engine.create(spec).await }).await.map_err(failed)?;
        call.reply(wire::Create_Reply { id: created.id, name: created.name, warnings: created.warnings })
            .await
    }

    async fn run(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Run_Args = call.parameters()?;
        let streams = streams(call, given.stdin, given.stdout, given.stderr)?;
        let spec = spec_from_wire(given.spec).map_err(failed)?;
        let engine = self.engine.clone();
        let (created, launched) = ordered(call, async move {
            let created = engine.create(spec).await?;
            match engine.start(&created.id, streams).await {
                Ok(launched) => Ok((created, launched)),
                Err(error) => {
                    // Half of what was asked for is nothing.
                    match engine.remove(&created.id, true, true).await {
                        Ok(()) | Err(EngineError::NotFound { .. }) => {}
                        Err(left) => tracing::warn!(
                            error = left.full_text(),
                            "cannot remove what could not be started"
                        ),
                    }
                    Err(error)
                }
            }
        })
        .await
        .map_err(failed)?;
        let mut reply = wire::Run_Reply {
            id: created.id.clone(),
            name: created.name.clone(),
            exitCode: None,
            warnings: launched.warnings,
        };
        call.begin_stream(&reply, Finish::AtEnd).await?;
        let wait = condition_of(call, given.wait);
        let ended = self.wait_for(&created.id, &created.name, wait, given.timeoutUSec);
        reply.exitCode = self.obeying(call, &created.id, ended).await?;
        call.reply(reply).await
    }

    async fn start(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Start_Args = call.parameters()?;
        let streams = streams(call, given.stdin, given.stdout, given.stderr)?;
        let (engine, name) = (self.engine.clone(), given.name);
        // By id from here on: it may be renamed, or be gone when it has ended.
        let row = self.engine.find_row(&name).map_err(failed)?;
        let launched =
            ordered(call, async move { engine.start(&name, streams).await }).await.map_err(failed)?;
        let mut reply = wire::Start_Reply { exitCode: None, warnings: launched.warnings };
        call.begin_stream(&reply, Finish::AtEnd).await?;
        let wait = condition_of(call, given.wait);
        let ended = self.wait_for(&row.id, &row.name, wait, given.timeoutUSec);
        reply.exitCode = self.obeying(call, &row.id, ended).await?;
        call.reply(reply).await
    }

    /// After a start: what the caller wants to wait for beyond it.
    async fn wait_for(
        &self,
        id: &str,
        name: &str,
        condition: Option<wire::Condition>,
        timeout_usec: Option<i64>,
    ) -> Result<Option<i64>, CallError> {
        let condition = match condition {
            None | Some(wire::Condition::started) => return Ok(None),
            Some(wire::Condition::ready) => Condition::Ready,
            Some(wire::Condition::healthy) => Condition::Healthy,
            Some(wire::Condition::exited) => Condition::Exited,
        };
        let ended =
            self.engine.wait_known(id, name, condition, timeout(timeout_usec)?).await.map_err(failed)?;
        Ok(ended.exit_code.map(Into::into))
    }

    async fn stop(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Stop_Args = call.parameters()?;
        let timeout = timeout(given.timeoutUSec)?.map(usec);
        let engine = self.engine.clone();
        let stopped =
            ordered(call, async move { engine.stop(&given.name, timeout).await }).await.map_err(failed)?;
        call.reply(wire::Stop_Reply { exitCode: stopped.exit_code.map(Into::into), killed: stopped.killed })
            .await
    }

    async fn kill(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Kill_Args = call.parameters()?;
        let signal = signal(given.signal.as_deref()).map_err(failed)?;
        self.engine.kill(&given.name, signal).map_err(failed)?;
        call.reply(wire::Kill_Reply {}).await
    }

    async fn restart(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Restart_Args = call.parameters()?;
        let timeout = timeout(given.timeoutUSec)?.map(usec);
        let row = self.engine.find_row(&given.name).map_err(failed)?;
        let (engine, same) = (self.engine.clone(), row.id.clone());
        ordered(call, async move { engine.restart(&same, timeout).await }).await.map_err(failed)?;
        self.wait_for(&row.id, &row.name, given.wait, None).await?;
        call.reply(wire::Restart_Reply {}).await
    }

    async fn pause(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Pause_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.pause(&given.name).await }).await.map_err(failed)?;
        call.reply(wire::Pause_Reply {}).await
    }

    async fn resume(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Resume_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.resume(&given.name).await }).await.map_err(failed)?;
        call.reply(wire::Resume_Reply {}).await
    }

    async fn wait(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Wait_Args = call.parameters()?;
        let condition = match given.condition {
            Some(wire::Condition::started) => Condition::Started,
            Some(wire::Condition::ready) => Condition::Ready,
            Some(wire::Condition::healthy) => Condition::Healthy,
            None | Some(wire::Condition::exited) => Condition::Exited,
        };
        // Where nobody is told, nothing shall keep the service awake.
        let patience = match call.is_oneway() {
            true => Some(Duration::ZERO),
            false => timeout(given.timeoutUSec)?,
        };
        let ended = self.engine.wait(&given.name, condition, patience).await.map_err(failed)?;
        call.reply(wire::Wait_Reply { state: state(ended.phase), exitCode: ended.exit_code.map(Into::into) })
            .await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let engine = self.engine.clone();
        let (force, volumes) = (given.force.unwrap_or_default(), given.volumes.unwrap_or_default());
        ordered(call, async move { engine.remove(&given.name, force, volumes).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Remove_Reply {}).await
    }

    async fn mount(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Mount_Args = call.parameters()?;
        let engine = self.engine.clone();
        let mounted = ordered(call, looked_up(move || engine.mount_container(&given.name)));
        let path = mounted.await.map_err(failed)?.to_string_lossy().into_owned();
        call.reply(wire::Mount_Reply { path }).await
    }

    async fn unmount(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Unmount_Args = call.parameters()?;
        let (engine, force) = (self.engine.clone(), given.force.unwrap_or_default());
        let done = ordered(call, looked_up(move || engine.unmount_container(&given.name, force)));
        done.await.map_err(failed)?;
        call.reply(wire::Unmount_Reply {}).await
    }

    async fn rename(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Rename_Args = call.parameters()?;
        let engine = self.engine.clone();
        ordered(call, async move { engine.rename(&given.name, &given.newName).await })
            .await
            .map_err(failed)?;
        call.reply(wire::Rename_Reply {}).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let filter = ContainerFilter {
            names: given.names.unwrap_or_default(),
            phases: given.states.unwrap_or_default().into_iter().map(phase).collect(),
            labels: given.labels.unwrap_or_default().into_iter().collect(),
        };
        let look =
            move |engine: &Engine| Ok(engine.list(&filter)?.into_iter().map(summary).collect::<Vec<_>>());
        let reply = |containers, gone| wire::List_Reply { containers, gone };
        listing::list(call, &self.engine, NAME, look, |container| &container.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let details = looked_up(move || details(&engine, &given.name)).await.map_err(failed)?;
        call.reply(wire::Inspect_Reply { container: details }).await
    }
}

pub(super) fn unsigned<T: TryFrom<i64>>(field: &str, value: i64) -> Result<T, CallError> {
    T::try_from(value).map_err(|_| CallError::InvalidParameter { parameter: field.to_owned() })
}

/// A signal by its name or number; SIGKILL unless told.
pub(super) fn signal(text: Option<&str>) -> Result<i32, EngineError> {
    let text = text.unwrap_or("KILL");
    signals::parse(text).ok_or_else(|| EngineError::InvalidSpec {
        field: "signal".into(),
        reason: format!("{text:?} is no signal"),
    })
}

fn timeout(usec: Option<i64>) -> Result<Option<Duration>, CallError> {
    usec.map(|usec| Ok(Duration::from_micros(unsigned("timeoutUSec", usec)?))).transpose()
}

fn usec(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn state(phase: Phase) -> wire::State {
    match phase {
        Phase::Created => wire::State::created,
        Phase::Starting => wire::State::starting,
        Phase::Running => wire::State::running,
        Phase::Paused => wire::State::paused,
        Phase::Stopping => wire::State::stopping,
        Phase::Exited => wire::State::exited,
        Phase::Failed => wire::State::failed,
    }
}

fn phase(state: wire::State) -> Phase {
    match state {
        wire::State::created => Phase::Created,
        wire::State::starting => Phase::Starting,
        wire::State::running => Phase::Running,
        wire::State::paused => Phase::Paused,
        wire::State::stopping => Phase::Stopping,
        wire::State::exited => Phase::Exited,
        wire::State::failed => Phase::Failed,
    }
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn summary(container: ContainerSummary) -> wire::Summary {
    let live = &container.live;
    let told = live.told.as_ref();
    wire::Summary {
        state: state(live.phase),
        ready: live.is_ready(),
        pid: live.pid().map(Into::into),
        exitCode: live.exit_code().map(Into::into),
        statusText: told.and_then(|told| told.status_text.clone()),
        restarts: told.map_or(0, |told| told.restarts.into()),
        startedUSec: told.and_then(|told| told.started_at_usec).map(signed),
        finishedUSec: told.and_then(|told| told.finished_at_usec).map(signed),
        id: container.id,
        name: container.name,
        image: container.image,
        imageId: container.image_id,
        pod: container.pod,
        command: container.command,
        health: live.health().map(health::to_wire),
        systemd: container.systemd,
        createdUSec: container.created_usec,
        labels: container.labels.into_iter().collect(),
        addresses: network_types::addresses(container.network.as_ref()),
        ports: network_types::published(container.network.as_ref()),
    }
}

fn details(engine: &Engine, name: &str) -> Result<wire::Details, EngineError> {
    let (container, listed) = engine.inspect(name)?;
    let (live, listed_network) = (listed.live.clone(), listed.network.clone());
    let told = live.told.as_ref();
    let id = &container.row.id;
    let upper = engine.paths().container(id).join("upper");
    Ok(wire::Details {
        summary: summary(listed),
        env: container.definition.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        workdir: container.definition.workdir.clone(),
        stopSignal: signals::name(container.definition.stop_signal),
        stopTimeoutUSec: signed(container.definition.stop_timeout_usec),
        monitorPid: told.filter(|_| live.supervised).map(|told| told.monitor.pid.into()),
        cgroup: told.filter(|_| live.phase.is_alive()).map(|told| told.cgroup.clone()),
        exitSignal: told.and_then(|told| told.exit_signal).map(Into::into),
        oomKilled: told.is_some_and(|told| told.oom_killed),
        error: live.error(),
        logPath: engine.log_file(&container).map(|path| path.to_string_lossy().into_owned()),
        upperDirectory: container
            .definition
            .spec
            .rootfs
            .is_none()
            .then(|| upper.to_string_lossy().into_owned()),
        rootMountPoint: engine.mounted_root(&container).map(|path| path.to_string_lossy().into_owned()),
        mounts: mount_types::mount_points(engine, &container)?,
        networks: network_types::statuses(listed_network.as_ref()),
        networkNamespacePath: listed_network.map(|_| engine.namespace_of(id).to_string_lossy().into_owned()),
        warnings: engine.warnings(id),
        healthCheck: container.definition.health.clone().map(health::check_to_wire),
        healthFailures: told.filter(|_| live.phase.is_alive()).map_or(0, |told| told.health_failures.into()),
        healthResults: engine.health_results(id).into_iter().map(health::result_to_wire).collect(),
        spec: spec_to_wire(container.definition.spec),
    })
}
