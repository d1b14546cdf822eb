//! io.dormouse.Container: what goes in and out of containers, over descriptors or channels.

use std::future::Future;
use std::os::fd::AsFd;

use crate::engine::{EngineError, ExecControl, ExecRequest, ExecSession, ExecStatus, Streams, signals};
use crate::varlink::stream::{Control, Finish};
use crate::varlink::{Call, CallError};

use super::container::{ContainerInterface, failed, signal, signed, unsigned};
use super::{Descriptors, attended, looked_up, no_channel};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn exec(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Exec_Args = call.parameters()?;
        let terminal = given.terminal.unwrap_or_default();
        let detached = given.detach.unwrap_or_default();
        if terminal && !detached && !call.wants_more() && !call.wants_upgrade() {
            return Err(CallError::ExpectedMore);
        }
        let streams = match terminal && call.wants_upgrade() {
            // Channels of its terminal, once it has one.
            true => Streams::default(),
            false => streams(call, given.stdin, given.stdout, given.stderr)?,
        };
        let size = match (given.rows, given.columns) {
            (Some(rows), Some(columns)) => Some((unsigned("rows", rows)?, unsigned("columns", columns)?)),
            _ => None,
        };
        let request = ExecRequest {
            command: given.command,
            env: given.env.unwrap_or_default().into_iter().collect(),
            user: given.user,
            workdir: given.workdir,
            terminal,
            size,
            privileged: given.privileged.unwrap_or_default(),
            unasked: false,
            detached,
        };
        let mut reply = wire::Exec_Reply {
            exec: None,
            pid: None,
            terminalDescriptor: None,
            exitCode: None,
            stdout: None,
            stderr: None,
            truncated: None,
        };
        if !terminal && !detached && streams.is_empty() {
            let output = self.engine.exec_collect(&given.name, request).await.map_err(failed)?;
            reply.exitCode = Some(output.exit_code.into());
            reply.stdout = Some(String::from_utf8_lossy(&output.stdout).into_owned());
            reply.stderr = Some(String::from_utf8_lossy(&output.stderr).into_owned());
            reply.truncated = Some(output.truncated);
            return call.reply(reply).await;
        }
        let mut session = self.engine.exec(&given.name, request, streams).await.map_err(failed)?;
        reply.exec = Some(session.id.clone());
        reply.pid = Some(session.pid.into());
        if detached {
            return call.reply(reply).await;
        }
        if call.wants_upgrade() {
            return Self::carry_exec(call, session, reply, (given.stdin, given.stdout)).await;
        }
        if call.wants_more() {
            let mut begun = reply.clone();
            let master: Vec<_> = session.terminal.take().into_iter().collect();
            begun.terminalDescriptor = (!master.is_empty()).then_some(0);
            call.reply_continues_with_fds(begun, master).await?;
        }
        reply.exitCode = Some(session.wait().await.map_err(failed)?.into());
        call.reply(reply).await
    }

    /// A command whose streams are channels, or whose terminal is.
    async fn carry_exec(
        call: &mut Call,
        mut session: ExecSession,
        mut reply: wire::Exec_Reply,
        (stdin, stdout): (Option<i64>, Option<i64>),
    ) -> Result<(), CallError> {
        let terminal = session.terminal.take();
        if let Some(master) = &terminal {
            let connected =
                master.try_clone().and_then(|master| call.connect_terminal(stdin, stdout, master));
            match connected {
                Ok(true) => {}
                Ok(false) => return Err(CallError::invalid_parameter("stdin")),
                Err(error) => return Err(no_channel(call, &error)),
            }
        }
        // What the command has left behind may hold its streams for as long as it likes.
        call.begin_stream(&reply, Finish::WithWhatIsThere).await?;
        let control = session.control();
        let obey = |said| match said {
            Control::Window { rows, columns } => {
                if let Some(master) = &terminal {
                    ExecControl::resize(master.as_fd(), rows, columns);
                }
            }
            Control::Signal(signal) => {
                if let Some(signal) = signals::parse(&signal) {
                    control.signal(signal);
                }
            }
            Control::Leave => {}
        };
        match attended(call, session.wait(), obey).await {
            Some(code) => {
                reply.exitCode = Some(code.map_err(failed)?.into());
                call.reply(reply).await
            }
            None => {
                control.detach();
                Err(left())
            }
        }
    }

    pub(super) async fn list_execs(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ListExecs_Args = call.parameters()?;
        let engine = self.engine.clone();
        let execs =
            looked_up(move || engine.list_execs(given.name.as_deref(), given.all.unwrap_or_default()))
                .await
                .map_err(failed)?;
        call.reply(wire::ListExecs_Reply { execs: execs.into_iter().map(exec_to_wire).collect() }).await
    }

    pub(super) async fn inspect_exec(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::InspectExec_Args = call.parameters()?;
        let engine = self.engine.clone();
        let exec = looked_up(move || engine.inspect_exec(&given.name, &given.exec)).await.map_err(failed)?;
        call.reply(wire::InspectExec_Reply { exec: exec_to_wire(exec) }).await
    }

    pub(super) async fn kill_exec(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::KillExec_Args = call.parameters()?;
        let signal = signal(given.signal.as_deref()).map_err(failed)?;
        self.engine.kill_exec(&given.name, &given.exec, signal).map_err(failed)?;
        call.reply(wire::KillExec_Reply {}).await
    }

    pub(super) async fn detach_exec(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::DetachExec_Args = call.parameters()?;
        self.engine.detach_exec(&given.name, &given.exec).map_err(failed)?;
        call.reply(wire::DetachExec_Reply {}).await
    }

    pub(super) async fn attach(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Attach_Args = call.parameters()?;
        let streams = streams(call, given.stdin, given.stdout, given.stderr)?;
        if streams.is_empty() {
            let reason = "no descriptor is given; pass at least one".to_owned();
            return Err(failed(EngineError::InvalidSpec { field: "stdout".into(), reason }));
        }
        let row = self.engine.find_row(&given.name).map_err(failed)?;
        let attachment = self.engine.attachment(&row.id, streams).map_err(failed)?;
        call.begin_stream(wire::Attach_Reply { exitCode: None }, Finish::AtEnd).await?;
        let ended = async { Ok(attachment.ended().await.map_err(failed)?.map(Into::into)) };
        let exit_code = self.obeying(call, &row.id, ended).await?;
        call.reply(wire::Attach_Reply { exitCode: exit_code }).await
    }

    pub(super) async fn resize(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Resize_Args = call.parameters()?;
        let (rows, columns) = (unsigned("rows", given.rows)?, unsigned("columns", given.columns)?);
        self.engine.resize(&given.name, rows, columns).map_err(failed)?;
        call.reply(wire::Resize_Reply {}).await
    }

    /// Waits, and passes on to the container what its client says on a stream meanwhile. A client that detaches takes its
    /// streams along, and leaves the container alone.
    pub(super) async fn obeying(
        &self,
        call: &mut Call,
        id: &str,
        work: impl Future<Output = Result<Option<i64>, CallError>>,
    ) -> Result<Option<i64>, CallError> {
        let obey = |control| {
            let done = match control {
                Control::Window { rows, columns } => self.engine.resize(id, rows, columns),
                Control::Signal(signal) => match signals::parse(&signal) {
                    Some(signal) => self.engine.kill(id, signal),
                    None => Ok(()),
                },
                Control::Leave => Ok(()),
            };
            // It may have ended just now; then that is what the client hears next.
            if let Err(error) = done {
                tracing::debug!(id, error = error.full_text(), "cannot do what a client asked for, ignoring");
            }
        };
        attended(call, work, obey).await.unwrap_or_else(|| Err(left()))
    }
}

/// With channels a call lasts as long as they do.
pub(super) fn condition_of(call: &Call, wait: Option<wire::Condition>) -> Option<wire::Condition> {
    if call.has_channels() { Some(wire::Condition::exited) } else { wait }
}

/// The end of the call of a client that has said that it leaves: nobody reads a reply.
fn left() -> CallError {
    CallError::Disconnected { source: std::io::ErrorKind::ConnectionAborted.into() }
}

pub(super) fn streams(
    call: &mut Call,
    stdin: Option<i64>,
    stdout: Option<i64>,
    stderr: Option<i64>,
) -> Result<Streams, CallError> {
    let mut descriptors = Descriptors::of(call);
    Ok(Streams {
        stdin: descriptors.take("stdin", stdin)?,
        stdout: descriptors.take_output("stdout", stdout)?,
        stderr: descriptors.take_output("stderr", stderr)?,
    })
}

fn exec_to_wire(exec: ExecStatus) -> wire::ExecStatus {
    let state = exec.state;
    wire::ExecStatus {
        exec: exec.id,
        containerId: exec.container_id,
        name: exec.container,
        pid: state.pid.into(),
        command: state.command,
        user: state.user,
        terminal: state.terminal,
        detached: state.detached,
        startedUSec: signed(state.started_usec),
        exitCode: state.exit_code.map(Into::into),
        endedUSec: state.ended_usec.map(signed),
    }
}
