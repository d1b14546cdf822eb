//! `dormouse run`, or `start --attach`, as the main process of a unit: the container becomes part of that unit.
//!
//! What systemd started plays both sides here: the client that `run` always is, and, in a thread, a service of its own over
//! the same engine, which nobody else calls. So the monitor and the payload are its children and in the unit's cgroup:
//!
//! ```text
//! foo.service            Delegate=yes: ours below
//! ├─ supervisor          this process, and the monitor
//! └─ payload             the container
//! ```
//!
//! Readiness of the container becomes that of the unit (Type=notify), sockets that were passed reach the payload as if systemd
//! had started it, SIGTERM stops the container as its own stop signal and time say, and its exit code is ours. Without
//! Delegate=yes the container is placed as any other, and this process stands for it.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitId, WaitIdOptions};

use crate::cli::ForegroundRun;
use crate::engine::{Engine, PassedSocket, UNIT_SOCKET, UnitFrame};
use crate::identity;
use crate::role::{Directories, log_to_stderr};
use crate::runtime::cgroup::{self, Cgroup, Layout};
use crate::systemd::host;
use crate::varlink::activation::{NamedFd, from_environment};
use crate::varlink::listen::ListenAddress;
use crate::varlink::{Listener, ServeOptions, serve_until};

/// Where this process and the monitor are, in the unit's cgroup.
const SUPERVISOR_LEAF: &str = "supervisor";
/// After the end, the monitor may have a network to take down and the container to remove.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Whether systemd has executed this process itself, as it tells since 248. Source: systemd.exec(5), "$SYSTEMD_EXEC_PID".
pub fn is_main_process() -> bool {
    std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

/// Plays the role; the exit code is the container's.
pub fn main(run: ForegroundRun) -> ExitCode {
    log_to_stderr();
    match serve_and_run(run) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dormouse: {error}");
            // As `run` says for failures of its own.
            ExitCode::from(125)
        }
    }
}

fn serve_and_run(run: ForegroundRun) -> Result<ExitCode, String> {
    // Before there are threads: it changes the environment.
    let passed = from_environment(&[]).map_err(|error| error.to_string())?;
    let sockets = passed.others.into_iter().map(|NamedFd { name, fd }| PassedSocket { name, fd }).collect();
    // Taken by the client's thread for signals; no other thread may die of them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|errno| format!("cannot take signals: {errno}"))?;

    let paths = Directories::from_environment().paths();
    // Before there are threads.
    crate::rootless::enter(&paths.run_dir).map_err(|error| error.to_string())?;
    let socket = paths.run_dir.join(format!("{UNIT_SOCKET}{}", std::process::id()));
    let engine = Engine::in_unit(paths, UnitFrame { cgroup: enter_unit()?, sockets })
        .map_err(|error| error.full_text())?;
    let address = format!("unix:{}", socket.display());
    let listener = address
        .parse::<ListenAddress>()
        .map_err(|error| error.to_string())
        .and_then(|address| Listener::bind(&address).map_err(|error| error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::Builder::new()
        .name("service".to_owned())
        .spawn(move || {
            let service = crate::api::service(&engine, None, crate::cli::spec_of_flags);
            let options = ServeOptions { idle_timeout: None, notifies: false, ..ServeOptions::default() };
            runtime.block_on(async {
                serve_until(service, vec![listener], options, async { drop(stopped.await) }).await
            })
        })
        .map_err(|error| format!("cannot make a thread: {error}"))?;
    let code = run.main(&address);
    drop(stop);
    match server.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the end of the service in this process was no good one"),
        Err(_) => tracing::warn!("the service in this process has failed"),
    }
    wait_for_children();
    Ok(code)
}

/// With our exit the unit ends, and what is left in its cgroup is killed: the monitor finishes first. It was the service's to
/// reap, which has ended.
fn wait_for_children() {
    let until = Instant::now() + PATIENCE;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    while rustix::process::waitid(WaitId::All, options).is_ok() && Instant::now() < until {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Makes room in the unit's cgroup for a container, if it is delegated to us; returns its path then.
fn enter_unit() -> Result<Option<String>, String> {
    if !cgroup::layout().is_ok_and(|layout| layout == Layout::V2) {
        return Ok(None);
    }
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let failed = |error: &cgroup::CgroupError| format!("cannot use the unit's cgroup: {error}");
    let own = Cgroup::path_of(pid).map_err(|error| failed(&error))?;
    // systemd may have put us into a leaf already: DelegateSubgroup=.
    let parent = own.rsplit_once('/').map_or("", |(parent, _)| parent);
    let Some(unit) = [own.as_str(), parent].into_iter().find(|path| path.ends_with(".service")) else {
        return Ok(None);
    };
    let is_marked = is_delegated(&Path::new("/sys/fs/cgroup").join(unit.trim_start_matches('/')));
    if !is_marked && !is_delegated_by_users_systemd(unit) {
        return Ok(None);
    }
    if unit == own {
        Cgroup::open(&format!("{unit}/{SUPERVISOR_LEAF}"))
            .and_then(|leaf| leaf.take_in(pid))
            .map_err(|error| failed(&error))?;
    }
    Ok(Some(unit.to_owned()))
}

/// A user's systemd may not mark anything, but tells who asks.
fn is_delegated_by_users_systemd(cgroup: &str) -> bool {
    if identity::is_root() || !host::manages() {
        return false;
    }
    let unit = cgroup.rsplit('/').next().unwrap_or_default();
    host::delegates(unit).unwrap_or_else(|error| {
        tracing::warn!(unit, %error, "whether its cgroup is delegated is not known");
        false
    })
}

/// systemd marks what it has handed over. Source: systemd's CGROUP_DELEGATION.md.
fn is_delegated(cgroup: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(cgroup, name, &mut value[..]).is_ok_and(|length| value[..length] == *b"1")
    })
}
