//! What can go wrong with durable state.

use std::path::PathBuf;

/// A failed change or look-up.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory of ours can't be made or read.
    #[error("cannot use directory {path:?}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A directory of ours belongs to another user, or is a link.
    #[error(
        "{path:?} is not a directory of this user; remove it, or choose another with --state-dir or --run-dir"
    )]
    NotOurs {
        /// Which one.
        path: PathBuf,
    },
    /// A lock file can't be made or locked.
    #[error("cannot lock {path:?}")]
    Lock {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The disk is full.
    #[error("cannot record the change: no space left for {path:?}")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// It is recorded, but the disk may not have it.
    #[error(
        "cannot write {path:?} to the disk; what was recorded may be lost if the machine loses its power"
    )]
    Unflushed {
        /// The log of the database.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another container or image has the name.
    #[error("the name {name:?} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Something else still refers to the row.
    #[error("{what} is in use")]
    InUse {
        /// The row, in words.
        what: String,
    },
    /// What a change was built on is not so any more; looking again helps.
    #[error("{what} has changed meanwhile")]
    Changed {
        /// What, in words.
        what: String,
    },
    /// The database was written by a newer version.
    #[error(
        "{path:?} has schema {found}, this version knows up to {known}; use the newer version of dormouse"
    )]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest that we know.
        known: i64,
    },
    /// A row that does not hold what it should.
    #[error("the record of {what} is damaged")]
    Damaged {
        /// The row, in words.
        what: String,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
    /// Any other refusal of the database.
    #[error("cannot {attempted} in {path:?}")]
    Database {
        /// What was attempted.
        attempted: &'static str,
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
}
