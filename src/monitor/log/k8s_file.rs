//! The log driver `k8s-file`: lines of `TIMESTAMP stdout|stderr F|P TEXT` in a file that is rotated by size.
//!
//! `F` marks a line's last (or only) part, `P` a part after which more of the line comes. Nothing is kept back to
//! complete a line: what the payload wrote is in the file as soon as it was read, so that a killed monitor loses none of it.
//!
//! Rotation renames `log` to `log.1`, `log.1` to `log.2` and so on, and begins a new `log`. A follower sees the new
//! inode, and has the rest of the old one in its open file.
//!
//! Records are appended whole. After a short write (a full disk) the file is cut back to the last whole record.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::{LogError, Stream, Timestamp, segments};

/// Records are gathered up to this size before they are written, so that many short lines cost one write(2).
const BATCH_BYTES: usize = 16 * 1024;

/// Logs to a file and rotates it.
#[derive(Debug)]
pub struct K8sFile {
    path: PathBuf,
    size_max: u64,
    files_max: u32,
    file: File,
    /// The size of `file`, without what is gathered in `batch`.
    size: u64,
    batch: Vec<u8>,
}

impl K8sFile {
    pub(super) fn open(path: PathBuf, size_max: u64, files_max: u32) -> Result<Self, LogError> {
        let (file, size) =
            open_whole(&path).map_err(|source| LogError::Open { path: path.clone(), source })?;
        Ok(Self { path, size_max, files_max: files_max.max(1), file, size, batch: Vec::new() })
    }

    pub(super) fn write(&mut self, stream: Stream, data: &[u8], time: Timestamp) -> Result<(), LogError> {
        let stream = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let mut first_failure = Ok(());
        let mut note = |result: Result<(), LogError>| {
            if first_failure.is_ok() {
                first_failure = result;
            }
        };
        let mut header = Vec::with_capacity(64);
        for segment in segments(data) {
            header.clear();
            let tag = if segment.whole { 'F' } else { 'P' };
            // Writing to a Vec cannot fail.
            let _ = write!(header, "{time} {stream} {tag} ");
            let length = header.len() + segment.text.len() + 1;
            let filled = self.size + self.batch.len() as u64;
            if self.size_max > 0 && filled > 0 && filled + length as u64 > self.size_max {
                note(self.flush());
                note(self.rotate());
            } else if self.batch.len() + length > BATCH_BYTES {
                note(self.flush());
            }
            self.batch.extend_from_slice(&header);
            self.batch.extend_from_slice(segment.text);
            self.batch.push(b'\n');
        }
        note(self.flush());
        if self.batch.capacity() > BATCH_BYTES {
            self.batch = Vec::new();
        }
        first_failure
    }

    /// Writes the gathered records. Those that do not fit are lost, and none of them is left half.
    fn flush(&mut self) -> Result<(), LogError> {
        let (mut written, result) = append(&mut self.file, &self.batch);
        let result = match result {
            Ok(()) => Ok(()),
            Err(source) => {
                let whole = self.batch[..written].iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                if whole < written {
                    // Truncation needs no space. Should it fail, the next open ends the torn record.
                    let _ = self.file.set_len(self.size + whole as u64);
                }
                written = whole;
                Err(LogError::Write { path: self.path.clone(), source })
            }
        };
        self.size += written as u64;
        self.batch.clear();
        result
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        let failed = |source| LogError::Rotate { path: self.path.clone(), source };
        // Without a current file an earlier rotation got as far as putting it aside: nothing more must be shifted.
        if self.path.symlink_metadata().is_ok() {
            if self.files_max == 1 {
                std::fs::remove_file(&self.path).map_err(failed)?;
            } else {
                for number in (1..self.files_max - 1).rev() {
                    let from = numbered(&self.path, number);
                    match std::fs::rename(&from, numbered(&self.path, number + 1)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                        _ => {}
                    }
                }
                std::fs::rename(&self.path, numbered(&self.path, 1)).map_err(failed)?;
            }
        }
        let (file, size) = open_whole(&self.path).map_err(failed)?;
        (self.file, self.size) = (file, size);
        Ok(())
    }
}

/// Writes all of `data`, and says how much of it was written.
fn append(file: &mut File, data: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while let Some(rest) = data.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

/// The name of the `number`th older file.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Opens a log for appending, with its size; a record that a power cut left half is ended.
fn open_whole(path: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    let mut size = file.metadata()?.len();
    let mut last = [b'\n'];
    if size > 0 {
        file.read_exact_at(&mut last, size - 1)?;
    }
    if last != [b'\n'] && file.write_all(b"\n").is_ok() {
        size += 1;
    }
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Timestamp = Timestamp { seconds: 1_136_214_245, nanoseconds: 0 };
    const HEADER: &str = "2006-01-02T15:04:05.000000000+00:00";

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_line_is_full_and_a_piece_of_one_is_partial() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = K8sFile::open(path.clone(), 0, 1).unwrap();
        log.write(Stream::Stdout, b"one\ntw", TIME).unwrap();
        log.write(Stream::Stdout, b"o\n", TIME).unwrap();
        log.write(Stream::Stderr, b"\n", TIME).unwrap();
        log.write(Stream::Stdout, b"", TIME).unwrap();
        assert_eq!(
            read(&path),
            format!("{HEADER} stdout F one\n{HEADER} stdout P tw\n{HEADER} stdout F o\n{HEADER} stderr F \n")
        );
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let record = format!("{HEADER} stdout F 0\n").len() as u64;
        let mut log = K8sFile::open(path.clone(), 2 * record, 3).unwrap();
        for number in 0..9 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes(), TIME).unwrap();
        }
        let numbers =
            |path: &Path| -> String { read(path).lines().map(|l| l.chars().last().unwrap()).collect() };
        assert_eq!(numbers(&path), "8");
        assert_eq!(numbers(&numbered(&path, 1)), "67");
        assert_eq!(numbers(&numbered(&path, 2)), "45");
        assert!(!numbered(&path, 3).exists());
    }

    #[test]
    fn nothing_is_lost_or_torn_over_rotations_within_one_piece_of_output() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = K8sFile::open(path.clone(), 4096, 1000).unwrap();
        let mut sent = String::new();
        for number in 0..5000 {
            sent += &format!("line {number} {}\n", "x".repeat(number % 200));
        }
        for piece in sent.as_bytes().chunks(1000) {
            log.write(Stream::Stdout, piece, TIME).unwrap();
        }
        let mut files: Vec<_> = (1..1000).map(|n| numbered(&path, n)).filter(|p| p.exists()).collect();
        assert!(files.len() > 50);
        files.reverse();
        files.push(path);
        let mut received = String::new();
        for file in &files {
            assert!(file.metadata().unwrap().len() <= 4096);
            let text = read(file);
            assert!(text.ends_with('\n'));
            for line in text.lines() {
                let rest = line.strip_prefix(HEADER).unwrap().strip_prefix(" stdout ").unwrap();
                received += &rest[2..];
                if rest.starts_with('F') {
                    received.push('\n');
                }
            }
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn a_line_larger_than_the_limit_has_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = K8sFile::open(path.clone(), 100, 5).unwrap();
        log.write(Stream::Stdout, b"a\n", TIME).unwrap();
        log.write(Stream::Stdout, &[b"b".repeat(1000), b"\nc\n".to_vec()].concat(), TIME).unwrap();
        assert!(read(&path).ends_with("F c\n"));
        assert_eq!(numbered(&path, 1).metadata().unwrap().len(), 36 + 9 + 1000 + 1);
        assert!(read(&numbered(&path, 2)).ends_with("F a\n"));
    }

    #[test]
    fn a_single_file_begins_anew_when_it_is_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = K8sFile::open(path.clone(), 60, 1).unwrap();
        log.write(Stream::Stdout, b"a\nb\n", TIME).unwrap();
        assert_eq!(read(&path), format!("{HEADER} stdout F b\n"));
        assert!(!numbered(&path, 1).exists());
    }

    #[test]
    fn a_record_that_a_power_cut_left_half_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "torn").unwrap();
        let mut log = K8sFile::open(path.clone(), 0, 1).unwrap();
        log.write(Stream::Stdout, b"a\n", TIME).unwrap();
        assert_eq!(read(&path), format!("torn\n{HEADER} stdout F a\n"));
    }

    #[test]
    fn a_rotation_that_could_not_make_the_new_file_pushes_no_older_one_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = K8sFile::open(path.clone(), 60, 3).unwrap();
        log.write(Stream::Stdout, b"a\n", TIME).unwrap();
        log.write(Stream::Stdout, b"b\n", TIME).unwrap();
        // What a rotation leaves that was stopped between its two steps.
        std::fs::rename(&path, directory.path().join("elsewhere")).unwrap();
        log.write(Stream::Stdout, b"c\n", TIME).unwrap();
        assert!(read(&path).ends_with("F c\n"));
        assert!(read(&numbered(&path, 1)).ends_with("F a\n"));
        assert!(!numbered(&path, 2).exists());
    }
}
