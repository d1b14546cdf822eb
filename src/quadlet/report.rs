//! Complaints, where an administrator finds them: a generator runs before there is a journal, so they go to the kernel's
//! log, which the journal takes up.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Levels of the kernel's log, syslog(2).
const ERROR: u8 = 3;
const WARNING: u8 = 4;
/// What fits into a record of the kernel's log, with its head.
const RECORD_BYTES_MAX: usize = 900;

/// Takes complaints.
#[derive(Debug)]
pub(super) struct Report {
    kernel_log: Option<File>,
    errors: usize,
}

impl Report {
    pub(super) fn new(to_kernel_log: bool) -> Self {
        // A user may not write there.
        let kernel_log =
            to_kernel_log.then(|| OpenOptions::new().write(true).open("/dev/kmsg").ok()).flatten();
        Self { kernel_log, errors: 0 }
    }

    /// Something that keeps a unit from being made.
    pub(super) fn error(&mut self, text: &str) {
        self.errors += 1;
        self.tell(ERROR, text);
    }

    /// Something that may not be meant.
    pub(super) fn warning(&mut self, text: &str) {
        self.tell(WARNING, text);
    }

    pub(super) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    fn tell(&mut self, level: u8, text: &str) {
        // Of one line, whatever a file's name has in it.
        let text: String =
            text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        if let Some(log) = &mut self.kernel_log {
            let mut end = text.len().min(RECORD_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            let record = format!("<{level}>dormouse-generator[{}]: {}\n", std::process::id(), &text[..end]);
            if log.write_all(record.as_bytes()).is_ok() {
                return;
            }
        }
        eprintln!("dormouse-generator: {text}");
    }
}
