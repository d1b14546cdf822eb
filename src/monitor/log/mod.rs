//! Where the payload's output goes, one file per format.
//!
//! A log never stops the container: when it cannot be written, the output that did not fit is lost, the first
//! failure is handed to the caller once, and later writes are tried again. What was written is never torn: a reader
//! of the files sees whole records only.

mod journald;
mod k8s_file;
mod none;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::config::{LogDriver, MonitorConfig};

/// Which of the payload's streams a piece of output came from. A terminal's output counts as stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Why output was not logged.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened.
    #[error("cannot open the log {path:?}; its output is lost until it can be written again")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A part of the output could not be written.
    #[error("cannot write the log {path:?}, output is lost; free space or choose another log driver")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The full file cannot be put aside; it grows beyond its limit meanwhile.
    #[error("cannot rotate the log {path:?}, it grows beyond its limit")]
    Rotate {
        /// The current file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The journal does not take messages.
    #[error(
        "cannot write to the journal at {path:?}; start systemd-journald or choose the log driver k8s-file"
    )]
    Journal {
        /// The journal's socket.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

/// An open log of one container.
#[derive(Debug)]
pub enum Log {
    /// Lines in a file.
    K8sFile(k8s_file::K8sFile),
    /// Messages to the journal.
    Journald(journald::Journald),
    /// Nothing.
    None(none::Discard),
}

impl Log {
    /// Opens the log that the configuration asks for.
    ///
    /// # Errors
    /// [`LogError::Open`] for a file, [`LogError::Journal`] when no journal runs.
    pub fn open(config: &MonitorConfig) -> Result<Self, LogError> {
        Ok(match &config.log {
            LogDriver::K8sFile { path, size_max_bytes, files_max } => {
                Self::K8sFile(k8s_file::K8sFile::open(path.clone(), *size_max_bytes, *files_max)?)
            }
            LogDriver::Journald => Self::Journald(journald::Journald::open(&config.id, &config.name)?),
            LogDriver::None => Self::None(none::Discard),
        })
    }

    /// Logs a piece of output. A last line without its end is logged as a part; its rest may come with the next
    /// call.
    ///
    /// # Errors
    /// As [`LogError`] says; the log can be used further.
    pub fn write(&mut self, stream: Stream, data: &[u8]) -> Result<(), LogError> {
        match self {
            Self::K8sFile(log) => log.write(stream, data, now()),
            Self::Journald(log) => log.write(stream, data),
            Self::None(log) => log.write(stream, data),
        }
    }
}

/// A piece of output: a whole line without its end, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment<'a> {
    text: &'a [u8],
    whole: bool,
}

/// Cuts output into lines; only the last one can be a part.
fn segments(data: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    data.split_inclusive(|b| *b == b'\n').map(|piece| match piece.split_last() {
        Some((b'\n', text)) => Segment { text, whole: true },
        _ => Segment { text: piece, whole: false },
    })
}

/// A moment of CLOCK_REALTIME, in whole seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Timestamp {
    seconds: u64,
    nanoseconds: u32,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs(), nanoseconds: since.subsec_nanos() }
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with nine digits, as the kubelet's format has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (days, second) = (self.seconds / 86_400, self.seconds % 86_400);
        // Days to civil date, counting years from March: the leap day is then the last of its year.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}+00:00",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            self.nanoseconds
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_rfc_3339_in_utc_with_nanoseconds() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000+00:00"),
            (951_782_399, 7, "2000-02-28T23:59:59.000000007+00:00"),
            (951_782_400, 999_999_999, "2000-02-29T00:00:00.999999999+00:00"),
            (1_136_214_245, 0, "2006-01-02T15:04:05.000000000+00:00"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000000+00:00"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000+00:00"),
        ] {
            assert_eq!(Timestamp { seconds, nanoseconds }.to_string(), expected);
        }
    }

    #[test]
    fn output_is_cut_at_line_ends_and_only_its_last_piece_is_a_part() {
        let cut = |data: &'static str| {
            segments(data.as_bytes())
                .map(|s| (String::from_utf8_lossy(s.text).into_owned(), s.whole))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(""), vec![]);
        assert_eq!(cut("a\n\nb"), vec![("a".into(), true), (String::new(), true), ("b".into(), false)]);
        assert_eq!(cut("a\r\n"), vec![("a\r".into(), true)]);
    }
}
