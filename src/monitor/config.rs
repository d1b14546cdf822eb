//! What the engine tells a monitor: `monitor.json` in the container's run directory.
//!
//! Written by the engine before it starts the monitor, which reads it once. What the payload is stands beside it in
//! `config.json` (the OCI spec), which is read at each launch of the payload.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::runtime::Rootfs;

/// The name of this file in the run directory.
pub const FILE_NAME: &str = "monitor.json";
/// The name of the OCI spec in the run directory.
pub const SPEC_FILE_NAME: &str = "config.json";
/// The name of the file whose presence in the run directory forbids another restart.
pub const STOP_REQUESTED: &str = "stop-requested";
/// The packet for which a monitor with `--wait` waits.
pub const GO_ON: &[u8] = b"go";
/// Before that: descriptors to be held as long as the container runs.
pub const HOLD: &[u8] = b"hold";
/// The name of the attach socket in the run directory.
pub const ATTACH_SOCKET: &str = "attach.sock";
/// The directory in the run directory that the spec binds to `/run/host/notify`.
pub const NOTIFY_DIRECTORY: &str = "notify";
/// The name of the sd_notify(3) socket in [`NOTIFY_DIRECTORY`].
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// Everything that a monitor has to know beside the OCI spec.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// The container's full id.
    pub id: String,
    /// The container's name, for events and the journal.
    pub name: String,
    /// The container's cgroup as in the spec's `linux.cgroupsPath`, such as `/dormouse/ID`.
    pub cgroup: String,
    /// Where the root file system comes from.
    pub rootfs: Rootfs,
    /// Who makes the payload's process.
    #[serde(default)]
    pub runtime: RuntimeChoice,
    /// The payload's PID 1 is one of ours that reaps and passes signals on, and the command its child. With
    /// [`RuntimeChoice::Native`] only.
    #[serde(default)]
    pub reaper: bool,
    /// Where the payload's output goes.
    #[serde(default)]
    pub log: LogDriver,
    /// The payload's stdin is a pipe that clients can write to, instead of /dev/null. With a terminal the pty is
    /// its stdin, and this says whether clients may type.
    #[serde(default)]
    pub stdin_open: bool,
    /// Whether the payload is started again after its end.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// PID 1 is a systemd: death by SIGHUP is an inner reboot and restarts it, death by SIGINT is a power-off and a
    /// clean exit.
    #[serde(default)]
    pub systemd_mode: bool,
    /// Whether the monitor listens for the payload's sd_notify(3) messages.
    #[serde(default)]
    pub notify: Notify,
    /// The file to which one JSON line is appended for each change.
    pub events_path: PathBuf,
    /// Whether [`Self::cleanup_command`] is run after the last exit.
    #[serde(default)]
    pub auto_remove: bool,
    /// The program and arguments that remove the container; run in place of the monitor, with its pid.
    #[serde(default)]
    pub cleanup_command: Vec<String>,
    /// The program and arguments that are run after each start of the payload, without waiting for them. Empty if there is
    /// nothing.
    #[serde(default)]
    pub start_command: Vec<String>,
    /// The program and arguments that are run when the payload has ended for good, and before that is told: it takes down
    /// what was set up for the container outside of it. Empty if there is nothing.
    #[serde(default)]
    pub end_command: Vec<String>,
    /// The program and arguments that are run before the payload is started again: it makes sure that what is outside of the
    /// container is there still. Empty if there is nothing.
    #[serde(default)]
    pub restart_command: Vec<String>,
    /// How it is found out whether the payload works.
    #[serde(default)]
    pub health: Option<HealthConfig>,
}

/// When health checks are made, and what follows from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthConfig {
    /// The program that makes one, and its arguments. It ends with 0 for a good one, with [`super::check::SKIPPED`] for one that
    /// does not count, and else with another code.
    pub command: Vec<String>,
    /// From the end of a check to the next one.
    pub interval_usec: u64,
    /// How long one may take. The program keeps it itself.
    pub timeout_usec: u64,
    /// So many failures in a row count.
    pub retries: u32,
    /// How long after a start failures don't count, until one has passed.
    pub start_period_usec: u64,
    /// From the start to the first check, and from check to check in the start period.
    pub start_interval_usec: u64,
    /// What follows when the payload becomes unhealthy.
    pub on_failure: OnFailure,
    /// The first check that passes makes the container ready.
    pub makes_ready: bool,
    /// How the payload is asked to end.
    pub stop_signal: i32,
    /// From that signal to SIGKILL.
    pub stop_timeout_usec: u64,
}

/// What follows when a payload becomes unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnFailure {
    /// Nothing.
    #[default]
    None,
    /// It is killed, and the restart policy decides.
    Kill,
    /// It is stopped, and started again.
    Restart,
    /// It is stopped.
    Stop,
}

/// Who makes the payload's process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RuntimeChoice {
    /// dormouse's own runtime.
    #[default]
    Native,
    /// A program with the OCI runtime command line: crun, runc, …
    External {
        /// The program; looked up in PATH when it has no slash.
        program: PathBuf,
    },
}

/// Where the payload's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogDriver {
    /// Lines of `TIMESTAMP STREAM F|P TEXT`, as the kubelet, CRI-O and podman write them.
    K8sFile {
        /// The current file; older ones stand beside it with `.1`, `.2`, … appended.
        path: PathBuf,
        /// The size in bytes that a file does not exceed, unless one line alone does; 0 means no limit.
        size_max_bytes: u64,
        /// How many files are kept in all, with the current one; 0 counts as 1.
        files_max: u32,
    },
    /// The host's journal.
    Journald,
    /// Nowhere; attached clients still see it.
    #[default]
    None,
}

/// Whether the payload is started again after its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// When it ended by a signal or with a code other than 0.
    OnFailure {
        /// How many times at most; `None` means without end.
        retries_max: Option<u32>,
    },
    /// Whenever it ends, unless a stop was asked for.
    Always,
    /// Like `Always` for the monitor; the engine does not start it at boot if it was stopped by hand.
    UnlessStopped,
}

/// Whether the monitor listens for the payload's sd_notify(3) messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Notify {
    /// No socket is made. The container is ready when it has started.
    #[default]
    Ignore,
    /// A socket is made at `notify/notify.sock`; `READY=1` on it makes the container ready. Every user inside may write to it:
    /// a payload may have become another one than it began as.
    Payload,
    /// The same, for a systemd inside: for its root alone, who is this user outside.
    PayloadRoot {
        /// Of the monitor's own user namespace.
        user: u32,
        /// As well.
        group: u32,
    },
}

/// Why `monitor.json` or `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path:?} is not valid")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

impl MonitorConfig {
    /// Reads `monitor.json` from the run directory.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when it cannot be read, [`ConfigError::Invalid`] when it is not a configuration.
    pub fn load(run_dir: &Path) -> Result<Self, ConfigError> {
        let path = run_dir.join(FILE_NAME);
        let bytes =
            std::fs::read(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| ConfigError::Invalid { path, source })
    }

    /// Writes `monitor.json` to the run directory.
    ///
    /// # Errors
    /// [`ConfigError::Write`] when it cannot be written.
    pub fn store(&self, run_dir: &Path) -> Result<(), ConfigError> {
        let path = run_dir.join(FILE_NAME);
        let bytes =
            serde_json::to_vec(self).map_err(|source| ConfigError::Invalid { path: path.clone(), source })?;
        std::fs::write(&path, bytes).map_err(|source| ConfigError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_loaded_again() {
        let directory = tempfile::tempdir().unwrap();
        let config = MonitorConfig {
            id: "0123".into(),
            name: "web".into(),
            cgroup: "/dormouse/0123".into(),
            rootfs: Rootfs::Directory { path: "/srv/root".into() },
            runtime: RuntimeChoice::External { program: "crun".into() },
            log: LogDriver::K8sFile { path: "/tmp/log".into(), size_max_bytes: 10, files_max: 2 },
            reaper: false,
            stdin_open: true,
            restart: RestartPolicy::OnFailure { retries_max: Some(3) },
            systemd_mode: true,
            notify: Notify::Payload,
            events_path: "/run/events".into(),
            auto_remove: true,
            cleanup_command: vec!["/bin/true".into()],
            start_command: vec!["/bin/sleep".into(), "0".into()],
            end_command: vec!["/bin/false".into()],
            restart_command: Vec::new(),
            health: None,
        };
        config.store(directory.path()).unwrap();
        let loaded = MonitorConfig::load(directory.path()).unwrap();
        assert_eq!(format!("{loaded:?}"), format!("{config:?}"));
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE_NAME), br#"{"idd":"x"}"#).unwrap();
        assert!(matches!(MonitorConfig::load(directory.path()), Err(ConfigError::Invalid { .. })));
    }
}
