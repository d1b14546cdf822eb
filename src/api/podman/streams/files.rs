//! Files that clients send and receive: each in a directory of its own kind, under a name that nobody can guess, and only
//! these are given out. What no client has come back for goes after a day.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::engine::Engine;
use crate::varlink::UpgradedStream;

use super::errors::occurred;
use super::{Call, CallError, PodmanInterface, wire};

const KEPT: Duration = Duration::from_secs(24 * 3600);
const CHUNK_BYTES: usize = 256 << 10;

/// The files between two calls.
pub(in super::super) struct Handles {
    directory: PathBuf,
    /// Whose sockets are open.
    pub(super) served: super::sockets::Served,
}

/// A file that goes with this.
pub(in super::super) struct Sent(Option<PathBuf>);

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(?path, %error, "cannot remove a file that was sent, left for a day");
        }
    }
}

impl Handles {
    pub(in super::super) fn new(engine: &Engine) -> Self {
        Self {
            directory: engine.paths().state_dir.join("transfers"),
            served: super::sockets::Served::default(),
        }
    }

    /// A new name, of no file yet.
    pub(in super::super) fn reserve(&self) -> Result<PathBuf, CallError> {
        let failed =
            |error: std::io::Error| occurred(format!("cannot make a file in {:?}: {error}", self.directory));
        match std::fs::DirBuilder::new().mode(0o700).create(&self.directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        self.forget_old();
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| failed(errno.into()))?;
        Ok(self.directory.join(format!("file-{:032x}", u128::from_ne_bytes(bytes))))
    }

    fn forget_old(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
            if matches!(age, Ok(Ok(age)) if age > KEPT)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = ?entry.path(), %error, "cannot remove an old file, ignoring");
            }
        }
    }

    fn is_ours(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        path.parent() == Some(&self.directory) && name.starts_with("file-")
    }

    /// The path of a file that was sent or made.
    pub(in super::super) fn known(&self, text: &str) -> Result<PathBuf, CallError> {
        let path = PathBuf::from(text);
        if self.is_ours(&path) && path.is_file() {
            return Ok(path);
        }
        Err(occurred(format!(
            "there is no file {text:?}: only what SendFile, ExportContainer and ImageSave have returned can be used"
        )))
    }

    /// Has a file removed at the end of a call, if it is one of ours, and that is wanted.
    pub(in super::super) fn take(&self, path: &Path, delete: bool) -> Sent {
        Sent((delete && self.is_ours(path)).then(|| path.to_owned()))
    }
}

fn make(path: &Path) -> std::io::Result<File> {
    File::options().create_new(true).write(true).mode(0o600).custom_flags(libc::O_CLOEXEC).open(path)
}

impl PodmanInterface {
    pub(in super::super) async fn send_file(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::SendFile_Args = call.parameters()?;
        if !call.wants_upgrade() {
            return Err(occurred("client must use upgraded connection to send files"));
        }
        let Ok(length) = u64::try_from(given.length) else {
            return Err(occurred(format!("cannot take a file of {} bytes", given.length)));
        };
        let path = self.handles.reserve()?;
        let file = make(&path).map_err(|error| occurred(format!("cannot make {path:?}: {error}")))?;
        // Goes, unless all of it has come.
        let mut unfinished = self.handles.take(&path, true);
        let handle = path.to_string_lossy().into_owned();
        let mut stream = call.upgrade(wire::SendFile_Reply { file_handle: handle.clone() }).await?;
        let taken = take_bytes(&mut stream, file, length).await;
        match taken {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "a file that a client sends has not come whole");
                return Ok(());
            }
        }
        unfinished.0 = None;
        let sent = stream.write_all(format!("{handle}:").as_bytes()).await;
        if sent.is_ok() {
            // What clients do next, they do on the same connection.
            call.end_upgrade(stream);
        }
        Ok(())
    }

    pub(in super::super) async fn receive_file(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ReceiveFile_Args = call.parameters()?;
        if !call.wants_upgrade() {
            return Err(occurred("client must use upgraded connection to receive files"));
        }
        let path = self.handles.known(&given.path)?;
        let failed = |error: std::io::Error| occurred(format!("cannot read {path:?}: {error}"));
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let _sent = self.handles.take(&path, given.delete);
        let len = i64::try_from(length).unwrap_or(i64::MAX);
        let mut stream = call.upgrade(wire::ReceiveFile_Reply { len }).await?;
        match give_bytes(&mut stream, file, length).await {
            Ok(()) => call.end_upgrade(stream),
            Err(error) => tracing::debug!(%error, "a client has left before it had its file"),
        }
        Ok(())
    }
}

async fn take_bytes(stream: &mut UpgradedStream, file: File, length: u64) -> std::io::Result<()> {
    let mut file = tokio::fs::File::from_std(file);
    let mut left = length;
    let mut chunk = vec![0; CHUNK_BYTES];
    while left > 0 {
        // Not one byte more: the next call may follow.
        let wanted = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = stream.read(&mut chunk[..wanted]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        file.write_all(&chunk[..count]).await?;
        left -= count as u64;
    }
    file.flush().await
}

async fn give_bytes(stream: &mut UpgradedStream, file: File, length: u64) -> std::io::Result<()> {
    let mut file = tokio::fs::File::from_std(file).take(length);
    let copied = tokio::io::copy(&mut file, stream).await?;
    if copied == length { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}
