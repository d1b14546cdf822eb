//! The log driver `journald`: each line is a message in the host's journal.
//!
//! It speaks the native protocol: one datagram per message, `FIELD=value\n` lines, and for the text itself the binary
//! form, in which any byte may occur. The fields are those that podman's clients look for. A part of a line is marked
//! by `CONTAINER_PARTIAL_MESSAGE=true`.
//!
//! Source: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{LogError, Stream, segments};

const SOCKET: &str = "/run/systemd/journal/socket";
/// How long a full queue of the journal holds the payload's output back before a message is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Logs to the host's journal.
#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    socket: UnixDatagram,
    connected: bool,
    /// The fields that every message has.
    fields: String,
    message: Vec<u8>,
}

impl Journald {
    pub(super) fn open(id: &str, name: &str) -> Result<Self, LogError> {
        Self::open_at(Path::new(SOCKET), id, name)
    }

    fn open_at(path: &Path, id: &str, name: &str) -> Result<Self, LogError> {
        let failed = |source| LogError::Journal { path: path.to_owned(), source };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        socket.connect(path).map_err(failed)?;
        let short: String = id.chars().take(12).collect();
        let fields = format!(
            "CONTAINER_NAME={name}\nCONTAINER_ID={short}\nCONTAINER_ID_FULL={id}\nSYSLOG_IDENTIFIER={name}\n"
        );
        Ok(Self { path: path.to_owned(), socket, connected: true, fields, message: Vec::new() })
    }

    pub(super) fn write(&mut self, stream: Stream, data: &[u8]) -> Result<(), LogError> {
        let mut first_failure = None;
        for segment in segments(data) {
            self.message.clear();
            self.message.extend_from_slice(self.fields.as_bytes());
            self.message.extend_from_slice(match stream {
                Stream::Stdout => b"PRIORITY=6\n",
                Stream::Stderr => b"PRIORITY=3\n",
            });
            if !segment.whole {
                self.message.extend_from_slice(b"CONTAINER_PARTIAL_MESSAGE=true\n");
            }
            self.message.extend_from_slice(b"MESSAGE\n");
            self.message.extend_from_slice(&(segment.text.len() as u64).to_le_bytes());
            // Writing to a Vec cannot fail.
            let _ = self.message.write_all(segment.text);
            self.message.push(b'\n');
            if let Err(source) = self.send() {
                first_failure.get_or_insert(source);
            }
        }
        match first_failure {
            Some(source) => Err(LogError::Journal { path: self.path.clone(), source }),
            None => Ok(()),
        }
    }

    /// Sends the message; a journal that was started anew in the meantime is found again.
    fn send(&mut self) -> io::Result<()> {
        if self.connected {
            match self.socket.send(&self.message) {
                Ok(_) => return Ok(()),
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::ECONNREFUSED | libc::ENOTCONN | libc::EPIPE)
                    ) =>
                {
                    self.connected = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.socket.connect(&self.path)?;
        self.connected = true;
        self.socket.send(&self.message).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(journal: &UnixDatagram) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let length = journal.recv(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn a_line_is_a_message_with_the_containers_name_id_and_priority() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut log = Journald::open_at(&path, "0123456789abcdef", "web").unwrap();
        log.write(Stream::Stderr, b"a=b\nrest").unwrap();
        let fields = "CONTAINER_NAME=web\nCONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\n\
                      SYSLOG_IDENTIFIER=web\nPRIORITY=3\n";
        let expect = |text: &str, tail: &[u8]| {
            [fields.as_bytes(), text.as_bytes(), b"MESSAGE\n", tail, b"\n"].concat()
        };
        assert_eq!(receive(&journal), expect("", b"\x03\0\0\0\0\0\0\0a=b"));
        assert_eq!(receive(&journal), expect("CONTAINER_PARTIAL_MESSAGE=true\n", b"\x04\0\0\0\0\0\0\0rest"));
    }

    #[test]
    fn a_journal_that_was_restarted_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut log = Journald::open_at(&path, "0123", "web").unwrap();
        drop(journal);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(log.write(Stream::Stdout, b"lost\n"), Err(LogError::Journal { .. })));
        let journal = UnixDatagram::bind(&path).unwrap();
        log.write(Stream::Stdout, b"kept\n").unwrap();
        assert!(receive(&journal).ends_with(b"MESSAGE\n\x04\0\0\0\0\0\0\0kept\n"));
    }

    #[test]
    fn without_a_journal_the_error_says_what_to_do() {
        let error = Journald::open_at(Path::new("/nonexistent/socket"), "0123", "web").unwrap_err();
        assert!(error.to_string().contains("choose the log driver k8s-file"), "{error}");
    }
}
