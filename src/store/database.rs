//! The SQLite database. Each public method is one transaction, durable when it returns where it does not say otherwise.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, TransactionBehavior, params};

use super::find::{Found, Named};
use super::group_commit::Log;
use super::{Paths, StoreError, schema};

/// A container as recorded. `definition` is the engine's own JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// The image, which can't be removed before the container.
    pub image_id: Option<String>,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// What it was created from.
    pub definition: String,
}

/// An image as recorded. `config` is the OCI image configuration, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// Names with tags.
    pub names: Vec<String>,
    /// The diff ids of the layers, lowest first.
    pub layers: Vec<String>,
    /// OCI image-spec, config.
    pub config: String,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// Extracted.
    pub size_bytes: i64,
    /// How many containers refer to it.
    pub containers: i64,
    /// The manifest that it last came with, if it came with one: media type and JSON, to the byte.
    pub manifest: Option<(String, String)>,
    /// Where it is by what digest: pairs of repository (with its registry) and digest.
    pub digests: Vec<(String, String)>,
}

/// The open database. Used from several threads, one at a time; other processes may have it open too.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
    pub(super) log: Log,
}

const CONTAINERS: Named<ContainerRow> = Named {
    attempted: "look up the container",
    columns: "id, name, image_id, created_usec, definition",
    table: "containers",
    prefix_min: 1,
    read: container_row,
};

/// How long the lock of another connection is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tries again where SQLite does not wait itself, whatever its timeout is: while another one changes the journal mode of a new
/// database.
fn patiently<T>(mut attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

impl Store {
    /// Opens the database, and makes or migrates it.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] for a schema from the future, [`StoreError::Lost`] where there is none and should be, else the
    /// database's refusal.
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        let path = paths.database();
        refuse_if_lost(paths, || Ok(std::fs::metadata(&path).map_or(true, |metadata| metadata.len() == 0)))?;
        let wrap = |source| database_error(&path, "open the database", source);
        let mut connection = Connection::open(&path).map_err(wrap)?;
        connection.busy_timeout(PATIENCE).map_err(wrap)?;
        // A plan does not depend on what is looked for. Else a statement with a range is planned anew each time it is used.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(wrap)?;
        let version = read_version(&connection).map_err(wrap)?;
        if version > schema::newest() {
            return Err(StoreError::TooNew { path, found: version, known: schema::newest() });
        }
        if version == 0 {
            refuse_if_lost(paths, || Ok(read_version(&connection).map_err(wrap)? == 0))?;
            // The journal mode is kept in the file; asking again would cost a lock at every wake.
            patiently(|| connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))).map_err(wrap)?;
        }
        // FULL: a commit is on the disk when it returns, as an acknowledged change must be.
        connection
            .execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -256;")
            .map_err(wrap)?;
        if version < schema::newest() {
            migrate(&mut connection).map_err(wrap)?;
        }
        Ok(Self { log: Log::of(&path), path, connection: Mutex::new(connection) })
    }

    /// The number of the schema in use.
    pub fn schema() -> i64 {
        schema::newest()
    }

    pub(super) fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic while it was held can't have left half a transaction: those roll back when dropped.
        self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn wrap(&self, attempted: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + '_ {
        move |source| database_error(&self.path, attempted, source)
    }

    /// Records a new container; durable after [`Store::flush`].
    ///
    /// # Errors
    /// [`StoreError::NameTaken`]; [`StoreError::InUse`] where its image has gone meanwhile.
    pub fn insert_container(&self, row: &ContainerRow) -> Result<(), StoreError> {
        self.unflushed()
            .and_then(|connection| insert_container(&connection, row))
            .map_err(|error| name_taken(error, &row.name, self.wrap("record the container")))?;
        Ok(())
    }

    /// Gives a container another name. False if there is none of this id.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn rename_container(&self, id: &str, name: &str) -> Result<bool, StoreError> {
        let changed = self
            .connection()
            .execute("UPDATE containers SET name = ?2 WHERE id = ?1", params![id, name])
            .map_err(|error| name_taken(error, name, self.wrap("rename the container")))?;
        Ok(changed > 0)
    }

    /// Records what a container is from now on. False if there is none of this id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn update_definition(&self, id: &str, definition: &str) -> Result<bool, StoreError> {
        let changed = self
            .connection()
            .execute("UPDATE containers SET definition = ?2 WHERE id = ?1", params![id, definition])
            .map_err(self.wrap("record the container"))?;
        Ok(changed > 0)
    }

    /// Forgets a container; durable after [`Store::flush`]. False if there was none of this id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn delete_container(&self, id: &str) -> Result<bool, StoreError> {
        let wrap = self.wrap("forget the container");
        let connection = self.unflushed().map_err(&wrap)?;
        let changed = connection
            .prepare_cached("DELETE FROM containers WHERE id = ?1")
            .and_then(|mut statement| statement.execute([id]))
            .map_err(&wrap)?;
        Ok(changed > 0)
    }

    /// What is called so.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn find_container(&self, name: &str) -> Result<Found<ContainerRow>, StoreError> {
        self.find(&CONTAINERS, name)
    }

    /// All containers, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn containers(&self) -> Result<Vec<ContainerRow>, StoreError> {
        let connection = self.connection();
        let mut rows: Vec<ContainerRow> = connection
            .prepare_cached("SELECT id, name, image_id, created_usec, definition FROM containers")
            .and_then(|mut statement| statement.query_map([], container_row)?.collect())
            .map_err(self.wrap("list the containers"))?;
        // SQLite would sort whole rows, and soon in a temporary file.
        rows.sort_unstable_by(|a, b| (a.created_usec, &a.id).cmp(&(b.created_usec, &b.id)));
        Ok(rows)
    }

    /// Records whether a container was left running: started, and not stopped by somebody since.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn set_left_running(&self, id: &str, left_running: bool) -> Result<(), StoreError> {
        self.connection()
            .prepare_cached("UPDATE containers SET left_running = ?2 WHERE id = ?1 AND left_running <> ?2")
            .and_then(|mut statement| statement.execute(params![id, left_running]))
            .map(drop)
            .map_err(self.wrap("record that the container runs"))
    }

    /// The containers of which [`Self::set_left_running`] said so, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn containers_left_running(&self) -> Result<Vec<ContainerRow>, StoreError> {
        let connection = self.connection();
        connection
            .prepare_cached("SELECT id, name, image_id, created_usec, definition FROM containers WHERE left_running ORDER BY created_usec, id")
            .and_then(|mut statement| statement.query_map([], container_row)?.collect())
            .map_err(self.wrap("list the containers that were left running"))
    }

    /// Whether a container of this very id is recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn has_container(&self, id: &str) -> Result<bool, StoreError> {
        self.connection()
            .query_row("SELECT count(*) FROM containers WHERE id = ?1", [id], |row| row.get::<_, i64>(0))
            .map(|count| count > 0)
            .map_err(self.wrap("look up the container"))
    }

    /// Records an image and moves `names` to it. An image of this id that is here already only gets the names.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn insert_image(&self, row: &ImageRow) -> Result<(), StoreError> {
        let wrap = self.wrap("record the image");
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        let run = || -> rusqlite::Result<()> {
            let new = transaction.execute(
                "INSERT OR IGNORE INTO images (id, config, created_usec, size_bytes) VALUES (?1, ?2, ?3, ?4)",
                params![row.id, row.config, row.created_usec, row.size_bytes],
            )?;
            if new > 0 {
                for (position, layer) in row.layers.iter().enumerate() {
                    transaction.execute(
                        "INSERT INTO image_layers (image_id, position, diff_id) VALUES (?1, ?2, ?3)",
                        params![row.id, i64::try_from(position).unwrap_or(i64::MAX), layer],
                    )?;
                }
            }
            // From now on they stay as long as their images do, and no longer.
            transaction.execute(
                "UPDATE layers SET finished_usec = 0 WHERE diff_id IN (SELECT diff_id FROM image_layers WHERE image_id = ?1)",
                [&row.id],
            )?;
            if let Some((media_type, manifest)) = &row.manifest {
                transaction.execute(
                    "UPDATE images SET manifest = ?2, manifest_type = ?3 WHERE id = ?1",
                    params![row.id, manifest, media_type],
                )?;
            }
            for (repository, digest) in &row.digests {
                transaction.execute(
                    "INSERT INTO image_digests (repository, digest, image_id) VALUES (?1, ?2, ?3)
                     ON CONFLICT (repository, digest) DO UPDATE SET image_id = excluded.image_id",
                    params![repository, digest, row.id],
                )?;
            }
            for name in &row.names {
                transaction.execute(
                    "INSERT INTO image_names (name, image_id) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
                    params![name, row.id],
                )?;
            }
            Ok(())
        };
        run().map_err(&wrap)?;
        transaction.commit().map_err(&wrap)
    }

    /// All images, newest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        let wrap = self.wrap("list the images");
        let connection = self.connection();
        let ids: Vec<String> = connection
            .prepare_cached("SELECT id FROM images ORDER BY created_usec DESC, id")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(&wrap)?;
        ids.iter()
            .map(|id| image_row(&connection, id))
            .filter_map(Result::transpose)
            .collect::<rusqlite::Result<_>>()
            .map_err(&wrap)
    }

    /// The image that has this name (with its tag), or this id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn image(&self, name_or_id: &str) -> Result<Option<ImageRow>, StoreError> {
        let wrap = self.wrap("look up the image");
        let connection = self.connection();
        let id: Option<String> = connection
            .prepare_cached(
                "SELECT image_id FROM image_names WHERE name = ?1 UNION SELECT id FROM images WHERE id = ?1",
            )
            .and_then(|mut statement| statement.query_row([name_or_id], |row| row.get(0)).optional())
            .map_err(&wrap)?;
        id.map_or(Ok(None), |id| image_row(&connection, &id).map_err(&wrap))
    }

    /// The image whose id begins with `sha256:` and `prefix`.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn image_by_prefix(&self, prefix: &str) -> Result<Found<ImageRow>, StoreError> {
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(Found::None);
        }
        let wrap = self.wrap("look up the image");
        let connection = self.connection();
        let from = format!("sha256:{prefix}");
        let ids: Vec<String> = connection
            .prepare_cached("SELECT id FROM images WHERE id >= ?1 AND id < ?1 || 'g' LIMIT 2")
            .and_then(|mut statement| statement.query_map([&from], |row| row.get(0))?.collect())
            .map_err(&wrap)?;
        ids.iter()
            .map(|id| image_row(&connection, id))
            .filter_map(Result::transpose)
            .collect::<rusqlite::Result<_>>()
            .map(Found::of)
            .map_err(&wrap)
    }

    /// Names of the containers made from an image.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn containers_of_image(&self, image_id: &str) -> Result<Vec<String>, StoreError> {
        let connection = self.connection();
        connection
            .prepare_cached(
                "SELECT name FROM containers WHERE image_id = ?1
                 UNION SELECT name FROM image_users JOIN containers ON containers.id = container_id WHERE image_users.image_id = ?1
                 ORDER BY name",
            )
            .and_then(|mut statement| statement.query_map([image_id], |row| row.get(0))?.collect())
            .map_err(self.wrap("look up the image's containers"))
    }

    /// Takes a name away. False if no image has it.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn delete_image_name(&self, name: &str) -> Result<bool, StoreError> {
        let changed = self
            .connection()
            .execute("DELETE FROM image_names WHERE name = ?1", [name])
            .map_err(self.wrap("forget the image's name"))?;
        Ok(changed > 0)
    }

    /// Forgets an image with all its names.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a container refers to it.
    pub fn delete_image(&self, id: &str) -> Result<bool, StoreError> {
        match self.connection().execute("DELETE FROM images WHERE id = ?1", [id]) {
            Ok(changed) => Ok(changed > 0),
            Err(error) if is_constraint(&error) => Err(StoreError::InUse { what: format!("image {id}") }),
            Err(error) => Err(self.wrap("forget the image")(error)),
        }
    }
}

/// A database that has been lost, with a disk or by mistake, must not take everything along that it told of: what has no
/// record is swept. Nothing is put anywhere before there is a database, so that a new one finds nothing.
fn refuse_if_lost(paths: &Paths, is_new: impl Fn() -> Result<bool, StoreError>) -> Result<(), StoreError> {
    if !is_new()? {
        return Ok(());
    }
    match paths.not_empty() {
        // Another process may have been the first meanwhile.
        Some(directory) if is_new()? => Err(StoreError::Lost { path: paths.database(), directory }),
        _ => Ok(()),
    }
}

fn read_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    // Immediate: of two processes that find an old schema, the second finds it migrated.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let done = usize::try_from(version).unwrap_or(0);
    for step in schema::MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", schema::newest())?;
    transaction.commit()
}

pub(super) fn insert_container(connection: &Connection, row: &ContainerRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO containers (id, name, image_id, created_usec, definition) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .and_then(|mut statement| {
            statement.execute(params![row.id, row.name, row.image_id, row.created_usec, row.definition])
        })
        .map(drop)
}

pub(super) fn container_row(row: &Row<'_>) -> rusqlite::Result<ContainerRow> {
    Ok(ContainerRow {
        id: row.get(0)?,
        name: row.get(1)?,
        image_id: row.get(2)?,
        created_usec: row.get(3)?,
        definition: row.get(4)?,
    })
}

fn image_row(connection: &Connection, id: &str) -> rusqlite::Result<Option<ImageRow>> {
    let found = connection
        .prepare_cached(
            "SELECT config, created_usec, size_bytes, (SELECT count(*) FROM containers WHERE image_id = images.id),
                    manifest_type, manifest
             FROM images WHERE id = ?1",
        )?
        .query_row([id], |row| {
            let manifest = Option::zip(row.get(4)?, row.get(5)?);
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, manifest))
        })
        .optional()?;
    let Some((config, created_usec, size_bytes, containers, manifest)) = found else { return Ok(None) };
    let names = connection
        .prepare_cached("SELECT name FROM image_names WHERE image_id = ?1 ORDER BY name")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let layers = connection
        .prepare_cached("SELECT diff_id FROM image_layers WHERE image_id = ?1 ORDER BY position")?
        .query_map([id], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let digests = connection
        .prepare_cached(
            "SELECT repository, digest FROM image_digests WHERE image_id = ?1 ORDER BY repository, digest",
        )?
        .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let id = id.to_owned();
    Ok(Some(ImageRow { id, names, layers, config, created_usec, size_bytes, containers, manifest, digests }))
}

pub(super) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

pub(super) fn name_taken(
    error: rusqlite::Error,
    name: &str,
    wrap: impl Fn(rusqlite::Error) -> StoreError,
) -> StoreError {
    match error.sqlite_error() {
        Some(inner) if inner.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE => {
            StoreError::NameTaken { name: name.to_owned() }
        }
        Some(inner) if inner.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY => {
            StoreError::InUse { what: "an image or a pod that is being removed".to_owned() }
        }
        _ => wrap(error),
    }
}

fn database_error(path: &std::path::Path, attempted: &'static str, source: rusqlite::Error) -> StoreError {
    match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { path: path.to_owned() },
        _ => StoreError::Database { attempted, path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Paths, Store) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state_dir: dir.path().join("state"), run_dir: dir.path().join("run") };
        paths.prepare().unwrap();
        let store = Store::open(&paths).unwrap();
        (dir, paths, store)
    }

    fn container(id: &str, name: &str) -> ContainerRow {
        ContainerRow {
            id: id.into(),
            name: name.into(),
            image_id: None,
            created_usec: 1,
            definition: "{}".into(),
        }
    }

    #[test]
    fn a_name_is_given_once() {
        let (_dir, _paths, store) = store();
        store.insert_container(&container("a1", "web")).unwrap();
        let taken = store.insert_container(&container("b1", "web")).unwrap_err();
        assert!(matches!(taken, StoreError::NameTaken { name } if name == "web"));
        store.insert_container(&container("b1", "db")).unwrap();
        assert!(matches!(store.rename_container("b1", "web"), Err(StoreError::NameTaken { .. })));
    }

    #[test]
    fn a_prefix_finds_all_that_it_fits_but_a_name_comes_first() {
        let (_dir, _paths, store) = store();
        store.insert_container(&container("aa11", "web")).unwrap();
        store.insert_container(&container("aa22", "aa1")).unwrap();
        assert_eq!(store.find_container("aa").unwrap(), Found::Several);
        assert_eq!(store.find_container("aa1").unwrap().ok().unwrap().id, "aa22", "the one of that name");
        assert_eq!(store.find_container("aa11").unwrap().ok().unwrap().name, "web");
        assert_eq!(store.find_container("w").unwrap(), Found::None, "names have no prefixes");
        assert_eq!(store.find_container("").unwrap(), Found::None);
        assert_eq!(store.find_container("%").unwrap(), Found::None);
    }

    #[test]
    fn what_was_left_running_is_known_after_opening_again() {
        let (_dir, paths, store) = store();
        for (id, name) in [("aa", "one"), ("bb", "two")] {
            store.insert_container(&container(id, name)).unwrap();
            store.set_left_running(id, true).unwrap();
        }
        store.set_left_running("bb", false).unwrap();
        drop(store);
        let left = Store::open(&paths).unwrap().containers_left_running().unwrap();
        assert_eq!(left.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["one"]);
    }

    #[test]
    fn an_image_in_use_stays() {
        let (_dir, _paths, store) = store();
        let image = ImageRow {
            id: "sha256:abc".into(),
            names: vec!["web:latest".into()],
            layers: vec!["sha256:1".into(), "sha256:2".into()],
            config: "{}".into(),
            created_usec: 5,
            size_bytes: 7,
            containers: 0,
            manifest: Some(("type".into(), "{}".into())),
            digests: vec![("localhost/web".into(), "sha256:9".into())],
        };
        store.insert_image(&image).unwrap();
        assert_eq!(store.image_by_digest("localhost/web", "sha256:9").unwrap().unwrap(), image);
        assert_eq!(store.image("web:latest").unwrap().unwrap(), image);
        let row = ContainerRow { image_id: Some("sha256:abc".into()), ..container("a1", "web") };
        store.insert_container(&row).unwrap();
        assert!(matches!(store.delete_image("sha256:abc"), Err(StoreError::InUse { .. })));
        assert_eq!(store.containers_of_image("sha256:abc").unwrap(), ["web"]);
        store.delete_container("a1").unwrap();
        assert!(store.delete_image("sha256:abc").unwrap());
        assert!(store.image("web:latest").unwrap().is_none());
        assert!(!store.is_layer_wanted("sha256:1", 0).unwrap());
    }

    #[test]
    fn a_database_from_the_future_is_left_alone() {
        let (_dir, paths, store) = store();
        store.connection().pragma_update(None, "user_version", 99).unwrap();
        drop(store);
        assert!(matches!(Store::open(&paths), Err(StoreError::TooNew { found: 99, .. })));
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let (_dir, paths, store) = store();
        store.insert_container(&container("a1", "web")).unwrap();
        drop(store);
        assert_eq!(Store::open(&paths).unwrap().containers().unwrap().len(), 1);
    }
}
