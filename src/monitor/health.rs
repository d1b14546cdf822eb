//! When a payload's health is checked, and what follows from what the checks find.
//!
//! The monitor only keeps the time and counts. A check is a process of its own ([`super::check`]) that ends with what it has
//! found; what has made the monitor small is not undone by it.
//!
//! ```text
//! starting ──passed──► healthy ◄──passed──┐
//!    │                    │               │
//!    └─── so many in a row have failed ──► unhealthy
//! ```

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitStatus};

use super::check::{PASSED, SKIPPED};
use super::config::HealthConfig;
use super::spawn;
use super::state::Health;

/// What a check may take beyond its own time-out, in which it can't have done its work.
const GRACE: Duration = Duration::from_secs(5);

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The payload works.
    Passed,
    /// It does not.
    Failed,
    /// It can't be told now.
    Skipped,
}

impl Verdict {
    fn of(status: WaitStatus) -> Self {
        match status.exit_status() {
            Some(PASSED) => Self::Passed,
            Some(SKIPPED) => Self::Skipped,
            _ => Self::Failed,
        }
    }
}

/// The checks of one payload after the other.
#[derive(Debug)]
pub struct Checks {
    config: HealthConfig,
    started: Instant,
    next: Option<Instant>,
    running: Option<(Pid, Instant)>,
}

impl Checks {
    /// No payload runs yet.
    pub fn new(config: HealthConfig) -> Self {
        Self { config, started: Instant::now(), next: None, running: None }
    }

    /// What they are.
    pub fn config(&self) -> &HealthConfig {
        &self.config
    }

    /// A payload was started so long ago.
    pub fn begin(&mut self, now: Instant, ago: Duration) {
        self.started = now.checked_sub(ago).unwrap_or(now);
        self.next = Some(now + usec(self.config.start_interval_usec));
    }

    /// The payload has ended.
    pub fn end(&mut self) {
        self.next = None;
        if let Some((pid, _)) = self.running.take() {
            // What it has executed ends with the container. It is reaped with all other children.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// When [`Self::tick`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.running.map(|(_, until)| until).or(self.next)
    }

    /// Starts a check if it is time, or ends one that does not end.
    pub fn tick(&mut self, now: Instant) {
        match self.running {
            Some((pid, until)) if until <= now => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                // Its end is told by SIGCHLD.
                self.running = Some((pid, now + GRACE));
            }
            None if self.next.is_some_and(|next| next <= now) => match spawn(&self.config.command) {
                Some(pid) => self.running = Some((pid, now + usec(self.config.timeout_usec) + GRACE)),
                None => self.next = Some(now + usec(self.config.interval_usec)),
            },
            _ => {}
        }
    }

    /// A child has ended; `None` if it was no check. The time of the next one depends on the health that was told so far.
    pub fn ended(&mut self, pid: Pid, status: WaitStatus, health: Option<Health>) -> Option<Verdict> {
        if self.running.is_none_or(|(running, _)| running != pid) {
            return None;
        }
        self.running = None;
        let verdict = Verdict::of(status);
        let now = Instant::now();
        let often = health == Some(Health::Starting) && verdict != Verdict::Passed;
        let pause = if often && (self.in_start_period(now) || verdict == Verdict::Skipped) {
            self.config.start_interval_usec
        } else {
            self.config.interval_usec
        };
        self.next = Some(now + usec(pause));
        Some(verdict)
    }

    /// The health, and how many checks have failed in a row, after one more.
    pub fn judge(&self, verdict: Verdict, health: Health, failures: u32, now: Instant) -> (Health, u32) {
        match verdict {
            Verdict::Passed => (Health::Healthy, 0),
            Verdict::Skipped => (health, failures),
            Verdict::Failed if health == Health::Starting && self.in_start_period(now) => (health, failures),
            Verdict::Failed => {
                let failures = failures.saturating_add(1);
                (if failures >= self.config.retries { Health::Unhealthy } else { health }, failures)
            }
        }
    }

    fn in_start_period(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) < usec(self.config.start_period_usec)
    }
}

fn usec(usec: u64) -> Duration {
    // Longer than a machine is up, and short enough to be added to any instant.
    Duration::from_micros(usec.min(u64::MAX >> 12))
}

#[cfg(test)]
mod tests {
    use super::super::config::OnFailure;
    use super::*;

    fn checks(start_period_usec: u64) -> Checks {
        Checks::new(HealthConfig {
            command: Vec::new(),
            interval_usec: 30_000_000,
            timeout_usec: 1_000_000,
            retries: 3,
            start_period_usec,
            start_interval_usec: 1_000_000,
            on_failure: OnFailure::None,
            makes_ready: false,
            stop_signal: 15,
            stop_timeout_usec: 0,
        })
    }

    #[test]
    fn so_many_failures_in_a_row_make_it_unhealthy_and_one_that_passes_makes_it_healthy() {
        let checks = checks(0);
        let now = Instant::now();
        let (mut health, mut failures) = (Health::Starting, 0);
        let mut seen = Vec::new();
        for verdict in [
            Verdict::Failed,
            Verdict::Failed,
            Verdict::Passed,
            Verdict::Failed,
            Verdict::Failed,
            Verdict::Skipped,
            Verdict::Failed,
            Verdict::Failed,
            Verdict::Passed,
        ] {
            (health, failures) = checks.judge(verdict, health, failures, now);
            seen.push(format!("{} {failures}", health.as_str()));
        }
        assert_eq!(
            seen,
            [
                "starting 1",
                "starting 2",
                "healthy 0",
                "healthy 1",
                "healthy 2",
                "healthy 2",
                "unhealthy 3",
                "unhealthy 4",
                "healthy 0"
            ]
        );
    }

    #[test]
    fn in_the_start_period_failures_do_not_count_until_one_has_passed() {
        let mut checks = checks(60_000_000);
        let now = Instant::now();
        checks.begin(now, Duration::ZERO);
        assert_eq!(checks.judge(Verdict::Failed, Health::Starting, 0, now), (Health::Starting, 0));
        assert_eq!(checks.judge(Verdict::Failed, Health::Healthy, 0, now), (Health::Healthy, 1));
        checks.begin(now, Duration::from_secs(61));
        assert_eq!(checks.judge(Verdict::Failed, Health::Starting, 0, now), (Health::Starting, 1));
    }

    #[test]
    fn a_time_beyond_all_measure_does_no_harm() {
        let mut checks = checks(u64::MAX);
        checks.config.interval_usec = u64::MAX;
        checks.config.start_interval_usec = u64::MAX;
        checks.begin(Instant::now(), Duration::MAX);
        checks.tick(Instant::now());
        assert!(checks.deadline().is_some());
    }
}
