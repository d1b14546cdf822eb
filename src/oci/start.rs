//! `start`: the order to an init that waits at its gate.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::error::{OciError, on_file};
use super::notify::Proxy;
use super::state::{Container, GATE, Status};
use super::{Context, create, delete};
use crate::runtime::{self, RuntimeError, SpecError, hooks};

/// Starts the program of a container that was created, and waits until it is ready where a service manager wants to know.
///
/// # Errors
/// [`OciError`]. After one of the program the container has stopped; after one of a hook it is gone.
pub fn start(context: &Context, id: &str) -> Result<(), OciError> {
    let container = context.root.container_to_change(id)?;
    let status = container.status();
    if status != Status::Created {
        return Err(container.wrong("start", status, "created"));
    }
    let spec = container.spec()?;
    if !create::has_process(&spec) {
        return Err(SpecError::Missing { field: "process" }.into());
    }
    let connection = match connect(&container) {
        Err(rustix::io::Errno::CONNREFUSED) => {
            // Nobody listens any more: it was started, and whoever did that could not say so.
            open_gate(&container)?;
            return Err(container.wrong("start", container.status(), "created"));
        }
        other => other.map_err(|errno| on_file("connect to", container.dir().join(GATE))(errno.into()))?,
    };
    let proxy = listen(&container)?;
    let outcome = runtime::release(connection, &spec, &container.state(Status::Created));
    open_gate(&container)?;
    match outcome {
        Ok(warnings) => warnings.iter().for_each(|warning| context.log.warn(warning)),
        Err(error @ RuntimeError::Hook { .. }) => {
            delete::destroy(context, &container)?;
            return Err(error.into());
        }
        Err(error) => {
            kill_what_is_left(&container);
            return Err(OciError::of_start(error));
        }
    }
    if let Err(error) = after(&container, &spec) {
        delete::destroy(context, &container)?;
        return Err(error);
    }
    let init = container.record.init;
    // Others may look at it, and change it, while it gets ready.
    drop(container);
    match proxy.zip(init).and_then(|(proxy, init)| Some((proxy, init.pid, init.open()?))) {
        Some((proxy, pid, pidfd)) => proxy.until_ready(pid, pidfd.as_fd()),
        None => Ok(()),
    }
}

/// The proxy between the program and the service manager, if that one waits for it.
///
/// # Errors
/// [`OciError::File`].
pub fn listen(container: &Container) -> Result<Option<Proxy>, OciError> {
    container.record.notify.as_deref().map(|upstream| Proxy::listen(container.dir(), upstream)).transpose()
}

/// What is run when the program does.
///
/// # Errors
/// [`OciError::Hook`].
pub fn after(container: &Container, spec: &Spec) -> Result<(), OciError> {
    let Some(all) = spec.hooks() else { return Ok(()) };
    Ok(hooks::run("poststart", all.poststart().as_ref(), &container.state(Status::Running))?)
}

/// The first process of a start that failed ends by itself, but for one whose agent of system calls could not be told.
fn kill_what_is_left(container: &Container) {
    if let Some(pidfd) = container.record.init.and_then(super::process::ProcessRef::open) {
        let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
        super::process::ends_within(&pidfd, std::time::Duration::from_secs(5));
    }
}

fn connect(container: &Container) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(container.dir(), flags, Mode::empty())?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &create::gate_address(&directory)?)?;
    Ok(socket)
}

/// From now on nobody waits there.
fn open_gate(container: &Container) -> Result<(), OciError> {
    let path = container.dir().join(GATE);
    std::fs::remove_file(&path).map_err(on_file("remove", path))
}
