//! List, once or as a subscription: which of all are wanted, and what of them the client does not know yet.

use std::collections::HashMap;

use serde::Serialize;

use crate::engine::{Engine, EngineError, Since, is_label, keep_named};
use crate::varlink::{Call, CallError};

use super::errors::to_reply;
use super::looked_up;

/// Answers a List of an interface: with all that `look` finds, or, for a client that wants more than one reply, with that and
/// then with what changes. `reply` makes a reply of what is there and of the ids of what is not any more.
///
/// # Errors
/// Those of `look`, as the interface's; those of the connection.
pub(super) async fn list<T, R>(
    call: &mut Call,
    engine: &Engine,
    interface: &'static str,
    look: impl Fn(&Engine) -> Result<Vec<T>, EngineError> + Clone + Send + 'static,
    id: impl Fn(&T) -> &str,
    reply: impl Fn(Vec<T>, Vec<String>) -> R,
) -> Result<(), CallError>
where
    T: Clone + PartialEq + Send + 'static,
    R: Serialize,
{
    let failed = to_reply(interface);
    let look_again = || {
        let (engine, look) = (engine.clone(), look.clone());
        looked_up(move || look(&engine))
    };
    if !call.wants_more() {
        return call.reply(reply(look_again().await.map_err(failed)?, Vec::new())).await;
    }
    // To be had before the first look, so that no change falls between the two.
    let mut changes = engine.follow_events(Since::Now).map_err(&failed)?;
    let mut told = Told::nothing();
    loop {
        if let Some((changed, gone)) = told.news(look_again().await.map_err(&failed)?, &id) {
            call.reply_continues(reply(changed, gone)).await?;
        }
        let events = changes.next().await.map_err(&failed)?;
        engine.settle(&events).await.map_err(&failed)?;
    }
}

/// The names and labels that a client asks for; what is empty does not filter.
#[derive(Clone)]
pub(super) struct Wanted {
    names: Vec<String>,
    labels: HashMap<String, String>,
}

impl Wanted {
    pub(super) fn new(names: Option<Vec<String>>, labels: Option<HashMap<String, String>>) -> Self {
        Self { names: names.unwrap_or_default(), labels: labels.unwrap_or_default() }
    }

    /// What has one of the names, or else an id that begins with one, and all of the labels. `key` is an id, a name, and labels.
    pub(super) fn of<T>(
        &self,
        mut all: Vec<T>,
        key: impl Fn(&T) -> (&str, &str, &HashMap<String, String>),
    ) -> Vec<T> {
        keep_named(&mut all, &self.names, |one| (key(one).0, key(one).1));
        all.retain(|one| self.labels.iter().all(|(name, value)| is_label(key(one).2.get(name), value)));
        all
    }
}

/// What a client was told, by id; nothing before the first reply.
struct Told<T> {
    known: Option<HashMap<String, T>>,
}

impl<T: Clone + PartialEq> Told<T> {
    fn nothing() -> Self {
        Self { known: None }
    }

    /// What is new or has changed, and the ids of those that left; `None` where the client knows all. The first time this
    /// is everything, be it nothing.
    fn news(&mut self, now: Vec<T>, id: impl Fn(&T) -> &str) -> Option<(Vec<T>, Vec<String>)> {
        let is_first = self.known.is_none();
        let mut left = self.known.take().unwrap_or_default();
        let mut known = HashMap::with_capacity(now.len());
        let mut changed = Vec::new();
        for one in now {
            let id = id(&one).to_owned();
            if left.remove(&id).as_ref() != Some(&one) {
                changed.push(one.clone());
            }
            known.insert(id, one);
        }
        self.known = Some(known);
        let gone: Vec<String> = left.into_keys().collect();
        (is_first || !changed.is_empty() || !gone.is_empty()).then_some((changed, gone))
    }
}
