//! Errors and warnings, to standard error and to the file that an engine reads.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::json;

use super::arguments::LogFormat;
use super::error::{OciError, on_file};
use super::{NAME, clock};

/// Where they go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
}

impl Log {
    /// Opens the file, if there is to be one.
    ///
    /// # Errors
    /// [`OciError::File`].
    pub fn open(path: Option<&Path>, format: LogFormat) -> Result<Self, OciError> {
        let open = |path: &Path| {
            let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
            let opened =
                OpenOptions::new().append(true).create(true).mode(0o644).custom_flags(flags).open(path);
            opened.map_err(on_file("write to the log", path))
        };
        // Tried because some pass it, and it is there already.
        let path = path.filter(|path| *path != Path::new("/dev/stderr"));
        Ok(Self { file: path.map(open).transpose()?, format })
    }

    /// What ends this process.
    pub fn error(&self, text: &str) {
        self.write("error", text);
    }

    /// What does not.
    pub fn warn(&self, text: &str) {
        self.write("warning", text);
    }

    fn write(&self, level: &str, text: &str) {
        let time = clock::now();
        let line = match self.format {
            LogFormat::Json => format!("{}\n", json!({"level": level, "msg": text, "time": time})),
            LogFormat::Text => format!("time={time:?} level={level} msg={text:?}\n"),
        };
        // Nobody is left to be told that it can't be told.
        if let Some(mut file) = self.file.as_ref() {
            let _ = file.write_all(line.as_bytes());
        }
        if self.file.is_none() && self.format == LogFormat::Json {
            let _ = std::io::stderr().write_all(line.as_bytes());
        } else {
            let _ = writeln!(std::io::stderr(), "{NAME}: {text}");
        }
    }
}
