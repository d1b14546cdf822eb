//! What can go wrong, in the words of the engine. `api` maps each to a varlink error, in one place.

use std::path::PathBuf;

use crate::network::NetworkError;
use crate::store::StoreError;

use super::Phase;

/// A refused or failed operation.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts tell
pub enum EngineError {
    #[error("there is no container {name:?}; `dormouse ps --all` lists them")]
    NotFound { name: String },
    #[error("there is nothing at {path:?} in {name:?}")]
    PathNotFound { name: String, path: String },
    #[error("no command {exec:?} runs in {name:?}, or several do; `dormouse execs` lists them")]
    ExecNotFound { name: String, exec: String },
    #[error("several containers have an id that begins with {name:?}; give more of it")]
    Ambiguous { name: String },
    #[error(
        "there is no image {image:?}; `dormouse images` lists them, `dormouse import` and `dormouse load` make some"
    )]
    ImageNotFound { image: String },
    #[error("several images have an id that begins with {image:?}; give more of it")]
    ImageAmbiguous { image: String },
    #[error("a container named {name:?} exists; remove or rename it, or choose another name")]
    AlreadyExists { name: String },
    #[error("cannot {attempted} {name:?}: it is {state}, not {wanted}")]
    WrongState { attempted: &'static str, name: String, state: Phase, wanted: &'static str },
    #[error("cannot remove {name:?}: it is {state}; stop it first, or force")]
    StillRunning { name: String, state: Phase },
    #[error("{field}: {reason}")]
    InvalidSpec { field: String, reason: String },
    #[error("document {document}, {field}: {reason}")]
    InvalidDocument { document: usize, field: String, reason: String },
    #[error("document {document}, {field}: {}", error.full_text())]
    InDocument { document: usize, field: String, error: Box<EngineError> },
    #[error(
        "cannot run {command:?} in {name:?}: there is no such program in the container; check the path and the PATH"
    )]
    CommandNotFound { name: String, command: String },
    #[error("cannot run {command:?} in {name:?}: {reason}")]
    CommandNotExecutable { name: String, command: String, reason: String },
    #[error("cannot start {name:?}: {message}")]
    LaunchFailed { name: String, step: String, errno: i32, message: String },
    #[error("{feature} is not possible: {reason}")]
    Unsupported { feature: String, reason: String },
    #[error(
        "there is no pod {pod:?}, or several have an id that begins with it; `dormouse pod ls` lists them"
    )]
    PodNotFound { pod: String },
    #[error("several pods have an id that begins with {pod:?}; give more of it")]
    PodAmbiguous { pod: String },
    #[error("a pod named {pod:?} exists; remove it, or choose another name")]
    PodExists { pod: String },
    #[error("the pod {pod:?} has no containers; `dormouse run --pod` puts one into it")]
    PodEmpty { pod: String },
    #[error("cannot {attempted} the pod {pod:?}: none of its containers {wanted}")]
    PodNotRunning { attempted: &'static str, pod: String, wanted: &'static str },
    #[error("cannot remove the pod {pod:?}: its container {container:?} runs; stop the pod first, or force")]
    PodStillRunning { pod: String, container: String },
    #[error("could not {attempted} all of the pod {pod:?}: {}", failures.iter().map(|(name, reason)| format!("{name}: {reason}")).collect::<Vec<_>>().join("; "))]
    PodPartly { attempted: &'static str, pod: String, failures: Vec<(String, String)> },
    #[error("{name:?} has no health check; give it one when it is made")]
    NoHealthCheck { name: String },
    #[error(
        "what came after the cursor {cursor:?} is not all kept any more; read the events without a cursor"
    )]
    CursorLost { cursor: String },
    #[error("waited for {name:?} {what}, and the time is over")]
    Timeout { name: String, what: String },
    #[error("cannot remove image {image:?}: containers are made from it ({}); remove them first", containers.join(", "))]
    ImageInUse { image: String, containers: Vec<String> },
    #[error(
        "there is no network {network:?}; `dormouse network ls` lists them, `dormouse network create` makes one"
    )]
    NetworkNotFound { network: String },
    #[error("several networks have an id that begins with {network:?}; give more of it")]
    NetworkAmbiguous { network: String },
    #[error("a network named {network:?} exists; remove it, or choose another name")]
    NetworkExists { network: String },
    #[error("cannot remove network {network:?}: containers are connected to it ({}); disconnect or remove them first, or force", containers.join(", "))]
    NetworkInUse { network: String, containers: Vec<String> },
    #[error(
        "there is no volume {volume:?}; `dormouse volume ls` lists them, `dormouse volume create` makes one"
    )]
    VolumeNotFound { volume: String },
    #[error("several volumes have an id that begins with {volume:?}; give more of it")]
    VolumeAmbiguous { volume: String },
    #[error("a volume named {volume:?} exists; remove it, or choose another name")]
    VolumeExists { volume: String },
    #[error("cannot remove volume {volume:?}: containers use it ({}); remove them first, or force", containers.join(", "))]
    VolumeInUse { volume: String, containers: Vec<String> },
    #[error("cannot mount volume {volume:?}: {reason}")]
    VolumeUnusable { volume: String, reason: String },
    #[error("cannot unmount {path:?} of {name:?}: somebody works there; leave it, or force")]
    MountBusy { name: String, path: PathBuf },
    #[error(
        "there is no secret {secret:?}; `dormouse secret ls` lists them, `dormouse secret create` makes one"
    )]
    SecretNotFound { secret: String },
    #[error("several secrets have an id that begins with {secret:?}; give more of it")]
    SecretAmbiguous { secret: String },
    #[error("a secret named {secret:?} exists; remove it, replace it, or choose another name")]
    SecretExists { secret: String },
    #[error("cannot remove secret {secret:?}: containers use it ({}); remove them first", containers.join(", "))]
    SecretInUse { secret: String, containers: Vec<String> },
    #[error("{container:?} is on the network {network:?} already")]
    AlreadyConnected { network: String, container: String },
    #[error("{container:?} is not on the network {network:?}")]
    NotConnected { network: String, container: String },
    #[error("the port {port}/{protocol} of the host is taken by {}; choose another one, or none to get a free one", holder.as_ref().map_or_else(|| "a program of the host".to_owned(), |name| format!("the container {name:?}")))]
    PortInUse { port: u16, protocol: &'static str, holder: Option<String> },
    #[error(
        "the container {holder:?} has the address {address}; choose another one, or none to get a free one"
    )]
    AddressInUse { address: std::net::IpAddr, holder: String },
    #[error("cannot use the archive: {reason}")]
    InvalidArchive { reason: String },
    #[error("cannot use image {image:?}: {reason}")]
    InvalidImage { image: String, reason: String },
    #[error("cannot get {image:?}: {reason}")]
    NotInRegistry { image: String, registry: String, reason: String },
    #[error("{reason}")]
    Unauthorized { registry: String, reason: String },
    #[error("{reason}")]
    RegistryUnavailable { registry: String, reason: String },
    #[error("no space left on the disk of {path:?}; nothing was changed")]
    StorageFull { path: PathBuf },
    #[error(
        "cannot {attempted} {path:?}: its name or its path is longer than the kernel takes (ENAMETOOLONG: more than 255 bytes, or 4095 for a path); remove or move it"
    )]
    PathTooLong { attempted: String, path: String },
    #[error("the first process of {name:?} is no systemd that can be reached: {reason}")]
    NotSystemd { name: String, reason: String },
    #[error("the systemd in {name:?} has no unit {unit:?}")]
    NoSuchUnit { name: String, unit: String },
    #[error(
        "the systemd in {name:?} did not get {unit:?} done: the job ended as {result}; its journal tells more"
    )]
    JobFailed { name: String, unit: String, result: String },
    #[error("the systemd in {name:?} does not answer as it should: {reason}")]
    Unreachable { name: String, reason: String },
    #[error("cannot {attempted} {path:?}")]
    Io {
        attempted: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot {attempted}: {reason}")]
    Failed { attempted: String, reason: String },
    #[error("{file}:{line}: {instruction}: {reason}")]
    BuildFailed {
        file: String,
        line: usize,
        instruction: String,
        reason: String,
        /// The end of what the step has written.
        output: String,
    },
    #[error("given up: the client has left")]
    Cancelled,
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken { name } => Self::AlreadyExists { name },
            StoreError::Full { path } => Self::StorageFull { path },
            StoreError::Directory { path, source } => Self::io("use directory", path, source),
            other => Self::Store(other),
        }
    }
}

impl From<NetworkError> for EngineError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Missing { .. } => {
                Self::Unsupported { feature: "a network".to_owned(), reason: error.to_string() }
            }
            NetworkError::File { attempted, path, source } => Self::io(attempted, path, source),
            other => {
                let reason =
                    std::error::Error::source(&other).map_or_else(String::new, |cause| format!(": {cause}"));
                Self::Failed {
                    attempted: "handle the network".to_owned(),
                    reason: format!("{other}{reason}"),
                }
            }
        }
    }
}

/// Of a path that is too long so much is told.
const PATH_SHOWN_BYTES: usize = 256;

/// Whether a name or a path is longer than the kernel takes: whoever goes on step by step makes such ones.
pub(super) fn is_too_long(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENAMETOOLONG)
}

impl EngineError {
    /// Wraps a failed file operation; a full disk is told apart, and a path that is too long.
    pub(crate) fn io(attempted: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::StorageFull { path },
            _ if is_too_long(&source) => {
                let mut path = path.to_string_lossy().into_owned();
                path.truncate(path.floor_char_boundary(PATH_SHOWN_BYTES));
                Self::PathTooLong { attempted: attempted.to_owned(), path }
            }
            _ => Self::Io { attempted, path, source },
        }
    }

    /// The text with all its causes, in one line.
    pub fn full_text(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
