//! Containers with what they use: volumes, images that are mounted, secrets. None of these can be removed while a
//! container's record refers to it, and the references go with the record.

use rusqlite::{Connection, TransactionBehavior, params};

use super::database::{is_constraint, name_taken};
use super::volumes::insert_volume;
use super::{ContainerRow, Store, StoreError, VolumeRow};

/// What a new container refers to, beside the image that it is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Volumes that come into being with it; they are not among `volumes`.
    pub new_volumes: Vec<VolumeRow>,
    /// Ids of volumes that exist.
    pub volumes: Vec<String>,
    /// Ids of images.
    pub images: Vec<String>,
    /// Ids of secrets.
    pub secrets: Vec<String>,
    /// The id of the pod that it is in.
    pub pod: Option<String>,
}

impl Uses {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Store {
    /// As [`Store::insert_container`], with all that it uses, in one transaction.
    ///
    /// # Errors
    /// Those of [`Store::insert_container`]; [`StoreError::Changed`] if something that it uses has gone, or somebody else has
    /// made a volume of the same name.
    pub fn insert_container_using(&self, row: &ContainerRow, uses: &Uses) -> Result<(), StoreError> {
        if uses.is_empty() {
            return self.insert_container(row);
        }
        let wrap = self.wrap("record the container");
        let mut connection = self.unflushed().map_err(&wrap)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        transaction
            .execute(
                "INSERT INTO containers (id, name, image_id, created_usec, definition) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![row.id, row.name, row.image_id, row.created_usec, row.definition],
            )
            .map_err(|error| name_taken(error, &row.name, &wrap))?;
        refer(&transaction, &row.id, uses).map_err(|error| {
            if is_constraint(&error) {
                StoreError::Changed { what: "something that the container is to use".to_owned() }
            } else {
                wrap(error)
            }
        })?;
        transaction.commit().map_err(&wrap)
    }

    /// As [`Store::delete_container`], with those of its volumes without a name that no other container uses. Returns these;
    /// `None` if there was no container of this id.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn delete_container_with_volumes(&self, id: &str) -> Result<Option<Vec<VolumeRow>>, StoreError> {
        let wrap = self.wrap("forget the container");
        let mut volumes = self.volumes_of_container(id)?;
        volumes.retain(|volume| volume.anonymous);
        let mut connection = self.unflushed().map_err(&wrap)?;
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        if transaction.execute("DELETE FROM containers WHERE id = ?1", [id]).map_err(&wrap)? == 0 {
            return Ok(None);
        }
        let gone = delete_unused(&transaction, volumes).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)?;
        Ok(Some(gone))
    }
}

/// Forgets those of these volumes that nobody uses; returns them.
pub(super) fn delete_unused(
    connection: &Connection,
    volumes: Vec<VolumeRow>,
) -> rusqlite::Result<Vec<VolumeRow>> {
    let mut gone = Vec::new();
    for volume in volumes {
        let deleted = connection.execute(
            "DELETE FROM volumes WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM volume_users WHERE volume_id = ?1)",
            [&volume.id],
        )?;
        if deleted > 0 {
            gone.push(volume);
        }
    }
    Ok(gone)
}

fn refer(connection: &Connection, container_id: &str, uses: &Uses) -> rusqlite::Result<()> {
    if let Some(pod) = &uses.pod {
        connection.execute(
            "INSERT INTO pod_members (container_id, pod_id) VALUES (?1, ?2)",
            params![container_id, pod],
        )?;
    }
    for volume in &uses.new_volumes {
        insert_volume(connection, volume)?;
    }
    let volumes = uses.new_volumes.iter().map(|volume| &volume.id).chain(&uses.volumes);
    for id in volumes {
        connection.execute(
            "INSERT OR IGNORE INTO volume_users (container_id, volume_id) VALUES (?1, ?2)",
            params![container_id, id],
        )?;
    }
    for id in &uses.images {
        connection.execute(
            "INSERT OR IGNORE INTO image_users (container_id, image_id) VALUES (?1, ?2)",
            params![container_id, id],
        )?;
    }
    for id in &uses.secrets {
        connection.execute(
            "INSERT OR IGNORE INTO secret_users (container_id, secret_id) VALUES (?1, ?2)",
            params![container_id, id],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Paths;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state_dir: dir.path().join("state"), run_dir: dir.path().join("run") };
        paths.prepare().unwrap();
        let store = Store::open(&paths).unwrap();
        (dir, store)
    }

    fn container(id: &str) -> ContainerRow {
        ContainerRow {
            id: id.into(),
            name: format!("n{id}"),
            image_id: None,
            created_usec: 1,
            definition: "{}".into(),
        }
    }

    fn volume(id: &str, name: &str, anonymous: bool) -> VolumeRow {
        VolumeRow {
            id: id.into(),
            name: name.into(),
            created_usec: 1,
            anonymous,
            fresh: true,
            definition: "{}".into(),
        }
    }

    #[test]
    fn a_volume_that_is_used_stays_and_one_without_a_name_goes_with_its_last_container() {
        let (_dir, store) = store();
        let uses = Uses {
            new_volumes: vec![volume("a1", "data", false), volume("b1", "b1", true)],
            ..Uses::default()
        };
        store.insert_container_using(&container("c1"), &uses).unwrap();
        let uses = Uses { volumes: vec!["b1".into()], ..Uses::default() };
        store.insert_container_using(&container("c2"), &uses).unwrap();
        assert!(matches!(store.delete_volume("a1"), Err(StoreError::InUse { .. })));
        assert_eq!(store.delete_container_with_volumes("c1").unwrap(), Some(Vec::new()));
        let gone = store.delete_container_with_volumes("c2").unwrap().unwrap();
        assert_eq!(gone.iter().map(|volume| volume.id.as_str()).collect::<Vec<_>>(), ["b1"]);
        assert_eq!(store.volumes().unwrap().len(), 1);
        assert!(store.delete_volume("a1").unwrap());
        assert_eq!(store.delete_container_with_volumes("c2").unwrap(), None);
    }

    #[test]
    fn what_has_changed_since_it_was_looked_up_is_told_and_nothing_is_half_recorded() {
        let (_dir, store) = store();
        store.insert_volume(&volume("a1", "data", false)).unwrap();
        for uses in [
            Uses { volumes: vec!["gone".into()], ..Uses::default() },
            Uses { new_volumes: vec![volume("a2", "data", false)], ..Uses::default() },
            Uses { images: vec!["gone".into()], ..Uses::default() },
            Uses { secrets: vec!["gone".into()], ..Uses::default() },
        ] {
            let refused = store.insert_container_using(&container("c1"), &uses).unwrap_err();
            assert!(matches!(refused, StoreError::Changed { .. }), "{refused:?}");
            assert!(!store.has_container("c1").unwrap());
        }
        assert_eq!(store.volumes().unwrap().len(), 1);
    }
}
