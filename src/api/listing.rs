//! List, once or as a subscription: which of all are wanted, and what of them the client does not know yet.

use std::collections::HashMap;

use crate::engine::{Engine, EngineError, EventFollower, Since};
use crate::varlink::Call;

/// What tells that it is time to look again, for a client that wants more than one reply. To be had before the first look, so that
/// no change falls between the two.
///
/// # Errors
/// Those of [`Engine::follow_events`].
pub(super) fn follow(call: &Call, engine: &Engine) -> Result<Option<EventFollower>, EngineError> {
    call.wants_more().then(|| engine.follow_events(Since::Now)).transpose()
}

/// The names and labels that a client asks for; what is empty does not filter.
pub(super) struct Wanted {
    names: Vec<String>,
    labels: HashMap<String, String>,
}

impl Wanted {
    pub(super) fn new(names: Option<Vec<String>>, labels: Option<HashMap<String, String>>) -> Self {
        Self { names: names.unwrap_or_default(), labels: labels.unwrap_or_default() }
    }

    /// Whether something has one of the names, or an id that begins with one, and all of the labels.
    pub(super) fn includes(&self, id: &str, name: &str, labels: &HashMap<String, String>) -> bool {
        let is_named = |wanted: &String| name == *wanted || (!wanted.is_empty() && id.starts_with(wanted));
        let has = |(key, value): (&String, &String)| {
            labels.get(key).is_some_and(|have| value.is_empty() || have == value)
        };
        (self.names.is_empty() || self.names.iter().any(is_named)) && self.labels.iter().all(has)
    }
}

/// What a client was told, by id; nothing before the first reply.
pub(super) struct Told<T> {
    known: Option<HashMap<String, T>>,
}

impl<T: Clone + PartialEq> Told<T> {
    pub(super) fn nothing() -> Self {
        Self { known: None }
    }

    /// What is new or has changed, and the ids of those that left; `None` where the client knows all. The first time this
    /// is everything, be it nothing.
    pub(super) fn news(&mut self, now: Vec<T>, id: impl Fn(&T) -> &String) -> Option<(Vec<T>, Vec<String>)> {
        let is_first = self.known.is_none();
        let mut left = self.known.take().unwrap_or_default();
        let mut known = HashMap::with_capacity(now.len());
        let mut changed = Vec::new();
        for one in now {
            if left.remove(id(&one)).as_ref() != Some(&one) {
                changed.push(one.clone());
            }
            known.insert(id(&one).clone(), one);
        }
        self.known = Some(known);
        let gone: Vec<String> = left.into_keys().collect();
        (is_first || !changed.is_empty() || !gone.is_empty()).then_some((changed, gone))
    }
}
