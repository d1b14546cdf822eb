//! Starting: everything is prepared here, then a monitor is executed that does the rest and stays.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use crate::monitor::config::{
    LogDriver, MonitorConfig, Notify, RestartPolicy, RuntimeChoice, SPEC_FILE_NAME, STOP_REQUESTED,
};
use crate::runtime::Rootfs;

use super::network::PendingNetwork;
use super::spec::{Log, Restart, Runtime};
use super::{Container, Engine, EngineError, Streams, blocking, oci};

/// What the start of a container brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launched {
    /// What was lowered or left out, in words.
    pub warnings: Vec<String>,
}

/// The longest answer of a monitor: one line.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// In one message to a monitor.
const PACKET_DESCRIPTORS: usize = 8;

impl Engine {
    /// Starts a container that does not run, and returns when its command has been executed. Must run to its end once
    /// begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`], [`EngineError::CommandNotFound`],
    /// [`EngineError::CommandNotExecutable`], [`EngineError::LaunchFailed`].
    pub async fn start(&self, name: &str, streams: Streams) -> Result<Launched, EngineError> {
        let id = self.find_row(name)?.id;
        let lock = self.lock(&id).await?;
        let engine = self.clone();
        blocking(move || {
            let result = engine.launch(&id, streams);
            drop(lock);
            result
        })
        .await
    }

    fn launch(&self, id: &str, streams: Streams) -> Result<Launched, EngineError> {
        // Read again under the lock: it may have been removed or renamed meanwhile.
        let container = self.find(id)?;
        let live = self.live(id)?;
        if live.phase.is_alive() {
            return Err(EngineError::WrongState {
                attempted: "start",
                name: container.row.name,
                state: live.phase,
                wanted: "created or exited",
            });
        }
        let run_dir = self.paths().run_container(id);
        self.clear_last_run(id, &run_dir)?;
        let built = oci::build(self, &container)?;
        write(&run_dir.join(SPEC_FILE_NAME), &built.spec)?;
        let mut config = self.monitor_config(&container)?;
        // Taken down again when this ends by an error.
        let network = self.set_up_network(&container)?;
        if let Some(network) = &network {
            config.end_command = self.end_command(id, network.generation());
        }
        // Without a client it is only open on request, but one that brings its input wants it read.
        config.stdin_open |= streams.stdin.is_some();
        config.store(&run_dir).map_err(|error| EngineError::Failed {
            attempted: "write the monitor's configuration".to_owned(),
            reason: error.to_string(),
        })?;
        let mut network = network;
        let held = network.as_mut().map(PendingNetwork::take_reserved).unwrap_or_default();
        self.spawn_monitor(&container.row.name, &run_dir, Task::Launch(streams), &held).map_err(
            |failure| match failure {
                MonitorFailure::Told { step, errno, message } => {
                    launch_error(&container, step, errno, message)
                }
                MonitorFailure::Engine(error) => error,
            },
        )?;
        if let Some(network) = network {
            network.keep();
        }
        self.remember_started(&container)?;
        Ok(Launched { warnings: built.warnings })
    }

    /// What an earlier run left: its state, sockets and cgroup.
    fn clear_last_run(&self, id: &str, run_dir: &Path) -> Result<(), EngineError> {
        use std::os::unix::fs::DirBuilderExt;
        match std::fs::DirBuilder::new().mode(0o700).create(run_dir) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(EngineError::io("make directory", run_dir, error)),
        }
        match std::fs::remove_file(run_dir.join(STOP_REQUESTED)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(EngineError::io("remove", run_dir.join(STOP_REQUESTED), error));
            }
            _ => {}
        }
        self.remove_cgroup(id);
        Ok(())
    }

    fn monitor_config(&self, container: &Container) -> Result<MonitorConfig, EngineError> {
        let id = &container.row.id;
        let spec = &container.definition.spec;
        let directory = self.paths().container(id);
        let rootfs = match &spec.rootfs {
            Some(path) => Rootfs::Directory { path: path.clone() },
            None => Rootfs::Overlay {
                lower: self.layer_directories(&container.definition)?,
                upper: directory.join("upper"),
                work: directory.join("work"),
            },
        };
        let program = |name: &str| {
            find_program(name).map(|program| RuntimeChoice::External { program }).ok_or_else(|| {
                EngineError::Unsupported {
                    feature: format!("the runtime {name}"),
                    reason: format!("it is not installed; install the package {name}, or use native"),
                }
            })
        };
        Ok(MonitorConfig {
            id: id.clone(),
            name: container.row.name.clone(),
            cgroup: oci::cgroup_path(id),
            rootfs,
            runtime: match spec.runtime {
                Runtime::Native => RuntimeChoice::Native,
                Runtime::Crun => program("crun")?,
                Runtime::Runc => program("runc")?,
            },
            reaper: spec.init,
            log: match spec.log {
                Log::K8sFile { size_max_bytes, files_max } => {
                    LogDriver::K8sFile { path: self.log_path(id), size_max_bytes, files_max }
                }
                Log::Journald => LogDriver::Journald,
                Log::None => LogDriver::None,
            },
            stdin_open: spec.stdin_open,
            restart: match spec.restart {
                Restart::No => RestartPolicy::No,
                Restart::OnFailure { retries_max } => RestartPolicy::OnFailure { retries_max },
                Restart::Always => RestartPolicy::Always,
                Restart::UnlessStopped => RestartPolicy::UnlessStopped,
            },
            systemd_mode: container.definition.systemd,
            notify: if container.definition.systemd { Notify::Payload } else { Notify::Ignore },
            events_path: self.paths().events(),
            auto_remove: spec.auto_remove,
            cleanup_command: self.cleanup_command(&[id]),
            end_command: Vec::new(),
        })
    }

    /// The role `cleanup` of this program, as the monitor executes it.
    fn cleanup_command(&self, arguments: &[&str]) -> Vec<String> {
        let state_dir = self.paths().state_dir.to_string_lossy();
        let run_dir = self.paths().run_dir.to_string_lossy();
        let mut command = ["/proc/self/exe", "cleanup", "--state-dir", &state_dir, "--run-dir", &run_dir]
            .map(str::to_owned)
            .to_vec();
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// What takes this start's network down.
    fn end_command(&self, id: &str, generation: &str) -> Vec<String> {
        self.cleanup_command(&["--network", generation, id])
    }

    /// Topmost first, as overlayfs wants them.
    pub(super) fn layer_directories(
        &self,
        definition: &super::Definition,
    ) -> Result<Vec<PathBuf>, EngineError> {
        let layers = self.layers()?;
        let mut directories = Vec::new();
        for digest in definition.layers.iter().rev() {
            let path = layers.path(&digest.parse().map_err(super::images::from_image_error)?);
            // overlayfs takes no directory twice; what a layer holds is seen at its topmost place.
            if !directories.contains(&path) {
                directories.push(path);
            }
        }
        if directories.is_empty() {
            // An image of no layers has a root nevertheless.
            let empty = self.paths().state_dir.join("empty");
            std::fs::create_dir_all(&empty)
                .map_err(|source| EngineError::io("make directory", &empty, source))?;
            directories.push(empty);
        }
        Ok(directories)
    }

    /// The file that [`Log::K8sFile`] writes.
    pub(super) fn log_path(&self, id: &str) -> PathBuf {
        self.paths().container(id).join("log").join("container.log")
    }

    /// Gives a container whose monitor has died another one. Blocks the thread; the caller holds the container's lock.
    pub(super) fn adopt(&self, name: &str, id: &str) -> Result<(), EngineError> {
        let held = self.reserve_again(id)?;
        self.spawn_monitor(name, &self.paths().run_container(id), Task::Adopt, &held).map_err(|failure| {
            match failure {
                MonitorFailure::Told { message, .. } => EngineError::Failed {
                    attempted: format!("give {name:?} another monitor"),
                    reason: message,
                },
                MonitorFailure::Engine(error) => error,
            }
        })
    }

    /// Executes a monitor and takes its answer; it keeps `held` open as long as the container runs. It gets one socket, as its standard input: nothing else of ours can
    /// leak into it, and posix_spawn(3) suffices.
    fn spawn_monitor(
        &self,
        name: &str,
        run_dir: &Path,
        task: Task,
        held: &[OwnedFd],
    ) -> Result<(), MonitorFailure> {
        let failed = |attempted: &str, reason: String| {
            let attempted = format!("{attempted} the monitor of {name:?}");
            MonitorFailure::Engine(EngineError::Failed { attempted, reason })
        };
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("connect to", errno.to_string()))?;
        let mut command = Command::new(self.program());
        command.arg("monitor").arg("--run-dir").arg(run_dir);
        match task {
            Task::Launch(streams) if streams.is_empty() => {}
            Task::Launch(streams) => {
                streams
                    .send(ours.as_fd())
                    .map_err(|error| failed("pass descriptors to", error.to_string()))?;
                command.args(["--attach", "passed"]);
            }
            Task::Adopt => {
                command.arg("--adopt");
            }
        }
        let packets: Vec<&[OwnedFd]> = held.chunks(PACKET_DESCRIPTORS).collect();
        for packet in &packets {
            let descriptors: Vec<BorrowedFd<'_>> = packet.iter().map(AsFd::as_fd).collect();
            super::attach::send_packet(ours.as_fd(), b"H", &descriptors)
                .map_err(|errno| failed("pass ports to", errno.to_string()))?;
        }
        if !packets.is_empty() {
            command.arg("--hold").arg(packets.len().to_string());
        }
        let mut child = command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("execute", error.to_string()))?;
        // Of no more use here, and an end of file can only be seen without it.
        drop(command);
        let answer = read_answer(&ours).map_err(|errno| failed("hear from", errno.to_string()))?;
        let outcome = parse_answer(&answer);
        // It outlives this process if need be; while this process lives, it must be reaped by it.
        std::thread::Builder::new()
            .stack_size(16 << 10)
            .spawn(move || child.wait())
            .map_err(|error| failed("watch", error.to_string()))?;
        match outcome {
            Answer::Started => Ok(()),
            Answer::Failed { step, errno, message } => Err(MonitorFailure::Told { step, errno, message }),
            Answer::None => {
                Err(failed("start", "it ended without an answer; the host's journal may tell why".into()))
            }
        }
    }
}

/// What a new monitor does first.
enum Task {
    /// Makes the payload, whose first client may bring streams.
    Launch(Streams),
    /// Takes a payload over that runs already.
    Adopt,
}

/// Why there is no monitor.
enum MonitorFailure {
    /// In its own words.
    Told {
        step: String,
        errno: i32,
        message: String,
    },
    Engine(EngineError),
}

enum Answer {
    Started,
    Failed { step: String, errno: i32, message: String },
    None,
}

fn read_answer(socket: &OwnedFd) -> Result<Vec<u8>, rustix::io::Errno> {
    let mut buffer = vec![0; ANSWER_MAX_BYTES];
    let (length, _) =
        rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()))?;
    buffer.truncate(length);
    Ok(buffer)
}

fn parse_answer(answer: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(answer);
    let mut fields = text.trim_end_matches('\n').splitn(4, '\t');
    match fields.next() {
        Some("started") => Answer::Started,
        Some("failed") => Answer::Failed {
            step: fields.next().unwrap_or_default().to_owned(),
            errno: fields.next().and_then(|errno| errno.parse().ok()).unwrap_or_default(),
            message: fields.next().unwrap_or_default().to_owned(),
        },
        _ => Answer::None,
    }
}

/// A missing or refused command is told apart: shells have exit codes of their own for it.
pub(super) fn launch_error(container: &Container, step: String, errno: i32, message: String) -> EngineError {
    let name = container.row.name.clone();
    let command = container.definition.command.first().cloned().unwrap_or_default();
    command_error(name, command, step, errno, message)
}

pub(super) fn command_error(
    name: String,
    command: String,
    step: String,
    errno: i32,
    message: String,
) -> EngineError {
    if step == crate::runtime::Step::Exec.as_str() {
        return match errno {
            libc::ENOENT | libc::ENOTDIR => EngineError::CommandNotFound { name, command },
            _ => EngineError::CommandNotExecutable { name, command, reason: message },
        };
    }
    EngineError::LaunchFailed { name, step, errno, message }
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|source| EngineError::io("write", path, source))
}

/// A program of the host, where programs of the host are.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}
