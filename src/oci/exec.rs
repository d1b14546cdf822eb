//! `exec`: one more process in a container.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};
use rustix::fs::{Mode, OFlags};

use super::arguments::ExecArguments;
use super::console::{self, ConsoleSocket};
use super::error::{OciError, on_file};
use super::state::{Container, Status};
use super::{Context, adjust, create, foreground};
use crate::runtime::{self, ExecRequest, SpecError};

/// Runs a process in a container, and waits for its end unless told otherwise.
///
/// # Errors
/// [`OciError`]; no process is left then.
pub fn exec(context: &Context, arguments: ExecArguments) -> Result<ExitCode, OciError> {
    let container = context.root.container(&arguments.id)?;
    let status = container.status();
    let enters = matches!(status, Status::Running | Status::Created)
        || (status == Status::Paused && arguments.ignore_paused);
    if !enters {
        return Err(container.wrong("run a process in", status, "running"));
    }
    let spec = container.spec()?;
    let mut process = process(&spec, &arguments)?;
    adjust::complete_process(&mut process);
    let terminal = process.terminal().unwrap_or(false);
    console::check(terminal, arguments.console_socket.as_deref(), arguments.detach)?;
    // All that is the host's is opened now: afterwards this process is inside, where names are the container's.
    let console_socket = arguments.console_socket.as_deref().map(ConsoleSocket::connect).transpose()?;
    let pid_file = arguments.pid_file.as_deref().map(PidFile::open).transpose()?;
    let preserved_fds = runtime::inherited_descriptors(arguments.preserve_fds)
        .map_err(|errno| OciError::Argument { argument: "--preserve-fds", reason: errno.to_string() })?;
    let signals = if arguments.detach { None } else { Some(foreground::Signals::keep()?) };
    let gone = || container.wrong("run a process in", Status::Stopped, "running");
    let init = container.record.init.ok_or_else(gone)?;
    let running = runtime::exec(ExecRequest {
        leader: init.pid,
        leader_start_time: init.start_time,
        process: &process,
        seccomp: spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()),
        cgroup: cgroup_of(&container)?,
        stdio: create::stdio(terminal.then_some(&process))?,
        preserved_fds,
        state: Some(&container.state(status)),
    })
    .map_err(OciError::of_start)?;
    for warning in &running.warnings {
        context.log.warn(warning);
    }
    let told = pid_file.map_or(Ok(()), |file| file.write(running.pid));
    let mut master = running.console;
    let told =
        told.and_then(|()| match (console_socket, master.take_if(|_| arguments.console_socket.is_some())) {
            (Some(socket), Some(master)) => socket.send(&master),
            _ => Ok(()),
        });
    if let Err(error) = told {
        // Nobody knows of it, so it must not stay.
        let _ = rustix::process::pidfd_send_signal(&running.pidfd, rustix::process::Signal::KILL);
        return Err(error);
    }
    match signals {
        Some(signals) => {
            foreground::wait(&signals, running.pid, &running.pidfd, master, None).map(ExitCode::from)
        }
        None => Ok(ExitCode::SUCCESS),
    }
}

fn cgroup_of(container: &Container) -> Result<&str, OciError> {
    container.record.cgroup.as_deref().ok_or_else(|| OciError::Argument {
        argument: "ID",
        reason: format!("container {:?} has no cgroup", container.record.id),
    })
}

/// The process: as a file has it, or as the container's own with what the arguments change.
fn process(spec: &Spec, arguments: &ExecArguments) -> Result<Process, OciError> {
    let wrong = |argument, reason: String| OciError::Argument { argument, reason };
    if let Some(path) = &arguments.process {
        let text = super::bundle::read_file(path)?;
        let mut process: Process = serde_path_to_error::deserialize(
            &mut serde_json::Deserializer::from_slice(&text),
        )
        .map_err(|error| OciError::Json {
            path: path.clone(),
            what: "process of a specification",
            reason: format!("{}: {}", error.path(), error.inner()),
        })?;
        if arguments.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    if arguments.command.is_empty() {
        return Err(wrong("COMMAND", "there is none, and no --process".to_owned()));
    }
    let own = spec.process().clone().ok_or(SpecError::Missing { field: "process" })?;
    let mut process = own;
    process.set_args(Some(arguments.command.clone())).set_terminal(Some(arguments.tty));
    process.set_console_size(None);
    if let Some(cwd) = &arguments.cwd {
        process.set_cwd(cwd.clone());
    }
    let mut environment = process.env().clone().unwrap_or_default();
    for variable in &arguments.env {
        let name = variable.split_once('=').map_or(variable.as_str(), |(name, _)| name);
        environment.retain(|other| other.split_once('=').map_or(other.as_str(), |(other, _)| other) != name);
        environment.push(variable.clone());
    }
    process.set_env(Some(environment));
    if let Some(user) = &arguments.user {
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| wrong("--user", format!("{user:?} is not UID or UID:GID")))
        };
        let (uid, gid) = user.split_once(':').map_or((user.as_str(), None), |(uid, gid)| (uid, Some(gid)));
        process.user_mut().set_uid(number(uid)?);
        if let Some(gid) = gid {
            process.user_mut().set_gid(number(gid)?);
        }
    }
    if !arguments.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(arguments.additional_gids.clone()));
    }
    if arguments.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if let Some(label) = &arguments.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(profile) = &arguments.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if !arguments.cap.is_empty() {
        let mut sets = process.capabilities().clone().unwrap_or_else(no_capabilities);
        for name in &arguments.cap {
            let upper = name.to_ascii_uppercase();
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            let capability: Capability = serde_json::from_value(full.into())
                .map_err(|_| wrong("--cap", format!("{name:?} is no capability")))?;
            let with = |set: &Option<oci_spec::runtime::Capabilities>| {
                let mut set = set.clone().unwrap_or_default();
                set.insert(capability);
                Some(set)
            };
            let (bounding, effective, permitted) =
                (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
            sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
        }
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

fn no_capabilities() -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(None).set_effective(None).set_permitted(None).set_inheritable(None).set_ambient(None);
    sets
}

/// A file that gets a pid, opened where its name means what the caller meant.
struct PidFile {
    directory: OwnedFd,
    path: PathBuf,
    new: File,
    new_name: String,
}

impl PidFile {
    fn open(path: &Path) -> Result<Self, OciError> {
        let open = || -> rustix::io::Result<Self> {
            let parent =
                path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(parent, flags, Mode::empty())?;
            let name = path.file_name().ok_or(rustix::io::Errno::ISDIR)?.to_string_lossy();
            let new_name = format!(".{name}.{}", std::process::id());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let new = rustix::fs::openat(&directory, new_name.as_str(), flags, Mode::from_raw_mode(0o644))?;
            Ok(Self { directory, path: path.to_owned(), new: new.into(), new_name })
        };
        open().map_err(|errno| on_file("write", path)(errno.into()))
    }

    fn write(mut self, pid: i32) -> Result<(), OciError> {
        let name = self.path.file_name().unwrap_or_default();
        write!(self.new, "{pid}")
            .and_then(|()| {
                Ok(rustix::fs::renameat(&self.directory, self.new_name.as_str(), &self.directory, name)?)
            })
            .map_err(on_file("write", &self.path))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Once it has its name, there is nothing under this one.
        let _ = rustix::fs::unlinkat(&self.directory, self.new_name.as_str(), rustix::fs::AtFlags::empty());
    }
}
