//! The sockets of a container that some clients open by their paths: one for both streams, and a FIFO for the size of the
//! terminal.

use super::errors::failed;
use super::{Call, CallError, PodmanInterface, wire};

impl PodmanInterface {
    pub(in super::super) async fn attach_sockets(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetAttachSockets_Args = call.parameters()?;
        let one = self.one(given.name).await.map_err(failed)?;
        Err(super::errors::occurred(format!("cannot attach to {:?} by paths: use Attach", one.listed.name)))
    }
}
