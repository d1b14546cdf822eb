//! From a container's networks and ports to the addresses, interfaces and ports of a start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::network::netavark::{Forward, Membership, document};
use crate::network::ports::{self, Protocol};
use crate::network::{Driver, IpNet};
use crate::store::{LeaseRow, PortRow, Reservations};

use super::super::spec::{NetworkAttachment, PortMapping};
use super::super::{Container, Engine, EngineError};
use super::state::{Attached, NetworkState, Published};
use super::{Network, invalid, seed_of};

/// For whom something is planned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub ports: &'a [PortMapping],
    /// Whom to ask for names.
    pub servers: &'a [IpAddr],
}

impl<'a> From<&'a Container> for Subject<'a> {
    fn from(container: &'a Container) -> Self {
        Self {
            id: &container.row.id,
            name: &container.row.name,
            ports: &container.definition.ports,
            servers: &container.definition.spec.dns_servers,
        }
    }
}

impl Engine {
    /// Chooses what is left open, and reserves all of it. `keep` is what the container has already and keeps.
    pub(super) fn plan(
        &self,
        subject: Subject<'_>,
        wanted: &[NetworkAttachment],
        generation: &str,
        keep: Option<&NetworkState>,
    ) -> Result<(NetworkState, Vec<ports::Held>), EngineError> {
        let id = subject.id;
        let networks: Vec<Network> = wanted
            .iter()
            .map(|attachment| self.find_network(&attachment.network))
            .collect::<Result<_, _>>()?;
        let wants_ports = !subject.ports.is_empty();
        if wants_ports && !networks.iter().any(|network| network.definition.driver == Driver::Bridge) {
            return Err(invalid(
                "spec.ports",
                "ports can be published only through a bridge, and no network is one",
            ));
        }
        let seed = seed_of(id);
        // Nobody else gets them meanwhile.
        let mut held = Vec::new();
        let mut published = keep.map(|state| state.ports.clone()).unwrap_or_default();
        let mut addresses: Vec<Vec<IpAddr>> = Vec::new();
        let chosen = self.store()?.reserve(id, |others| {
            let mut mine = Reservations::default();
            for (attachment, network) in wanted.iter().zip(&networks) {
                let kept = keep.and_then(|state| state.of(&network.row.id));
                let given: Vec<IpAddr> = match kept {
                    Some(attached) => attached.addresses.iter().map(IpNet::addr).collect(),
                    None => choose_addresses(attachment, network, &others.leases, seed)?,
                };
                mine.leases.extend(given.iter().map(|address| LeaseRow {
                    network_id: network.row.id.clone(),
                    address: *address,
                    container_id: id.to_owned(),
                }));
                addresses.push(given);
            }
            if keep.is_none() {
                for mapping in subject.ports {
                    published.push(choose_ports(mapping, &others.ports, &mut held)?);
                }
            }
            for port in &published {
                mine.ports.extend((0..port.range).map(|step| PortRow {
                    protocol: port.protocol.as_str().to_owned(),
                    port: port.host_port + step,
                    host_ip: port.host_ip,
                    container_id: id.to_owned(),
                }));
            }
            Ok::<_, Refusal>(mine)
        })?;
        if let Err(refusal) = chosen {
            return Err(self.name_holder(refusal));
        }
        let interfaces = interfaces(wanted, &networks, keep)?;
        let attached: Vec<Attached> = wanted
            .iter()
            .zip(&networks)
            .zip(addresses)
            .zip(interfaces)
            .map(|(((attachment, network), addresses), interface)| {
                attached(attachment, network, &addresses, interface)
            })
            .collect();
        let memberships: Vec<(Vec<IpAddr>, &Attached, &Network)> = attached
            .iter()
            .zip(&networks)
            .map(|(attached, network)| {
                (attached.addresses.iter().map(IpNet::addr).collect(), attached, network)
            })
            .collect();
        let memberships: Vec<Membership<'_>> = memberships
            .iter()
            .map(|(addresses, attached, network)| Membership {
                id: &network.row.id,
                definition: &network.definition,
                addresses,
                hardware_address: attached.mac.as_deref(),
                aliases: &attached.aliases,
                interface: &attached.interface,
            })
            .collect();
        let forwards: Vec<Forward> = published
            .iter()
            .map(|port| Forward {
                host_ip: port.host_ip,
                host_port: port.host_port,
                container_port: port.container_port,
                range: port.range,
                protocol: port.protocol,
            })
            .collect();
        let document = document(id, subject.name, &memberships, &forwards, subject.servers);
        let state = NetworkState {
            generation: generation.to_owned(),
            whole: false,
            document,
            attached,
            ports: published,
            pasta: None,
        };
        Ok((state, held))
    }

    /// Turns the id of who has something into its name.
    pub(super) fn name_holder(&self, refusal: Refusal) -> EngineError {
        let name = |id: String| self.find_row(&id).map_or(id, |row| row.name);
        match refusal {
            Refusal::Error(error) => error,
            Refusal::Address(address, holder) => EngineError::AddressInUse { address, holder: name(holder) },
            Refusal::Port(port, protocol, holder) => {
                EngineError::PortInUse { port, protocol: protocol.as_str(), holder: holder.map(name) }
            }
        }
    }
}

/// Why something can't be reserved; holders by id.
#[derive(Debug)]
pub(super) enum Refusal {
    Error(EngineError),
    Address(IpAddr, String),
    Port(u16, Protocol, Option<String>),
}

fn choose_addresses(
    attachment: &NetworkAttachment,
    network: &Network,
    leases: &[LeaseRow],
    seed: u64,
) -> Result<Vec<IpAddr>, Refusal> {
    let of_network: BTreeMap<IpAddr, &str> = leases
        .iter()
        .filter(|lease| lease.network_id == network.row.id)
        .map(|lease| (lease.address, lease.container_id.as_str()))
        .collect();
    let taken: BTreeSet<IpAddr> = of_network.keys().copied().collect();
    let name = &network.row.name;
    for address in &attachment.addresses {
        if !network.definition.subnets.iter().any(|subnet| subnet.is_usable(*address)) {
            let reason = format!("{address} is no address that the network {name:?} can give to a container");
            return Err(Refusal::Error(invalid("spec.networks", reason)));
        }
        if let Some(holder) = of_network.get(address) {
            return Err(Refusal::Address(*address, (*holder).to_owned()));
        }
    }
    let mut chosen = Vec::new();
    for subnet in &network.definition.subnets {
        let mut asked = attachment.addresses.iter().filter(|address| subnet.net.contains(*address));
        let address = match (asked.next(), asked.next()) {
            (Some(address), None) => *address,
            (Some(_), Some(_)) => {
                let reason = format!("only one address of {} can be had", subnet.net);
                return Err(Refusal::Error(invalid("spec.networks", reason)));
            }
            (None, _) => subnet.free_address(&taken, seed).ok_or_else(|| {
                Refusal::Error(EngineError::Unsupported {
                    feature: format!("another container on the network {name:?}"),
                    reason: format!("all addresses of {} are taken", subnet.net),
                })
            })?,
        };
        chosen.push(address);
    }
    Ok(chosen)
}

/// Finds ports that are free, and holds them.
pub(super) fn choose_ports(
    mapping: &PortMapping,
    rows: &[PortRow],
    held: &mut Vec<ports::Held>,
) -> Result<Published, Refusal> {
    let protocol = mapping.protocol;
    let holder = |port: u16| {
        rows.iter()
            .find(|row| {
                row.protocol == protocol.as_str()
                    && row.port == port
                    && ports::collide(row.host_ip, mapping.host_ip)
            })
            .map(|row| row.container_id.clone())
    };
    let attempt = |first: u16| -> Result<Vec<ports::Held>, Refusal> {
        (0..mapping.range)
            .map(|step| {
                let port = first + step;
                if let Some(holder) = holder(port) {
                    return Err(Refusal::Port(port, protocol, Some(holder)));
                }
                ports::hold(protocol, mapping.host_ip, port)
                    .map_err(|error| refuse_port(mapping, port, &error))
            })
            .collect()
    };
    let published = |host_port| Published {
        host_ip: mapping.host_ip.filter(|address| !address.is_unspecified()),
        host_port,
        container_port: mapping.container_port,
        range: mapping.range,
        protocol,
    };
    if let Some(first) = mapping.host_port {
        held.extend(attempt(first)?);
        return Ok(published(first));
    }
    let mut last = None;
    for _ in 0..100 {
        // The kernel knows best what is free; a range goes on from there.
        let first =
            ports::hold(protocol, mapping.host_ip, 0).map_err(|error| refuse_port(mapping, 0, &error))?.port;
        if first.checked_add(mapping.range - 1).is_none() {
            continue;
        }
        match attempt(first) {
            Ok(all) => {
                held.extend(all);
                return Ok(published(first));
            }
            Err(refusal) => last = Some(refusal),
        }
    }
    Err(last.unwrap_or(Refusal::Port(0, protocol, None)))
}

fn refuse_port(mapping: &PortMapping, port: u16, error: &std::io::Error) -> Refusal {
    let protocol = mapping.protocol;
    match (error.kind(), error.raw_os_error(), mapping.host_ip) {
        (std::io::ErrorKind::AddrInUse, ..) => Refusal::Port(port, protocol, None),
        (std::io::ErrorKind::AddrNotAvailable, _, Some(address)) => {
            Refusal::Error(invalid("spec.ports", format!("{address} is no address of this host")))
        }
        (_, Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT), _) => {
            Refusal::Error(EngineError::Unsupported {
                feature: format!("a port of {}", protocol.as_str()),
                reason: "this kernel does not have it".to_owned(),
            })
        }
        _ => Refusal::Error(EngineError::Failed {
            attempted: format!("publish the port {port}/{}", protocol.as_str()),
            reason: error.to_string(),
        }),
    }
}

/// Those asked for; else the first free ones of eth0, eth1, ….
fn interfaces(
    wanted: &[NetworkAttachment],
    networks: &[Network],
    keep: Option<&NetworkState>,
) -> Result<Vec<String>, EngineError> {
    let kept = |network: &Network| {
        keep.and_then(|state| state.of(&network.row.id)).map(|attached| attached.interface.clone())
    };
    let mut given: Vec<Option<String>> = wanted
        .iter()
        .zip(networks)
        .map(|(attachment, network)| kept(network).or_else(|| attachment.interface.clone()))
        .collect();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for name in given.iter().flatten() {
        if !taken.insert(name.clone()) {
            return Err(invalid("interface", format!("the container has an interface {name:?} already")));
        }
    }
    let mut number = 0..;
    let mut next = || {
        number
            .by_ref()
            .map(|number: u32| format!("eth{number}"))
            .find(|name| !taken.contains(name))
            .unwrap_or_default()
    };
    Ok(given.iter_mut().map(|name| name.take().unwrap_or_else(&mut next)).collect())
}

fn attached(
    attachment: &NetworkAttachment,
    network: &Network,
    addresses: &[IpAddr],
    interface: String,
) -> Attached {
    let subnets = &network.definition.subnets;
    Attached {
        network: network.row.name.clone(),
        network_id: network.row.id.clone(),
        bridge: network.definition.driver == Driver::Bridge,
        interface,
        addresses: addresses
            .iter()
            .filter_map(|address| {
                let subnet = subnets.iter().find(|subnet| subnet.net.contains(address))?;
                IpNet::new(*address, subnet.net.prefix_len()).ok()
            })
            .collect(),
        gateways: if network.definition.internal {
            Vec::new()
        } else {
            subnets.iter().filter_map(|subnet| subnet.gateway).collect()
        },
        mac: attachment.mac.clone(),
        aliases: attachment.aliases.clone(),
        servers: Vec::new(),
    }
}
