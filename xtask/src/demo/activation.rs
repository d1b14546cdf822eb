//! The socket, held by somebody who starts `dormouse serve` when a call comes: systemd where it is PID 1, else
//! systemd-socket-activate.
//!
//! systemd-socket-activate waits for one connection and becomes the service. So that there is a next time, the socket is
//! bound here and handed to one systemd-socket-activate after another (it takes passed sockets as any service does):
//! from the first call to the last it is the same socket, and a call that comes in between waits in its queue.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::program::{Failure, Result, on_file, read, run_quietly};

/// How long the service stays awake without work.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

const UNIT: &str = "dormouse-demo";

/// The armed socket.
#[derive(Debug, Clone)]
pub struct Activation {
    binary: PathBuf,
    /// Its device and inode.
    binary_file: (u64, u64),
    place: PathBuf,
    socket: PathBuf,
    holder: Holder,
}

#[derive(Debug, Clone)]
enum Holder {
    Systemd,
    SocketActivate(Arc<Armed>),
}

#[derive(Debug, Default)]
struct Armed {
    over: AtomicBool,
    /// systemd-socket-activate, which becomes the service.
    pid: Mutex<Option<i32>>,
    /// How each service has ended, oldest first.
    ends: Mutex<Vec<ExitStatus>>,
}

impl Activation {
    /// Binds the socket. State and runtime files of the service go below `place`.
    pub fn start(binary: &Path, place: &Path) -> Result<Self> {
        let socket = place.join("io.dormouse");
        let by_systemd = Path::new("/run/systemd/system").is_dir();
        let holder = if by_systemd { Holder::Systemd } else { Holder::SocketActivate(Arc::default()) };
        let metadata = std::fs::metadata(binary).map_err(on_file("look at", binary))?;
        let binary_file = (metadata.dev(), metadata.ino());
        let activation =
            Self { binary: binary.to_owned(), binary_file, place: place.to_owned(), socket, holder };
        match &activation.holder {
            Holder::Systemd => activation.start_units()?,
            Holder::SocketActivate(armed) => activation.arm(Arc::clone(armed))?,
        }
        Ok(activation)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Who holds the socket, for people.
    pub fn holder(&self) -> &'static str {
        match self.holder {
            Holder::Systemd => "systemd, PID 1 of this host",
            Holder::SocketActivate(_) => "systemd-socket-activate (PID 1 of this host is no systemd)",
        }
    }

    /// The processes of this demonstration in a role: `serve` or `monitor`.
    pub fn processes(&self, role: &str) -> Vec<i32> {
        let place = self.place.to_string_lossy();
        let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            // By file, not by path: a monitor runs through a mount of its own.
            let is_ours = std::fs::metadata(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| (exe.dev(), exe.ino()) == self.binary_file);
            let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            is_ours && arguments.split('\0').nth(1) == Some(role) && arguments.contains(&*place)
        })
        .collect()
    }

    /// Waits until the service has exited by itself, and checks that this was in good order.
    pub fn wait_until_asleep(&self, at_most: Duration) -> Result<Duration> {
        let since = Instant::now();
        let claim = || "the service exits by itself when nobody needs it".to_owned();
        while !self.processes("serve").is_empty() {
            if since.elapsed() > at_most {
                let found = format!("it is still awake after {} s", at_most.as_secs());
                return Err(Failure::NotSo { claim: claim(), found });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let took = since.elapsed();
        match &self.holder {
            Holder::Systemd => {
                let show = ["show", "--property=Result", "--value", UNIT];
                let result = read(Command::new("systemctl").args(show))?;
                if result.trim() != "success" {
                    return Err(Failure::NotSo {
                        claim: claim(),
                        found: format!("systemd says {}", result.trim()),
                    });
                }
            }
            Holder::SocketActivate(armed) => {
                // The thread that waits for the process has it in a moment.
                while lock(&armed.ends).is_empty() && since.elapsed() < at_most {
                    std::thread::sleep(Duration::from_millis(10));
                }
                if let Some(bad) = lock(&armed.ends).iter().find(|status| !status.success()) {
                    return Err(Failure::NotSo { claim: claim(), found: format!("it has ended with {bad}") });
                }
            }
        }
        Ok(took)
    }

    /// Ends the service, if it is awake, and gives the socket up.
    pub fn stop(&self) {
        match &self.holder {
            Holder::Systemd => {
                let units = [format!("{UNIT}.socket"), format!("{UNIT}.service")];
                let _ = run_quietly(Command::new("systemctl").arg("stop").args(&units));
                let _ = run_quietly(Command::new("systemctl").arg("reset-failed").args(&units));
            }
            Holder::SocketActivate(armed) => {
                armed.over.store(true, Ordering::SeqCst);
                if let Some(pid) = *lock(&armed.pid) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
        }
        for role in ["serve", "monitor"] {
            for pid in self.processes(role) {
                if role == "monitor" {
                    eprintln!("a monitor was left, process {pid}; ending it");
                }
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    fn serve_command(&self) -> Vec<String> {
        let path = |name: &str| self.place.join(name).to_string_lossy().into_owned();
        let binary = self.binary.to_string_lossy().into_owned();
        let idle_timeout = format!("{}s", IDLE_TIMEOUT.as_secs());
        [
            &binary,
            "serve",
            "--idle-timeout",
            &idle_timeout,
            "--state-dir",
            &path("state"),
            "--run-dir",
            &path("run"),
        ]
        .map(str::to_owned)
        .into()
    }

    fn start_units(&self) -> Result<()> {
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--unit", UNIT, "--service-type=notify", "--property=KillMode=process"]);
        command.args(["--property=Delegate=yes", "--property=StartLimitIntervalSec=0"]);
        command.arg(format!("--socket-property=ListenStream={}", self.socket.display()));
        command.args(["--socket-property=SocketMode=0600", "--socket-property=FileDescriptorName=varlink"]);
        run_quietly(command.args(self.serve_command()))
    }

    fn arm(&self, armed: Arc<Armed>) -> Result<()> {
        let listener = UnixListener::bind(&self.socket).map_err(on_file("listen at", &self.socket))?;
        let log = self.place.join("serve.log");
        let log = std::fs::File::create(&log).map_err(on_file("make", &log))?;
        let command = self.serve_command();
        std::thread::spawn(move || {
            while !armed.over.load(Ordering::SeqCst) {
                if let Err(failure) = arm_once(&armed, &listener, &log, &command) {
                    eprintln!("{}", crate::program::with_causes(&failure));
                    return;
                }
            }
        });
        Ok(())
    }
}

/// Hands the socket to a systemd-socket-activate, and waits until what it becomes has ended.
fn arm_once(armed: &Armed, listener: &UnixListener, log: &std::fs::File, serve: &[String]) -> Result<()> {
    // Passed sockets begin at descriptor 3, and LISTEN_PID is the process itself: a shell does both.
    let pass = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec systemd-socket-activate --fdname=varlink \"$@\"";
    let not_run = |source| Failure::NotRun { command: "systemd-socket-activate".to_owned(), source };
    let socket = OwnedFd::from(listener.try_clone().map_err(not_run)?);
    let mut child = Command::new("sh")
        .args(["-c", pass, "sh"])
        .args(serve)
        .stdin(socket)
        .stdout(Stdio::null())
        .stderr(log.try_clone().map_err(not_run)?)
        // Ctrl-C is for us: the service is still needed to clean up.
        .process_group(0)
        .spawn()
        .map_err(not_run)?;
    *lock(&armed.pid) = i32::try_from(child.id()).ok();
    let status = child.wait().map_err(not_run)?;
    *lock(&armed.pid) = None;
    if !armed.over.load(Ordering::SeqCst) {
        lock(&armed.ends).push(status);
        if !status.success() {
            // No hot loop around a service that can't start.
            std::thread::sleep(Duration::from_secs(1));
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
