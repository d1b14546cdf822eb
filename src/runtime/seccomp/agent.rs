//! The agent that decides about system calls in a filter's stead (config-linux, "Seccomp", `listenerPath`).

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::{Value, json};

use crate::runtime::hooks::SPEC_VERSION;
use crate::runtime::peer;

/// A connection to the agent, for one state.
#[derive(Debug)]
pub(in crate::runtime) struct Agent {
    stream: UnixStream,
}

impl Agent {
    /// What an error says was attempted.
    pub fn what(path: &Path) -> String {
        format!("hand the seccomp filter's notifications to the agent at {path:?}")
    }

    pub fn connect(path: &Path) -> Result<Self, Errno> {
        Ok(Self { stream: peer::connect(path)? })
    }

    /// Sends the container process state and the descriptor, and ends the connection.
    pub fn tell(mut self, listener: OwnedFd, state: &Value, metadata: Option<&str>) -> Result<(), Errno> {
        let mut told =
            json!({"ociVersion": SPEC_VERSION, "fds": ["seccompFd"], "pid": state["pid"], "state": state});
        if let Some(metadata) = metadata {
            told["metadata"] = json!(metadata);
        }
        let text = told.to_string();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [listener.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(Errno::INVAL);
        }
        let parts = [std::io::IoSlice::new(text.as_bytes())];
        let sent = rustix::net::sendmsg(&self.stream, &parts, &mut control, SendFlags::NOSIGNAL)
            .map_err(peer::late)?;
        self.stream
            .write_all(text.as_bytes().get(sent..).unwrap_or_default())
            .map_err(|error| Errno::from_io_error(&error).map_or(Errno::PIPE, peer::late))
    }
}
