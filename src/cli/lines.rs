//! Entries of a log as lines: each stream for itself, parts put together again, with what tells them apart in front.

use std::io::{self, Write};

use crate::cli::color::Style;
use crate::cli::human::format_time;
use crate::cli::table::printable;
use crate::wire::container::{LogEntry, LogEntry_stream as Stream};

/// What is around the text of a line.
#[derive(Debug, Clone)]
pub struct Look {
    /// The name of the container, where there are several.
    pub prefix: Option<String>,
    /// Which of them, for its colour.
    pub number: usize,
    /// When it was written.
    pub timestamps: bool,
    /// Whether standard output and standard error are coloured.
    pub colours: (bool, bool),
}

/// Writes the entries of one container.
#[derive(Debug)]
pub struct LineWriter {
    look: Look,
    /// What has begun and not ended, of standard output and of standard error. Alone on its screen, a container's parts are
    /// shown as they come; among others, its lines are shown whole.
    begun: [Option<String>; 2],
}

impl LineWriter {
    /// Begins with nothing.
    pub fn new(look: Look) -> Self {
        Self { look, begun: [None, None] }
    }

    /// Writes what is whole, and where nobody else writes also what is not.
    ///
    /// # Errors
    /// What writing says.
    pub fn write(
        &mut self,
        entries: &[LogEntry],
        stdout: &mut impl Write,
        stderr: &mut impl Write,
    ) -> io::Result<()> {
        let mut pending = String::new();
        let mut pending_is_stderr = false;
        for entry in entries {
            let is_stderr = entry.stream == Stream::stderr;
            if is_stderr != pending_is_stderr {
                flush(&mut pending, pending_is_stderr, stdout, stderr)?;
                pending_is_stderr = is_stderr;
            }
            if entry.stream == Stream::journal {
                pending.push_str(&self.journal_line(entry));
            } else {
                self.push(&mut pending, entry, is_stderr);
            }
        }
        flush(&mut pending, pending_is_stderr, stdout, stderr)
    }

    /// Writes what has begun and will not end.
    ///
    /// # Errors
    /// What writing says.
    pub fn finish(&mut self, stdout: &mut impl Write, stderr: &mut impl Write) -> io::Result<()> {
        for is_stderr in [false, true] {
            if let Some(begun) = self.begun[usize::from(is_stderr)].take()
                && self.look.prefix.is_some()
            {
                flush(&mut (begun + "\n"), is_stderr, stdout, stderr)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, pending: &mut String, entry: &LogEntry, is_stderr: bool) {
        let begun = self.begun[usize::from(is_stderr)].take();
        let mut text = begun.unwrap_or_else(|| self.front(entry.timeUSec, is_stderr));
        if self.coloured(is_stderr) && is_stderr {
            text.push_str(&Style::Red.paint(&entry.message));
        } else {
            text.push_str(&entry.message);
        }
        match (entry.partial, &self.look.prefix) {
            (false, _) => {
                pending.push_str(&text);
                pending.push('\n');
            }
            (true, Some(_)) => self.begun[usize::from(is_stderr)] = Some(text),
            (true, None) => {
                pending.push_str(&text);
                self.begun[usize::from(is_stderr)] = Some(String::new());
            }
        }
    }

    fn coloured(&self, is_stderr: bool) -> bool {
        if is_stderr { self.look.colours.1 } else { self.look.colours.0 }
    }

    fn front(&self, time_usec: i64, is_stderr: bool) -> String {
        let mut front = String::new();
        if let Some(prefix) = &self.look.prefix {
            match self.coloured(is_stderr) {
                true => front.push_str(&Style::Tint(self.look.number).paint(prefix)),
                false => front.push_str(prefix),
            }
        }
        if self.look.timestamps {
            front.push_str(&format_time(time_usec));
            front.push(' ');
        }
        front
    }

    /// As journalctl shows it; further lines of a message are indented.
    fn journal_line(&self, entry: &LogEntry) -> String {
        let source = entry.identifier.as_deref().or(entry.unit.as_deref()).unwrap_or("unknown");
        let pid = entry.pid.map_or(String::new(), |pid| format!("[{pid}]"));
        let front = self.front(entry.timeUSec, false);
        let mut text = String::new();
        for (number, line) in entry.message.lines().map(printable).enumerate() {
            let line = match entry.priority {
                _ if !self.look.colours.0 => line,
                Some(..=3) => Style::Red.paint(&line),
                Some(4) => Style::Yellow.paint(&line),
                _ => line,
            };
            text.push_str(&front);
            match number {
                0 => text.push_str(&format!("{}{pid}: ", printable(source))),
                _ => text.push_str("    "),
            }
            text.push_str(&line);
            text.push('\n');
        }
        if text.is_empty() {
            text = format!("{front}{}{pid}: \n", printable(source));
        }
        text
    }
}

fn flush(
    text: &mut String,
    is_stderr: bool,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> io::Result<()> {
    if is_stderr {
        stderr.write_all(text.as_bytes())?;
    } else {
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
    }
    text.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stream: Stream, message: &str, partial: bool) -> LogEntry {
        LogEntry {
            timeUSec: 1_000_000,
            stream,
            message: message.to_owned(),
            partial,
            unit: None,
            identifier: None,
            pid: None,
            priority: None,
        }
    }

    fn plain() -> Look {
        Look { prefix: None, number: 0, timestamps: false, colours: (false, false) }
    }

    fn written(writer: &mut LineWriter, entries: &[LogEntry]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        writer.write(entries, &mut out, &mut err).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn lines_go_back_to_the_stream_that_they_came_from() {
        let entries = [
            entry(Stream::stdout, "one ", true),
            entry(Stream::stderr, "oops", false),
            entry(Stream::stdout, "line", false),
            entry(Stream::stdout, "two", false),
        ];
        let (out, err) = written(&mut LineWriter::new(plain()), &entries);
        assert_eq!((out.as_str(), err.as_str()), ("one line\ntwo\n", "oops\n"));
    }

    #[test]
    fn a_line_in_parts_has_one_time_stamp() {
        let mut writer = LineWriter::new(Look { timestamps: true, ..plain() });
        assert_eq!(
            written(&mut writer, &[entry(Stream::stdout, "a", true)]).0,
            "1970-01-01T00:00:01.000000Z a"
        );
        assert_eq!(written(&mut writer, &[entry(Stream::stdout, "b", false)]).0, "b\n");
    }

    #[test]
    fn among_others_lines_are_whole_and_have_a_name_in_front() {
        let look = Look { prefix: Some("web | ".to_owned()), ..plain() };
        let mut writer = LineWriter::new(look.clone());
        assert_eq!(written(&mut writer, &[entry(Stream::stdout, "a", true)]).0, "");
        assert_eq!(written(&mut writer, &[entry(Stream::stdout, "b", false)]).0, "web | ab\n");
        assert_eq!(written(&mut writer, &[entry(Stream::stderr, "end", true)]).1, "");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        writer.finish(&mut out, &mut err).unwrap();
        assert_eq!((out, err), (Vec::new(), b"web | end\n".to_vec()));

        let mut coloured = LineWriter::new(Look { colours: (true, true), ..look });
        let (out, err) =
            written(&mut coloured, &[entry(Stream::stdout, "x", false), entry(Stream::stderr, "y", false)]);
        assert_eq!(out, "\x1b[36mweb | \x1b[0mx\n");
        assert_eq!(err, "\x1b[36mweb | \x1b[0m\x1b[31my\x1b[0m\n");
    }

    #[test]
    fn entries_of_a_journal_look_as_in_journalctl_and_cannot_steer_the_terminal() {
        let mut told = entry(Stream::journal, "one\n\u{1b}[2Jtwo", false);
        told.identifier = Some("cron".to_owned());
        told.pid = Some(7);
        assert_eq!(
            written(&mut LineWriter::new(plain()), &[told.clone()]).0,
            "cron[7]: one\n    \u{fffd}[2Jtwo\n"
        );
        told.priority = Some(3);
        told.message = "bad".to_owned();
        let mut coloured = LineWriter::new(Look { colours: (true, true), ..plain() });
        assert_eq!(written(&mut coloured, &[told]).0, "cron[7]: \x1b[31mbad\x1b[0m\n");
    }
}
