//! A small language for tests that drive the real monitor: a busybox container in a run directory of its own.
//!
//! `MONITOR_TEST_RUNTIME=crun` (or runc) runs the same tests over an external runtime.
#![allow(dead_code, unreachable_pub)] // each test file uses its part
#![allow(clippy::unwrap_used)] // what fails here fails the test

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dormouse::monitor::config::{LogDriver, MonitorConfig, Notify, RestartPolicy, RuntimeChoice};
use dormouse::monitor::state::{Phase, ProcessRef, RunState};
use dormouse::runtime::{Cgroup, Rootfs};
use serde_json::{Value, json};

/// Nothing in these tests takes longer, unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Whether containers can be made here; says so aloud if not.
pub fn can_run() -> bool {
    let root = rustix::process::geteuid().is_root();
    let busybox = busybox().is_some();
    if !root || !busybox {
        eprintln!("SKIPPED: needs root and a static busybox");
    }
    root && busybox
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// Waits until `probe` gives something.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A container that is about to be started.
pub struct Container {
    pub config: MonitorConfig,
    pub spec: Value,
    directory: tempfile::TempDir,
    attach: Option<[OwnedFd; 3]>,
    environment: Vec<(String, String)>,
}

/// A container whose payload runs `sh -c SCRIPT`.
pub fn shell(script: &str) -> Container {
    command(&["/bin/sh", "-c", script])
}

/// A container whose payload is this command.
pub fn command(args: &[&str]) -> Container {
    let directory = tempfile::Builder::new().prefix("dormouse-monitor-").tempdir().unwrap();
    let id = format!("monitor-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let rootfs = directory.path().join("root");
    for path in ["bin", "proc", "dev", "sys", "tmp", "etc", "run/host/notify"] {
        fs::create_dir_all(rootfs.join(path)).unwrap();
    }
    fs::copy(busybox().unwrap(), rootfs.join("bin/busybox")).unwrap();
    for applet in
        ["sh", "cat", "sleep", "yes", "true", "false", "tty", "stty", "dd", "id", "tail", "ls", "seq", "head"]
    {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
    }
    fs::create_dir(directory.path().join("run")).unwrap();
    let cgroup = format!("/dormouse-test/{id}");
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin", "TERM=dumb"],
            "cwd": "/",
            "noNewPrivileges": true
        },
        "root": {"path": "unused", "readonly": false},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}]
        }
    });
    let runtime = match std::env::var_os("MONITOR_TEST_RUNTIME") {
        Some(program) => RuntimeChoice::External { program: program.into() },
        None => RuntimeChoice::Native,
    };
    let config = MonitorConfig {
        name: format!("name-of-{id}"),
        cgroup,
        rootfs: Rootfs::Directory { path: rootfs },
        runtime,
        log: LogDriver::K8sFile { path: directory.path().join("log"), size_max_bytes: 0, files_max: 1 },
        reaper: false,
        stdin_open: false,
        restart: RestartPolicy::No,
        systemd_mode: false,
        notify: Notify::Ignore,
        events_path: directory.path().join("events.log"),
        auto_remove: false,
        cleanup_command: Vec::new(),
        start_command: Vec::new(),
        end_command: Vec::new(),
        restart_command: Vec::new(),
        health: None,
        id,
    };
    Container { config, spec, directory, attach: None, environment: Vec::new() }
}

impl Container {
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn with_terminal(mut self) -> Self {
        self.spec["process"]["terminal"] = json!(true);
        self
    }

    pub fn with_stdin(mut self) -> Self {
        self.config.stdin_open = true;
        self
    }

    pub fn restarting(mut self, policy: RestartPolicy) -> Self {
        self.config.restart = policy;
        self
    }

    pub fn in_systemd_mode(mut self) -> Self {
        self.config.systemd_mode = true;
        self
    }

    pub fn with_notify(mut self) -> Self {
        self.config.notify = Notify::Payload;
        let source = self.directory.path().join("run/notify");
        self.spec["mounts"].as_array_mut().unwrap().push(json!(
            {"destination": "/run/host/notify", "type": "bind", "source": source, "options": ["bind", "rw"]}
        ));
        self
    }

    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.spec["linux"]["resources"] = json!({"memory": {"limit": bytes, "swap": bytes}});
        self
    }

    pub fn logging_to(mut self, log: LogDriver) -> Self {
        self.config.log = log;
        self
    }

    pub fn over(mut self, program: &str) -> Self {
        self.config.runtime = RuntimeChoice::External { program: program.into() };
        self
    }

    pub fn attached(mut self, stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd) -> Self {
        self.attach = Some([stdin, stdout, stderr]);
        self
    }

    pub fn in_environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it; the second is the monitor's answer.
    pub fn try_start(self) -> (Running, String) {
        let run_dir = self.directory.path().join("run");
        self.config.store(&run_dir).unwrap();
        fs::write(run_dir.join("config.json"), self.spec.to_string()).unwrap();
        let (sync, theirs) = sync_sockets();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command.arg("monitor").arg("--run-dir").arg(&run_dir);
        if let Some(streams) = self.attach {
            send_packet(&sync, b"A\x01", &streams);
            command.args(["--attach", "passed"]);
        }
        command.env_remove("NOTIFY_SOCKET").envs(self.environment);
        let monitor = command.stdin(Stdio::from(theirs)).spawn().unwrap();
        drop(command);
        let answer = answer_of(&sync);
        (Running { config: self.config, run_dir, monitor, directory: self.directory }, answer)
    }

    /// Starts it, and it must start.
    pub fn start(self) -> Running {
        let (running, answer) = self.try_start();
        assert_eq!(answer, "started\n");
        running
    }
}

/// A role's standard input, and our end of it.
pub fn sync_sockets() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Sends one packet with descriptors.
pub fn send_packet(socket: &OwnedFd, bytes: &[u8], fds: &[OwnedFd]) {
    use std::os::fd::AsFd as _;
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
    let bytes = [std::io::IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &bytes, &mut control, rustix::net::SendFlags::empty()).unwrap();
}

/// The one line that a monitor answers.
fn answer_of(sync: &OwnedFd) -> String {
    let mut buffer = [0; 4096];
    let (length, _) = rustix::net::recv(sync, &mut buffer, rustix::net::RecvFlags::empty()).unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A container that was started. Dropping it ends it, and its monitor.
pub struct Running {
    pub config: MonitorConfig,
    pub run_dir: PathBuf,
    pub monitor: Child,
    directory: tempfile::TempDir,
}

impl Running {
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn state(&self) -> RunState {
        RunState::load(&self.run_dir).unwrap().unwrap()
    }

    /// Waits until the state is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&RunState) -> bool) -> RunState {
        wait_for(what, || Some(self.state()).filter(|state| wanted(state)))
    }

    pub fn until_exited(&self) -> RunState {
        self.until("the exit", |state| matches!(state.phase, Phase::Exited | Phase::Failed))
    }

    pub fn init(&self) -> ProcessRef {
        self.state().init.unwrap()
    }

    pub fn kill(&self, signal: i32) {
        kill(self.init().pid, signal);
    }

    pub fn kill_monitor(&mut self) {
        self.monitor.kill().unwrap();
        self.monitor.wait().unwrap();
    }

    /// Waits for the monitor's own end.
    pub fn until_monitor_left(&mut self) {
        wait_for("the monitor's end", || self.monitor.try_wait().unwrap());
    }

    /// Starts another monitor that takes the container over; returns its answer.
    pub fn adopt(&mut self) -> String {
        let (sync, theirs) = sync_sockets();
        let monitor = Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["monitor", "--adopt", "--run-dir"])
            .arg(&self.run_dir)
            .stdin(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let answer = answer_of(&sync);
        let mut other = std::mem::replace(&mut self.monitor, monitor);
        if answer != "started\n" {
            std::mem::swap(&mut other, &mut self.monitor);
        }
        if other.try_wait().unwrap().is_none() && answer != "started\n" {
            other.wait().unwrap();
        }
        answer
    }

    pub fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// The log's lines without their timestamps, parts of a line put together: where output is read in the middle of a
    /// line is chance.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let (mut lines, mut parts) = (String::new(), std::collections::BTreeMap::<&str, String>::new());
        for record in text.split_terminator('\n') {
            let [_time, stream, tag, text] = *record.splitn(4, ' ').collect::<Vec<_>>() else {
                panic!("no record: {record:?}")
            };
            let line = parts.entry(stream).or_default();
            line.push_str(text);
            match tag {
                "F" => lines += &format!("{stream} F {}\n", parts.remove(stream).unwrap()),
                tag => assert_eq!(tag, "P"),
            }
        }
        lines + &parts.into_iter().map(|(stream, part)| format!("{stream} P {part}\n")).collect::<String>()
    }

    pub fn until_logged(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), || self.log().contains(text).then_some(()));
    }

    /// The events' actions and exit codes.
    pub fn events(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("events.log")).unwrap_or_default();
        text.lines()
            .map(|line| {
                let event: Value = serde_json::from_str(line).unwrap();
                assert_eq!(event["type"], "container");
                assert_eq!(event["id"], self.config.id.as_str());
                assert_eq!(event["name"], self.config.name.as_str());
                assert!(event["time"].as_u64().unwrap() > 1_600_000_000_000_000);
                let action = event["action"].as_str().unwrap();
                event["exitCode"].as_i64().map_or(action.to_owned(), |code| format!("{action} {code}"))
            })
            .collect()
    }

    pub fn cgroup(&self) -> Cgroup {
        Cgroup::open(&self.config.cgroup).unwrap()
    }

    /// The directories of the container's cgroup, in all hierarchies, that exist.
    pub fn cgroup_directories(&self) -> Vec<PathBuf> {
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()));
        let path = self.config.cgroup.trim_start_matches('/');
        roots.into_iter().map(|root| root.join(path)).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::write(self.run_dir.join("stop-requested"), "");
        if let Ok(Some(state)) = RunState::load(&self.run_dir) {
            for process in [state.init, state.keeper].into_iter().flatten().filter(ProcessRef::is_alive) {
                // It may have ended in the meantime.
                let _ = Command::new("kill")
                    .args(["-9", &process.pid.to_string()])
                    .stderr(Stdio::null())
                    .status();
            }
        }
        let cgroup = self.cgroup();
        let _ = cgroup.kill_all(libc::SIGKILL);
        let deadline = Instant::now() + Duration::from_secs(2);
        while matches!(self.monitor.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
        let _ = cgroup.remove();
    }
}

pub fn kill(pid: i32, signal: i32) {
    let signal = signal.to_string();
    assert!(Command::new("kill").args(["-s", &signal, &pid.to_string()]).status().unwrap().success());
}

/// A pipe to watch output through.
pub fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(reader)), writer.into())
}

pub fn null() -> OwnedFd {
    File::options().read(true).write(true).open("/dev/null").unwrap().into()
}
