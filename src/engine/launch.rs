//! Starting: everything is prepared here, then a monitor is executed that does the rest and stays.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::monitor::config::{
    GO_ON, HOLD, LogDriver, MonitorConfig, Notify, RestartPolicy, RuntimeChoice, SPEC_FILE_NAME,
    STOP_REQUESTED,
};
use crate::runtime::Rootfs;
use crate::runtime::overlay::{self, Driver};

use super::network::PendingNetwork;
use super::spec::{Log, Restart, Runtime, UserNamespace};
use super::users::UserMap;
use super::{Container, Definition, Engine, EngineError, Streams, blocking, oci, place};

/// What the start of a container brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launched {
    /// What was lowered or left out, in words.
    pub warnings: Vec<String>,
}

/// In the run directory: what was lowered or left out by the last start, one on each line.
const WARNINGS_FILE_NAME: &str = "warnings";

/// The longest answer of a monitor: one line.
const ANSWER_MAX_BYTES: usize = 64 << 10;
/// What a monitor takes at once.
const FDS_PER_PACKET: usize = 8;

/// Who starts when. A start keeps a processor busy, and the kernel makes one cgroup and one network namespace at a time: many at
/// once only keep each other from getting done, the first as late as the last.
#[derive(Debug)]
pub(super) struct Queue(Semaphore);

/// A start waits now and then, for the kernel or the disk; then another goes on.
const STARTS_PER_PROCESSOR: usize = 4;
/// A start that takes longer than this, as by a hook that waits, keeps nobody else waiting.
const QUEUE_PATIENCE: Duration = Duration::from_millis(500);

impl Default for Queue {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Semaphore::new(STARTS_PER_PROCESSOR * processors))
    }
}

impl Queue {
    /// Waits for as many others as are before it, in the order of arrival, and for no longer than [`QUEUE_PATIENCE`].
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout(QUEUE_PATIENCE, self.0.acquire()).await.ok()?.ok()
    }
}

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
        let turn = self.inner.starts.turn().await;
        let engine = self.clone();
        let result = blocking(move || {
            let result = engine.launch(&id, streams);
            drop(lock);
            result
        })
        .await;
        drop(turn);
        result
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
        let name = &container.row.name;
        let has_input = streams.stdin.is_some();
        // First: a scope begins with a process. It waits until everything else is there, and ends if this does not come.
        let monitor = self.execute_monitor(name, &run_dir, Task::Launch(streams))?;
        let cgroup = match self.unit().and_then(|unit| unit.enter(&container)) {
            Some(cgroup) => cgroup,
            None if place::uses_scopes() => place::enter_scope(&container, monitor.pid)?,
            None => place::without_scope(id),
        };
        // As the network below.
        let mut pod = self.enter_pod(&container)?;
        let volumes = self.ready_volumes(&container)?;
        let users = self.user_map(&container)?;
        let built = oci::build(self, &container, &cgroup, &volumes, users.as_ref(), oci::Purpose::Start)?;
        write(&run_dir.join(SPEC_FILE_NAME), &built.spec)?;
        write(&run_dir.join(WARNINGS_FILE_NAME), built.warnings.join("\n").as_bytes())?;
        self.prepare_health_check(&container, &cgroup)?;
        let mut config = self.monitor_config(&container, cgroup, users.as_ref())?;
        // Taken down again when this ends by an error.
        let mut network = self.set_up_network(&container, users.as_ref())?;
        if network.is_some() {
            self.take_pasta_in(id, &config.cgroup)?;
        }
        let generation = network.as_ref().map(PendingNetwork::generation);
        let mounted = self.has_mounted_volumes(&container);
        config.end_command = self.end_command(id, generation, mounted, container.definition.pod.as_deref());
        if let Some(pod) = &mut pod {
            config.restart_command = self.cleanup_command(&["--enter-pod", pod.pod(), id]);
            monitor.hold(name, &pod.take_reserved())?;
        }
        // Without a client it is only open on request, but one that brings its input wants it read.
        config.stdin_open |= has_input;
        config.store(&run_dir).map_err(|error| EngineError::Failed {
            attempted: "write the monitor's configuration".to_owned(),
            reason: error.to_string(),
        })?;
        if let Some(network) = &mut network {
            monitor.hold(name, &network.take_reserved())?;
        }
        monitor.answer(name).map_err(|failure| match failure {
            MonitorFailure::Told { step, errno, message } => launch_error(&container, step, errno, message),
            MonitorFailure::Engine(error) => {
                // It may have died after the payload's start.
                if self.live(id).is_ok_and(|live| !live.phase.is_alive()) {
                    self.remove_cgroup(id);
                }
                error
            }
        })?;
        volumes.keep();
        if let Some(network) = network {
            network.keep();
        }
        if let Some(pod) = pod {
            pod.keep();
        }
        self.remember_started(&container)?;
        Ok(Launched { warnings: built.warnings })
    }

    /// What the last start since boot has lowered or left out, in words.
    pub fn warnings(&self, id: &str) -> Vec<String> {
        let path = self.paths().run_container(id).join(WARNINGS_FILE_NAME);
        std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
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
        self.forget_health_results(id)?;
        self.remove_cgroup(id);
        Ok(())
    }

    fn monitor_config(
        &self,
        container: &Container,
        cgroup: String,
        users: Option<&UserMap>,
    ) -> Result<MonitorConfig, EngineError> {
        let id = &container.row.id;
        let spec = &container.definition.spec;
        let directory = self.paths().container(id);
        let rootfs = match &spec.rootfs {
            Some(path) if spec.user_namespace != UserNamespace::Host => {
                Rootfs::ShiftedDirectory { path: path.clone() }
            }
            Some(path) => Rootfs::Directory { path: path.clone() },
            None => Rootfs::Overlay {
                lower: self.layer_directories(&container.definition)?,
                upper: directory.join("upper"),
                work: directory.join("work"),
                driver: overlay::driver(),
            },
        };
        if matches!(rootfs, Rootfs::Overlay { driver: Driver::Fuse, .. })
            && spec.user_namespace != UserNamespace::Host
        {
            return Err(without_kernel("a user namespace of a single container"));
        }
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
            cgroup,
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
            notify: who_notifies(&container.definition, users),
            events_path: self.paths().events(),
            auto_remove: spec.auto_remove,
            cleanup_command: self.cleanup_command(&[id]),
            start_command: match place::becomes_machine(container) {
                true => self.role_command("machine", &[id]),
                false => Vec::new(),
            },
            end_command: Vec::new(),
            restart_command: Vec::new(),
            health: container
                .definition
                .health
                .as_ref()
                .map(|health| health.config(&container.definition, &self.paths().run_container(id))),
        })
    }

    fn cleanup_command(&self, arguments: &[&str]) -> Vec<String> {
        self.role_command("cleanup", arguments)
    }

    /// A role of this program, as the monitor executes it.
    fn role_command(&self, role: &str, arguments: &[&str]) -> Vec<String> {
        let state_dir = self.paths().state_dir.to_string_lossy();
        let run_dir = self.paths().run_dir.to_string_lossy();
        let mut command = ["/proc/self/exe", role, "--state-dir", &state_dir, "--run-dir", &run_dir]
            .map(str::to_owned)
            .to_vec();
        command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        command
    }

    /// What takes down what this start has set up on the host; empty if that is nothing.
    fn end_command(&self, id: &str, network: Option<&str>, volumes: bool, pod: Option<&str>) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(generation) = network {
            arguments.extend(["--network", generation]);
        }
        if volumes {
            arguments.push("--volumes");
        }
        if let Some(pod) = pod {
            arguments.extend(["--leave-pod", pod]);
        }
        if arguments.is_empty() {
            return Vec::new();
        }
        arguments.push(id);
        self.cleanup_command(&arguments)
    }

    /// Topmost first, as overlayfs wants them.
    pub(super) fn layer_directories(&self, definition: &Definition) -> Result<Vec<PathBuf>, EngineError> {
        let layers =
            definition.layers.iter().map(|layer| layer.parse().map_err(super::images::from_image_error));
        self.directories_of_layers(&layers.collect::<Result<Vec<_>, _>>()?)
    }

    /// Topmost first, as overlayfs wants them; never none. `layers` are lowest first.
    pub(super) fn directories_of_layers(
        &self,
        layers: &[crate::image::Digest],
    ) -> Result<Vec<PathBuf>, EngineError> {
        if overlay::driver() == Driver::Fuse && overlay::program().is_none() {
            return Err(EngineError::Unsupported {
                feature: "putting layers together".to_owned(),
                reason: format!(
                    "the kernel's overlayfs is not used here; install the package {}",
                    overlay::PACKAGE
                ),
            });
        }
        let store = self.layers()?;
        let mut directories = Vec::new();
        for digest in layers.iter().rev() {
            let path = store.path(digest);
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
        let failed =
            |reason| EngineError::Failed { attempted: format!("give {name:?} another monitor"), reason };
        let monitor = self.execute_monitor(name, &self.paths().run_container(id), Task::Adopt)?;
        if let Err(error) = place::rejoin_scope(&self.cgroup_path(id), monitor.pid) {
            tracing::warn!(container = name, %error, "the new monitor can't join the container's scope, ignoring");
        }
        monitor.hold(name, &self.reserve_again(id)?)?;
        if let Some(pod) = &self.find(id)?.definition.pod {
            monitor.hold(name, &self.ports_of_pod(pod)?)?;
        }
        monitor.answer(name).map_err(|failure| match failure {
            MonitorFailure::Told { message, .. } => failed(message),
            MonitorFailure::Engine(error) => error,
        })
    }

    /// Executes a monitor. It gets one socket, as its standard input: nothing else of ours can leak into it, and
    /// posix_spawn(3) suffices. It does nothing before it is asked for its [`Monitor::answer`], and ends if it is not.
    fn execute_monitor(&self, name: &str, run_dir: &Path, task: Task) -> Result<Monitor, EngineError> {
        let failed = |attempted: &str, reason: String| monitor_failed(attempted, name, reason);
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("connect to", errno.to_string()))?;
        let mut command = Command::new(self.program());
        command.args(["monitor", "--wait", "--run-dir"]).arg(run_dir);
        let adopts = matches!(task, Task::Adopt);
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
        let sockets = self.unit().map_or(&[][..], |unit| &unit.sockets);
        if !sockets.is_empty() && !adopts {
            let fds: Vec<_> = sockets.iter().map(|socket| socket.fd.as_fd()).collect();
            for some in fds.chunks(FDS_PER_PACKET) {
                super::attach::send_packet(ours.as_fd(), b"L", some)
                    .map_err(|error| failed("pass sockets to", error.to_string()))?;
            }
            command.arg("--sockets").arg(sockets.len().to_string());
        }
        let child = command
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed("execute", error.to_string()))?;
        // Of no more use here, and an end of file can only be seen without it.
        drop(command);
        let pid = i32::try_from(child.id()).unwrap_or_default();
        reap(child).map_err(|error| failed("watch", error.to_string()))?;
        Ok(Monitor { pid, socket: ours })
    }
}

/// Whose readiness the monitor listens for. For a systemd inside root speaks, and nobody else.
fn who_notifies(definition: &Definition, users: Option<&UserMap>) -> Notify {
    match (definition.payload_notifies(), definition.systemd) {
        (false, _) => Notify::Ignore,
        (true, false) => Notify::Payload,
        (true, true) => {
            let outside = users.and_then(|users| users.user_outside(0).zip(users.group_outside(0)));
            // Without users of its own. One where root is nobody is refused before.
            let (user, group) = outside.unwrap_or_default();
            Notify::PayloadRoot { user, group }
        }
    }
}

/// Sees to it that nothing is left of a child that has ended: it outlives this process if need be, and while this process lives,
/// it must be reaped by it.
fn reap(mut child: Child) -> std::io::Result<()> {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::NONBLOCK)?;
        let ended = crate::readiness::watch(pidfd, Interest::READABLE)?;
        runtime.spawn(async move {
            if ended.readable().await.is_ok() {
                let _ = child.wait();
            }
        });
        return Ok(());
    }
    std::thread::Builder::new().stack_size(16 << 10).spawn(move || child.wait()).map(drop)
}

/// A monitor that was executed.
struct Monitor {
    pid: i32,
    socket: OwnedFd,
}

impl Monitor {
    /// Has it keep descriptors open as long as the container runs. `name` is the container's.
    fn hold(&self, name: &str, descriptors: &[OwnedFd]) -> Result<(), EngineError> {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        descriptors.chunks(FDS_PER_PACKET).try_for_each(|some| {
            super::attach::send_packet(self.socket.as_fd(), HOLD, some)
                .map_err(|errno| monitor_failed("pass ports to", name, errno.to_string()))
        })
    }

    /// Lets it do its task, and takes its answer. `name` is the container's.
    fn answer(self, name: &str) -> Result<(), MonitorFailure> {
        let failed =
            |attempted: &str, reason: String| MonitorFailure::Engine(monitor_failed(attempted, name, reason));
        rustix::net::send(&self.socket, GO_ON, SendFlags::NOSIGNAL)
            .map_err(|errno| failed("speak to", errno.to_string()))?;
        let answer = read_answer(&self.socket).map_err(|errno| failed("hear from", errno.to_string()))?;
        match parse_answer(&answer) {
            Answer::Started => Ok(()),
            Answer::Failed { step, errno, message } => Err(MonitorFailure::Told { step, errno, message }),
            Answer::None => {
                Err(failed("start", "it ended without an answer; the host's journal may tell why".into()))
            }
        }
    }
}

/// What only the kernel's overlayfs can do.
pub(super) fn without_kernel(feature: &str) -> EngineError {
    EngineError::Unsupported {
        feature: feature.to_owned(),
        reason: format!(
            "layers are put together by {} here, and the kernel's overlayfs alone can do it",
            overlay::PACKAGE
        ),
    }
}

fn monitor_failed(attempted: &str, name: &str, reason: String) -> EngineError {
    EngineError::Failed { attempted: format!("{attempted} the monitor of {name:?}"), reason }
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
