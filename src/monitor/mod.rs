//! The per-container supervisor: one small single-threaded process per running container.
//!
//! The engine starts it as `dormouse monitor --run-dir DIR [--attach passed] [--hold N]`, with one socket as its
//! standard input (so that posix_spawn(3) suffices and nothing can leak). It starts the payload
//! through [`crate::runtime`] (or crun, runc, …), answers once on the sync descriptor, and then lives as long as the
//! container: it owns the payload's terminal or pipes, writes the log, serves attach clients, listens for readiness,
//! reaps the payload and everything that falls to it, restarts it, and records all of it in the run directory. It knows
//! nothing of images, varlink or the store.
//!
//! ```text
//! engine ──exec──► monitor ──fork──► launcher ──► init        mod.rs, launch.rs, external.rs
//!                     │
//!                     ├─ supervise.rs   the loop            ├─ payload.rs   init and its streams
//!                     ├─ attach/        clients             ├─ log/         where output goes
//!                     ├─ notify.rs      readiness           ├─ restart.rs   what an end means
//!                     ├─ health.rs     checks              ├─ check.rs     one of them, in a process of its own
//!                     ├─ oom.rs        who was killed for want of memory
//!                     └─ config.rs ──►  state.rs, events.rs  what comes in, what goes out
//! ```
//!
//! With `--adopt` in place of a start it takes over a container that runs although its monitor has died (adopt.rs).
//!
//! # The sync protocol
//!
//! The socket is of type SOCK_SEQPACKET. With `--attach passed`, the engine has sent an attach packet over it (see
//! [`attach`]): the streams of the first client. With `--sockets N`, packets with N descriptors in all come next, which the
//! payload gets as 3, 4, …, also after a restart. With `--wait` the monitor then waits for the packet `go`; if the engine goes
//! without having sent it, so does the monitor. Packets `hold` may come before it, with descriptors that the monitor keeps
//! open until the container has ended for good, and uses for nothing (ports of the host). The answer is one line: `started`
//! once the payload's program was executed and the state says so, or `failed<TAB>step<TAB>errno<TAB>message`; then the
//! descriptor is closed. After `--adopt`, `started` means taken over.
//!
//! # Invariants that a change must keep
//!
//! - One thread: it forks, and so does the runtime.
//! - After the start no JSON is read and nothing large is allocated: the memory of this process is the price of a
//!   running container.
//! - Nothing but poll(2) blocks in the loop.
//! - The monitor's death takes nothing with it but supervision: no descriptor whose closing would end the payload is
//!   held by the monitor alone (see [`launch`] and [`keeper`]).

mod adopt;
mod arguments;
mod attach;
pub mod check;
pub mod config;
pub mod events;
pub mod exec_session;
mod external;
mod health;
mod keeper;
mod launch;
mod log;
mod notify;
mod oom;
mod payload;
mod restart;
mod socket;
pub mod state;
mod supervise;
mod sys;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub use self::attach::{AttachConnection, Endpoint};
use self::config::MonitorConfig;
use self::launch::Failure;
use self::supervise::Supervisor;

/// Runs the role; `args` are the words after its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    // For people who look at a list of processes; the kernel would take the name from the path of the program.
    let _ = rustix::thread::set_name(c"dormouse-mon");
    let (mut run_dir, mut attach, mut sockets_wanted) = (None, false, 0);
    let (mut adopt, mut wait) = (false, false);
    let args = args.into_iter().filter(|argument| {
        adopt |= argument == "--adopt";
        wait |= argument == "--wait";
        argument != "--adopt" && argument != "--wait"
    });
    let parsed = arguments::parse(args, |name, value| match name {
        "--run-dir" => {
            run_dir = Some(PathBuf::from(value));
            Some(())
        }
        "--attach" if value == "passed" => {
            attach = true;
            Some(())
        }
        "--sockets" => {
            sockets_wanted = value.to_str()?.parse().ok()?;
            Some(())
        }
        _ => None,
    });
    let (Ok(()), Some(run_dir)) = (parsed, run_dir) else {
        eprintln!(
            "usage: dormouse monitor --run-dir DIR [--attach passed | --adopt] [--sockets N] [--wait], with a socket as standard input"
        );
        return ExitCode::from(2);
    };
    sys::close_all_but(&[]);
    let taken = sys::take_standard_input().and_then(|sync| {
        let client = if attach { Some(attach::receive_streams(&sync)?) } else { None };
        let mut sockets = Vec::new();
        while sockets.len() < sockets_wanted {
            let (_, fds) = socket::receive_with_fds(&sync, &mut [0; 16], rustix::net::RecvFlags::empty())?;
            if fds.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sockets.extend(fds);
        }
        let held = if wait { wait_for_go(&sync)? } else { Vec::new() };
        Ok((sync, Passed { client, sockets, held }))
    });
    let (sync, passed) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            eprintln!("dormouse monitor: standard input is not the socket that it should be: {error}");
            return ExitCode::from(2);
        }
    };
    match supervise(&run_dir, sync, passed, adopt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Descriptors that came at the start.
struct Passed {
    client: Option<attach::Streams>,
    sockets: Vec<OwnedFd>,
    held: Vec<OwnedFd>,
}

/// Returns what is to be held until the container has ended.
fn wait_for_go(sync: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut held = Vec::new();
    loop {
        let mut packet = [0; 16];
        let (length, fds) = socket::receive_with_fds(sync, &mut packet, rustix::net::RecvFlags::empty())?;
        match packet.get(..length) {
            Some(config::HOLD) => held.extend(fds),
            Some(config::GO_ON) => return Ok(held),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Starts the payload, tells the engine, and supervises it to its end.
fn supervise(run_dir: &Path, sync: OwnedFd, passed: Passed, adopt: bool) -> io::Result<()> {
    let started = detach(run_dir)
        .map_err(|error| Failure::io("monitor", "leave the session that it was started from", &error))
        .and_then(|run_dir| {
            let config = MonitorConfig::load(&run_dir)?;
            if adopt {
                let mut supervisor = Supervisor::adopt(&run_dir, config)?;
                supervisor.hold(passed.held);
                return Ok(supervisor);
            }
            let mut supervisor = Supervisor::new(&run_dir, config, passed.client, passed.sockets)?;
            supervisor.hold(passed.held);
            supervisor.start()?;
            Ok(supervisor)
        });
    let answer = match &started {
        Ok(_) => "started\n".to_owned(),
        Err(failure) => failure.to_sync_line(),
    };
    // An engine that has died meanwhile reads the state instead.
    let _ = rustix::io::write(&sync, answer.as_bytes());
    drop(sync);
    match started {
        Ok(mut supervisor) => supervisor.run(),
        Err(_) => Err(io::ErrorKind::Other.into()),
    }
}

/// Gives up everything that ties the monitor to where it was started; returns the run directory's absolute name.
fn detach(run_dir: &Path) -> io::Result<PathBuf> {
    let run_dir = std::path::absolute(run_dir)?;
    // Fails only for a process that leads a group already, which then is no part of another session's job.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    sys::outlive_the_payload();
    sys::ignore_signals();
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for target in 0..3 {
        sys::become_standard_fd(null.as_fd(), target)?;
    }
    Ok(run_dir)
}

/// Starts a program beside the monitor; `None` if there is none to be started, or it can't be.
fn spawn(command: &[String]) -> Option<rustix::process::Pid> {
    let [program, arguments @ ..] = command else { return None };
    match sys::fork() {
        Ok(sys::Fork::Child) => {
            use std::os::unix::process::CommandExt as _;
            sys::reset_signals();
            let _ = std::process::Command::new(program).args(arguments).exec();
            sys::exit_now(1)
        }
        Ok(sys::Fork::Parent(pid)) => rustix::process::Pid::from_raw(pid),
        Err(_) => None,
    }
}
