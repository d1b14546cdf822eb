//! Reading what a container has written: the file that its monitor writes, with its rotated predecessors.
//!
//! A line is `TIME STREAM TAG TEXT`, as Kubernetes and Podman have it: RFC 3339 with nanoseconds, stdout or stderr,
//! F for a whole line or the end of one, P for a part that goes on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::spec::Log;
use super::wait::StateWatch;
use super::{Engine, EngineError, now_usec};

/// The longest line that is read in one piece; the monitor splits at less.
const LINE_MAX_BYTES: u64 = 64 << 10;
/// About how much one reply of a long log holds.
const BATCH_BYTES: usize = 256 << 10;
/// Last lines that take more memory are counted, and read once more.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the names tell
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Microseconds of CLOCK_REALTIME.
    pub time_usec: i64,
    /// Which of the two streams.
    pub stream: LogStream,
    /// Without the line end.
    pub message: String,
    /// It goes on in the next entry of this stream.
    pub partial: bool,
}

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogFilter {
    /// Only the last ones, as many as this.
    pub tail: Option<usize>,
    /// Only from this time on, in microseconds of CLOCK_REALTIME.
    pub since_usec: Option<i64>,
    /// Only before this time.
    pub until_usec: Option<i64>,
}

impl Engine {
    /// Opens a container's log. With `follow`, it goes on until the container has ended, and was not stopped only to be started
    /// again, or until the filter's end.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; [`EngineError::Unsupported`] where nothing is kept that can be read.
    pub fn logs(&self, name: &str, filter: LogFilter, follow: bool) -> Result<LogFollower, EngineError> {
        let container = self.find(name)?;
        let unsupported = |driver: &str, reason: &str| {
            Err(EngineError::Unsupported {
                feature: format!("reading the log of {:?}", container.row.name),
                reason: format!("its log driver is {driver}; {reason}"),
            })
        };
        match container.definition.spec.log {
            Log::K8sFile { .. } => {}
            Log::Journald => return unsupported("journald", "read it with journalctl CONTAINER_NAME="),
            Log::None => return unsupported("none", "nothing is kept"),
        }
        let path = self.log_path(&container.row.id);
        let watch = match follow {
            // The directory: the file itself changes with each rotation, and may not be there yet.
            true => Some(StateWatch::written(path.parent().unwrap_or(&path))?),
            false => None,
        };
        let state = if follow {
            Some(StateWatch::new(&self.paths().run_container(&container.row.id))?)
        } else {
            None
        };
        Ok(LogFollower {
            engine: self.clone(),
            id: container.row.id,
            reader: LogReader { read: filter.tail.map(|_| Vec::new()), ..LogReader::new(path) },
            filter,
            watch: watch.zip(state),
            tail: filter.tail.map(Tail::new),
            kept: None,
            skip: 0,
        })
    }
}

/// Gives the lines of a log. May be dropped at any time.
#[derive(Debug)]
pub struct LogFollower {
    engine: Engine,
    id: String,
    reader: LogReader,
    filter: LogFilter,
    watch: Option<(StateWatch, StateWatch)>,
    /// While the last lines are looked for.
    tail: Option<Tail>,
    /// The last lines, where they are few.
    kept: Option<Vec<LogEntry>>,
    /// So many lines come before the last ones.
    skip: usize,
}

impl LogFollower {
    /// The next lines; an empty array when it is over.
    ///
    /// # Errors
    /// [`EngineError::Io`] where the log can't be read.
    pub async fn next(&mut self) -> Result<Vec<LogEntry>, EngineError> {
        self.find_tail().await?;
        loop {
            // Before reading: what is written before the end must not be missed.
            let over = !self.engine.live(&self.id)?.phase.is_alive();
            let mut entries = match self.kept.take() {
                Some(kept) => kept,
                None => self.reader.read_batch()?,
            };
            let at_end = entries.is_empty();
            self.keep_wanted(&mut entries);
            let skipped = self.skip.min(entries.len());
            self.skip -= skipped;
            entries.drain(..skipped);
            if !entries.is_empty() {
                return Ok(entries);
            }
            if !at_end {
                // What is passed over may be long.
                tokio::task::yield_now().await;
                continue;
            }
            if self.watch.is_none() || (over && !self.engine.was_restarted(&self.id).await?) {
                return Ok(Vec::new());
            }
            let Some((written, state)) = &self.watch else { return Ok(Vec::new()) };
            if over {
                continue;
            }
            let time_is_over = async {
                match self.filter.until_usec {
                    Some(until) => {
                        let left = u64::try_from(until - now_usec()).unwrap_or(0);
                        tokio::time::sleep(Duration::from_micros(left)).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = written.changed(None) => result?,
                result = state.changed(None) => result?,
                () = time_is_over => return Ok(Vec::new()),
            }
        }
    }

    fn keep_wanted(&self, entries: &mut Vec<LogEntry>) {
        entries.retain(|entry| {
            self.filter.since_usec.is_none_or(|since| entry.time_usec >= since)
                && self.filter.until_usec.is_none_or(|until| entry.time_usec < until)
        });
    }

    /// Reads until the last lines are known. Others have their turn meanwhile.
    async fn find_tail(&mut self) -> Result<(), EngineError> {
        while self.tail.is_some() {
            let mut batch = self.reader.read_batch()?;
            let at_end = batch.is_empty();
            self.keep_wanted(&mut batch);
            if let Some(tail) = &mut self.tail {
                tail.add(batch);
            }
            if let Some(tail) = self.tail.take_if(|_| at_end) {
                match tail.kept {
                    Some(kept) => self.kept = Some(kept.into()),
                    None => {
                        self.skip = tail.found.saturating_sub(tail.wanted);
                        self.reader.rewind()?;
                    }
                }
                self.reader.read = None;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// The last lines of a log: kept as long as they are few, else only counted.
#[derive(Debug)]
struct Tail {
    wanted: usize,
    found: usize,
    /// `None` if they are only counted.
    kept: Option<VecDeque<LogEntry>>,
    /// What is kept takes so many.
    bytes: usize,
}

impl Tail {
    fn new(wanted: usize) -> Self {
        Self { wanted, found: 0, kept: Some(VecDeque::new()), bytes: 0 }
    }

    fn add(&mut self, batch: Vec<LogEntry>) {
        let size = |entry: &LogEntry| size_of::<LogEntry>() + entry.message.len();
        self.found += batch.len();
        let Some(kept) = &mut self.kept else { return };
        for entry in batch {
            self.bytes += size(&entry);
            kept.push_back(entry);
            if kept.len() > self.wanted {
                self.bytes -= kept.pop_front().as_ref().map_or(0, size);
            }
        }
        if self.bytes > TAIL_BYTES_MAX {
            self.kept = None;
        }
    }
}

/// Reads the rotated files, oldest first, then the current one, and goes on over a rotation.
#[derive(Debug)]
struct LogReader {
    path: PathBuf,
    /// Files that are older than the one being read next.
    older: Vec<BufReader<File>>,
    current: Option<BufReader<File>>,
    /// Those that were read to their end, for who may want to read them again; `None` if nobody does.
    read: Option<Vec<BufReader<File>>>,
    started: bool,
    /// The beginning of a line whose end is not written yet.
    pending: Vec<u8>,
}

impl LogReader {
    fn new(path: PathBuf) -> Self {
        Self { path, older: Vec::new(), current: None, read: None, started: false, pending: Vec::new() }
    }

    fn open(path: &Path) -> Result<Option<BufReader<File>>, EngineError> {
        match File::open(path) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EngineError::io("read", path, error)),
        }
    }

    fn open_all(&mut self) -> Result<(), EngineError> {
        self.current = Self::open(&self.path)?;
        for number in 1.. {
            match Self::open(&rotated(&self.path, number))? {
                Some(file) => self.older.push(file),
                None => break,
            }
        }
        self.started = true;
        Ok(())
    }

    /// About [`BATCH_BYTES`] of lines; empty at the end of what is written so far.
    fn read_batch(&mut self) -> Result<Vec<LogEntry>, EngineError> {
        if !self.started {
            self.open_all()?;
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        // An empty one is the end: what is no line of a log is passed over.
        while bytes < BATCH_BYTES || entries.is_empty() {
            match self.read_line()? {
                Some((length, entry)) => {
                    bytes += length;
                    entries.extend(entry);
                }
                None if self.next_file()? => {}
                None => break,
            }
        }
        Ok(entries)
    }

    fn read_line(&mut self) -> Result<Option<(usize, Option<LogEntry>)>, EngineError> {
        let Some(file) = self.older.last_mut().or(self.current.as_mut()) else { return Ok(None) };
        let read = file.by_ref().take(LINE_MAX_BYTES).read_until(b'\n', &mut self.pending);
        let length = read.map_err(|source| EngineError::io("read", &self.path, source))?;
        if self.pending.last() != Some(&b'\n')
            && self.pending.len() < usize::try_from(LINE_MAX_BYTES).unwrap_or(usize::MAX)
        {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.pending);
        Ok(Some((length, parse_line(&line))))
    }

    /// Goes to the beginning again: to that of the very files that were read, whatever was rotated meanwhile.
    fn rewind(&mut self) -> Result<(), EngineError> {
        self.older.extend(self.read.iter_mut().flat_map(|read| read.drain(..).rev()));
        for file in self.older.iter_mut().chain(&mut self.current) {
            file.rewind().map_err(|source| EngineError::io("read", &self.path, source))?;
        }
        self.pending.clear();
        Ok(())
    }

    /// Goes to the file after the one that is read to its end. False if there is none.
    fn next_file(&mut self) -> Result<bool, EngineError> {
        if let Some(file) = self.older.pop() {
            if let Some(read) = &mut self.read {
                read.push(file);
            }
            self.pending.clear();
            return Ok(true);
        }
        let named = std::fs::metadata(&self.path).map(|metadata| metadata.ino()).ok();
        let ours = self
            .current
            .as_ref()
            .and_then(|file| file.get_ref().metadata().ok())
            .map(|metadata| metadata.ino());
        if named.is_none() || named == ours {
            return Ok(false);
        }
        // Rotated since: what we have read is a rotated file now; those between it and the current one come next.
        let mut between = Vec::new();
        if ours.is_some() {
            for number in 1.. {
                match Self::open(&rotated(&self.path, number))? {
                    Some(file) if file.get_ref().metadata().map(|metadata| metadata.ino()).ok() != ours => {
                        between.push(file)
                    }
                    _ => break,
                }
            }
        }
        self.older = between;
        let before = std::mem::replace(&mut self.current, Self::open(&self.path)?);
        if let Some(read) = &mut self.read {
            read.extend(before);
        }
        self.pending.clear();
        Ok(true)
    }
}

fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn parse_line(line: &[u8]) -> Option<LogEntry> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let time_usec = parse_time(std::str::from_utf8(fields.next()?).ok()?)?;
    let stream = match fields.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let partial = fields.next()? == b"P";
    let message = String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    Some(LogEntry { time_usec, stream, message, partial })
}

/// `2026-01-02T03:04:05.000000000+01:00` or `…Z`, as microseconds since 1970.
fn parse_time(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let micros: i64 = format!("{:0<6.6}", fraction).parse().ok()?;
    let offset_seconds = match zone {
        "Z" | "" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            sign * (zone.get(1..3)?.parse::<i64>().ok()? * 3600 + zone.get(4..6)?.parse::<i64>().ok()? * 60)
        }
    };
    // Days since 1970 in the Gregorian calendar, with years that begin in March.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * shifted_year + shifted_year.div_euclid(4) - shifted_year.div_euclid(100)
        + shifted_year.div_euclid(400)
        + (153 * shifted_month + 2) / 5
        + day
        - 1
        - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second - offset_seconds) * 1_000_000 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn times_are_read_in_every_zone() {
        assert_eq!(parse_time("1970-01-01T00:00:00.000000000+00:00"), Some(0));
        assert_eq!(parse_time("2026-11-23T16:58:58.123456789+00:00"), Some(1_795_453_138_123_456));
        assert_eq!(parse_time("2026-11-23T17:58:58.123456789+01:00"), Some(1_795_453_138_123_456));
        assert_eq!(parse_time("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000));
        assert_eq!(parse_time("2000-03-01T00:00:00.5Z"), Some(951_868_800_500_000));
        assert_eq!(parse_time("yesterday"), None);
        assert_eq!(parse_time(""), None);
    }

    fn line(number: u32) -> String {
        format!("2026-11-23T16:58:{number:02}.000000000+00:00 stdout F line {number}\n")
    }

    fn messages(reader: &mut LogReader) -> Vec<String> {
        reader.read_batch().unwrap().into_iter().map(|entry| entry.message).collect()
    }

    #[test]
    fn rotated_files_come_first_and_a_rotation_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        std::fs::write(rotated(&path, 2), line(1)).unwrap();
        std::fs::write(rotated(&path, 1), line(2)).unwrap();
        std::fs::write(&path, line(3)).unwrap();
        let mut reader = LogReader::new(path.clone());
        assert_eq!(messages(&mut reader), ["line 1", "line 2", "line 3"]);
        assert!(messages(&mut reader).is_empty());
        let mut current = File::options().append(true).open(&path).unwrap();
        current.write_all(line(4).as_bytes()).unwrap();
        std::fs::rename(rotated(&path, 1), rotated(&path, 2)).unwrap();
        std::fs::rename(&path, rotated(&path, 1)).unwrap();
        std::fs::write(&path, line(5)).unwrap();
        assert_eq!(messages(&mut reader), ["line 4", "line 5"]);
    }

    #[test]
    fn what_was_read_is_read_again_whatever_was_rotated_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        std::fs::write(rotated(&path, 1), line(1)).unwrap();
        let half = line(3);
        std::fs::write(&path, line(2) + &half[..30]).unwrap();
        let mut reader = LogReader { read: Some(Vec::new()), ..LogReader::new(path.clone()) };
        assert_eq!(messages(&mut reader), ["line 1", "line 2"]);
        assert!(messages(&mut reader).is_empty());
        // The oldest file goes, and the line is written to its end.
        File::options().append(true).open(&path).unwrap().write_all(&half.as_bytes()[30..]).unwrap();
        std::fs::rename(&path, rotated(&path, 1)).unwrap();
        std::fs::write(&path, line(4)).unwrap();
        reader.rewind().unwrap();
        assert_eq!(messages(&mut reader), ["line 1", "line 2", "line 3", "line 4"]);
        reader.rewind().unwrap();
        assert_eq!(messages(&mut reader), ["line 1", "line 2", "line 3", "line 4"]);
    }

    #[test]
    fn last_lines_are_kept_only_while_they_are_few() {
        let batch = |numbers: std::ops::Range<u32>| {
            numbers.map(|number| parse_line(line(number % 60).as_bytes()).unwrap())
        };
        let mut few = Tail::new(3);
        for _ in 0..1000 {
            few.add(batch(0..50).collect());
        }
        assert_eq!(few.found, 50_000);
        let kept: Vec<_> = few.kept.unwrap().into_iter().map(|entry| entry.message).collect();
        assert_eq!(kept, ["line 47", "line 48", "line 49"]);
        let mut many = Tail::new(usize::MAX);
        for _ in 0..1000 {
            many.add(batch(0..50).collect());
        }
        assert_eq!((many.found, many.kept), (50_000, None));
    }

    #[test]
    fn what_is_no_line_does_not_end_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let garbage = "garbage\n".repeat(BATCH_BYTES / 4);
        std::fs::write(&path, line(1) + &garbage + &line(2)).unwrap();
        let mut reader = LogReader::new(path);
        let mut all = messages(&mut reader);
        all.extend(messages(&mut reader));
        assert_eq!(all, ["line 1", "line 2"]);
    }

    #[test]
    fn a_line_that_is_still_being_written_comes_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container.log");
        let whole = line(7);
        let (first, second) = whole.split_at(20);
        std::fs::write(&path, first).unwrap();
        let mut reader = LogReader::new(path.clone());
        assert!(messages(&mut reader).is_empty());
        File::options().append(true).open(&path).unwrap().write_all(second.as_bytes()).unwrap();
        assert_eq!(messages(&mut reader), ["line 7"]);
    }

    #[test]
    fn streams_parts_and_damage_are_told_apart() {
        let time = "2026-11-23T16:58:58.000000000+00:00";
        let entry = parse_line(format!("{time} stderr P half\n").as_bytes()).unwrap();
        assert_eq!((entry.stream, entry.partial, entry.message.as_str()), (LogStream::Stderr, true, "half"));
        assert_eq!(parse_line(format!("{time} stdout F \n").as_bytes()).unwrap().message, "");
        assert!(parse_line(b"garbage\n").is_none());
        assert!(parse_line(format!("{time} elsewhere F x\n").as_bytes()).is_none());
        assert_eq!(parse_line(format!("{time} stdout F \u{fffd}\n").as_bytes()).unwrap().message, "\u{fffd}");
    }
}
