//! The pod of a container.

use super::One;

impl One {
    /// The id of its pod; empty if it is in none.
    pub(super) fn pod(&self) -> String {
        self.container.definition.pod.clone().unwrap_or_default()
    }
}
