//! The streams of a container, over an upgraded connection.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::unix::pipe;

use crate::engine::{Condition, Engine, EngineError, Streams};

use super::errors::{failed_anyhow, occurred};
use super::session::{DetachKeys, End, Input, Output, Session};
use super::{Call, CallError, PodmanInterface, frames, wire};

/// What shells have for a command that is not there, one that can't be executed, and a failure of our own.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const OUR_FAILURE: i32 = 125;

/// The exit code for what could not be started.
pub(super) fn code_of(error: &EngineError) -> i32 {
    match error {
        EngineError::CommandNotFound { .. } => NOT_FOUND,
        EngineError::CommandNotExecutable { .. } => NOT_EXECUTABLE,
        _ => OUR_FAILURE,
    }
}

/// Our ends and the payload's: what it reads, if it wants that, and what it writes, both streams in one.
pub(super) struct Pipes {
    pub(super) input: Input,
    pub(super) output: pipe::Receiver,
    pub(super) streams: Streams,
}

impl Pipes {
    pub(super) fn new(with_input: bool) -> io::Result<Self> {
        let make = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let ours = |fd: OwnedFd| -> io::Result<OwnedFd> {
            rustix::io::ioctl_fionbio(&fd, true)?;
            Ok(fd)
        };
        let (output, stdout) = make()?;
        let stderr = stdout.try_clone()?;
        let mut pipes = Self {
            input: Input::None,
            output: pipe::Receiver::from_owned_fd(ours(output)?)?,
            streams: Streams { stdin: None, stdout: Some(stdout), stderr: Some(stderr) },
        };
        if with_input {
            let (stdin, input) = make()?;
            pipes.input = Input::Pipe(pipe::Sender::from_owned_fd(ours(input)?)?);
            pipes.streams.stdin = Some(stdin);
        }
        Ok(pipes)
    }
}

impl PodmanInterface {
    pub(in super::super) async fn attach(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Attach_Args = call.parameters()?;
        if !call.wants_upgrade() {
            return Err(occurred("client must use upgraded connection to attach"));
        }
        let keys = DetachKeys::parse(&given.detachKeys).map_err(occurred)?;
        let one = self.one(given.name).await.map_err(failed_anyhow)?;
        let runs = one.phase().is_alive();
        if !runs && !given.start {
            return Err(occurred(format!(
                "cannot attach to {:?}: it does not run; start it first",
                one.listed.name
            )));
        }
        let spec = &one.container.definition.spec;
        let pipes = Pipes::new(spec.stdin_open)
            .map_err(|error| occurred(format!("cannot attach to {:?}: {error}", one.listed.name)))?;
        let keys = spec.terminal.then_some(keys);
        let (id, name) = (one.listed.id.clone(), one.listed.name.clone());
        let busy = call.busy();
        let mut stream = call.upgrade_with_nothing().await?;
        let Pipes { input, output, streams } = pipes;
        let (engine, task_id) = (self.engine.clone(), id.clone());
        let size: Arc<Mutex<Option<(u16, u16)>>> = Arc::default();
        let size_at_start = Arc::clone(&size);
        // The container's code, where it is known already; a start is finished, whatever the client does.
        let task = tokio::spawn(async move {
            if runs {
                drop(busy);
                return engine.attach(&task_id, streams).await;
            }
            engine.start(&task_id, streams).await?;
            drop(busy);
            // It may have been sent before there was a terminal.
            let size = *size_at_start.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((rows, columns)) = size {
                resize(&engine, &task_id, rows, columns);
            }
            Ok(None)
        });
        let session = Session { stream: &mut stream, input, output: Output::Pipe(output), keys };
        let end = session.run(|rows, columns| {
            *size.lock().unwrap_or_else(PoisonError::into_inner) = Some((rows, columns));
            resize(&self.engine, &id, rows, columns);
        });
        let code = match end.await {
            Ok(End::Output) => match finished_task(task.await) {
                Ok(Some(code)) => code,
                Ok(None) => self.code_at_end(&id, &name).await,
                Err(error) => {
                    // Nobody may be there to read it any more.
                    let _ = frames::message(&mut stream, &error.full_text()).await;
                    code_of(&error)
                }
            },
            Ok(End::Detached) => {
                give_up(&task, runs);
                0
            }
            Ok(End::Left) | Err(_) => {
                give_up(&task, runs);
                return Ok(());
            }
        };
        let _ = frames::quit(&mut stream, code).await;
        Ok(())
    }

    async fn code_at_end(&self, id: &str, name: &str) -> i32 {
        let ended = self.engine.wait_known(id, name, Condition::Exited, None).await;
        ended.ok().and_then(|ended| ended.exit_code).unwrap_or(OUR_FAILURE)
    }
}

/// Ends an attachment; a start goes on.
fn give_up(task: &tokio::task::JoinHandle<Result<Option<i32>, EngineError>>, is_attachment: bool) {
    if is_attachment {
        task.abort();
    }
}

fn finished_task(
    result: Result<Result<Option<i32>, EngineError>, tokio::task::JoinError>,
) -> Result<Option<i32>, EngineError> {
    result.unwrap_or_else(|error| {
        Err(EngineError::Failed { attempted: "attach".to_owned(), reason: error.to_string() })
    })
}

/// Refused where there is no terminal, or not yet.
fn resize(engine: &Engine, id: &str, rows: u16, columns: u16) {
    if let Err(error) = engine.resize(id, rows, columns) {
        tracing::debug!(id, error = error.full_text(), "cannot resize, ignoring");
    }
}
