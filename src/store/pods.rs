//! Pods, and which containers are in them. Each public method is one transaction.

use std::collections::BTreeMap;

use rusqlite::{Row, TransactionBehavior, params};

use super::database::{container_row, name_taken};
use super::find::{Found, Named};
use super::users::delete_unused;
use super::volumes::VolumeRow;
use super::{ContainerRow, Store, StoreError};

/// A pod as recorded. `definition` is the engine's own JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among pods.
    pub name: String,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// What it is.
    pub definition: String,
}

const COLUMNS: &str = "id, name, created_usec, definition";

const PODS: Named<PodRow> =
    Named { attempted: "look up the pod", columns: COLUMNS, table: "pods", prefix_min: 1, read: pod_row };

impl Store {
    /// Records a new pod.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn insert_pod(&self, row: &PodRow) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO pods (id, name, created_usec, definition) VALUES (?1, ?2, ?3, ?4)",
                params![row.id, row.name, row.created_usec, row.definition],
            )
            .map_err(|error| name_taken(error, &row.name, self.wrap("record the pod")))?;
        Ok(())
    }

    /// All pods, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn pods(&self) -> Result<Vec<PodRow>, StoreError> {
        self.connection()
            .prepare_cached(&format!("SELECT {COLUMNS} FROM pods ORDER BY created_usec, id"))
            .and_then(|mut statement| statement.query_map([], pod_row)?.collect())
            .map_err(self.wrap("list the pods"))
    }

    /// What is called so.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn find_pod(&self, name: &str) -> Result<Found<PodRow>, StoreError> {
        self.find(&PODS, name)
    }

    /// Whether a pod of this very id is recorded.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn has_pod(&self, id: &str) -> Result<bool, StoreError> {
        self.connection()
            .query_row("SELECT EXISTS (SELECT 1 FROM pods WHERE id = ?1)", [id], |row| row.get(0))
            .map_err(self.wrap("look up the pod"))
    }

    /// The containers of a pod, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn pod_members(&self, pod_id: &str) -> Result<Vec<ContainerRow>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT id, name, image_id, created_usec, definition FROM containers
                 WHERE id IN (SELECT container_id FROM pod_members WHERE pod_id = ?1) ORDER BY created_usec, id",
            )
            .and_then(|mut statement| statement.query_map([pod_id], container_row)?.collect())
            .map_err(self.wrap("list the pod's containers"))
    }

    /// Forgets a pod and all its containers, if those are its containers still, with those of their volumes without a name that no
    /// other container uses. Returns these volumes; `None` if those are not its containers, or it is not there.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn delete_pod(&self, id: &str, members: &[String]) -> Result<Option<Vec<VolumeRow>>, StoreError> {
        let wrap = self.wrap("forget the pod");
        let mut volumes = BTreeMap::new();
        for member in members {
            let used = self.volumes_of_container(member)?.into_iter().filter(|volume| volume.anonymous);
            volumes.extend(used.map(|volume| (volume.id.clone(), volume)));
        }
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        let run = || -> rusqlite::Result<Option<Vec<VolumeRow>>> {
            let mut deleted = 0;
            for member in members {
                deleted += transaction.execute(
                    "DELETE FROM containers WHERE id = ?1
                     AND id IN (SELECT container_id FROM pod_members WHERE pod_id = ?2)",
                    [member, id],
                )?;
            }
            let others: i64 =
                transaction.query_row("SELECT count(*) FROM pod_members WHERE pod_id = ?1", [id], |row| {
                    row.get(0)
                })?;
            if deleted != members.len() || others > 0 {
                return Ok(None);
            }
            if transaction.execute("DELETE FROM pods WHERE id = ?1", [id])? == 0 {
                return Ok(None);
            }
            delete_unused(&transaction, volumes.into_values().collect()).map(Some)
        };
        let gone = run().map_err(&wrap)?;
        if gone.is_some() {
            transaction.commit().map_err(&wrap)?;
        }
        Ok(gone)
    }
}

fn pod_row(row: &Row<'_>) -> rusqlite::Result<PodRow> {
    Ok(PodRow { id: row.get(0)?, name: row.get(1)?, created_usec: row.get(2)?, definition: row.get(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{ContainerRow, Paths, Uses};

    #[test]
    fn a_pod_and_its_containers_go_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths { state_dir: dir.path().join("state"), run_dir: dir.path().join("run") };
        paths.prepare().unwrap();
        let store = Store::open(&paths).unwrap();
        let pod = |id: &str, name: &str| PodRow {
            id: id.into(),
            name: name.into(),
            created_usec: 1,
            definition: "{}".into(),
        };
        let container = |id: &str| ContainerRow {
            id: id.into(),
            name: format!("of {id}"),
            image_id: None,
            created_usec: 1,
            definition: "{}".into(),
        };
        store.insert_pod(&pod("aa11", "shop")).unwrap();
        assert!(matches!(store.insert_pod(&pod("aa22", "shop")), Err(StoreError::NameTaken { .. })));
        let put = |id: &str, pod: &str| {
            let uses = Uses { pod: Some(pod.to_owned()), ..Uses::default() };
            store.insert_container_using(&container(id), &uses)
        };
        put("c1", "aa11").unwrap();
        put("c2", "aa11").unwrap();
        assert!(matches!(put("c3", "gone"), Err(StoreError::Changed { .. })));
        assert!(!store.has_container("c3").unwrap(), "nothing is half recorded");
        assert!(store.delete_pod("aa11", &["c1".into()]).unwrap().is_none(), "there is another one");
        assert!(store.delete_pod("aa11", &["c1".into(), "c2".into(), "c9".into()]).unwrap().is_none());
        assert_eq!(store.pod_members("aa11").unwrap().len(), 2);
        store.delete_container("c2").unwrap();
        assert_eq!(store.pod_members("aa11").unwrap().len(), 1);
        assert!(store.delete_pod("aa11", &["c1".into()]).unwrap().is_some());
        assert!(!store.has_container("c1").unwrap() && !store.has_pod("aa11").unwrap());
        assert_eq!(store.find_pod("aa1").unwrap(), Found::None);
    }
}
