//! Containers made by another program with the OCI runtime command line (crun, runc, …).
//!
//! Such a program takes a bundle: a directory with `config.json` and a root file system that is mounted on the host.
//! Both are made in the run directory, and undone when the container has ended or did not come up:
//!
//! ```text
//! RUN_DIR/bundle/config.json   the spec, with root.path set
//! RUN_DIR/rootfs               the overlay, where there is one
//! RUN_DIR/oci/                 the program's own state (--root)
//! RUN_DIR/oci.log              its messages, JSON lines
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as CommandStdio};

use oci_spec::runtime::{Root, Spec};
use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};

use super::config::{MonitorConfig, SPEC_FILE_NAME};
use super::socket;
use super::state::ProcessRef;
use crate::runtime::{Rootfs, Stdio, overlay, visible};

/// What a bundle says that it is.
const EXTERNAL_VERSION: &str = "1.0.2";
const BUNDLE: &str = "bundle";
const ROOTFS: &str = "rootfs";
const STATE: &str = "oci";
const LOG: &str = "oci.log";
const PID_FILE: &str = "oci.pid";
const CONSOLE_SOCKET: &str = "console.sock";

/// Why a container was not made by another runtime.
#[derive(Debug, thiserror::Error)]
pub enum ExternalError {
    /// Something of the bundle could not be made.
    #[error("cannot prepare {path:?} for the runtime")]
    Bundle {
        /// What could not be made.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The root file system could not be mounted.
    #[error("cannot mount the root file system on {target:?}")]
    Mount {
        /// Where.
        target: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("cannot run the runtime {program:?}; install it or choose another one")]
    Program {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The program refused.
    #[error("{program:?} cannot {verb} the container: {reason}")]
    Refused {
        /// The program.
        program: PathBuf,
        /// What it was told to do.
        verb: &'static str,
        /// What it said.
        reason: String,
    },
    /// The program said that all is well, but did not hand over what it should.
    #[error("{program:?} did not hand over {what}")]
    Incomplete {
        /// The program.
        program: PathBuf,
        /// What is missing.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ExternalError {
    /// A short word for the step that failed.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Bundle { .. } => "bundle",
            Self::Mount { .. } => "rootfs",
            Self::Program { .. } => "runtime",
            Self::Refused { verb, .. } => verb,
            Self::Incomplete { .. } => "console",
        }
    }

    /// What the kernel said, if it was asked.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Bundle { source, .. }
            | Self::Mount { source, .. }
            | Self::Program { source, .. }
            | Self::Incomplete { source, .. } => source.raw_os_error(),
            Self::Refused { .. } => None,
        }
    }
}

/// Undoes what was made for a container that did not come up.
struct Undo<'a> {
    program: &'a Path,
    run_dir: &'a Path,
    id: &'a str,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            clean_up(self.program, self.run_dir, self.id);
        }
    }
}

/// Makes and starts the container; returns its first process and, with a terminal, the master.
///
/// # Errors
/// [`ExternalError`]; nothing is left then.
pub fn start(
    program: &Path,
    run_dir: &Path,
    config: &MonitorConfig,
    mut spec: Spec,
    stdio: Stdio,
) -> Result<(ProcessRef, OwnedFd, Option<OwnedFd>), ExternalError> {
    let mut undo = Undo { program, run_dir, id: &config.id, armed: true };
    let root = mount_root(run_dir, &config.rootfs)?;
    write_bundle(run_dir, &mut spec, root)?;

    let mut create = command(program, run_dir);
    create.arg("create").arg("--bundle").arg(run_dir.join(BUNDLE));
    create.arg("--pid-file").arg(run_dir.join(PID_FILE));
    let mut console_listener = None;
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            create.stdin(stdin).stdout(stdout).stderr(stderr);
        }
        Stdio::Terminal { .. } => {
            let (listener, directory, path) = listen_for_console(run_dir)?;
            create.arg("--console-socket").arg(path);
            create.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
            console_listener = Some((listener, directory));
        }
    }
    create.arg(&config.id);
    run(program, run_dir, create, "create")?;

    let incomplete =
        |what| move |source| ExternalError::Incomplete { program: program.to_owned(), what, source };
    let console = console_listener
        .map(|(listener, _directory)| receive_console(&listener))
        .transpose()
        .map_err(incomplete("the container's terminal"))?;
    let (init, pidfd) = read_pid(run_dir).map_err(incomplete("the container's process"))?;

    let mut start = command(program, run_dir);
    start.arg("start").arg(&config.id);
    start.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
    run(program, run_dir, start, "start")?;
    undo.armed = false;
    Ok((init, pidfd, console))
}

/// Removes what the runtime and this module made for a container that has ended.
///
/// Goes on after an error; what cannot be removed is left for the engine's clean-up.
pub fn clean_up(program: &Path, run_dir: &Path, id: &str) {
    if run_dir.join(STATE).exists() {
        let mut delete = command(program, run_dir);
        delete.arg("delete").arg("--force").arg(id);
        delete.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
        let _ = delete.status();
    }
    let rootfs = run_dir.join(ROOTFS);
    let _ = rustix::mount::unmount(&rootfs, rustix::mount::UnmountFlags::DETACH);
    let _ = std::fs::remove_dir(&rootfs);
    let _ = std::fs::remove_dir_all(run_dir.join(BUNDLE));
    let _ = std::fs::remove_dir_all(run_dir.join(STATE));
    for file in [LOG, PID_FILE, CONSOLE_SOCKET] {
        let _ = std::fs::remove_file(run_dir.join(file));
    }
}

fn command(program: &Path, run_dir: &Path) -> Command {
    let mut command = Command::new(program);
    // crun waits for the payload's readiness itself if it sees this one, and passes the others' descriptors on.
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    command.arg("--root").arg(run_dir.join(STATE));
    command.arg("--log").arg(run_dir.join(LOG)).arg("--log-format").arg("json");
    command
}

fn run(
    program: &Path,
    run_dir: &Path,
    mut command: Command,
    verb: &'static str,
) -> Result<(), ExternalError> {
    let status =
        command.status().map_err(|source| ExternalError::Program { program: program.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    let reason = last_message(&run_dir.join(LOG)).unwrap_or_else(|| status.to_string());
    Err(ExternalError::Refused { program: program.to_owned(), verb, reason })
}

/// The text of the last line of the runtime's log.
fn last_message(log: &Path) -> Option<String> {
    let log = std::fs::read_to_string(log).ok()?;
    let line: serde_json::Value = serde_json::from_str(log.lines().last()?).ok()?;
    line.get("msg")?.as_str().map(str::to_owned)
}

fn mount_root(run_dir: &Path, rootfs: &Rootfs) -> Result<PathBuf, ExternalError> {
    match rootfs {
        Rootfs::Directory { path } | Rootfs::ShiftedDirectory { path } => Ok(path.clone()),
        Rootfs::Overlay { lower, upper, work, driver } => {
            let target = run_dir.join(ROOTFS);
            let mount = |source| ExternalError::Mount { target: target.clone(), source };
            let root = overlay::writable(*driver, lower, upper, work).map_err(mount)?;
            visible::attach(&root, &target).map_err(|errno| mount(errno.into()))?;
            Ok(target)
        }
    }
}

fn write_bundle(run_dir: &Path, spec: &mut Spec, root_path: PathBuf) -> Result<(), ExternalError> {
    let path = run_dir.join(BUNDLE);
    let failed = |source| ExternalError::Bundle { path: path.clone(), source };
    let mut root: Root = spec.root().clone().unwrap_or_default();
    if spec.root().is_none() {
        root.set_readonly(None);
    }
    root.set_path(root_path);
    spec.set_root(Some(root));
    // Older programs (the crun of Debian 12) refuse versions that they do not know, and know all that is in it.
    spec.set_version(EXTERNAL_VERSION.to_owned());
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let json = serde_json::to_vec(&spec).map_err(|error| failed(error.into()))?;
    std::fs::write(path.join(SPEC_FILE_NAME), json).map_err(failed)
}

/// Makes the socket over which the runtime hands over the terminal, and a name for it that is short enough.
fn listen_for_console(run_dir: &Path) -> Result<(OwnedFd, socket::ShortPath, PathBuf), ExternalError> {
    let listen = || -> io::Result<_> {
        let _ = std::fs::remove_file(run_dir.join(CONSOLE_SOCKET));
        let flags = SocketFlags::CLOEXEC;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let directory = socket::short_path(run_dir)?;
        let address = SocketAddrUnix::new(directory.join(CONSOLE_SOCKET).as_ref())?;
        rustix::net::bind(&listener, &address)?;
        rustix::net::listen(&listener, 1)?;
        let path =
            format!("/proc/{}/fd/{}/{CONSOLE_SOCKET}", std::process::id(), directory.as_raw_fd()).into();
        Ok((listener, directory, path))
    };
    listen().map_err(|source| ExternalError::Bundle { path: run_dir.join(CONSOLE_SOCKET), source })
}

fn receive_console(listener: &OwnedFd) -> io::Result<OwnedFd> {
    // The runtime has exited, so what it sent is here: nothing to wait for.
    rustix::fs::fcntl_setfl(listener, rustix::fs::OFlags::NONBLOCK)?;
    let connection = rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?;
    let mut name = [0; 256];
    let (_, fds) = socket::receive_with_fds(connection, &mut name, RecvFlags::DONTWAIT)?;
    fds.into_iter().next().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn read_pid(run_dir: &Path) -> io::Result<(ProcessRef, OwnedFd)> {
    let gone = || io::Error::from_raw_os_error(libc::ESRCH);
    let text = io::read_to_string(File::open(run_dir.join(PID_FILE))?)?;
    let pid: i32 = text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let pidfd = rustix::process::pidfd_open(Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::empty())?;
    Ok((ProcessRef::of(pid).ok_or_else(gone)?, pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_last_message_is_its_reason() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        assert_eq!(last_message(&log), None);
        std::fs::write(&log, "{\"msg\":\"first\"}\n{\"level\":\"error\",\"msg\":\"no \\\"x\\\"\"}\n")
            .unwrap();
        assert_eq!(last_message(&log).unwrap(), "no \"x\"");
    }
}
