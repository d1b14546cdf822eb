//! The role `health-check`: checks once whether the payload of a container works. Its monitor executes this again and again,
//! and the engine when somebody wants to know now; see [`crate::monitor::check`].

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags};

use crate::monitor::check::{self, CheckKind, CheckRequest, CheckResult, FAILED, PASSED, Results, SKIPPED};
use crate::monitor::events::{Action, Events};
use crate::monitor::state::{ProcessRef, RunState};
use crate::runtime::Cgroup;
use crate::systemd::inside::{InsideError, Manager, UnitFilter};

/// Plays the role; the one argument is the container's run directory. What was found is in the exit code, and as a line of JSON
/// on standard output.
pub fn main(arguments: &[OsString]) -> ExitCode {
    let [run_dir] = arguments else {
        eprintln!("usage: dormouse health-check RUN_DIR");
        return ExitCode::from(2);
    };
    check::detach();
    let code = match look(Path::new(run_dir)) {
        Ok(Some((result, mut results))) => {
            if let Err(error) = results.add(&result) {
                eprintln!("dormouse health-check: cannot record the result: {error}");
            }
            if let Ok(line) = serde_json::to_string(&result) {
                println!("{line}");
            }
            if result.passed { PASSED } else { FAILED }
        }
        Ok(None) => SKIPPED,
        Err(error) => {
            eprintln!("dormouse health-check: {error}");
            SKIPPED
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// `None` if nothing can be told now.
fn look(run_dir: &Path) -> std::io::Result<Option<(CheckResult, Results)>> {
    let state = RunState::load(run_dir).map_err(std::io::Error::other)?;
    let Some(state) = state else { return Ok(None) };
    let Some(leader) = state.init.filter(ProcessRef::is_alive) else { return Ok(None) };
    let request = CheckRequest::load(run_dir)?;
    // What is frozen answers nobody, and is not ill.
    if Cgroup::open(&request.cgroup).is_ok_and(|cgroup| cgroup.frozen().unwrap_or(false)) {
        return Ok(None);
    }
    let results = Results::open(run_dir)?;
    let timeout = Duration::from_micros(request.timeout_usec.min(u64::MAX >> 12));
    let result = match &request.kind {
        CheckKind::Command { process, seccomp } => {
            Some(check::run_command(leader, &request.cgroup, timeout, process, seccomp.as_ref()))
        }
        // In the first moments of a boot it can't be reached, and is not ill.
        CheckKind::Systemd => ask_systemd(run_dir, leader, &request, timeout)?
            .filter(|(_, reached)| *reached || state.ready)
            .map(|(result, _)| result),
    };
    Ok(result.map(|result| (result, results)))
}

/// Whether it was reached comes with the result.
fn ask_systemd(
    run_dir: &Path,
    leader: ProcessRef,
    request: &CheckRequest,
    timeout: Duration,
) -> std::io::Result<Option<(CheckResult, bool)>> {
    let started_usec = check::now_usec();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { tokio::time::timeout(timeout, system(leader)).await });
    let reached = matches!(answer, Ok(Ok(_)));
    let (passed, output) = match answer {
        Ok(Ok(System { state, .. })) if ["initializing", "starting"].contains(&state.as_str()) => {
            return Ok(None);
        }
        Ok(Ok(System { state, failed })) => {
            let events = Events::new(&request.events_path, &request.id, &request.name);
            tell_failures(run_dir, leader, &failed, &events)?;
            let units = if failed.is_empty() { String::new() } else { format!(": {}", failed.join(", ")) };
            (state == "running" && failed.is_empty(), format!("{state}{units}"))
        }
        Ok(Err(InsideError::NotRunning)) => return Ok(None),
        Ok(Err(error)) => (false, error.to_string()),
        Err(_) => (false, "it has not answered in time".to_owned()),
    };
    let ended_usec = check::now_usec();
    Ok(Some((CheckResult { started_usec, ended_usec, passed, exit_code: None, output }, reached)))
}

/// So many failed units are told; a payload can make up as many as it likes.
const FAILED_UNITS_MAX: usize = 64;

struct System {
    state: String,
    failed: Vec<String>,
}

async fn system(leader: ProcessRef) -> Result<System, InsideError> {
    let pid = Pid::from_raw(leader.pid).ok_or(InsideError::NotRunning)?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| InsideError::NotRunning)?;
    if !leader.is_alive() {
        return Err(InsideError::NotRunning);
    }
    let manager = Manager::connect(leader.pid, pidfd.as_fd()).await?;
    let state = manager.system_state().await?.state;
    let failed = UnitFilter { states: vec!["failed".to_owned()], ..UnitFilter::default() };
    let failed = manager.list_units(&failed).await?.into_iter();
    let failed = failed.take(FAILED_UNITS_MAX).map(|unit| unit.name).collect();
    Ok(System { state, failed })
}

/// Each unit that has failed since the last look, and is not known from an earlier one, is an event.
fn tell_failures(
    run_dir: &Path,
    leader: ProcessRef,
    failed: &[String],
    events: &Events,
) -> std::io::Result<()> {
    let path = run_dir.join(check::FAILED_UNITS);
    let of = leader.start_time.to_string();
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeSet<&str> = match known.split_once('\n') {
        // Of another systemd: before a restart.
        Some((start_time, units)) if start_time == of => units.lines().collect(),
        _ => BTreeSet::new(),
    };
    if known.iter().copied().eq(failed.iter().map(String::as_str).collect::<BTreeSet<_>>()) {
        return Ok(());
    }
    for unit in failed.iter().filter(|unit| !known.contains(unit.as_str())) {
        events.write(check::now_usec().unsigned_abs(), Action::UnitFailed(unit));
    }
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{of}\n{}\n", failed.join("\n")))?;
    std::fs::rename(new, path)
}
