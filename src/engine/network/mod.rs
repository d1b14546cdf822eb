//! Networks: what they are called, who is on them, and how a container gets on and off.
//!
//! # Who sets up and who takes down
//!
//! A start makes a network namespace with a name, reserves addresses and ports in the store, has netavark set everything
//! up, and only then executes the monitor, which joins the namespace. The namespace and what is in it stay over restarts
//! by the monitor, which so needs to know nothing of networks. When the container has ended for good, the monitor executes
//! this program as `cleanup --network`, which takes everything down before the end is told. Whatever is killed:
//!
//! ```text
//! serve, during a start        the next wake finds a namespace or a reservation of a container that does not run
//! the monitor                  the same, or the Stop, Start or Remove that comes before
//! cleanup, or netavark         the same: taking down what is half gone is no error
//! the machine                  the run directory is empty; only reservations are left, and are released
//! ```
//!
//! `network.json` in the run directory says what was set up; it is written first and removed last. Each start has a number of its
//! own in it, so that a cleanup that comes too late leaves the next start's network alone.
//!
//! Most of the work is for a network's first and last container. So while containers come and go quickly, the service holds an
//! [`anchor`] on each of their networks for a moment.

mod anchor;
mod attach;
mod check;
mod connect;
mod etc;
mod pasta;
mod plan;
mod state;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::network::{
    Driver, IpNet, NetworkDefinition, Subnet, choose_free, is_interface_name, overlap, routes, unique_local,
};
use crate::store::{Found, NetworkRow, StoreError};

use super::{Container, Engine, EngineError, EventKind, blocking, names, now_usec};

pub(super) use anchor::Anchors;
pub(super) use attach::PendingNetwork;
pub(super) use check::{attachments, check, ports_to_publish};
pub(super) use etc::etc_mounts;
pub use state::{Attached, NetworkState, Published};

/// The network of containers that say nothing of networks.
pub(super) const DEFAULT_NETWORK: &str = "dormouse";
/// What the kernel takes as the size of a packet of IPv6 at least, RFC 8200, section 5.
const MTU_MIN: u32 = 1280;

/// A network that exists.
#[derive(Debug, Clone)]
pub struct Network {
    /// As recorded.
    pub row: NetworkRow,
    /// What the record says.
    pub definition: NetworkDefinition,
}

/// A network as asked for. Field by field the parameters of Create of io.dormouse.Network.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct NewNetwork {
    pub name: String,
    pub driver: Option<Driver>,
    pub subnets: Vec<NewSubnet>,
    pub ipv6: bool,
    pub interface: Option<String>,
    pub internal: bool,
    pub dns: Option<bool>,
    pub isolate: Option<bool>,
    pub mtu: Option<u32>,
    pub mode: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// A subnet as asked for, as text.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct NewSubnet {
    pub subnet: String,
    pub gateway: Option<String>,
    pub range_first: Option<String>,
    pub range_last: Option<String>,
}

/// A container that is on a network, or will be when it starts.
#[derive(Debug, Clone)]
pub struct Member {
    /// The container.
    pub id: String,
    /// The container's.
    pub name: String,
    /// What was asked for.
    pub asked: super::spec::NetworkAttachment,
    /// What it has, while it runs.
    pub attached: Option<Attached>,
}

fn only(found: Found<NetworkRow>, name: &str) -> Result<NetworkRow, EngineError> {
    found.one(
        || EngineError::NetworkAmbiguous { network: name.to_owned() },
        || EngineError::NetworkNotFound { network: name.to_owned() },
    )
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

impl Engine {
    /// Makes a network.
    ///
    /// # Errors
    /// [`EngineError::NetworkExists`], [`EngineError::InvalidSpec`].
    pub fn create_network(&self, new: NewNetwork) -> Result<Network, EngineError> {
        if !crate::identity::is_root() {
            return Err(EngineError::Unsupported {
                feature: "making a network".to_owned(),
                reason: "only root of the host can make bridges; containers of this service have pasta"
                    .to_owned(),
            });
        }
        names::check("name", &new.name)?;
        if ["none", "host", "private", "container", "default", crate::network::pasta::NAME]
            .contains(&new.name.as_str())
        {
            return Err(invalid("name", format!("{:?} has a meaning of its own", new.name)));
        }
        let existing = self.networks()?;
        if existing.iter().any(|network| network.row.name == new.name) {
            return Err(EngineError::NetworkExists { network: new.name });
        }
        let id = names::new_id()?;
        let definition = define(&new, &id, &existing)?;
        let row = NetworkRow {
            id: id.clone(),
            name: new.name.clone(),
            created_usec: now_usec(),
            definition: serde_json::to_string(&definition).map_err(|error| EngineError::Failed {
                attempted: "record the network".to_owned(),
                reason: error.to_string(),
            })?,
        };
        self.store()?.insert_network(&row).map_err(|error| match error {
            StoreError::NameTaken { name } => EngineError::NetworkExists { network: name },
            other => other.into(),
        })?;
        self.record_event(EventKind::Network, "create", &id, &new.name);
        Ok(Network { row, definition })
    }

    /// All networks, oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn networks(&self) -> Result<Vec<Network>, EngineError> {
        self.store()?.networks()?.into_iter().map(read).collect()
    }

    /// Finds a network by name, id, or a prefix of the id; the default one is made if it is not there.
    ///
    /// # Errors
    /// [`EngineError::NetworkNotFound`], [`EngineError::NetworkAmbiguous`].
    pub fn find_network(&self, name: &str) -> Result<Network, EngineError> {
        match self.store()?.find_network(name)? {
            Found::None if name == DEFAULT_NETWORK => {
                match self.create_network(NewNetwork { name: name.to_owned(), ..NewNetwork::default() }) {
                    // Two needed it at once.
                    Err(EngineError::NetworkExists { .. }) => self.find_network(name),
                    made => made,
                }
            }
            found => read(only(found, name)?),
        }
    }

    /// The containers of each network, by the network's id.
    ///
    /// # Errors
    /// Those of the store.
    pub fn members(&self) -> Result<BTreeMap<String, Vec<Member>>, EngineError> {
        let networks = self.store()?.networks()?;
        let mut members: BTreeMap<String, Vec<Member>> = BTreeMap::new();
        let containers = self.store()?.containers()?.into_iter().map(|row| self.read_container(row));
        for container in containers.chain(self.pod_frames()?.into_iter().map(Ok)) {
            let container = container?;
            if container.definition.networks.is_empty() {
                continue;
            }
            let state = self.network_state(&container.row.id)?;
            for asked in container.definition.networks {
                let Some(network) =
                    networks.iter().find(|row| row.name == asked.network || row.id == asked.network)
                else {
                    continue;
                };
                let attached = state.as_ref().and_then(|state| state.of(&network.id)).cloned();
                members.entry(network.id.clone()).or_default().push(Member {
                    id: container.row.id.clone(),
                    name: container.row.name.clone(),
                    asked,
                    attached,
                });
            }
        }
        Ok(members)
    }

    /// Removes a network. With `force` its containers are disconnected first. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::NetworkNotFound`], [`EngineError::NetworkInUse`].
    pub async fn remove_network(&self, name: &str, force: bool) -> Result<(), EngineError> {
        let row = only(self.store()?.find_network(name)?, name)?;
        let members = self.members()?.remove(&row.id).unwrap_or_default();
        if force {
            for member in &members {
                match self.disconnect(&row.id, &member.id).await {
                    Err(EngineError::NotConnected { .. } | EngineError::NotFound { .. }) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
        } else if !members.is_empty() {
            let containers = members.into_iter().map(|member| member.name).collect();
            return Err(EngineError::NetworkInUse { network: row.name, containers });
        }
        let lock = self.lock(&row.id).await?;
        let (engine, id) = (self.clone(), row.id.clone());
        blocking(move || engine.weigh_anchor(&id)).await?;
        drop(lock);
        match self.store()?.delete_network(&row.id) {
            Ok(true) => {}
            Ok(false) => return Err(EngineError::NetworkNotFound { network: name.to_owned() }),
            // One of a container that has started, or was removed, just now.
            Err(StoreError::InUse { .. }) => {
                return Err(EngineError::NetworkInUse { network: row.name, containers: Vec::new() });
            }
            Err(error) => return Err(error.into()),
        }
        self.record_event(EventKind::Network, "remove", &row.id, &row.name);
        Ok(())
    }

    /// Removes all networks that no container refers to, but not the default one; their names.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prune_networks(&self) -> Result<Vec<String>, EngineError> {
        let members = self.members()?;
        let mut removed = Vec::new();
        for row in self.store()?.networks()? {
            if row.name == DEFAULT_NETWORK || members.contains_key(&row.id) {
                continue;
            }
            match self.remove_network(&row.id, false).await {
                Ok(()) => removed.push(row.name),
                // Somebody else was quicker.
                Err(EngineError::NetworkNotFound { .. } | EngineError::NetworkInUse { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn read_container(&self, row: crate::store::ContainerRow) -> Result<Container, EngineError> {
        let definition = serde_json::from_str(&row.definition)
            .map_err(|source| super::container::damaged(&row.name, source))?;
        Ok(Container { row, definition })
    }
}

fn read(row: NetworkRow) -> Result<Network, EngineError> {
    let definition = serde_json::from_str(&row.definition)
        .map_err(|source| StoreError::Damaged { what: format!("network {:?}", row.name), source })?;
    Ok(Network { row, definition })
}

/// A number that is the same for the same id, and hardly for another.
fn seed_of(id: &str) -> u64 {
    id.get(..15).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or_default()
}

fn define(new: &NewNetwork, id: &str, existing: &[Network]) -> Result<NetworkDefinition, EngineError> {
    let driver = new.driver.unwrap_or(Driver::Bridge);
    let bridge = driver == Driver::Bridge;
    for (field, given) in
        [("ipv6", new.ipv6), ("dns", new.dns == Some(true)), ("isolate", new.isolate == Some(true))]
    {
        if given && !bridge {
            return Err(invalid(
                field,
                format!("it has a meaning only for bridges, not for {}", driver.as_str()),
            ));
        }
    }
    let modes: &[&str] = match driver {
        Driver::Bridge => &[],
        Driver::Macvlan => &["bridge", "private", "vepa", "passthru"],
        Driver::Ipvlan => &["l2", "l3", "l3s"],
    };
    if let Some(mode) = &new.mode
        && !modes.contains(&mode.as_str())
    {
        let known = if modes.is_empty() { "a bridge has none".to_owned() } else { modes.join(", ") };
        return Err(invalid("mode", format!("there is no mode {mode:?}; {known}")));
    }
    if new.mtu.is_some_and(|mtu| !(MTU_MIN..=65_535).contains(&mtu)) {
        return Err(invalid("mtuBytes", format!("it must lie between {MTU_MIN} and 65535")));
    }
    let interface = match &new.interface {
        Some(name) if !is_interface_name(name) => {
            return Err(invalid(
                "interface",
                format!("{name:?} is no name of an interface: at most 15 characters"),
            ));
        }
        Some(name) if !bridge && !std::path::Path::new("/sys/class/net").join(name).exists() => {
            return Err(invalid("interface", format!("the host has no interface {name:?}")));
        }
        Some(name) => {
            if bridge && existing.iter().any(|other| other.definition.interface == *name) {
                return Err(invalid("interface", format!("another network has the bridge {name:?}")));
            }
            name.clone()
        }
        // Unlike a number it is free whatever other networks the host has.
        None if bridge => format!("dm{}", &id[..10]),
        None => {
            return Err(invalid(
                "interface",
                format!("{} wants an interface of the host to sit on", driver.as_str()),
            ));
        }
    };
    let subnets = subnets(new, id, driver, &interface, existing)?;
    Ok(NetworkDefinition {
        driver,
        interface,
        subnets,
        internal: new.internal,
        dns: new.dns.unwrap_or(bridge),
        isolate: new.isolate.unwrap_or(bridge),
        mtu: new.mtu,
        mode: new.mode.clone(),
        labels: new.labels.clone(),
    })
}

fn subnets(
    new: &NewNetwork,
    id: &str,
    driver: Driver,
    interface: &str,
    existing: &[Network],
) -> Result<Vec<Subnet>, EngineError> {
    let bridge = driver == Driver::Bridge;
    let mut in_use: Vec<(IpNet, String)> = routes::host_routes()
        .into_iter()
        .map(|route| {
            (route.net, format!("the host has a route to {} through {}", route.net, route.interface))
        })
        .collect();
    for network in existing.iter().filter(|network| bridge || network.definition.interface == interface) {
        for subnet in &network.definition.subnets {
            in_use.push((subnet.net, format!("the network {:?} has {}", network.row.name, subnet.net)));
        }
    }
    let mut subnets = Vec::new();
    for (index, asked) in new.subnets.iter().enumerate() {
        let NewSubnet { subnet: net, gateway, range_first: first, range_last: last } = asked;
        let field = |name: &str| format!("subnets[{index}].{name}");
        let given: IpNet = net
            .parse()
            .map_err(|_| invalid(field("subnet"), format!("{net:?} is no subnet as in 10.1.2.0/24")))?;
        let net = given.trunc();
        if net != given {
            return Err(invalid(
                field("subnet"),
                format!("{given} is an address in a subnet; that is {net}"),
            ));
        }
        let bits = net.max_prefix_len() - net.prefix_len();
        if !(2..=120).contains(&bits) || net.prefix_len() < 8 {
            return Err(invalid(
                field("subnet"),
                format!("{net} is no size that a network of containers can have"),
            ));
        }
        if net.addr().is_loopback() || net.addr().is_multicast() || net.addr().is_unspecified() {
            return Err(invalid(field("subnet"), format!("{net} is not for networks")));
        }
        // Those who sit on an interface of the host want the very subnet that it is in.
        if bridge && let Some((_, who)) = in_use.iter().find(|(other, _)| overlap(other, &net)) {
            return Err(invalid(field("subnet"), format!("{net} is in use: {who}")));
        }
        let address = |name: &str, text: &Option<String>| -> Result<Option<IpAddr>, EngineError> {
            let Some(text) = text else { return Ok(None) };
            let address: IpAddr =
                text.parse().map_err(|_| invalid(field(name), format!("{text:?} is no address")))?;
            if !net.contains(&address) {
                return Err(invalid(field(name), format!("{address} does not lie in {net}")));
            }
            Ok(Some(address))
        };
        let range = match (address("rangeFirst", first)?, address("rangeLast", last)?) {
            (None, None) => None,
            (Some(first), Some(last)) if first <= last => Some((first, last)),
            (Some(_), Some(_)) => return Err(invalid(field("rangeLast"), "it comes before the first")),
            _ => return Err(invalid(field("rangeLast"), "a range has a first and a last address")),
        };
        let gateway = address("gateway", gateway)?.or_else(|| bridge.then(|| net.hosts().next()).flatten());
        in_use.push((net, format!("{net} is given twice")));
        subnets.push(Subnet { net, gateway, range });
    }
    if subnets.is_empty() && !bridge {
        return Err(invalid(
            "subnets",
            format!("give the subnet that {interface} is in; addresses by DHCP are not possible"),
        ));
    }
    let gateway = |net: IpNet| Subnet { net, gateway: net.hosts().next(), range: None };
    if subnets.is_empty() {
        let taken: Vec<IpNet> = in_use.iter().map(|(net, _)| *net).collect();
        subnets.push(gateway(choose_free(&taken, seed_of(id))?));
    }
    if new.ipv6 && !subnets.iter().any(|subnet| subnet.net.addr().is_ipv6()) {
        subnets.push(gateway(unique_local(seed_of(id))));
    }
    Ok(subnets)
}
