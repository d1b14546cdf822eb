//! What has happened since the host booted: one file that every process of ours appends to, so that nothing needs to be
//! awake for an event to be kept, and a reader misses nothing between two wakes.
//!
//! A line is one JSON object, appended by one write(2): lines of several writers never mix. When the file has grown to
//! its limit, the older half goes; who reads finds the place again by time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::lock_object;

use super::wait::StateWatch;
use super::{Engine, EngineError, now_usec};

const LOG_MAX_BYTES: u64 = 4 << 20;
const LINE_MAX_BYTES: u64 = 4 << 10;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names tell
pub enum EventKind {
    Container,
    Image,
    Network,
    Volume,
    Secret,
}

/// A change of something, as it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Microseconds of CLOCK_REALTIME.
    pub time: i64,
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: EventKind,
    /// A word; io.dormouse.Manager lists them.
    pub action: String,
    /// Of the container or image.
    pub id: String,
    /// Of the container or image, at that time.
    pub name: String,
    /// For `exit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Engine {
    /// Appends an event. What can't be recorded is only logged: the change itself has been made.
    pub(super) fn record_event(&self, kind: EventKind, action: &str, id: &str, name: &str) {
        let event = Event {
            time: now_usec(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
            exit_code: None,
        };
        if let Err(error) = self.append_event(&event) {
            tracing::warn!(%error, action, id, "cannot record the event, ignoring");
        }
    }

    fn append_event(&self, event: &Event) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let path = self.paths().events();
        let mut file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)?;
        file.write_all(&line)?;
        if file.metadata()?.len() > LOG_MAX_BYTES {
            self.shorten_events()?;
        }
        Ok(())
    }

    /// Drops the older half, under a lock against another that does the same.
    fn shorten_events(&self) -> std::io::Result<()> {
        let _lock = lock_object(&self.paths().locks(), "events").map_err(std::io::Error::other)?;
        let path = self.paths().events();
        let mut file = File::open(&path)?;
        let length = file.metadata()?.len();
        if length <= LOG_MAX_BYTES {
            return Ok(());
        }
        file.seek(SeekFrom::Start(length / 2))?;
        let mut reader = BufReader::new(file);
        reader.skip_until(b'\n')?;
        let mut kept = Vec::new();
        reader.read_to_end(&mut kept)?;
        let shorter = path.with_extension("new");
        File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&shorter)?
            .write_all(&kept)?;
        std::fs::rename(shorter, path)
    }

    /// All events since `since_usec`, oldest first.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the record can't be read.
    pub fn events(&self, since_usec: Option<i64>) -> Result<Vec<Event>, EngineError> {
        let mut reader = EventReader::new(self.paths().events());
        let mut events = reader.read_new()?;
        events.retain(|event| since_usec.is_none_or(|since| event.time >= since));
        Ok(events)
    }

    /// Follows the events: those since `since_usec` first, if it is given, then each as it happens.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the record can't be watched.
    pub fn follow_events(&self, since_usec: Option<i64>) -> Result<EventFollower, EngineError> {
        let path = self.paths().events();
        // It must exist to be watched.
        File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| EngineError::io("open", &path, source))?;
        let watch = StateWatch::appended(&path)?;
        let mut reader = EventReader::new(path);
        let mut waiting = reader.read_new()?;
        match since_usec {
            Some(since) => waiting.retain(|event| event.time >= since),
            None => waiting.clear(),
        }
        Ok(EventFollower { reader, watch, waiting })
    }

    /// The exit code of the last end of a container, for one that may be gone already. `None` if it never ended.
    pub(super) fn last_exit(&self, id: &str) -> Result<Option<Option<i32>>, EngineError> {
        let events = self.events(None)?;
        Ok(events
            .into_iter()
            .rev()
            .find(|event| event.id == id && event.action == "exit")
            .map(|event| event.exit_code))
    }
}

/// Gives events as they happen. May be dropped at any time; between calls nothing is lost.
#[derive(Debug)]
pub struct EventFollower {
    reader: EventReader,
    watch: StateWatch,
    waiting: Vec<Event>,
}

impl EventFollower {
    /// The next events, at least one.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the record can't be read.
    pub async fn next(&mut self) -> Result<Vec<Event>, EngineError> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(std::mem::take(&mut self.waiting));
            }
            self.waiting = self.reader.read_new()?;
            if self.waiting.is_empty() {
                self.watch.changed(None).await?;
                // A file that was shortened is another file.
                if self.reader.was_replaced() {
                    self.watch = StateWatch::appended(&self.reader.path)?;
                }
            }
        }
    }
}

/// Reads lines as they come, also over a shortening of the file.
#[derive(Debug)]
struct EventReader {
    path: PathBuf,
    file: Option<(File, u64)>,
    last_time: i64,
}

impl EventReader {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None, last_time: i64::MIN }
    }

    fn was_replaced(&self) -> bool {
        let inode = std::fs::metadata(&self.path).map(|metadata| metadata.ino()).ok();
        let ours =
            self.file.as_ref().and_then(|(file, _)| file.metadata().ok()).map(|metadata| metadata.ino());
        inode != ours
    }

    fn read_new(&mut self) -> Result<Vec<Event>, EngineError> {
        let mut events = self.read_open_file()?;
        if self.file.is_none() || self.was_replaced() {
            let seen = self.last_time;
            self.file = match File::open(&self.path) {
                Ok(file) => Some((file, 0)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(EngineError::io("open", &self.path, error)),
            };
            events.extend(self.read_open_file()?.into_iter().filter(|event| event.time > seen));
        }
        Ok(events)
    }

    fn read_open_file(&mut self) -> Result<Vec<Event>, EngineError> {
        let Some((file, offset)) = &mut self.file else { return Ok(Vec::new()) };
        let path = &self.path;
        let error = |source| EngineError::io("read", path, source);
        file.seek(SeekFrom::Start(*offset)).map_err(error)?;
        let mut reader = BufReader::new(file);
        let mut events = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line).map_err(error)?;
            // Without its end, the line is still being written.
            if length == 0 || line.last() != Some(&b'\n') {
                return Ok(events);
            }
            *offset += u64::try_from(length).unwrap_or(u64::MAX);
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => {
                    self.last_time = self.last_time.max(event.time);
                    events.push(event);
                }
                Err(error) => tracing::warn!(%error, "a damaged line in the record of events, ignoring"),
            }
        }
    }
}
