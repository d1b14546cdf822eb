//! What can go wrong with networks.

use std::io;
use std::path::PathBuf;

/// A network that can't be set up, or taken down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A program is not installed.
    #[error("{program} is not installed; install the package {package}, or use the network none or host")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package of Debian that has it.
        package: &'static str,
    },
    /// netavark says no.
    #[error("netavark cannot {attempted}: {reason}")]
    Refused {
        /// What it was asked for.
        attempted: &'static str,
        /// In its words.
        reason: String,
    },
    /// netavark can't be run, or does not come to an end.
    #[error("cannot {attempted}")]
    Program {
        /// What was attempted.
        attempted: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A namespace can't be made, or removed.
    #[error("cannot {attempted} the network namespace {path:?}")]
    Namespace {
        /// What was attempted.
        attempted: &'static str,
        /// Where it shows.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file can't be read or written.
    #[error("cannot {attempted} {path:?}")]
    File {
        /// What was attempted.
        attempted: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No subnet is left that the host has no route to.
    #[error("no free subnet is left for a network; remove unused networks, or give a subnet")]
    NoFreeSubnet,
}
