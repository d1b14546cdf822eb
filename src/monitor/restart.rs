//! What an end means, and whether and when the payload is started again.

use std::time::Duration;

use super::config::RestartPolicy;

/// The pause before the first restart.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const DELAY_MAX: Duration = Duration::from_secs(60);
/// A run of this length was a good one: the pauses and the retries begin anew.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// How the payload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code, 128 + signal, or 0 for an inner power-off; `None` if nobody could observe it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The systemd inside asked for a reboot.
    pub reboot: bool,
}

impl Outcome {
    /// An end by `exit(code)`.
    pub fn exited(code: i32) -> Self {
        Self { code: Some(code), signal: None, reboot: false }
    }

    /// An end that nobody could observe.
    pub fn unknown() -> Self {
        Self { code: None, signal: None, reboot: false }
    }

    /// An end by a signal.
    ///
    /// With `systemd_mode`, SIGHUP and SIGINT are what the kernel makes of reboot(2) in a pid namespace: a restart,
    /// and a power-off or halt. Source: reboot(2), "Behavior inside PID namespaces".
    pub fn signaled(signal: i32, systemd_mode: bool) -> Self {
        let reboot = systemd_mode && signal == libc::SIGHUP;
        let power_off = systemd_mode && signal == libc::SIGINT;
        if reboot || power_off {
            Self { code: Some(0), signal: Some(signal), reboot }
        } else {
            Self { code: Some(128 + signal), signal: Some(signal), reboot: false }
        }
    }

    /// An end as wait(2) or the kernel's pidfd tells it.
    pub fn of(status: rustix::process::WaitStatus, systemd_mode: bool) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::exited(code),
            (None, Some(signal)) => Self::signaled(signal, systemd_mode),
            (None, None) => Self::unknown(),
        }
    }
}

/// Decides over restarts, and remembers how they went.
#[derive(Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    delay: Duration,
    retries: u32,
}

impl Restarts {
    /// No restart has been made yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, delay: DELAY_MIN, retries: 0 }
    }

    /// The pause before the next start, `None` if there is none, after a run that lasted `ran`.
    pub fn next(&mut self, outcome: Outcome, ran: Duration) -> Option<Duration> {
        let good = ran >= GOOD_RUN;
        if good {
            self.delay = DELAY_MIN;
            self.retries = 0;
        }
        if outcome.reboot && good {
            return Some(Duration::ZERO);
        }
        let again = outcome.reboot
            || match self.policy {
                RestartPolicy::No => false,
                RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
                RestartPolicy::OnFailure { retries_max } => {
                    outcome.code != Some(0) && retries_max.is_none_or(|max| self.retries < max)
                }
            };
        if !again {
            return None;
        }
        self.retries = self.retries.saturating_add(1);
        let delay = self.delay;
        self.delay = (delay * 2).min(DELAY_MAX);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_good_run() {
        let mut restarts = Restarts::new(RestartPolicy::Always);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            pauses.push(restarts.next(Outcome::exited(0), SHORT).unwrap().as_millis());
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
        assert_eq!(restarts.next(Outcome::exited(0), GOOD_RUN), Some(DELAY_MIN));
    }

    #[test]
    fn on_failure_restarts_only_failures_and_only_so_often() {
        let mut restarts = Restarts::new(RestartPolicy::OnFailure { retries_max: Some(2) });
        assert_eq!(restarts.next(Outcome::exited(0), SHORT), None);
        assert!(restarts.next(Outcome::exited(1), SHORT).is_some());
        assert!(restarts.next(Outcome::signaled(9, false), SHORT).is_some());
        assert_eq!(restarts.next(Outcome::exited(1), SHORT), None);
        assert!(restarts.next(Outcome::exited(1), GOOD_RUN).is_some());
    }

    #[test]
    fn a_reboot_inside_restarts_under_any_policy_and_a_power_off_is_a_clean_exit() {
        let mut restarts = Restarts::new(RestartPolicy::No);
        let reboot = Outcome::signaled(libc::SIGHUP, true);
        assert_eq!(restarts.next(reboot, GOOD_RUN), Some(Duration::ZERO));
        assert_eq!(restarts.next(reboot, SHORT), Some(DELAY_MIN));
        assert_eq!(restarts.next(reboot, SHORT), Some(2 * DELAY_MIN));
        let power_off = Outcome::signaled(libc::SIGINT, true);
        assert_eq!(power_off.code, Some(0));
        assert_eq!(restarts.next(power_off, GOOD_RUN), None);
        assert_eq!(Outcome::signaled(libc::SIGHUP, false).code, Some(129));
        assert_eq!(Outcome::signaled(37, true), Outcome { code: Some(165), signal: Some(37), reboot: false });
    }
}
