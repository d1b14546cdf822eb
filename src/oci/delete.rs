//! `delete`, and the end of everything that a container was.

use std::time::Duration;

use super::Context;
use super::cgroups::DEFAULT_PARENT;
use super::error::{OciError, with_causes};
use super::process::{ProcessRef, ends_within};
use super::state::{Container, Status};
use crate::runtime::hooks;

/// A process that was killed has ended after this, unless the kernel holds it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes a container that has stopped, or one in any state if it has to be.
///
/// # Errors
/// [`OciError::NotFound`], [`OciError::WrongStatus`], and what [`destroy`] says.
pub fn delete(context: &Context, id: &str, force: bool) -> Result<(), OciError> {
    let container = match context.root.container_to_change(id) {
        Err(OciError::NotFound { .. }) if force => return context.root.sweep(id).map(drop),
        other => other?,
    };
    let status = container.status();
    if !force && status != Status::Stopped {
        return Err(container.wrong("delete", status, "stopped"));
    }
    destroy(context, &container)
}

/// Kills what runs, removes what was made, tells the hooks, and forgets the container.
///
/// # Errors
/// [`OciError::Lingers`], [`OciError::Cgroup`], [`OciError::File`]; it can be tried again then.
pub fn destroy(context: &Context, container: &Container) -> Result<(), OciError> {
    // One that was there before, and never got a process of ours, is somebody else's.
    let is_ours = !container.record.cgroup_was_there || container.record.init.is_some();
    let place = container.cgroup()?;
    let cgroup = place.as_ref().filter(|cgroup| is_ours && cgroup.exists());
    // Processes of a container without a pid namespace of its own live on without its first one.
    if let Some(cgroup) = cgroup {
        cgroup.kill_all(libc::SIGKILL)?;
    }
    if let Some(pidfd) = container.record.init.and_then(ProcessRef::open) {
        // One that has just ended needs no signal.
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        if let Some(cgroup) = cgroup {
            let _ = cgroup.thaw();
        }
        if !ends_within(&pidfd, PATIENCE) {
            return Err(OciError::Lingers { id: container.record.id.clone() });
        }
    }
    if let Some(place) = place.filter(|_| !container.record.cgroup_was_there) {
        place.remove()?;
        // What was not made in the end may have parents nevertheless. That of the others of ours stays: the next is soon there.
        place.remove_made_parents(DEFAULT_PARENT);
    }
    let spec = container.spec();
    let state = container.state(Status::Stopped);
    container.forget()?;
    let hooks = spec.ok().and_then(|spec| spec.hooks().as_ref()?.poststop().clone());
    // Each is run, whatever the one before it said.
    for hook in hooks.into_iter().flatten() {
        if let Err(error) = hooks::run("poststop", Some(&vec![hook]), &state) {
            context.log.warn(&with_causes(&error));
        }
    }
    Ok(())
}
