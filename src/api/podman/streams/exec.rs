//! Commands in running containers, over an upgraded connection.

use std::sync::Arc;

use crate::engine::{ExecRequest, Phase, Streams};

use super::attach::{Pipes, code_of};
use super::errors::{failed, occurred};
use super::session::{DetachKeys, End, Input, Output, Session, Terminal};
use super::{Call, CallError, PodmanInterface, frames, wire};

impl PodmanInterface {
    pub(in super::super) async fn exec(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::ExecContainer_Args { opts } = call.parameters()?;
        if !call.wants_upgrade() {
            return Err(occurred("client must use upgraded connection to exec"));
        }
        let keys = DetachKeys::parse(opts.detachKeys.as_deref().unwrap_or_default()).map_err(occurred)?;
        let one = self.one(opts.name.clone()).await.map_err(failed)?;
        if !matches!(one.phase(), Phase::Running | Phase::Stopping) {
            return Err(occurred(format!(
                "cannot run a command in {:?}: it is {}, not running",
                one.listed.name,
                super::super::text::state(one.phase())
            )));
        }
        if opts.cmd.is_empty() {
            return Err(occurred("cannot run a command: cmd is empty"));
        }
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let env = opts.env.unwrap_or_default();
        let env = env.iter().filter_map(|pair| pair.split_once('='));
        let request = ExecRequest {
            command: opts.cmd,
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: given(opts.user),
            workdir: given(opts.workdir),
            terminal: opts.tty,
            privileged: opts.privileged,
            ..ExecRequest::default()
        };
        let pipes = match opts.tty {
            true => None,
            false => {
                Some(Pipes::new(true).map_err(|error| occurred(format!("cannot run a command: {error}")))?)
            }
        };
        let mut stream = call.upgrade_with_nothing().await?;
        let (streams, plain) = match pipes {
            Some(Pipes { input, output, streams }) => (streams, Some((input, Output::Pipe(output)))),
            None => (Streams::default(), None),
        };
        let mut running = match self.engine.exec(one.id(), request, streams).await {
            Ok(running) => running,
            Err(error) => {
                let _ = frames::message(&mut stream, &error.full_text()).await;
                let _ = frames::quit(&mut stream, code_of(&error)).await;
                return Ok(());
            }
        };
        let terminal = running.terminal.take().and_then(|master| Terminal::new(master).ok()).map(Arc::new);
        let (input, output) = match (plain, &terminal) {
            (Some(plain), _) => plain,
            (None, Some(terminal)) => {
                (Input::Terminal(Arc::clone(terminal)), Output::Terminal(Arc::clone(terminal)))
            }
            (None, None) => {
                let _ = frames::quit(&mut stream, 125).await;
                return Ok(());
            }
        };
        let keys = terminal.is_some().then_some(keys);
        let session = Session { stream: &mut stream, input, output, keys };
        let end = session.run(|rows, columns| {
            if let Some(terminal) = &terminal {
                terminal.resize(rows, columns);
            }
        });
        let code = match end.await {
            Ok(End::Output) => running.wait().await.unwrap_or(125),
            Ok(End::Detached) => {
                running.control().detach();
                0
            }
            Ok(End::Left) | Err(_) => return Ok(()),
        };
        let _ = frames::quit(&mut stream, code).await;
        Ok(())
    }
}
