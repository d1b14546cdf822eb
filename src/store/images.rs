//! What is recorded of layers, of the blobs they came as, and of the digests and names of images.

use rusqlite::{OptionalExtension, params};

use super::database::Store;
use super::{ImageRow, StoreError};

/// A blob of a registry that holds a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// Registry and repository where it was seen.
    pub repository: String,
    /// Of the blob: compressed, if it is.
    pub digest: String,
    /// As the manifest called it.
    pub media_type: String,
    /// Of the blob.
    pub size_bytes: i64,
}

impl Store {
    /// Records that a layer is whole. It is kept for a while even if no image comes to refer to it.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn record_layer(&self, diff_id: &str, size_bytes: i64, now_usec: i64) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO layers (diff_id, size_bytes, finished_usec) VALUES (?1, ?2, ?3)
                 ON CONFLICT (diff_id) DO UPDATE SET finished_usec = excluded.finished_usec",
                params![diff_id, size_bytes, now_usec],
            )
            .map(drop)
            .map_err(self.wrap("record the layer"))
    }

    /// The bytes of a layer's files; `None` if it is not recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn layer_size(&self, diff_id: &str) -> Result<Option<i64>, StoreError> {
        self.connection()
            .query_row("SELECT size_bytes FROM layers WHERE diff_id = ?1", [diff_id], |row| row.get(0))
            .optional()
            .map_err(self.wrap("look up the layer"))
    }

    /// Whether an image or a step of a build has this layer, or it was finished after a point in time.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn is_layer_wanted(&self, diff_id: &str, finished_after_usec: i64) -> Result<bool, StoreError> {
        self.connection()
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM image_layers WHERE diff_id = ?1)
                     OR EXISTS (SELECT 1 FROM build_steps WHERE diff_id = ?1)
                     OR EXISTS (SELECT 1 FROM layers WHERE diff_id = ?1 AND finished_usec > ?2)",
                params![diff_id, finished_after_usec],
                |row| row.get(0),
            )
            .map_err(self.wrap("look up the layer"))
    }

    /// Lets go of layers that no image and no step of a build has, whenever they were finished; forgets those before a point in time.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn forget_unused_layers(&self, finished_until_usec: i64) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "DELETE FROM layers WHERE finished_usec <= ?1 AND diff_id NOT IN (SELECT diff_id FROM image_layers)
                     AND NOT EXISTS (SELECT 1 FROM build_steps WHERE build_steps.diff_id = layers.diff_id)",
                [finished_until_usec],
            )
            .map(drop)
            .map_err(self.wrap("forget layers"))
    }

    /// Records as what a layer is kept in a repository. The layer must be recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn record_blob(&self, diff_id: &str, blob: &BlobRow) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT OR IGNORE INTO layer_blobs (diff_id, repository, digest, media_type, size_bytes)
                 SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM layers WHERE diff_id = ?1)",
                params![diff_id, blob.repository, blob.digest, blob.media_type, blob.size_bytes],
            )
            .map(drop)
            .map_err(self.wrap("record the blob"))
    }

    /// As what a layer is kept where.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn blobs_of_layer(&self, diff_id: &str) -> Result<Vec<BlobRow>, StoreError> {
        let connection = self.connection();
        connection
            .prepare_cached(
                "SELECT repository, digest, media_type, size_bytes FROM layer_blobs WHERE diff_id = ?1",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([diff_id], |row| {
                        Ok(BlobRow {
                            repository: row.get(0)?,
                            digest: row.get(1)?,
                            media_type: row.get(2)?,
                            size_bytes: row.get(3)?,
                        })
                    })?
                    .collect()
            })
            .map_err(self.wrap("look up the blobs"))
    }

    /// Gives an image one more name, taking it from another that has it. False if there is no such image.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn name_image(&self, id: &str, name: &str) -> Result<bool, StoreError> {
        self.connection()
            .execute(
                "INSERT INTO image_names (name, image_id) SELECT ?2, id FROM images WHERE id = ?1
                 ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
                params![id, name],
            )
            .map(|changed| changed > 0)
            .map_err(self.wrap("name the image"))
    }

    /// The image that came from a repository with this digest of its manifest or index.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn image_by_digest(&self, repository: &str, digest: &str) -> Result<Option<ImageRow>, StoreError> {
        let id: Option<String> = self
            .connection()
            .query_row(
                "SELECT image_id FROM image_digests WHERE repository = ?1 AND digest = ?2",
                [repository, digest],
                |row| row.get(0),
            )
            .optional()
            .map_err(self.wrap("look up the image"))?;
        id.map_or(Ok(None), |id| self.image(&id))
    }

    /// Records that an image is in a repository under a digest.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn record_digest(&self, id: &str, repository: &str, digest: &str) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO image_digests (repository, digest, image_id) VALUES (?1, ?2, ?3)
                 ON CONFLICT (repository, digest) DO UPDATE SET image_id = excluded.image_id",
                [repository, digest, id],
            )
            .map(drop)
            .map_err(self.wrap("record the image's digest"))
    }

    /// The ids of images that no container is made from; only those without a name unless `named`.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn unused_images(&self, named: bool) -> Result<Vec<String>, StoreError> {
        let connection = self.connection();
        connection
            .prepare_cached(
                "SELECT id FROM images
                 WHERE NOT EXISTS (SELECT 1 FROM containers WHERE image_id = images.id)
                   AND NOT EXISTS (SELECT 1 FROM image_users WHERE image_id = images.id)
                   AND (?1 OR NOT EXISTS (SELECT 1 FROM image_names WHERE image_id = images.id))",
            )
            .and_then(|mut statement| statement.query_map([named], |row| row.get(0))?.collect())
            .map_err(self.wrap("look for unused images"))
    }

    /// The layers that images have, each once.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn layers_of_images(&self) -> Result<Vec<String>, StoreError> {
        let connection = self.connection();
        connection
            .prepare_cached("SELECT DISTINCT diff_id FROM image_layers")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.wrap("list the layers"))
    }
}
