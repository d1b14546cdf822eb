//! The record of what has happened: one JSON line for each change, appended to one file that all processes of ours write to.
//!
//! A line is one write(2) to a file in append mode, so lines do not mix. When the file has grown to its limit, it becomes
//! the older one of two, in place of the one that was that before, and who writes next begins a new one. Who writes holds
//! a shared lock on the file, who renames it an exclusive one, so nothing is ever appended to a file that has been renamed:
//! a reader who has come to the end of the older one goes on at the beginning of the newer one, and has missed nothing.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use super::state::Health;

/// What is added to the name of the older file.
pub const OLDER_SUFFIX: &str = ".1";
/// A file that has grown beyond this becomes the older one.
const FILE_MAX_BYTES: u64 = 2 << 20;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// The payload was started.
    Start,
    /// The payload is ready.
    Ready,
    /// The payload ended.
    Exit(Option<i32>),
    /// The kernel's OOM killer struck in the container.
    Oom,
    /// The payload is about to be started again after such an end.
    Restart(Option<i32>),
    /// Health checks have found something new.
    Health(Health),
    /// A unit of the systemd inside has failed.
    UnitFailed(&'a str),
    /// A command in the container was started, or has ended.
    Exec {
        /// The name of its session.
        id: &'a str,
        /// As the host sees it.
        pid: i32,
        /// `None` at the start.
        exit_code: Option<i32>,
    },
}

impl Action<'_> {
    /// What it is about, and the word for it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Start => ("container", "start"),
            Self::Ready => ("container", "ready"),
            Self::Exit(_) => ("container", "exit"),
            Self::Oom => ("container", "oom"),
            Self::Restart(_) => ("container", "restart"),
            Self::Health(_) => ("container", "health"),
            Self::UnitFailed(_) => ("unit", "fail"),
            Self::Exec { exit_code: None, .. } => ("exec", "start"),
            Self::Exec { exit_code: Some(_), .. } => ("exec", "exit"),
        }
    }
}

/// Writes the events of one container.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    /// Open where the path will lead elsewhere.
    directory: Option<OwnedFd>,
    id: String,
    name: String,
}

impl Events {
    /// Events of the container `id`, written to `path`.
    pub fn new(path: &Path, id: &str, name: &str) -> Self {
        Self { path: path.to_owned(), directory: None, id: id.to_owned(), name: name.to_owned() }
    }

    /// The same, for a process that is about to enter the container.
    #[must_use]
    pub fn from_inside(self) -> Self {
        Self { directory: self.open_directory().ok(), ..self }
    }

    /// Appends an event. One that cannot be written is lost: the state says the same.
    pub fn write(&self, time_usec: u64, action: Action<'_>) {
        let line = format_line(time_usec, action, &self.id, &self.name);
        let _ = self.append(line.as_bytes());
    }

    fn append(&self, line: &[u8]) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        match &self.directory {
            Some(directory) => append(directory.as_fd(), &name, line),
            None => append(self.open_directory()?.as_fd(), &name, line),
        }
    }

    fn open_directory(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        Ok(rustix::fs::open(directory, flags, Mode::empty())?)
    }
}

/// Appends a line, which ends with a line end, to the record.
///
/// # Errors
/// What the kernel says; nothing was recorded then.
pub fn append(directory: BorrowedFd<'_>, name: &str, line: &[u8]) -> io::Result<()> {
    let file = loop {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        lock(&file, FlockOperation::LockShared)?;
        if is_named(directory, name, &file) {
            break file;
        }
    };
    let written = rustix::io::write(&file, line)?;
    if written < line.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    if size(&file)? > FILE_MAX_BYTES {
        lock(&file, FlockOperation::LockExclusive)?;
        // While it waited for the lock, another may have done it.
        if is_named(directory, name, &file) {
            rustix::fs::renameat(directory, name, directory, format!("{name}{OLDER_SUFFIX}"))?;
        }
    }
    Ok(())
}

fn lock(file: &OwnedFd, operation: FlockOperation) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))?)
}

fn size(file: &OwnedFd) -> io::Result<u64> {
    Ok(u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or_default())
}

/// Whether it is this file that has the name now.
fn is_named(directory: BorrowedFd<'_>, name: &str, file: &OwnedFd) -> bool {
    let named = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    matches!((rustix::fs::fstat(file), named), (Ok(ours), Ok(named)) if ours.st_ino == named.st_ino)
}

fn format_line(time_usec: u64, action: Action<'_>, id: &str, name: &str) -> String {
    let (kind, word) = action.words();
    let mut line = format!("{{\"time\":{time_usec},\"type\":\"{kind}\",\"action\":\"{word}\",\"id\":");
    quote(&mut line, id);
    line.push_str(",\"name\":");
    quote(&mut line, name);
    // Writing to a String cannot fail.
    match action {
        Action::Exit(Some(code)) | Action::Restart(Some(code)) => {
            let _ = write!(line, ",\"exitCode\":{code}");
        }
        Action::Health(health) => {
            let _ = write!(line, ",\"health\":\"{}\"", health.as_str());
        }
        Action::UnitFailed(unit) => {
            line.push_str(",\"unit\":");
            quote(&mut line, unit);
        }
        Action::Exec { id, pid, exit_code } => {
            line.push_str(",\"exec\":");
            quote(&mut line, id);
            let _ = write!(line, ",\"pid\":{pid}");
            if let Some(code) = exit_code {
                let _ = write!(line, ",\"exitCode\":{code}");
            }
        }
        Action::Start | Action::Ready | Action::Oom | Action::Exit(None) | Action::Restart(None) => {}
    }
    line.push_str("}\n");
    line
}

/// Appends a JSON string.
fn quote(line: &mut String, text: &str) {
    line.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => line.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn an_event_is_one_line_of_json() {
        let check = |action, expected: Value| {
            let line = format_line(17, action, "0123", "a \"b\"\\\nü");
            assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
            let mut event = json!({"time": 17, "id": "0123", "name": "a \"b\"\\\nü"});
            event.as_object_mut().unwrap().extend(expected.as_object().unwrap().clone());
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), event);
        };
        check(Action::Exit(Some(137)), json!({"type": "container", "action": "exit", "exitCode": 137}));
        check(Action::Exit(None), json!({"type": "container", "action": "exit"}));
        check(Action::Start, json!({"type": "container", "action": "start"}));
        check(
            Action::Health(Health::Healthy),
            json!({"type": "container", "action": "health", "health": "healthy"}),
        );
        check(
            Action::UnitFailed("a\\x2d.service"),
            json!({"type": "unit", "action": "fail", "unit": "a\\x2d.service"}),
        );
        check(
            Action::Exec { id: "89", pid: 7, exit_code: Some(3) },
            json!({"type": "exec", "action": "exit", "exec": "89", "pid": 7, "exitCode": 3}),
        );
    }

    #[test]
    fn many_writers_lose_nothing_when_the_file_becomes_the_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.log");
        let name = "x".repeat(2000);
        const WRITERS: u64 = 4;
        const EACH: u64 = 300;
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (path, name) = (&path, &name);
                scope.spawn(move || {
                    let events = Events::new(path, "0123", name);
                    for number in 0..EACH {
                        events.write(writer * EACH + number, Action::Start);
                    }
                });
            }
        });
        let older = std::fs::read_to_string(directory.path().join("events.log.1")).unwrap();
        let newer = std::fs::read_to_string(&path).unwrap();
        assert!(older.len() > 2 << 20 && !newer.is_empty());
        let mut times: Vec<u64> = older
            .lines()
            .chain(newer.lines())
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["time"].as_u64().unwrap())
            .collect();
        times.sort_unstable();
        assert!(times.into_iter().eq(0..WRITERS * EACH));
    }
}
