//! Group commit: what callers have recorded at the same time goes to the disk in one write.
//!
//! A commit of its own costs a flush of the disk, and while it lasts nobody else can record anything. What containers come and
//! go by is therefore committed into the write-ahead log without one, and flushed together with what others have committed
//! meanwhile. SQLite takes of the log what is whole: a loss of power before the flush loses the change and nothing else.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use super::{Store, StoreError};

/// How far the log was written, and how far it is on the disk.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// Counts what was committed.
    committed: AtomicU64,
    /// Of those, how many the disk has. Held while the disk is flushed.
    flushed: Mutex<u64>,
}

impl Log {
    pub(super) fn of(database: &std::path::Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), committed: AtomicU64::new(0), flushed: Mutex::new(0) }
    }
}

impl Store {
    /// Waits until the disk has what was recorded so far by the methods that leave this to their caller. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Unflushed`].
    pub fn flush(&self) -> Result<(), StoreError> {
        let log = &self.log;
        let wanted = log.committed.load(Ordering::Acquire);
        let mut flushed = log.flushed.lock().unwrap_or_else(PoisonError::into_inner);
        if *flushed >= wanted {
            // Somebody else's flush began after this was committed.
            return Ok(());
        }
        let covered = log.committed.load(Ordering::Acquire);
        File::open(&log.path)
            .and_then(|file| file.sync_all())
            .map_err(|source| StoreError::Unflushed { path: log.path.clone(), source })?;
        *flushed = covered;
        Ok(())
    }

    /// The connection, for a commit that [`Self::flush`] puts onto the disk.
    pub(super) fn unflushed(&self) -> Result<Unflushed<'_>, rusqlite::Error> {
        let connection = self.connection();
        connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        Ok(Unflushed { connection, log: &self.log })
    }
}

/// A connection whose commits don't wait for the disk. Dropped, it is one as any other again.
pub(super) struct Unflushed<'a> {
    connection: MutexGuard<'a, Connection>,
    log: &'a Log,
}

impl Deref for Unflushed<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl DerefMut for Unflushed<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

impl Drop for Unflushed<'_> {
    fn drop(&mut self) {
        self.log.committed.fetch_add(1, Ordering::Release);
        // It is refused inside of a transaction only, and those have borrowed this.
        if let Err(error) = self.connection.execute_batch("PRAGMA synchronous = FULL") {
            tracing::error!(%error, "the database does not flush its commits any more");
        }
    }
}
