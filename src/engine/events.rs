//! What has happened since the host booted: one record that every process of ours appends to
//! ([`crate::monitor::events`]), so that nothing needs to be awake for an event to be kept, and a reader misses nothing
//! between two wakes.
//!
//! The record is two files, an older and a newer one. A place in it is a [`Cursor`]: the time of the first event in the
//! file, which no two files have in common, and the bytes before the place. So a cursor stays good when its file becomes the older
//! one, and is known to be lost when that is gone.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::monitor::events::{OLDER_SUFFIX, append};

use crate::monitor::state::RunState;
use crate::store::SHORT_ID_DIGITS;

use super::wait::{self, StateWatch};
use super::{Engine, EngineError, now_usec};

const LINE_MAX_BYTES: u64 = 4 << 10;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names tell
pub enum EventKind {
    Container,
    Exec,
    Image,
    Volume,
    Network,
    Pod,
    Unit,
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
    /// Of what it is about; for commands and units, of the container.
    pub id: String,
    /// The same, at that time.
    pub name: String,
    /// For `exit` and `restart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// For commands: the name of the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<String>,
    /// For commands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// For `kill`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// For `health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// For units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// For `connect` and `disconnect` of networks: the container's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// For `rename`: the name before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_name: Option<String>,
    /// The place after it.
    #[serde(skip)]
    pub cursor: Cursor,
}

impl Event {
    /// Of now, and with nothing beside what every event has.
    pub(super) fn new(kind: EventKind, action: &str, id: &str, name: &str) -> Self {
        Self {
            time: now_usec(),
            kind,
            action: action.to_owned(),
            id: id.to_owned(),
            name: name.to_owned(),
            exit_code: None,
            exec: None,
            pid: None,
            signal: None,
            health: None,
            unit: None,
            container: None,
            old_name: None,
            cursor: Cursor::default(),
        }
    }
}

/// What a filter of events is given: a name, an id, or the beginning of an id.
#[derive(Debug, Clone)]
pub struct Whose {
    text: String,
    /// Of what is here and is meant by it.
    ids: Vec<String>,
}

impl Whose {
    /// Whether the event is about it.
    pub fn is_of(&self, event: &Event) -> bool {
        let is_id = |id: &str| {
            let digits = id.strip_prefix("sha256:").unwrap_or(id);
            let begins = id.starts_with(&self.text) || digits.starts_with(&self.text);
            // Of what is gone, `db` must not be whatever has had an id that begins with it.
            self.ids.iter().any(|known| known == id) || (self.text.len() >= SHORT_ID_DIGITS && begins)
        };
        event.name == self.text || is_id(&event.id) || event.container.as_deref().is_some_and(is_id)
    }
}

/// A place in the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    first_time: i64,
    offset: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.first_time, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = EngineError;
    fn from_str(text: &str) -> Result<Self, EngineError> {
        let parsed = text.split_once('-').and_then(|(first_time, offset)| {
            let first_time = i64::from_str_radix(first_time, 16).ok()?;
            Some(Self { first_time, offset: u64::from_str_radix(offset, 16).ok()? })
        });
        parsed.ok_or_else(|| EngineError::InvalidSpec {
            field: "afterCursor".into(),
            reason: format!("{text:?} is no cursor that came with an event"),
        })
    }
}

/// Where to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Since {
    /// With the oldest event that is kept.
    #[default]
    Oldest,
    /// With the first one of this time or later.
    Time(i64),
    /// With the first one after it.
    Cursor(Cursor),
    /// With what happens from now on.
    Now,
}

impl Engine {
    /// Appends an event without particulars.
    pub(super) fn record_event(&self, kind: EventKind, action: &str, id: &str, name: &str) {
        self.record(&Event::new(kind, action, id, name));
    }

    /// Appends an event. What can't be recorded is only logged: the change itself has been made.
    pub(super) fn record(&self, event: &Event) {
        if let Err(error) = self.append_event(event) {
            let Event { action, id, .. } = event;
            tracing::warn!(%error, action, id, "cannot record the event, ignoring");
        }
    }

    fn append_event(&self, event: &Event) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let path = self.paths().events();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        append(File::open(&self.paths().run_dir)?.as_fd(), &name, &line)
    }

    /// All events that there are, oldest first.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the record can't be read; [`EngineError::CursorLost`].
    pub fn events(&self, since: Since) -> Result<Vec<Event>, EngineError> {
        let mut reader = EventReader::begin(self.paths().events(), since)?;
        let mut events = reader.read_new()?;
        keep_since(&mut events, since);
        Ok(events)
    }

    /// Looks up what the names in filters of events stand for. A name that something has goes before beginnings of ids.
    ///
    /// # Errors
    /// Those of the store.
    pub fn whose(&self, texts: Vec<String>) -> Result<Vec<Whose>, EngineError> {
        let store = self.store()?;
        let whose = |text: String| {
            let found = [
                store.find_container(&text)?.ok().map(|row| (row.id, row.name)),
                store.find_pod(&text)?.ok().map(|row| (row.id, row.name)),
                store.find_network(&text)?.ok().map(|row| (row.id, row.name)),
            ];
            let mut found = found.into_iter().flatten().collect();
            super::keep_named(&mut found, std::slice::from_ref(&text), |(id, name)| (id, name));
            Ok(Whose { text, ids: found.into_iter().map(|(id, _)| id).collect() })
        };
        texts.into_iter().map(whose).collect()
    }

    /// Follows the events: those that there are first, then each as it happens.
    ///
    /// # Errors
    /// As for [`Self::events`].
    pub fn follow_events(&self, since: Since) -> Result<EventFollower, EngineError> {
        // Before the first look, so that nothing happens unseen in between.
        let watch = StateWatch::written(&self.paths().run_dir)?;
        let mut reader = EventReader::begin(self.paths().events(), since)?;
        let mut waiting = reader.read_new()?;
        keep_since(&mut waiting, since);
        Ok(EventFollower { reader, watch, waiting })
    }

    /// Returns when the states of containers say what these events do: an end is told before it is in the state, so that who
    /// waits for the end finds its event.
    ///
    /// # Errors
    /// [`EngineError::Failed`] where a state can't be read.
    pub async fn settle(&self, events: &[Event]) -> Result<(), EngineError> {
        let ends = events.iter().filter(|event| event.kind == EventKind::Container && event.action == "exit");
        for event in ends {
            let run_dir = self.paths().run_container(&event.id);
            let watch = StateWatch::new(&run_dir)?;
            loop {
                let told = self.live(&event.id)?.told;
                let is_old = |told: &RunState| {
                    let started = told.started_at_usec.and_then(|started| i64::try_from(started).ok());
                    told.init.is_some() && started.is_some_and(|started| started <= event.time)
                };
                let Some(told) = told.filter(|told| is_old(told) && told.monitor.is_alive()) else { break };
                match wait::pidfd(told.monitor.pid) {
                    // Gone since.
                    Err(rustix::io::Errno::SRCH) => {}
                    monitor => watch.changed(monitor.ok()).await?,
                }
            }
        }
        Ok(())
    }

    /// The exit code of the last end of a container, for one that may be gone already. `None` if it never ended.
    pub(super) fn last_exit(&self, id: &str) -> Result<Option<Option<i32>>, EngineError> {
        let is_exit =
            |event: &Event| event.id == id && event.kind == EventKind::Container && event.action == "exit";
        Ok(self.events(Since::Oldest)?.into_iter().rev().find(is_exit).map(|event| event.exit_code))
    }
}

fn keep_since(events: &mut Vec<Event>, since: Since) {
    if let Since::Time(time) = since {
        events.retain(|event| event.time >= time);
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
    /// [`EngineError::Io`] where the record can't be read; [`EngineError::CursorLost`] for who reads so slowly that what comes
    /// next is not kept any more.
    pub async fn next(&mut self) -> Result<Vec<Event>, EngineError> {
        loop {
            if !self.waiting.is_empty() {
                return Ok(std::mem::take(&mut self.waiting));
            }
            self.waiting = self.reader.read_new()?;
            if self.waiting.is_empty() {
                self.watch.changed(None).await?;
            }
        }
    }
}

/// Reads lines as they come, over the end of a file into the next one.
#[derive(Debug)]
struct EventReader {
    path: PathBuf,
    /// `None` as long as there is no file.
    file: Option<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    place: Cursor,
}

impl EventReader {
    fn begin(path: PathBuf, since: Since) -> Result<Self, EngineError> {
        let older = older(&path);
        let file = match since {
            Since::Oldest | Since::Time(_) => match open(&older)? {
                Some(file) => Some(file),
                None => open(&path)?,
            },
            Since::Now => {
                let mut newest = open(&path)?;
                if let Some(newest) = &mut newest {
                    newest.skip_to_end().map_err(|source| EngineError::io("read", &path, source))?;
                }
                newest
            }
            Since::Cursor(cursor) => {
                let lost = || EngineError::CursorLost { cursor: cursor.to_string() };
                let mut found = None;
                for name in [&path, &older] {
                    let Some(mut file) = open(name)? else { continue };
                    file.learn_first_time().map_err(|source| EngineError::io("read", name, source))?;
                    if file.place.first_time == cursor.first_time {
                        found = Some(file);
                        break;
                    }
                }
                let mut file = found.ok_or_else(lost)?;
                if !file
                    .is_boundary(cursor.offset)
                    .map_err(|source| EngineError::io("read", &path, source))?
                {
                    return Err(lost());
                }
                file.place.offset = cursor.offset;
                Some(file)
            }
        };
        Ok(Self { path, file })
    }

    fn read_new(&mut self) -> Result<Vec<Event>, EngineError> {
        let mut events = Vec::new();
        loop {
            let Some(file) = &mut self.file else {
                // As it begins: whatever it holds by now is new.
                self.file = open(&self.path)?;
                if self.file.is_none() {
                    return Ok(events);
                }
                continue;
            };
            // First: nothing is appended to a file that has another name.
            let is_newest = file.has_name(&self.path);
            let is_older = !is_newest && file.has_name(&older(&self.path));
            file.read(&mut events).map_err(|source| EngineError::io("read", &self.path, source))?;
            if is_newest {
                return Ok(events);
            }
            if !is_older {
                return Err(EngineError::CursorLost { cursor: file.place.to_string() });
            }
            match open(&self.path)? {
                // Nobody has begun a new one yet.
                None => return Ok(events),
                Some(next) => self.file = Some(next),
            }
        }
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OLDER_SUFFIX);
    name.into()
}

fn open(path: &Path) -> Result<Option<OpenFile>, EngineError> {
    match File::open(path) {
        Ok(file) => Ok(Some(OpenFile { file, place: Cursor::default() })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(EngineError::io("open", path, error)),
    }
}

impl OpenFile {
    fn has_name(&self, path: &Path) -> bool {
        let inode = |metadata: std::io::Result<std::fs::Metadata>| metadata.ok().map(|found| found.ino());
        inode(std::fs::metadata(path)) == inode(self.file.metadata())
    }

    /// The first line is there as soon as any is, and stays.
    fn learn_first_time(&mut self) -> std::io::Result<()> {
        if self.place.first_time == 0 {
            self.file.rewind()?;
            let mut line = Vec::new();
            BufReader::new(&self.file).take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
            if let Ok(event) = serde_json::from_slice::<Event>(&line) {
                self.place.first_time = event.time;
            }
        }
        Ok(())
    }

    fn is_boundary(&mut self, offset: u64) -> std::io::Result<bool> {
        if offset == 0 || offset > self.file.metadata()?.len() {
            return Ok(offset == 0);
        }
        let mut last = [0];
        self.file.seek(SeekFrom::Start(offset - 1))?;
        self.file.read_exact(&mut last)?;
        Ok(last == *b"\n")
    }

    /// To the end of the last whole line.
    fn skip_to_end(&mut self) -> std::io::Result<()> {
        let length = self.file.metadata()?.len();
        let from = length.saturating_sub(LINE_MAX_BYTES);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(from))?;
        (&self.file).take(length - from).read_to_end(&mut tail)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.place.offset = from + u64::try_from(whole).unwrap_or_default();
        Ok(())
    }

    fn read(&mut self, events: &mut Vec<Event>) -> std::io::Result<()> {
        self.learn_first_time()?;
        self.file.seek(SeekFrom::Start(self.place.offset))?;
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = reader.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut line)?;
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            // Without its end, the line is still being written.
            if line.last() != Some(&b'\n') && length < LINE_MAX_BYTES {
                return Ok(());
            }
            self.place.offset += length;
            match serde_json::from_slice::<Event>(&line) {
                Ok(event) => events.push(Event { cursor: self.place, ..event }),
                Err(error) => tracing::warn!(%error, "a damaged line in the record of events, ignoring"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Record {
        _dir: tempfile::TempDir,
        engine: Engine,
    }

    impl Record {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (state_dir, run_dir) = (dir.path().join("state"), dir.path().join("run"));
            let engine = Engine::new(crate::store::Paths { state_dir, run_dir }).unwrap();
            Self { _dir: dir, engine }
        }

        fn write(&self, number: usize) {
            self.engine.record_event(EventKind::Image, "pull", &number.to_string(), &"x".repeat(2000));
        }
    }

    fn numbers(events: &[Event]) -> Vec<usize> {
        events.iter().map(|event| event.id.parse().unwrap()).collect()
    }

    #[test]
    fn who_goes_on_after_a_cursor_misses_nothing_and_sees_nothing_twice_also_in_another_file() {
        let record = Record::new();
        let mut seen = Vec::new();
        let mut since = Since::Oldest;
        for number in 0..3000 {
            record.write(number);
            if number % 97 == 0 {
                let events = record.engine.events(since).unwrap();
                since = Since::Cursor(events.last().unwrap().cursor.to_string().parse().unwrap());
                seen.extend(numbers(&events));
            }
        }
        seen.extend(numbers(&record.engine.events(since).unwrap()));
        assert_eq!(seen, (0..3000).collect::<Vec<_>>());
    }

    #[test]
    fn a_reader_who_stays_goes_on_into_the_next_file() {
        let record = Record::new();
        let mut reader = EventReader::begin(record.engine.paths().events(), Since::Now).unwrap();
        let mut seen = Vec::new();
        for number in 0..2500 {
            record.write(number);
            if number % 500 == 3 {
                seen.extend(numbers(&reader.read_new().unwrap()));
            }
        }
        seen.extend(numbers(&reader.read_new().unwrap()));
        assert_eq!(seen, (0..2500).collect::<Vec<_>>());
    }

    #[test]
    fn a_cursor_whose_events_are_gone_is_told_to_be_lost() {
        let record = Record::new();
        record.write(0);
        let first = record.engine.events(Since::Oldest).unwrap()[0].cursor;
        let mut reader = EventReader::begin(record.engine.paths().events(), Since::Now).unwrap();
        (1..2500).for_each(|number| record.write(number));
        let lost = |result: Result<Vec<Event>, EngineError>| {
            assert!(matches!(result, Err(EngineError::CursorLost { .. })), "{result:?}");
        };
        lost(record.engine.events(Since::Cursor(first)));
        lost(reader.read_new());
        let within = Cursor { offset: 7, ..record.engine.events(Since::Oldest).unwrap()[0].cursor };
        lost(record.engine.events(Since::Cursor(within)));
        for nonsense in ["", "-", "x-1", "1", "1-x"] {
            assert!(nonsense.parse::<Cursor>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn only_what_comes_from_now_on_is_told_to_who_wants_that() {
        let record = Record::new();
        record.write(1);
        let mut reader = EventReader::begin(record.engine.paths().events(), Since::Now).unwrap();
        record.write(2);
        assert_eq!(numbers(&reader.read_new().unwrap()), [2]);
        assert!(reader.read_new().unwrap().is_empty());
    }

    #[test]
    fn a_short_name_is_not_the_beginning_of_an_id() {
        let of = |id: &str, name: &str| Event::new(EventKind::Container, "start", id, name);
        let whose = |text: &str, ids: &[&str]| Whose {
            text: text.to_owned(),
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
        };
        let (web, db) = (of("db0123456789abcd", "web"), of("ff0123456789abcd", "db"));
        let are_of = |whose: Whose| (whose.is_of(&web), whose.is_of(&db));
        assert_eq!(are_of(whose("db", &[])), (false, true));
        assert_eq!(are_of(whose("db0", &["db0123456789abcd"])), (true, false));
        assert_eq!(are_of(whose("db0123456789", &[])), (true, false));
        assert_eq!(are_of(whose("", &[])), (false, false));
    }
}
