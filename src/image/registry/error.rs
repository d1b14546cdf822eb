//! What can go wrong with a registry.

/// Errors of [`crate::image::registry`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The registry has no such thing, or does not tell this caller of it.
    #[error("{registry} has no {what}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// In words: `manifest library/web:1`.
        what: String,
    },
    /// Credentials are wanted, or are not enough.
    #[error("{registry} does not permit it: {reason}; `dormouse login {registry}` gives credentials")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// What the registry said.
        reason: String,
    },
    /// There is no connection, or it broke too often.
    #[error("cannot reach {registry}: {reason}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What happened.
        reason: String,
    },
    /// The registry refused a request.
    #[error("{registry} refuses {what}: {reason}")]
    Refused {
        /// Host and port.
        registry: String,
        /// The request in words.
        what: String,
        /// The status, and what the registry said.
        reason: String,
    },
    /// The registry's answer is none that the protocol knows.
    #[error("the answer of {registry} makes no sense: {reason}")]
    BadAnswer {
        /// Host and port.
        registry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The registry does not do it at all.
    #[error("{registry} does not offer {what}")]
    NotOffered {
        /// Host and port.
        registry: String,
        /// In words.
        what: &'static str,
    },
    /// The configuration of registries does not allow it.
    #[error("registry {registry} is blocked by the configuration of registries")]
    Blocked {
        /// Host and port, or a prefix.
        registry: String,
    },
    /// A file of the configuration can't be used.
    #[error("cannot use {path:?}: {reason}")]
    Config {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller has asked to stop.
    #[error("the transfer was cancelled")]
    Cancelled,
}
