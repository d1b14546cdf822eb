//! What goes wrong between the command line and the runtime.

use std::io;
use std::path::PathBuf;

use crate::runtime::cgroup::CgroupError;
use crate::runtime::hooks::HookError;
use crate::runtime::{RuntimeError, SpecError};

/// Why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Nothing was asked for.
    #[error("what shall be done? See --help")]
    NoVerb,
    /// A container that is not there.
    #[error("container {id:?} does not exist")]
    NotFound {
        /// Its id.
        id: String,
    },
    /// One that is there already.
    #[error("container {id:?} exists already; delete it, or choose another id")]
    Exists {
        /// Its id.
        id: String,
    },
    /// What can't be an id.
    #[error(
        "{id:?} is no id of a container: letters, digits and any of _+-. it is made of, 1 to 200 of them"
    )]
    BadId {
        /// What was given.
        id: String,
    },
    /// A container that is not in the right state.
    #[error("cannot {what} container {id:?}: it is {status}, not {wanted}")]
    WrongStatus {
        /// What was asked for.
        what: &'static str,
        /// The container's id.
        id: String,
        /// What it is.
        status: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A file or a directory.
    #[error("cannot {what} {path:?}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// JSON that is no such thing.
    #[error("{path:?} is no {what}: {reason}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Where it is wrong, and how.
        reason: String,
    },
    /// A specification of another version.
    #[error("the specification has ociVersion {version:?}, and this runtime knows 1.0.0 to 1.3.x")]
    Version {
        /// As it is there.
        version: String,
    },
    /// An argument that makes no sense.
    #[error("{argument}: {reason}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// Why.
        reason: String,
    },
    /// The terminal.
    #[error("cannot {what}")]
    Console {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A system call of this process.
    #[error("cannot {what}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// An ordinary user, and a specification for root.
    #[error(
        "an ordinary user can make containers with a user namespace of their own only (linux.namespaces of type user, with uidMappings and gidMappings); `spec --rootless` writes such a specification"
    )]
    NoRights,
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A program that is not there, in the words that engines look for.
    #[error("cannot run {program:?}: executable file not found in $PATH, or no such file or directory")]
    NoProgram {
        /// The program.
        program: String,
    },
    /// A cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The service manager.
    #[error("cannot have systemd make the cgroup: {reason}")]
    Scope {
        /// What it said.
        reason: String,
    },
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Processes that do not go.
    #[error("container {id:?} was killed, but its processes do not end; try again")]
    Lingers {
        /// The container.
        id: String,
    },
    /// Checkpoints.
    #[error("container {id:?} can't be checkpointed or restored: this runtime has no checkpoints")]
    NoCheckpoints {
        /// The container.
        id: String,
    },
}

impl From<SpecError> for OciError {
    fn from(source: SpecError) -> Self {
        Self::Runtime(source.into())
    }
}

impl OciError {
    /// An error of the runtime, told as engines expect it.
    pub fn of_start(error: RuntimeError) -> Self {
        match error {
            RuntimeError::CommandNotFound { program, .. } => Self::NoProgram { program },
            other => Self::Runtime(other),
        }
    }
}

/// Gives an I/O error its place.
pub fn on_file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> OciError {
    let path = path.into();
    move |source| OciError::File { what, path, source }
}

/// An error and its causes, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
