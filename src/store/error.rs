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
    /// What belongs to a database is there, and the database is not.
    #[error(
        "the database {path:?} is gone or empty, but {directory:?} is not: without its records all of that would count as left over, and be removed; bring the database back (if its disk is not mounted, mount it), or move {directory:?} away to begin anew"
    )]
    Lost {
        /// The database.
        path: PathBuf,
        /// What would be lost with it.
        directory: PathBuf,
    },
    /// The run directory is used with another state directory.
    #[error(
        "{run_dir:?} is that of the containers that are recorded in {other:?}, and what runs there would count as left over for another state directory; choose another with --run-dir (DORMOUSE_RUN_DIR), or remove those containers first"
    )]
    OtherState {
        /// The run directory.
        run_dir: PathBuf,
        /// Where the records are.
        other: PathBuf,
    },
    /// The state directory is used with another run directory.
    #[error(
        "the containers that are recorded in {state_dir:?} are those of a service with the run directory {other:?}, and what runs of them is known only there; use that one with --run-dir (DORMOUSE_RUN_DIR), or remove it if nothing runs there any more"
    )]
    OtherRun {
        /// The state directory.
        state_dir: PathBuf,
        /// Where what runs is told.
        other: PathBuf,
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
