//! io.dormouse.Container: health checks, and their types both ways.

use crate::engine::spec::{HealthSpec, HealthTest};
use crate::engine::{EngineError, HealthCheck};
use crate::monitor::check::CheckResult;
use crate::monitor::config::OnFailure;
use crate::monitor::state::Health;
use crate::varlink::{Call, CallError};

use super::container::{ContainerInterface, failed, signed};
use super::convert::{invalid, number};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn health_check(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::HealthCheck_Args = call.parameters()?;
        let result = self.engine.check_health(&given.name).await.map_err(failed)?;
        call.reply(wire::HealthCheck_Reply { result: result_to_wire(result) }).await
    }
}

pub(super) fn to_wire(health: Health) -> wire::Health {
    match health {
        Health::Starting => wire::Health::starting,
        Health::Healthy => wire::Health::healthy,
        Health::Unhealthy => wire::Health::unhealthy,
    }
}

pub(super) fn result_to_wire(result: CheckResult) -> wire::HealthResult {
    wire::HealthResult {
        startedUSec: result.started_usec,
        endedUSec: result.ended_usec,
        passed: result.passed,
        exitCode: result.exit_code.map(Into::into),
        output: result.output,
    }
}

pub(super) fn spec_from_wire(given: wire::HealthConfig) -> Result<HealthSpec, EngineError> {
    use wire::HealthConfig_kind as Kind;
    for (field, is_given, kind) in
        [("command", given.command.is_some(), Kind::command), ("shell", given.shell.is_some(), Kind::shell)]
    {
        if is_given && given.kind.as_ref() != Some(&kind) {
            let reason = format!("it has a meaning only for kind {field}");
            return Err(invalid(format!("spec.healthCheck.{field}"), reason));
        }
    }
    let missing = |field: &str| invalid(format!("spec.healthCheck.{field}"), "it is missing");
    let test = match given.kind {
        None => None,
        Some(Kind::command) => Some(HealthTest::Command(given.command.ok_or_else(|| missing("command"))?)),
        Some(Kind::shell) => Some(HealthTest::Shell(given.shell.ok_or_else(|| missing("shell"))?)),
        Some(Kind::systemd) => Some(HealthTest::Systemd),
        Some(Kind::none) => Some(HealthTest::None),
    };
    Ok(HealthSpec {
        test,
        interval_usec: number("healthCheck.intervalUSec", given.intervalUSec)?,
        timeout_usec: number("healthCheck.timeoutUSec", given.timeoutUSec)?,
        retries: number("healthCheck.retries", given.retries)?,
        start_period_usec: number("healthCheck.startPeriodUSec", given.startPeriodUSec)?,
        start_interval_usec: number("healthCheck.startIntervalUSec", given.startIntervalUSec)?,
        on_failure: match given.onFailure {
            None | Some(wire::HealthConfig_onFailure::none) => OnFailure::None,
            Some(wire::HealthConfig_onFailure::kill) => OnFailure::Kill,
            Some(wire::HealthConfig_onFailure::restart) => OnFailure::Restart,
            Some(wire::HealthConfig_onFailure::stop) => OnFailure::Stop,
        },
    })
}

pub(super) fn spec_to_wire(spec: HealthSpec) -> wire::HealthConfig {
    use wire::HealthConfig_kind as Kind;
    let wide = |value: Option<u64>| value.map(signed);
    let (kind, command, shell) = match spec.test {
        None => (None, None, None),
        Some(HealthTest::Command(command)) => (Some(Kind::command), Some(command), None),
        Some(HealthTest::Shell(text)) => (Some(Kind::shell), None, Some(text)),
        Some(HealthTest::Systemd) => (Some(Kind::systemd), None, None),
        Some(HealthTest::None) => (Some(Kind::none), None, None),
    };
    wire::HealthConfig {
        kind,
        command,
        shell,
        intervalUSec: wide(spec.interval_usec),
        timeoutUSec: wide(spec.timeout_usec),
        retries: spec.retries.map(Into::into),
        startPeriodUSec: wide(spec.start_period_usec),
        startIntervalUSec: wide(spec.start_interval_usec),
        onFailure: match spec.on_failure {
            OnFailure::None => None,
            OnFailure::Kill => Some(wire::HealthConfig_onFailure::kill),
            OnFailure::Restart => Some(wire::HealthConfig_onFailure::restart),
            OnFailure::Stop => Some(wire::HealthConfig_onFailure::stop),
        },
    }
}

/// With nothing left open.
pub(super) fn check_to_wire(check: HealthCheck) -> wire::HealthConfig {
    let on_failure = check.on_failure;
    let mut wire = spec_to_wire(HealthSpec {
        test: Some(check.test),
        interval_usec: Some(check.interval_usec),
        timeout_usec: Some(check.timeout_usec),
        retries: Some(check.retries),
        start_period_usec: Some(check.start_period_usec),
        start_interval_usec: Some(check.start_interval_usec),
        on_failure,
    });
    wire.onFailure = wire.onFailure.or(Some(wire::HealthConfig_onFailure::none));
    wire
}
