//! Whether anything is going on: what keeps an idle service awake, and what an ending one waits for.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Shared by the server, its connections and their calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    busy: usize,
    last: Instant,
}

/// While one lives, the service is not idle and does not end. Work that must be finished whether or not its client
/// waits holds one.
#[derive(Debug)]
#[must_use]
pub struct BusyGuard {
    activity: Activity,
}

impl Activity {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { busy: 0, last: Instant::now() });
        Self { shared: Arc::new(Shared { state, changed: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has begun that goes on until the guard is dropped.
    pub(super) fn busy(&self) -> BusyGuard {
        self.state().busy += 1;
        BusyGuard { activity: self.clone() }
    }

    /// Something has happened, as the arrival of a connection.
    pub(super) fn touch(&self) {
        self.state().last = Instant::now();
    }

    fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.busy == 0).then_some(state.last)
    }

    /// Returns when nothing has gone on for `limit`. An open connection that asks for nothing does not count.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let changed = self.shared.changed.notified();
            match self.idle_since() {
                None => changed.await,
                Some(since) => {
                    let until = since + limit;
                    if Instant::now() >= until {
                        return;
                    }
                    tokio::time::sleep_until(until.into()).await;
                }
            }
        }
    }

    /// Returns when no guard lives.
    pub(super) async fn at_rest(&self) {
        loop {
            let changed = self.shared.changed.notified();
            if self.idle_since().is_some() {
                return;
            }
            changed.await;
        }
    }
}

impl Clone for BusyGuard {
    fn clone(&self) -> Self {
        self.activity.busy()
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.busy -= 1;
        state.last = Instant::now();
        drop(state);
        self.activity.shared.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_idle_while_a_guard_lives() {
        let activity = Activity::new();
        let guard = activity.busy();
        let second = guard.clone();
        drop(guard);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), activity.idle_for(Duration::ZERO)).await.is_err()
        );
        drop(second);
        activity.idle_for(Duration::ZERO).await;
        activity.at_rest().await;
    }
}
