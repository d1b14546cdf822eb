//! Processes that the kernel kills for want of memory while the container goes on.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::runtime::Cgroup;
use crate::runtime::cgroup::OomSignal;

/// The kernel is not listened to more often: who runs out of memory again and again is told of at this pace. It also
/// is longer than it takes from the word of a v1 hierarchy, which comes before anything is killed, to the end of that.
const PAUSE: Duration = Duration::from_millis(200);
/// So many pauses after its word the count is looked at.
const LOOKS: u8 = 5;

/// Counts those who were killed in one run of the container.
#[derive(Debug)]
pub struct OomWatch {
    /// `None` once the cgroup is gone, and where nothing is counted.
    signal: Option<OomSignal>,
    told: u64,
    look: Option<(Instant, u8)>,
}

impl OomWatch {
    /// Begins; nothing is told yet.
    pub fn new(cgroup: &str) -> Self {
        let cgroup = Cgroup::open(cgroup).ok();
        Self { signal: cgroup.and_then(|cgroup| cgroup.oom_signal().ok()), told: 0, look: None }
    }

    /// How many were told.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// What to wait for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.signal.as_ref().filter(|_| self.look.is_none()).map(OomSignal::interest)
    }

    /// When there is something to do without it.
    pub fn deadline(&self) -> Option<Instant> {
        self.look.map(|(at, _)| at)
    }

    /// The kernel has said something.
    pub fn hear(&mut self, now: Instant) {
        if self.signal.as_ref().is_some_and(|signal| signal.take().is_err()) {
            self.signal = None;
        }
        self.look = Some((now, LOOKS));
    }

    /// Looks whether more were killed than was told, where it is time for that.
    pub fn is_due(&mut self, now: Instant, cgroup: &str) -> bool {
        let Some((_, looks)) = self.look.filter(|(at, _)| *at <= now) else { return false };
        self.look = looks.checked_sub(1).map(|looks| (now + PAUSE, looks));
        let kills = Cgroup::open(cgroup).and_then(|cgroup| cgroup.oom_kills()).unwrap_or(0);
        self.count(kills)
    }

    /// Whether these are more than was told; then they are told.
    pub fn count(&mut self, kills: u64) -> bool {
        let more = kills > self.told;
        self.told = self.told.max(kills);
        more
    }
}
