//! `create` and `run`.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::arguments::{CreateArguments, RunArguments};
use super::bundle::Bundle;
use super::console::{self, ConsoleSocket};
use super::error::{OciError, on_file};
use super::process::ProcessRef;
use super::state::{Container, GATE, Record, Status};
use super::{Context, adjust, cgroups, clock, delete, foreground, notify, scope, start};
use crate::runtime::{self, CreateOptions, CreateRequest, Created, Rootfs, Stdio};

/// Makes a container whose first process waits for `start`.
///
/// # Errors
/// [`OciError`]; nothing is left then.
pub fn create(context: &Context, arguments: &CreateArguments) -> Result<(), OciError> {
    let plan = Plan::new(context, arguments, true)?;
    let console_socket = arguments.console_socket.as_deref().map(ConsoleSocket::connect).transpose()?;
    let mut stdio = Some(plan.stdio()?);
    plan.make(context, arguments, true, &mut stdio, |container, mut created| {
        if let (Some(socket), Some(master)) = (console_socket, created.take_console()) {
            socket.send(&master)?;
        }
        for warning in created.warnings() {
            context.log.warn(warning);
        }
        finish(container, arguments)?;
        created.leave_waiting()?;
        Ok(())
    })
    .map(drop)
}

/// Makes a container and starts its program.
///
/// # Errors
/// [`OciError`]; nothing is left then.
pub fn run(context: &Context, arguments: &RunArguments) -> Result<ExitCode, OciError> {
    let of_create = &arguments.create;
    let plan = Plan::new(context, of_create, arguments.detach)?;
    if plan.without_process {
        return Err(runtime::SpecError::Missing { field: "process" }.into());
    }
    let console_socket = of_create.console_socket.as_deref().map(ConsoleSocket::connect).transpose()?;
    let signals = if arguments.detach { None } else { Some(foreground::Signals::keep()?) };
    let mut stdio = Some(plan.stdio()?);
    let spec = plan.bundle.spec.clone();
    let (container, (running, proxy)) =
        plan.make(context, of_create, false, &mut stdio, |container, created| {
            let proxy = start::listen(container)?;
            let running = created.start().map_err(OciError::of_start)?;
            for warning in &running.warnings {
                context.log.warn(warning);
            }
            finish(container, of_create)?;
            start::after(container, &spec)?;
            Ok((running, proxy))
        })?;
    let mut master = running.console;
    if let (Some(socket), Some(master)) =
        (console_socket, master.take_if(|_| of_create.console_socket.is_some()))
        && let Err(error) = socket.send(&master)
    {
        delete::destroy(context, &container)?;
        return Err(error);
    }
    let Some(signals) = signals else {
        // Others may look at it, and change it, while it gets ready.
        drop(container);
        proxy.map_or(Ok(()), |proxy| proxy.until_ready(running.pid, running.pidfd.as_fd()))?;
        return Ok(ExitCode::SUCCESS);
    };
    let id = container.record.id.clone();
    // Others may look at it, and change it, as long as it runs.
    drop(container);
    let code = foreground::wait(&signals, running.pid, &running.pidfd, master, proxy)?;
    if !arguments.keep {
        match context.root.container_to_change(&id) {
            Ok(container) => delete::destroy(context, &container)?,
            // Somebody was faster.
            Err(OciError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ExitCode::from(code))
}

/// Tells that it is there, to whoever waits for the file.
fn finish(container: &Container, arguments: &CreateArguments) -> Result<(), OciError> {
    let pid = container.record.init.map_or(0, |init| init.pid);
    arguments.pid_file.as_deref().map_or(Ok(()), |path| super::state::write(path, pid.to_string().as_bytes()))
}

/// What is to be made.
struct Plan {
    bundle: Bundle,
    without_process: bool,
    sockets: u32,
    terminal: bool,
}

impl Plan {
    fn new(context: &Context, arguments: &CreateArguments, detached: bool) -> Result<Self, OciError> {
        super::state::check_id(&arguments.id)?;
        let mut bundle = Bundle::load(&arguments.bundle)?;
        for warning in &bundle.warnings {
            context.log.warn(warning);
        }
        adjust::take_rights(&bundle.spec)?;
        let without_process = bundle.spec.process().is_none();
        if without_process {
            bundle.spec.set_process(Some(adjust::stand_in()));
        }
        let terminal = bundle.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
        console::check(terminal, arguments.console_socket.as_deref(), detached)?;
        Ok(Self { bundle, without_process, sockets: adjust::sockets_given(), terminal })
    }

    fn stdio(&self) -> Result<Stdio, OciError> {
        stdio(self.terminal.then(|| self.bundle.spec.process().as_ref()).flatten())
    }

    /// Makes the container up to its program, and lets `go_on` do the rest. Whatever fails is undone.
    fn make<T>(
        mut self,
        context: &Context,
        arguments: &CreateArguments,
        waits: bool,
        stdio: &mut Option<Stdio>,
        go_on: impl FnOnce(&mut Container, Created<'_>) -> Result<T, OciError>,
    ) -> Result<(Container, T), OciError> {
        let preserved_fds = runtime::inherited_descriptors(
            arguments.preserve_fds.saturating_add(self.sockets),
        )
        .map_err(|errno| OciError::Argument { argument: "--preserve-fds", reason: errno.to_string() })?;
        let rootfs = adjust::rootfs(&self.bundle.spec, &self.bundle.dir)?;
        let reservation = context.root.reserve(&arguments.id)?;
        reservation.keep_spec(&self.bundle.text)?;
        let place = cgroups::choose(context, &self.bundle.spec, &arguments.id)?;
        adjust::complete(&mut self.bundle.spec, &self.bundle.dir, &place.path, self.sockets);
        let notify = notify::wanted(&self.bundle.spec).filter(|_| !self.without_process);
        if notify.is_some() {
            notify::lead_in(&mut self.bundle.spec, reservation.dir())?;
        }
        let gate = if waits { Some(listen(reservation.dir())?) } else { None };
        let mut container = reservation.fill(Record {
            oci_version: runtime::hooks::SPEC_VERSION.to_owned(),
            id: arguments.id.clone(),
            bundle: self.bundle.dir.clone(),
            rootfs: rootfs.clone(),
            init: None,
            created: clock::now(),
            owner: rustix::process::geteuid().as_raw(),
            cgroup: Some(place.path.clone()),
            cgroup_was_there: place.was_there,
            scope: place.scope.as_ref().map(|scope| scope.unit.clone()),
            notify,
            annotations: self.bundle.spec.annotations().clone(),
        })?;
        let bundle = self.bundle.dir.clone();
        let request = CreateRequest {
            id: &arguments.id,
            spec: &self.bundle.spec,
            rootfs: &Rootfs::Directory { path: rootfs },
            stdio: stdio.take().ok_or_else(|| console_error("take the standard streams"))?,
            preserved_fds,
            reaper: false,
            options: CreateOptions {
                gate,
                bundle: Some(&bundle),
                look_for_program: !self.without_process,
                no_pivot: arguments.no_pivot,
                keep_keyring: arguments.no_new_keyring,
            },
        };
        let made = runtime::create(request).map_err(OciError::of_start).and_then(|created| {
            let init = created.start_time().map(|start_time| ProcessRef { pid: created.pid(), start_time });
            container.record.init = init;
            container.save()?;
            go_on(&mut container, created)
        });
        drop(place);
        match made {
            Ok(value) => {
                let resources =
                    self.bundle.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
                if let (Some(unit), Some(resources)) = (&container.record.scope, resources)
                    && let Err(error) = scope::limit(unit, resources)
                {
                    // They are in force in the container's own cgroup.
                    context.log.warn(&super::error::with_causes(&error));
                }
                Ok((container, value))
            }
            Err(error) => {
                if let Err(undone) = delete::destroy(context, &container) {
                    context.log.warn(&super::error::with_causes(&undone));
                }
                Err(error)
            }
        }
    }
}

fn console_error(what: &str) -> OciError {
    OciError::Console { what: what.to_owned(), source: std::io::ErrorKind::Other.into() }
}

/// The streams of a process: this one's own, or a terminal.
///
/// # Errors
/// [`OciError::Console`].
pub fn stdio(with_terminal: Option<&Process>) -> Result<Stdio, OciError> {
    if let Some(process) = with_terminal {
        let asked = process.console_size();
        let size = asked
            .and_then(|size| Some((u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?)));
        return Ok(Stdio::Terminal { size: size.filter(|(rows, _)| *rows > 0).or_else(console::own_size) });
    }
    let own = |number: &str, stream: std::os::fd::BorrowedFd<'_>| {
        // One that was closed is nothing to read and nowhere to write to.
        let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        stream
            .try_clone_to_owned()
            .or_else(|_| null())
            .map_err(|source| OciError::Console { what: format!("take standard {number}"), source })
    };
    Ok(Stdio::Pipes {
        stdin: own("input", std::io::stdin().as_fd())?,
        stdout: own("output", std::io::stdout().as_fd())?,
        stderr: own("error", std::io::stderr().as_fd())?,
    })
}

/// Listens at a container's gate. The name is short whatever the directory's is.
fn listen(dir: &Path) -> Result<OwnedFd, OciError> {
    let path = dir.join(GATE);
    let listen = || -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(dir, flags, Mode::empty())?;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&listener, &gate_address(&directory)?)?;
        rustix::net::listen(&listener, 1)?;
        Ok(listener)
    };
    listen().map_err(|errno| on_file("listen at", path)(errno.into()))
}

/// The gate's address, by an open directory.
///
/// # Errors
/// What the kernel says to such an address.
pub fn gate_address(directory: &OwnedFd) -> rustix::io::Result<SocketAddrUnix> {
    let number = std::os::fd::AsRawFd::as_raw_fd(directory);
    SocketAddrUnix::new(format!("/proc/self/fd/{number}/{GATE}"))
}

/// Whether a specification wants a process that is not there.
pub fn has_process(spec: &Spec) -> bool {
    spec.process().is_some()
}

/// The states in which there is a first process.
pub fn is_up(status: Status) -> bool {
    matches!(status, Status::Created | Status::Running | Status::Paused)
}
