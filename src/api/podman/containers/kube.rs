//! The pod of a container.

use crate::engine::Engine;

use super::One;

/// The id of its pod; empty if it is in none.
pub(in super::super) fn pod_of(_engine: &Engine, _one: &One) -> String {
    String::new()
}

impl One {
    pub(super) fn pod(&self, engine: &Engine) -> String {
        pod_of(engine, self)
    }
}
