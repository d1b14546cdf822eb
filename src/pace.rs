//! A bound for what comes from outside as fast as its sender likes and of which the newest counts: a few a second are told.

use std::time::{Duration, Instant};

/// Between two that are told.
const INTERVAL: Duration = Duration::from_millis(250);

/// Lets the first one through at once, and of those that come sooner than [`INTERVAL`] after it, the newest, when that is over.
#[derive(Debug)]
pub struct Pace<T> {
    held: Option<T>,
    next_at: Option<Instant>,
}

impl<T> Default for Pace<T> {
    fn default() -> Self {
        Self { held: None, next_at: None }
    }
}

impl<T> Pace<T> {
    /// Takes one, in place of the one that is held; what is to be told now.
    pub fn offer(&mut self, one: T, now: Instant) -> Option<T> {
        self.held = Some(one);
        self.due(now)
    }

    /// The one that is held, if its time has come.
    pub fn due(&mut self, now: Instant) -> Option<T> {
        if self.next_at.is_some_and(|at| at > now) {
            return None;
        }
        let one = self.held.take()?;
        self.next_at = Some(now + INTERVAL);
        Some(one)
    }

    /// The one that is held, whatever the time.
    pub fn take(&mut self) -> Option<T> {
        self.held.take()
    }

    /// When the one that is held is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.held.as_ref().and(self.next_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_a_few_are_told_and_the_last_one_always() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        let mut told = Vec::new();
        // One each millisecond, for a second.
        for number in 0..1000 {
            let now = begin + Duration::from_millis(number);
            told.extend(pace.offer(number, now));
        }
        assert_eq!(told, [0, 250, 500, 750]);
        let deadline = pace.deadline().unwrap();
        assert_eq!(deadline, begin + Duration::from_millis(1000));
        assert_eq!(pace.due(deadline - Duration::from_millis(1)), None);
        assert_eq!(pace.due(deadline), Some(999));
        assert_eq!((pace.deadline(), pace.due(deadline + INTERVAL)), (None, None));
        // After a rest there is nothing to wait for.
        assert_eq!(pace.offer(7, deadline + INTERVAL), Some(7));
        assert_eq!((pace.offer(8, deadline + INTERVAL), pace.take()), (None, Some(8)));
    }
}
