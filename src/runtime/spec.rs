//! Checks of a specification before anything is done with it.

/// A specification that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A part that this runtime does not have.
    #[error("{field} is not supported by this runtime")]
    Unsupported {
        /// The field, with dots.
        field: &'static str,
    },
    /// A part that is needed is not there.
    #[error("{field} is missing")]
    Missing {
        /// The field, with dots.
        field: &'static str,
    },
}
