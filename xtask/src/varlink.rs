//! A varlink client as small as can be, and not the project's own: what it is shown is shown to a stranger.

use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};

use crate::program::{Failure, Result};

/// A connection to a service.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    socket: UnixStream,
}

impl Client {
    /// Connects. A reply that does not come within `timeout` is a failure.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let failed = |source| Failure::Transport { attempted: "connect to", socket: path.to_owned(), source };
        let socket = UnixStream::connect(path).map_err(failed)?;
        socket.set_read_timeout(Some(timeout)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), socket })
    }

    /// Calls, and gives the parameters of the reply.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.call_with_fds(method, parameters, &[])
    }

    /// The same, with descriptors that travel with the call (SCM_RIGHTS, on its first byte).
    pub fn call_with_fds(
        &mut self,
        method: &str,
        parameters: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Value> {
        let mut message = json!({ "method": method, "parameters": parameters }).to_string().into_bytes();
        message.push(0);
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control: &[_] = if raw.is_empty() { &[] } else { &rights };
        let sent = sendmsg::<()>(
            self.socket.as_raw_fd(),
            &[IoSlice::new(&message)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .map_err(|errno| self.broken("write to", errno.into()))?;
        std::io::Write::write_all(&mut self.socket, &message[sent..])
            .map_err(|error| self.broken("write to", error))?;
        let reply = self.read_message()?;
        let mut reply: Value =
            serde_json::from_slice(&reply).map_err(|error| self.broken("understand", error.into()))?;
        let parameters = reply.get_mut("parameters").map_or(json!({}), Value::take);
        match reply.get("error").and_then(Value::as_str) {
            None => Ok(parameters),
            Some(error) => {
                let details = parameters
                    .get("reason")
                    .and_then(Value::as_str)
                    .map_or(parameters.to_string(), str::to_owned);
                Err(Failure::Call { method: method.to_owned(), reason: format!("{error}: {details}") })
            }
        }
    }

    fn read_message(&mut self) -> Result<Vec<u8>> {
        let mut message = Vec::new();
        let mut chunk = [0; 8192];
        loop {
            let count = self.socket.read(&mut chunk).map_err(|error| self.broken("read from", error))?;
            if count == 0 {
                return Err(self.broken("read from", std::io::ErrorKind::UnexpectedEof.into()));
            }
            message.extend_from_slice(&chunk[..count]);
            if message.last() == Some(&0) {
                message.pop();
                return Ok(message);
            }
        }
    }

    fn broken(&self, attempted: &'static str, source: std::io::Error) -> Failure {
        Failure::Transport { attempted, socket: self.path.clone(), source }
    }
}
