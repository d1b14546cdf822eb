//! Programs that the specification wants run at turning points of a container's life (runtime-spec, config, "Hooks").
//!
//! A hook gets the container's state on its standard input, exactly the environment that it is given, and a process group
//! of its own. What it writes to standard error becomes the reason of its failure.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::json;

/// How much of what a hook says is told on.
const REASON_BYTES_MAX: u64 = 2000;
/// As good as for ever, and still a moment that a clock can tell.
const TIMEOUT_SECONDS_MAX: u64 = 100 * 365 * 24 * 60 * 60;

/// The version of the specification that states are told in.
pub const SPEC_VERSION: &str = "1.2.0";

/// What a container's state always tells, whatever its status.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The bundle's directory, absolute.
    pub bundle: &'a Path,
    /// The specification's annotations.
    pub annotations: Option<&'a HashMap<String, String>>,
}

impl Identity<'_> {
    /// The state as the specification has it (runtime, "State").
    pub fn state(&self, status: &str, pid: Option<i32>) -> serde_json::Value {
        let mut state =
            json!({"ociVersion": SPEC_VERSION, "id": self.id, "status": status, "bundle": self.bundle});
        if let Some(pid) = pid {
            state["pid"] = json!(pid);
        }
        if let Some(annotations) = self.annotations.filter(|annotations| !annotations.is_empty()) {
            state["annotations"] = json!(annotations);
        }
        state
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("the {kind} hook {path:?} failed: {reason}")]
pub struct HookError {
    /// As the specification names its list.
    pub kind: &'static str,
    /// The program.
    pub path: std::path::PathBuf,
    /// What it said, or how it ended.
    pub reason: String,
}

/// Runs hooks in their order, up to the first that fails.
///
/// # Errors
/// [`HookError`].
pub fn run(
    kind: &'static str,
    hooks: Option<&Vec<Hook>>,
    state: &serde_json::Value,
) -> Result<(), HookError> {
    let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) else { return Ok(()) };
    let state = state.to_string();
    for hook in hooks {
        run_one(hook, state.as_bytes()).map_err(|reason| HookError {
            kind,
            path: hook.path().clone(),
            reason,
        })?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &[u8]) -> Result<(), String> {
    let told = |what: &str| {
        let what = what.to_owned();
        move |error: std::io::Error| format!("cannot {what}: {error}")
    };
    let mut input = memory().map_err(told("pass the state"))?;
    input.write_all(state).and_then(|()| input.rewind()).map_err(told("pass the state"))?;
    let mut complaint = memory().map_err(told("take what it says"))?;
    let mut command = Command::new(hook.path());
    if let Some((name, arguments)) = hook.args().as_deref().and_then(|args| args.split_first()) {
        command.arg0(name).args(arguments);
    }
    command.env_clear();
    for variable in hook.env().iter().flatten() {
        if let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) {
            command.env(name, value);
        }
    }
    let output = complaint.try_clone().map_err(told("take what it says"))?;
    command.stdin(input).stdout(Stdio::null()).stderr(output).process_group(0);
    let mut child = command.spawn().map_err(told("run it"))?;
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
    let timeout = timeout.map(|seconds| Duration::from_secs(seconds.min(TIMEOUT_SECONDS_MAX)));
    if let Some(timeout) = timeout {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let ended = pid.is_some_and(|pid| ends_within(pid, timeout));
        if !ended {
            // It may have ended just now, which is too late all the same.
            let _ = pid.map(|pid| rustix::process::kill_process_group(pid, Signal::KILL));
            let _ = child.wait();
            return Err(format!("it did not end within {} s and was killed", timeout.as_secs()));
        }
    }
    let status = child.wait().map_err(told("wait for it"))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    // What it said is a comfort; how it ended is told in any case.
    let _ = complaint.rewind().and_then(|()| complaint.take(REASON_BYTES_MAX).read_to_string(&mut said));
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    Err(if said.trim().is_empty() { end } else { format!("{end}: {}", said.trim()) })
}

fn ends_within(pid: Pid, timeout: Duration) -> bool {
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else { return false };
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        let mut poll = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(count) => return count > 0,
            Err(_) => return false,
        }
    }
}

/// A file of no file system, which no reader has to keep up with.
fn memory() -> std::io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?))
}

/// Whether a list has anything in it.
pub(super) fn any(hooks: Option<&Vec<Hook>>) -> bool {
    hooks.is_some_and(|hooks| !hooks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Vec<Hook> {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into())
            .set_args(Some(vec!["sh".into(), "-c".into(), script.into()]))
            .set_env(Some(vec!["PATH=/bin:/usr/bin".into(), "X=1".into()]))
            .set_timeout(timeout);
        vec![hook]
    }

    fn reason(script: &str, timeout: Option<i64>) -> String {
        let identity = Identity { id: "an-id", bundle: Path::new("/bundle"), annotations: None };
        let state = identity.state("creating", Some(7));
        run("prestart", Some(&hook(script, timeout)), &state)
            .err()
            .map_or_else(String::new, |error| error.reason)
    }

    #[test]
    fn a_hook_reads_the_state_and_has_only_its_own_environment() {
        assert_eq!(
            reason("grep -q '\"id\":\"an-id\"' && test \"$X\" = 1 && test -z \"$HOME$USER\"", None),
            ""
        );
    }

    #[test]
    fn a_hooks_last_words_and_its_end_are_its_reason() {
        assert_eq!(reason("echo no good >&2; exit 3", None), "exit status 3: no good");
        assert_eq!(reason("kill -9 $$", None), "killed by signal 9");
        assert!(reason("exec /no/such/program 2>/dev/null", None).starts_with("exit status 12"));
    }

    #[test]
    fn a_hook_is_killed_when_its_time_is_over_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let mark = directory.path().join("late");
        let script = format!("(sleep 2; touch {}) & sleep 100", mark.display());
        assert!(reason(&script, Some(1)).contains("within 1 s"));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!mark.exists());
    }
}
