//! Volumes, and who uses them. Each public method is one transaction.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row, params};

use super::database::{is_constraint, name_taken};
use super::find::{Found, Named, SHORT_ID_DIGITS};
use super::{Store, StoreError};

/// A volume as recorded. `definition` is the engine's own JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among volumes; the id where nobody gave a name.
    pub name: String,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// Made for a container that asked for no volume in particular.
    pub anonymous: bool,
    /// No container has been started with it yet.
    pub fresh: bool,
    /// What it is.
    pub definition: String,
}

/// A container that uses something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The container's.
    pub id: String,
    /// The container's.
    pub name: String,
}

const COLUMNS: &str = "id, name, created_usec, anonymous, fresh, definition";

const VOLUMES: Named<VolumeRow> = Named {
    attempted: "look up the volume",
    columns: COLUMNS,
    table: "volumes",
    prefix_min: SHORT_ID_DIGITS,
    read: volume_row,
};

impl Store {
    /// Records a new volume.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn insert_volume(&self, row: &VolumeRow) -> Result<(), StoreError> {
        insert_volume(&self.connection(), row)
            .map_err(|error| name_taken(error, &row.name, self.wrap("record the volume")))
    }

    /// All volumes, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn volumes(&self) -> Result<Vec<VolumeRow>, StoreError> {
        let mut rows: Vec<VolumeRow> = self
            .connection()
            .prepare_cached(&format!("SELECT {COLUMNS} FROM volumes"))
            .and_then(|mut statement| statement.query_map([], volume_row)?.collect())
            .map_err(self.wrap("list the volumes"))?;
        rows.sort_unstable_by(|a, b| (a.created_usec, &a.id).cmp(&(b.created_usec, &b.id)));
        Ok(rows)
    }

    /// What is called so.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn find_volume(&self, name: &str) -> Result<Found<VolumeRow>, StoreError> {
        self.find(&VOLUMES, name)
    }

    /// The volumes that a container uses.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn volumes_of_container(&self, container_id: &str) -> Result<Vec<VolumeRow>, StoreError> {
        self.connection()
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM volume_users JOIN volumes ON volumes.id = volume_id WHERE container_id = ?1 ORDER BY id"
            ))
            .and_then(|mut statement| statement.query_map([container_id], volume_row)?.collect())
            .map_err(self.wrap("look up the container's volumes"))
    }

    /// The containers of each volume that has some, by the volume's id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn volume_users(&self) -> Result<BTreeMap<String, Vec<User>>, StoreError> {
        users(
            &self.connection(),
            "SELECT volume_id, containers.id, containers.name FROM volume_users JOIN containers ON containers.id = container_id",
        )
        .map_err(self.wrap("look up who uses the volumes"))
    }

    /// Whether a volume of this very id is recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn has_volume(&self, id: &str) -> Result<bool, StoreError> {
        self.connection()
            .query_row("SELECT count(*) FROM volumes WHERE id = ?1", [id], |row| row.get::<_, i64>(0))
            .map(|count| count > 0)
            .map_err(self.wrap("look up the volume"))
    }

    /// Records that a volume was used for the first time.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn volume_was_used(&self, id: &str) -> Result<(), StoreError> {
        self.connection()
            .execute("UPDATE volumes SET fresh = 0 WHERE id = ?1", [id])
            .map(drop)
            .map_err(self.wrap("record the use of the volume"))
    }

    /// Forgets a volume. False if there was none of this id.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a container uses it.
    pub fn delete_volume(&self, id: &str) -> Result<bool, StoreError> {
        match self.connection().execute("DELETE FROM volumes WHERE id = ?1", [id]) {
            Ok(changed) => Ok(changed > 0),
            Err(error) if is_constraint(&error) => Err(StoreError::InUse { what: format!("volume {id}") }),
            Err(error) => Err(self.wrap("forget the volume")(error)),
        }
    }
}

pub(super) fn insert_volume(connection: &Connection, row: &VolumeRow) -> rusqlite::Result<()> {
    connection.execute(
        "INSERT INTO volumes (id, name, created_usec, anonymous, fresh, definition) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![row.id, row.name, row.created_usec, row.anonymous, row.fresh, row.definition],
    )?;
    Ok(())
}

/// What `query` tells of things and their containers, sorted by the containers' names.
pub(super) fn users(connection: &Connection, query: &str) -> rusqlite::Result<BTreeMap<String, Vec<User>>> {
    let mut statement = connection.prepare_cached(query)?;
    let rows = statement
        .query_map([], |row| Ok((row.get::<_, String>(0)?, User { id: row.get(1)?, name: row.get(2)? })))?;
    let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
    for row in rows {
        let (thing, user) = row?;
        users.entry(thing).or_default().push(user);
    }
    for users in users.values_mut() {
        users.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(users)
}

fn volume_row(row: &Row<'_>) -> rusqlite::Result<VolumeRow> {
    Ok(VolumeRow {
        id: row.get(0)?,
        name: row.get(1)?,
        created_usec: row.get(2)?,
        anonymous: row.get(3)?,
        fresh: row.get(4)?,
        definition: row.get(5)?,
    })
}
