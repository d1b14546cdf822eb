//! Health checks: what is checked, which follows from the specification and the image, and the check that somebody wants now.
//! The checks themselves are started by the container's monitor, by way of [`crate::monitor::check`].

use std::path::Path;
use std::process::Stdio;

use serde::{Deserialize, Serialize};

use crate::image::Healthcheck;
use crate::monitor::check::{CheckKind, CheckRequest, CheckResult, PASSED, SKIPPED};
use crate::monitor::config::{HealthConfig, OnFailure};

use super::spec::{ContainerSpec, HealthSpec, HealthTest, SdNotify};
use super::{Container, Definition, Engine, EngineError, ExecRequest, Phase};

const INTERVAL_USEC: u64 = 30_000_000;
const TIMEOUT_USEC: u64 = 30_000_000;
const START_INTERVAL_USEC: u64 = 1_000_000;
const RETRIES: u32 = 3;
/// What Docker takes too.
const TIME_MIN_USEC: u64 = 1_000;

/// A health check without anything left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // told once, in the IDL
pub struct HealthCheck {
    pub test: HealthTest,
    pub interval_usec: u64,
    pub timeout_usec: u64,
    pub retries: u32,
    pub start_period_usec: u64,
    pub start_interval_usec: u64,
    pub on_failure: OnFailure,
}

/// Joins what the caller and the image say. `None` if nothing is to be checked.
///
/// # Errors
/// [`EngineError::InvalidSpec`].
pub(super) fn define(
    spec: &ContainerSpec,
    image: Option<&Healthcheck>,
    systemd: bool,
) -> Result<Option<HealthCheck>, EngineError> {
    let given = spec.health_check.clone().unwrap_or_default();
    check(&given)?;
    let test = match (given.test.clone(), image.map(|image| image.test.as_slice())) {
        (Some(test), _) => test,
        (None, Some([kind, command @ ..])) => match (kind.as_str(), command) {
            ("CMD", [_, ..]) => HealthTest::Command(command.to_vec()),
            ("CMD-SHELL", [text]) => HealthTest::Shell(text.clone()),
            // An image is no reason to fail: what it says and nobody understands is not checked.
            _ => HealthTest::None,
        },
        (None, _) => HealthTest::None,
    };
    if test == HealthTest::None {
        if spec.sd_notify == Some(SdNotify::Healthy) {
            return Err(invalid("spec.sdNotify", "without a health check it would never become healthy"));
        }
        // What only changes a check needs one.
        let changes = HealthSpec { test: None, ..given };
        if spec.health_check.as_ref().is_some_and(|spec| spec.test.is_none())
            && changes != HealthSpec::default()
        {
            return Err(invalid(
                "spec.healthCheck.kind",
                "neither the call nor the image says what to check",
            ));
        }
        return Ok(None);
    }
    if test == HealthTest::Systemd && !systemd {
        return Err(invalid(
            "spec.healthCheck.kind",
            "there is no systemd in the container that could be asked",
        ));
    }
    let usec = |nanoseconds: Option<i64>| {
        nanoseconds.and_then(|time| u64::try_from(time / 1_000).ok()).filter(|time| *time >= TIME_MIN_USEC)
    };
    let or_image = |given: Option<u64>, of_image: fn(&Healthcheck) -> i64, default: u64| {
        given.or(usec(image.map(of_image))).unwrap_or(default)
    };
    let interval_usec = or_image(given.interval_usec, |image| image.interval, INTERVAL_USEC);
    let retries = image.and_then(|image| u32::try_from(image.retries).ok()).filter(|retries| *retries > 0);
    Ok(Some(HealthCheck {
        test,
        interval_usec,
        timeout_usec: or_image(given.timeout_usec, |image| image.timeout, TIMEOUT_USEC),
        retries: given.retries.or(retries).unwrap_or(RETRIES),
        start_period_usec: or_image(given.start_period_usec, |image| image.start_period, 0),
        start_interval_usec: or_image(
            given.start_interval_usec,
            |image| image.start_interval,
            START_INTERVAL_USEC.min(interval_usec),
        ),
        on_failure: given.on_failure,
    }))
}

fn check(given: &HealthSpec) -> Result<(), EngineError> {
    match &given.test {
        Some(HealthTest::Command(command)) => {
            if command.first().is_none_or(String::is_empty) {
                return Err(invalid("spec.healthCheck.command", "the program's name is missing"));
            }
            if command.iter().any(|argument| argument.contains('\0')) {
                return Err(invalid("spec.healthCheck.command", "a NUL byte can't be passed to a program"));
            }
        }
        Some(HealthTest::Shell(text)) if text.trim().is_empty() || text.contains('\0') => {
            return Err(invalid(
                "spec.healthCheck.shell",
                "a text for the shell is not empty, and has no NUL byte",
            ));
        }
        _ => {}
    }
    for (field, value) in [
        ("intervalUSec", given.interval_usec),
        ("timeoutUSec", given.timeout_usec),
        ("startIntervalUSec", given.start_interval_usec),
    ] {
        if value.is_some_and(|value| value < TIME_MIN_USEC) {
            return Err(invalid(&format!("spec.healthCheck.{field}"), "it must be at least 1000"));
        }
    }
    if given.retries == Some(0) {
        return Err(invalid("spec.healthCheck.retries", "it must be at least 1"));
    }
    Ok(())
}

fn invalid(field: &str, reason: &str) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason: reason.to_owned() }
}

impl HealthCheck {
    /// What the monitor has to know; `run_dir` is where the check finds the rest.
    pub(super) fn config(&self, definition: &Definition, run_dir: &Path) -> HealthConfig {
        HealthConfig {
            command: vec![
                "/proc/self/exe".to_owned(),
                "health-check".to_owned(),
                run_dir.to_string_lossy().into_owned(),
            ],
            interval_usec: self.interval_usec,
            timeout_usec: self.timeout_usec,
            retries: self.retries,
            start_period_usec: self.start_period_usec,
            start_interval_usec: self.start_interval_usec,
            on_failure: self.on_failure,
            makes_ready: definition.becomes_ready_by_health(),
            stop_signal: definition.stop_signal,
            stop_timeout_usec: definition.stop_timeout_usec,
        }
    }
}

impl Engine {
    /// Writes what a check needs to the run directory of a container that is about to start.
    pub(super) fn prepare_health_check(
        &self,
        container: &Container,
        cgroup: &str,
    ) -> Result<(), EngineError> {
        let Some(health) = &container.definition.health else { return Ok(()) };
        let command = match &health.test {
            HealthTest::Command(command) => Some(command.clone()),
            HealthTest::Shell(text) => Some(vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()]),
            HealthTest::Systemd | HealthTest::None => None,
        };
        let kind = match command {
            None => CheckKind::Systemd,
            Some(command) => {
                let request = ExecRequest { command, ..ExecRequest::default() };
                let (process, seccomp) = self.exec_process(container, &request)?;
                CheckKind::Command { process: typed(process)?, seccomp: seccomp.map(typed).transpose()? }
            }
        };
        let run_dir = self.paths().run_container(&container.row.id);
        let request = CheckRequest {
            id: container.row.id.clone(),
            name: container.row.name.clone(),
            cgroup: cgroup.to_owned(),
            timeout_usec: health.timeout_usec,
            events_path: self.paths().events(),
            kind,
        };
        request.store(&run_dir).map_err(|error| EngineError::Failed {
            attempted: format!("prepare the health check of {:?}", container.row.name),
            reason: error.to_string(),
        })
    }

    /// Does a container's health check now.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`], [`EngineError::NoHealthCheck`].
    pub async fn check_health(&self, name: &str) -> Result<CheckResult, EngineError> {
        let container = self.find(name)?;
        let name = container.row.name;
        if container.definition.health.is_none() {
            return Err(EngineError::NoHealthCheck { name });
        }
        let live = self.live(&container.row.id)?;
        let wrong = |state| EngineError::WrongState {
            attempted: "check the health of",
            name: name.clone(),
            state,
            wanted: "running",
        };
        if live.phase != Phase::Running {
            return Err(wrong(live.phase));
        }
        let failed = |reason: String| EngineError::Failed {
            attempted: format!("check the health of {name:?}"),
            reason,
        };
        let mut command = tokio::process::Command::new(self.program());
        command.arg("health-check").arg(self.paths().run_container(&container.row.id));
        command.env_clear().current_dir("/").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|error| failed(error.to_string()))?;
        match output.status.code() {
            // It was paused, or has ended, just now.
            Some(SKIPPED) => Err(wrong(self.live(&container.row.id)?.phase)),
            code => {
                let result = CheckResult::parse(&output.stdout)
                    .ok_or_else(|| failed("the check has told nothing".to_owned()))?;
                Ok(CheckResult { passed: code == Some(PASSED), ..result })
            }
        }
    }

    /// What the last checks have found, oldest first.
    pub fn health_results(&self, id: &str) -> Vec<CheckResult> {
        crate::monitor::check::results(&self.paths().run_container(id))
    }

    /// What an earlier run left of its checks.
    pub(super) fn forget_health_results(&self, id: &str) -> Result<(), EngineError> {
        for path in crate::monitor::check::files(&self.paths().run_container(id)) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(EngineError::io("remove", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn typed<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, EngineError> {
    serde_json::from_value(value).map_err(|error| EngineError::Failed {
        attempted: "describe the health check".to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(health: HealthSpec) -> ContainerSpec {
        ContainerSpec { health_check: Some(health), ..ContainerSpec::default() }
    }

    fn image(test: &[&str]) -> Healthcheck {
        Healthcheck {
            test: test.iter().map(ToString::to_string).collect(),
            interval: 5_000_000_000,
            retries: 7,
            ..Healthcheck::default()
        }
    }

    #[test]
    fn what_the_caller_leaves_open_the_image_says_and_else_there_is_a_default() {
        let image = image(&["CMD", "curl", "localhost"]);
        let health = define(&ContainerSpec::default(), Some(&image), false).unwrap().unwrap();
        assert_eq!(health.test, HealthTest::Command(vec!["curl".into(), "localhost".into()]));
        assert_eq!((health.interval_usec, health.timeout_usec, health.retries), (5_000_000, TIMEOUT_USEC, 7));
        let given = HealthSpec {
            test: Some(HealthTest::Shell("true".into())),
            interval_usec: Some(2_000),
            ..HealthSpec::default()
        };
        let health = define(&spec(given), Some(&image), false).unwrap().unwrap();
        assert_eq!((&health.test, health.interval_usec), (&HealthTest::Shell("true".into()), 2_000));
        assert_eq!((health.start_interval_usec, health.retries), (2_000, 7));
    }

    #[test]
    fn nothing_is_checked_where_nobody_says_what_or_somebody_says_so() {
        assert_eq!(define(&ContainerSpec::default(), None, true).unwrap(), None);
        for test in [&["NONE"][..], &[], &["CMD"], &["CMD-SHELL"], &["NOVEL", "x"]] {
            assert_eq!(define(&ContainerSpec::default(), Some(&image(test)), true).unwrap(), None);
        }
        let none = HealthSpec { test: Some(HealthTest::None), ..HealthSpec::default() };
        assert_eq!(define(&spec(none), Some(&image(&["CMD", "x"])), true).unwrap(), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_field() {
        let refused = |spec: ContainerSpec, field: &str| match define(&spec, None, false) {
            Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{other:?}"),
        };
        let test = |test| HealthSpec { test: Some(test), ..HealthSpec::default() };
        refused(spec(test(HealthTest::Command(Vec::new()))), "spec.healthCheck.command");
        refused(spec(test(HealthTest::Command(vec!["a\0".into()]))), "spec.healthCheck.command");
        refused(spec(test(HealthTest::Shell(" ".into()))), "spec.healthCheck.shell");
        refused(spec(test(HealthTest::Systemd)), "spec.healthCheck.kind");
        refused(spec(HealthSpec { retries: Some(2), ..HealthSpec::default() }), "spec.healthCheck.kind");
        let with =
            |health: HealthSpec| spec(HealthSpec { test: Some(HealthTest::Shell("x".into())), ..health });
        refused(with(HealthSpec { retries: Some(0), ..Default::default() }), "spec.healthCheck.retries");
        refused(
            with(HealthSpec { interval_usec: Some(999), ..Default::default() }),
            "spec.healthCheck.intervalUSec",
        );
        let ready = ContainerSpec { sd_notify: Some(SdNotify::Healthy), ..ContainerSpec::default() };
        refused(ready, "spec.sdNotify");
    }
}
