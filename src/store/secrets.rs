//! Secrets without what they are: that is in files of their own, never in the database. Each public method is one
//! transaction.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Row, params};

use super::database::{is_constraint, name_taken};
use super::find::{Found, Named, SHORT_ID_DIGITS};
use super::volumes::users;
use super::{Store, StoreError, User};

/// A secret as recorded. `definition` is the engine's own JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among secrets.
    pub name: String,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// What is told of it.
    pub definition: String,
}

const SECRETS: Named<SecretRow> = Named {
    attempted: "look up the secret",
    columns: "id, name, created_usec, definition",
    table: "secrets",
    prefix_min: SHORT_ID_DIGITS,
    read: secret_row,
};

impl Store {
    /// Records a new secret.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn insert_secret(&self, row: &SecretRow) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO secrets (id, name, created_usec, definition) VALUES (?1, ?2, ?3, ?4)",
                params![row.id, row.name, row.created_usec, row.definition],
            )
            .map(drop)
            .map_err(|error| name_taken(error, &row.name, self.wrap("record the secret")))
    }

    /// All secrets, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn secrets(&self) -> Result<Vec<SecretRow>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT id, name, created_usec, definition FROM secrets ORDER BY created_usec, id",
            )
            .and_then(|mut statement| statement.query_map([], secret_row)?.collect())
            .map_err(self.wrap("list the secrets"))
    }

    /// What is called so.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn find_secret(&self, name: &str) -> Result<Found<SecretRow>, StoreError> {
        self.find(&SECRETS, name)
    }

    /// The containers of each secret that has some, by the secret's id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn secret_users(&self) -> Result<BTreeMap<String, Vec<User>>, StoreError> {
        users(
            &self.connection(),
            "SELECT secret_id, containers.id, containers.name FROM secret_users JOIN containers ON containers.id = container_id",
        )
        .map_err(self.wrap("look up who uses the secrets"))
    }

    /// Puts another secret in the place of the one of its name; its containers use the new one from their next start on.
    /// Returns the id of the old one, if there was one.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn replace_secret(&self, row: &SecretRow) -> Result<Option<String>, StoreError> {
        let wrap = self.wrap("record the secret");
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&wrap)?;
        let old: Option<String> = transaction
            .query_row("SELECT id FROM secrets WHERE name = ?1", [&row.name], |row| row.get(0))
            .optional()
            .map_err(&wrap)?;
        let change = || -> rusqlite::Result<()> {
            // First out of the way, for the name is taken by one alone.
            transaction
                .execute("UPDATE secrets SET name = name || '/' || id WHERE name = ?1", [&row.name])?;
            transaction.execute(
                "INSERT INTO secrets (id, name, created_usec, definition) VALUES (?1, ?2, ?3, ?4)",
                params![row.id, row.name, row.created_usec, row.definition],
            )?;
            if let Some(old) = &old {
                transaction.execute(
                    "UPDATE secret_users SET secret_id = ?2 WHERE secret_id = ?1",
                    params![old, row.id],
                )?;
                transaction.execute("DELETE FROM secrets WHERE id = ?1", [old])?;
            }
            Ok(())
        };
        change().map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(old)
    }

    /// Whether a secret of this very id is recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn has_secret(&self, id: &str) -> Result<bool, StoreError> {
        self.connection()
            .query_row("SELECT count(*) FROM secrets WHERE id = ?1", [id], |row| row.get::<_, i64>(0))
            .map(|count| count > 0)
            .map_err(self.wrap("look up the secret"))
    }

    /// Forgets a secret. False if there was none of this id.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a container uses it.
    pub fn delete_secret(&self, id: &str) -> Result<bool, StoreError> {
        match self.connection().execute("DELETE FROM secrets WHERE id = ?1", [id]) {
            Ok(changed) => Ok(changed > 0),
            Err(error) if is_constraint(&error) => Err(StoreError::InUse { what: format!("secret {id}") }),
            Err(error) => Err(self.wrap("forget the secret")(error)),
        }
    }
}

fn secret_row(row: &Row<'_>) -> rusqlite::Result<SecretRow> {
    Ok(SecretRow { id: row.get(0)?, name: row.get(1)?, created_usec: row.get(2)?, definition: row.get(3)? })
}
