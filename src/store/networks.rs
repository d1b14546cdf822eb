//! Networks, and what containers have of them: addresses and ports of the host. Each public method is one transaction.

use std::net::IpAddr;

use rusqlite::{Connection, Row, TransactionBehavior, params};

use super::database::{is_constraint, name_taken};
use super::find::{Found, Named};
use super::{Store, StoreError};

/// A network as recorded. `definition` is the engine's own JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRow {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among networks.
    pub name: String,
    /// Microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
    /// What it is.
    pub definition: String,
}

/// An address of a network that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// The network.
    pub network_id: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is.
    pub container_id: String,
}

/// A port of the host that a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRow {
    /// tcp, udp or sctp.
    pub protocol: String,
    /// 1 to 65535.
    pub port: u16,
    /// `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// Whose it is.
    pub container_id: String,
}

/// What containers have of the host's networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Addresses.
    pub leases: Vec<LeaseRow>,
    /// Ports.
    pub ports: Vec<PortRow>,
}

const NETWORKS: Named<NetworkRow> = Named {
    attempted: "look up the network",
    columns: "id, name, created_usec, definition",
    table: "networks",
    prefix_min: 1,
    read: network_row,
};

impl Store {
    /// Records a new network.
    ///
    /// # Errors
    /// [`StoreError::NameTaken`].
    pub fn insert_network(&self, row: &NetworkRow) -> Result<(), StoreError> {
        self.connection()
            .execute(
                "INSERT INTO networks (id, name, created_usec, definition) VALUES (?1, ?2, ?3, ?4)",
                params![row.id, row.name, row.created_usec, row.definition],
            )
            .map_err(|error| name_taken(error, &row.name, self.wrap("record the network")))?;
        Ok(())
    }

    /// All networks, oldest first.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn networks(&self) -> Result<Vec<NetworkRow>, StoreError> {
        self.connection()
            .prepare_cached(
                "SELECT id, name, created_usec, definition FROM networks ORDER BY created_usec, id",
            )
            .and_then(|mut statement| statement.query_map([], network_row)?.collect())
            .map_err(self.wrap("list the networks"))
    }

    /// What is called so.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn find_network(&self, name: &str) -> Result<Found<NetworkRow>, StoreError> {
        self.find(&NETWORKS, name)
    }

    /// Forgets a network. False if there was none of this id.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while a container has an address of it.
    pub fn delete_network(&self, id: &str) -> Result<bool, StoreError> {
        match self.connection().execute("DELETE FROM networks WHERE id = ?1", [id]) {
            Ok(changed) => Ok(changed > 0),
            Err(error) if is_constraint(&error) => Err(StoreError::InUse { what: format!("network {id}") }),
            Err(error) => Err(self.wrap("forget the network")(error)),
        }
    }

    /// Gives a container what `choose` picks, in place of all that it has; `choose` sees what others have. Nobody else
    /// picks meanwhile. A refusal of `choose` changes nothing.
    ///
    /// # Errors
    /// The database's refusal; [`StoreError::InUse`] for what another has.
    pub fn reserve<E>(
        &self,
        container_id: &str,
        choose: impl FnOnce(&Reservations) -> Result<Reservations, E>,
    ) -> Result<Result<Reservations, E>, StoreError> {
        let wrap = self.wrap("reserve addresses and ports");
        let mut connection = self.connection();
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        forget(&transaction, container_id).map_err(&wrap)?;
        let others = reservations(&transaction, "").map_err(&wrap)?;
        let chosen = match choose(&others) {
            Ok(chosen) => chosen,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let insert = || -> rusqlite::Result<()> {
            for lease in &chosen.leases {
                transaction.execute(
                    "INSERT INTO leases (network_id, address, container_id) VALUES (?1, ?2, ?3)",
                    params![lease.network_id, lease.address.to_string(), container_id],
                )?;
            }
            for port in &chosen.ports {
                let host_ip = port.host_ip.map_or_else(String::new, |address| address.to_string());
                transaction.execute(
                    "INSERT INTO ports (protocol, port, host_ip, container_id) VALUES (?1, ?2, ?3, ?4)",
                    params![port.protocol, port.port, host_ip, container_id],
                )?;
            }
            Ok(())
        };
        insert().map_err(|error| {
            if is_constraint(&error) {
                StoreError::InUse {
                    what: "an address or a port that was chosen twice, or a network that is gone".to_owned(),
                }
            } else {
                wrap(error)
            }
        })?;
        transaction.commit().map_err(&wrap)?;
        Ok(Ok(chosen))
    }

    /// Takes back all that a container has.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn release(&self, container_id: &str) -> Result<(), StoreError> {
        let wrap = self.wrap("release addresses and ports");
        let mut connection = self.connection();
        let has: bool = connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM leases WHERE container_id = ?1) OR EXISTS (SELECT 1 FROM ports WHERE container_id = ?1)",
            )
            .and_then(|mut statement| statement.query_row([container_id], |row| row.get(0)))
            .map_err(&wrap)?;
        if !has {
            return Ok(());
        }
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&wrap)?;
        forget(&transaction, container_id).map_err(&wrap)?;
        transaction.commit().map_err(&wrap)
    }

    /// What a container has.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn reserved_by(&self, container_id: &str) -> Result<Reservations, StoreError> {
        reservations(&self.connection(), container_id).map_err(self.wrap("look up addresses and ports"))
    }

    /// The ids of all containers that have an address or a port.
    ///
    /// # Errors
    /// The database's refusal.
    pub fn reserving_containers(&self) -> Result<Vec<String>, StoreError> {
        self.connection()
            .prepare_cached("SELECT container_id FROM leases UNION SELECT container_id FROM ports")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .map_err(self.wrap("look up addresses and ports"))
    }
}

fn forget(connection: &Connection, container_id: &str) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM leases WHERE container_id = ?1", [container_id])?;
    connection.execute("DELETE FROM ports WHERE container_id = ?1", [container_id])?;
    Ok(())
}

/// Of one container, or of all if its id is empty. What is no address is left out: nobody can have it.
fn reservations(connection: &Connection, container_id: &str) -> rusqlite::Result<Reservations> {
    let lease = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get(2)?));
    let leases = connection
        .prepare_cached(
            "SELECT network_id, address, container_id FROM leases WHERE ?1 = '' OR container_id = ?1 ORDER BY network_id, address",
        )?
        .query_map([container_id], lease)?
        .filter_map(|row| match row {
            Ok((network_id, address, container_id)) => {
                address.parse().ok().map(|address| Ok(LeaseRow { network_id, address, container_id }))
            }
            Err(error) => Some(Err(error)),
        })
        .collect::<rusqlite::Result<_>>()?;
    let port = |row: &Row<'_>| {
        let host_ip: String = row.get(2)?;
        Ok(PortRow {
            protocol: row.get(0)?,
            port: row.get(1)?,
            host_ip: host_ip.parse().ok(),
            container_id: row.get(3)?,
        })
    };
    let ports = connection
        .prepare_cached(
            "SELECT protocol, port, host_ip, container_id FROM ports WHERE ?1 = '' OR container_id = ?1 ORDER BY protocol, port",
        )?
        .query_map([container_id], port)?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Reservations { leases, ports })
}

fn network_row(row: &Row<'_>) -> rusqlite::Result<NetworkRow> {
    Ok(NetworkRow { id: row.get(0)?, name: row.get(1)?, created_usec: row.get(2)?, definition: row.get(3)? })
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

    fn network(id: &str, name: &str) -> NetworkRow {
        NetworkRow { id: id.into(), name: name.into(), created_usec: 1, definition: "{}".into() }
    }

    fn wanted(address: &str, port: u16, container_id: &str) -> Reservations {
        Reservations {
            leases: vec![LeaseRow {
                network_id: "ab".into(),
                address: address.parse().unwrap(),
                container_id: container_id.into(),
            }],
            ports: vec![PortRow {
                protocol: "tcp".into(),
                port,
                host_ip: None,
                container_id: container_id.into(),
            }],
        }
    }

    #[test]
    fn what_one_has_another_can_not_get() {
        let (_dir, store) = store();
        store.insert_network(&network("ab", "n")).unwrap();
        let first = wanted("10.0.0.2", 80, "c1");
        store.reserve("c1", |_| Ok::<_, ()>(first.clone())).unwrap().unwrap();
        let seen = store.reserve("c2", |others| {
            assert_eq!(*others, first);
            Ok::<_, ()>(wanted("10.0.0.2", 81, "c2"))
        });
        assert!(matches!(seen, Err(StoreError::InUse { .. })));
        assert_eq!(store.reserved_by("c2").unwrap(), Reservations::default(), "nothing was half reserved");
        assert_eq!(store.reserving_containers().unwrap(), ["c1"]);
        assert!(matches!(store.delete_network("ab"), Err(StoreError::InUse { .. })));
        store.release("c1").unwrap();
        assert_eq!(store.reserved_by("c1").unwrap(), Reservations::default());
        assert!(store.delete_network("ab").unwrap());
    }

    #[test]
    fn who_chooses_again_gives_the_old_back_and_a_refusal_changes_nothing() {
        let (_dir, store) = store();
        store.insert_network(&network("ab", "n")).unwrap();
        store.reserve("c1", |_| Ok::<_, ()>(wanted("10.0.0.2", 80, "c1"))).unwrap().unwrap();
        assert_eq!(store.reserve("c1", |_| Err::<Reservations, _>(7)).unwrap(), Err(7));
        assert_eq!(store.reserved_by("c1").unwrap(), wanted("10.0.0.2", 80, "c1"));
        store.reserve("c1", |_| Ok::<_, ()>(wanted("10.0.0.3", 80, "c1"))).unwrap().unwrap();
        assert_eq!(store.reserved_by("c1").unwrap(), wanted("10.0.0.3", 80, "c1"));
    }

    #[test]
    fn a_networks_name_is_given_once_and_found_by_a_prefix_of_its_id() {
        let (_dir, store) = store();
        store.insert_network(&network("ab12", "n")).unwrap();
        assert!(matches!(store.insert_network(&network("ab34", "n")), Err(StoreError::NameTaken { .. })));
        store.insert_network(&network("ab34", "m")).unwrap();
        assert_eq!(store.find_network("ab1").unwrap().ok().unwrap().name, "n");
        assert_eq!(store.find_network("ab").unwrap(), Found::Several);
        assert_eq!(store.find_network("m").unwrap().ok().unwrap().id, "ab34");
        assert_eq!(store.find_network("").unwrap(), Found::None);
        assert_eq!(store.networks().unwrap().len(), 2);
    }
}
