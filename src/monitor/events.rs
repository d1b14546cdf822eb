//! One JSON line for each change of a container, appended to the host's events file.
//!
//! Several monitors and the engine write to it: a line is one write(2) to a file in append mode, so lines do not mix.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The payload was started.
    Start,
    /// The payload is ready.
    Ready,
    /// The payload ended.
    Exit,
    /// The kernel's OOM killer struck in the container.
    Oom,
    /// The payload is about to be started again.
    Restart,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Ready => "ready",
            Self::Exit => "exit",
            Self::Oom => "oom",
            Self::Restart => "restart",
        }
    }
}

/// Writes the events of one container.
#[derive(Debug)]
pub struct Events {
    path: PathBuf,
    id: String,
    name: String,
}

impl Events {
    /// Events of the container `id`, written to `path`.
    pub fn new(path: &Path, id: &str, name: &str) -> Self {
        Self { path: path.to_owned(), id: id.to_owned(), name: name.to_owned() }
    }

    /// Appends an event. One that cannot be written is lost: the state says the same.
    pub fn write(&self, time_usec: u64, action: Action, exit_code: Option<i32>) {
        let line = format_line(time_usec, action, &self.id, &self.name, exit_code);
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path) {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

fn format_line(time_usec: u64, action: Action, id: &str, name: &str, exit_code: Option<i32>) -> String {
    let mut line =
        format!("{{\"time\":{time_usec},\"type\":\"container\",\"action\":\"{}\",\"id\":", action.as_str());
    quote(&mut line, id);
    line.push_str(",\"name\":");
    quote(&mut line, name);
    if let Some(code) = exit_code {
        // Writing to a String cannot fail.
        let _ = write!(line, ",\"exitCode\":{code}");
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

    #[test]
    fn an_event_is_one_line_of_json() {
        let line = format_line(17, Action::Exit, "0123", "a \"b\"\\\nü", Some(137));
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"time": 17, "type": "container", "action": "exit", "id": "0123",
                "name": "a \"b\"\\\nü", "exitCode": 137})
        );
        assert!(!format_line(17, Action::Start, "0", "n", None).contains("exitCode"));
    }

    #[test]
    fn events_are_appended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.log");
        let events = Events::new(&path, "0123", "web");
        events.write(1, Action::Start, None);
        events.write(2, Action::Exit, Some(0));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
