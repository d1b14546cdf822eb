//! What the service is doing at the moment: the idle clock's input, and the bound on connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// The counts that decide whether the service is idle; each is held by a guard, so a panic leaves none behind.
#[derive(Debug)]
pub(super) struct Activity {
    counts: Mutex<Counts>,
    changed: Notify,
}

#[derive(Debug)]
struct Counts {
    calls: usize,
    busy: usize,
    connections: usize,
    connections_of_uid: HashMap<u32, usize>,
    last: Instant,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            counts: Mutex::new(Counts {
                calls: 0,
                busy: 0,
                connections: 0,
                connections_of_uid: HashMap::new(),
                last: Instant::now(),
            }),
            changed: Notify::new(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // The counts are plain numbers, each changed in one statement: a panic elsewhere cannot tear them.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts();
        change(&mut counts);
        counts.last = Instant::now();
        drop(counts);
        self.changed.notify_waiters();
    }

    /// Notes that a client did something, so that the idle clock begins anew.
    pub(super) fn touch(&self) {
        self.counts().last = Instant::now();
    }

    /// When the service will have been idle for `limit`, if nothing happens; `None` while anything runs.
    pub(super) fn idle_at(&self, limit: Duration) -> Option<Instant> {
        let counts = self.counts();
        if counts.calls > 0 || counts.busy > 0 { None } else { counts.last.checked_add(limit) }
    }

    /// Whether a call runs or a [`BusyGuard`] lives.
    pub(super) fn at_work(&self) -> bool {
        let counts = self.counts();
        counts.calls > 0 || counts.busy > 0
    }

    /// Whether no connection is open, no call runs and no guard lives.
    pub(super) fn at_rest(&self) -> bool {
        let counts = self.counts();
        counts.calls == 0 && counts.busy == 0 && counts.connections == 0
    }

    /// Waits until `condition` holds; it is looked at again after each change of a count.
    pub(super) async fn wait_until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    /// Waits for the next change of a count, from the moment when the future is first polled or enabled.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Counts a new connection of `uid`, unless there are too many already.
    pub(super) fn open_connection(
        self: &Arc<Self>,
        uid: u32,
        connections_max: usize,
        connections_per_uid_max: usize,
    ) -> Option<ConnectionGuard> {
        let mut counts = self.counts();
        let of_uid = counts.connections_of_uid.get(&uid).copied().unwrap_or(0);
        if counts.connections >= connections_max || of_uid >= connections_per_uid_max {
            return None;
        }
        counts.connections += 1;
        *counts.connections_of_uid.entry(uid).or_default() += 1;
        counts.last = Instant::now();
        drop(counts);
        self.changed.notify_waiters();
        Some(ConnectionGuard { activity: Arc::clone(self), uid })
    }

    /// Counts a running call.
    pub(super) fn begin_call(self: &Arc<Self>) -> CallGuard {
        self.change(|counts| counts.calls += 1);
        CallGuard { activity: Arc::clone(self) }
    }
}

/// One open connection.
#[derive(Debug)]
pub(super) struct ConnectionGuard {
    activity: Arc<Activity>,
    uid: u32,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let uid = self.uid;
        let mut counts = self.activity.counts();
        counts.connections -= 1;
        if let Some(of_uid) = counts.connections_of_uid.get_mut(&uid) {
            *of_uid -= 1;
            if *of_uid == 0 {
                counts.connections_of_uid.remove(&uid);
            }
        }
        drop(counts);
        // A connection that ends is no activity: the idle clock goes on.
        self.activity.changed.notify_waiters();
    }
}

/// One running call.
#[derive(Debug)]
pub(super) struct CallGuard {
    activity: Arc<Activity>,
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.activity.change(|counts| counts.calls -= 1);
    }
}

/// Work that was ordered and will be finished: while one lives, the service neither exits as idle nor stops.
///
/// Clone it into `spawn_blocking` closures and tasks that outlive their call. See [`super::Call::busy`].
#[derive(Debug)]
#[must_use = "the service may exit as soon as the guard is dropped"]
pub struct BusyGuard {
    activity: Arc<Activity>,
    of_call: Arc<AtomicUsize>,
}

impl BusyGuard {
    /// A guard, counted for the service and for the call that `of_call` belongs to.
    pub(super) fn new(activity: &Arc<Activity>, of_call: &Arc<AtomicUsize>) -> Self {
        of_call.fetch_add(1, Ordering::Relaxed);
        activity.change(|counts| counts.busy += 1);
        Self { activity: Arc::clone(activity), of_call: Arc::clone(of_call) }
    }
}

impl Clone for BusyGuard {
    fn clone(&self) -> Self {
        Self::new(&self.activity, &self.of_call)
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.of_call.fetch_sub(1, Ordering::Relaxed);
        self.activity.change(|counts| counts.busy -= 1);
    }
}
