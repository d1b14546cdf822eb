//! Sockets that systemd passes at the start (sd_listen_fds(3)).

use std::os::fd::OwnedFd;

use listenfd::ListenFd;

use super::listen::Listener;

/// Why passed sockets can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// What was passed is no listening unix socket.
    #[error(
        "descriptor {index} ({name:?}) that was passed at the start is no listening unix stream socket; check the socket unit"
    )]
    NotAListener {
        /// Among those passed.
        index: usize,
        /// From LISTEN_FDNAMES.
        name: String,
        /// What the kernel says of it.
        #[source]
        source: std::io::Error,
    },
}

/// Takes the sockets that were passed to this process; none if it was started by hand. The variables are removed, so
/// that no child takes them for its own. Where descriptors are named (LISTEN_FDNAMES), only those called `varlink`, or as
/// systemd calls a socket that was given no name, are ours: `connection`, `unknown`, or a unit `*.socket`.
///
/// Call it before there are threads.
///
/// # Errors
/// [`ActivationError`].
pub fn activated_listeners() -> Result<Vec<Listener>, ActivationError> {
    let names: Vec<String> = std::env::var("LISTEN_FDNAMES")
        .map(|names| names.split(':').map(str::to_owned).collect())
        .unwrap_or_default();
    // Removes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, whether or not they were meant for us.
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..passed.len() {
        let name = names.get(index).cloned().unwrap_or_default();
        if !is_ours(&name) {
            tracing::warn!(index, name, "a socket of this name was passed at the start and is not used");
            continue;
        }
        let socket = passed.take_unix_listener(index).map_err(|source| ActivationError::NotAListener {
            index,
            name,
            source,
        })?;
        if let Some(socket) = socket {
            listeners.push(Listener::inherited(OwnedFd::from(socket)));
        }
    }
    Ok(listeners)
}

fn is_ours(name: &str) -> bool {
    matches!(name, "" | "varlink" | "connection" | "unknown") || name.ends_with(".socket")
}
