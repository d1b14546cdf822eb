//! What steps of builds have come to: the cache of builds.

use rusqlite::{OptionalExtension, params};

use super::StoreError;
use super::database::Store;

/// What a step has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStepRow {
    /// The digest of all that the step depends on.
    pub key: String,
    /// The layer that it made, if it made one.
    pub diff_id: Option<String>,
    /// When; microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
}

impl Store {
    /// What the step of this key has come to.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn build_step(&self, key: &str) -> Result<Option<BuildStepRow>, StoreError> {
        self.connection()
            .prepare_cached("SELECT key, diff_id, created_usec FROM build_steps WHERE key = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([key], |row| {
                        Ok(BuildStepRow { key: row.get(0)?, diff_id: row.get(1)?, created_usec: row.get(2)? })
                    })
                    .optional()
            })
            .map_err(self.wrap("look up the step of a build"))
    }

    /// Records what steps have come to, in one transaction. Their layers stay as long as these records.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn record_build_steps(&self, steps: &[BuildStepRow], now_usec: i64) -> Result<(), StoreError> {
        let wrap = self.wrap("record the steps of a build");
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(&wrap)?;
        for step in steps {
            transaction
                .execute(
                    "INSERT INTO build_steps (key, diff_id, created_usec, used_usec) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (key) DO UPDATE SET diff_id = excluded.diff_id,
                         created_usec = excluded.created_usec, used_usec = excluded.used_usec",
                    params![step.key, step.diff_id, step.created_usec, now_usec],
                )
                .map_err(&wrap)?;
        }
        transaction.commit().map_err(&wrap)
    }

    /// Records that steps were of use, if that was not recorded after a point in time.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn use_build_steps(
        &self,
        keys: &[String],
        now_usec: i64,
        unless_usec: i64,
    ) -> Result<(), StoreError> {
        let wrap = self.wrap("record the use of steps of a build");
        let mut connection = self.connection();
        let transaction = connection.transaction().map_err(&wrap)?;
        for key in keys {
            transaction
                .execute(
                    "UPDATE build_steps SET used_usec = ?2 WHERE key = ?1 AND used_usec < ?3",
                    params![key, now_usec, unless_usec],
                )
                .map_err(&wrap)?;
        }
        // Without a change there is nothing to wait for the disk for.
        transaction.commit().map_err(&wrap)
    }

    /// Forgets steps that were of no use after a point in time. Their layers are nobody's then.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn forget_build_steps(&self, used_until_usec: i64) -> Result<(), StoreError> {
        self.connection()
            .execute("DELETE FROM build_steps WHERE used_usec <= ?1", [used_until_usec])
            .map(drop)
            .map_err(self.wrap("forget the steps of builds"))
    }
}
