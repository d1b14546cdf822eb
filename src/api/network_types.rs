//! Networks and ports between the wire and the engine, for the interfaces of containers and of networks.

use std::net::IpAddr;

use crate::engine::spec as engine;
use crate::engine::{EngineError, NetworkState, Published};
use crate::network::ports::Protocol;
use crate::wire::container as wire;

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

fn address(field: &str, text: &str) -> Result<IpAddr, EngineError> {
    text.parse().map_err(|_| invalid(field, format!("{text:?} is no address, as 10.1.2.3 or fd12::3 are")))
}

pub(super) fn addresses_from_wire(field: &str, texts: Vec<String>) -> Result<Vec<IpAddr>, EngineError> {
    texts.iter().enumerate().map(|(index, text)| address(&format!("{field}[{index}]"), text)).collect()
}

pub(super) fn attachments_from_wire(
    networks: Vec<wire::NetworkAttachment>,
) -> Result<Vec<engine::NetworkAttachment>, EngineError> {
    let attachment = |(index, given): (usize, wire::NetworkAttachment)| {
        let field = format!("spec.networks[{index}].addresses");
        Ok(engine::NetworkAttachment {
            network: given.network,
            addresses: addresses_from_wire(&field, given.addresses.unwrap_or_default())?,
            mac: given.mac,
            aliases: given.aliases.unwrap_or_default(),
            interface: given.interface,
        })
    };
    networks.into_iter().enumerate().map(attachment).collect()
}

pub(super) fn attachment_to_wire(attachment: engine::NetworkAttachment) -> wire::NetworkAttachment {
    let some = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    wire::NetworkAttachment {
        network: attachment.network,
        addresses: some(attachment.addresses.iter().map(ToString::to_string).collect()),
        mac: attachment.mac,
        aliases: some(attachment.aliases),
        interface: attachment.interface,
    }
}

pub(super) fn ports_from_wire(
    ports: Vec<wire::PortMapping>,
) -> Result<Vec<engine::PortMapping>, EngineError> {
    let mapping = |(index, given): (usize, wire::PortMapping)| {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let number = |name: &str, value: i64| {
            u16::try_from(value).map_err(|_| invalid(field(name), "ports lie between 1 and 65535"))
        };
        Ok(engine::PortMapping {
            container_port: number("containerPort", given.containerPort)?,
            host_port: given
                .hostPort
                .filter(|port| *port != 0)
                .map(|port| number("hostPort", port))
                .transpose()?,
            host_ip: given.hostIp.as_deref().map(|text| address(&field("hostIp"), text)).transpose()?,
            protocol: match given.protocol {
                None | Some(wire::Protocol::tcp) => Protocol::Tcp,
                Some(wire::Protocol::udp) => Protocol::Udp,
                Some(wire::Protocol::sctp) => Protocol::Sctp,
            },
            range: number("range", given.range.unwrap_or(1))?,
        })
    };
    ports.into_iter().enumerate().map(mapping).collect()
}

fn protocol_to_wire(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Tcp => wire::Protocol::tcp,
        Protocol::Udp => wire::Protocol::udp,
        Protocol::Sctp => wire::Protocol::sctp,
    }
}

/// As it was asked for: what is the default stays out.
pub(super) fn mapping_to_wire(mapping: engine::PortMapping) -> wire::PortMapping {
    wire::PortMapping {
        containerPort: mapping.container_port.into(),
        hostPort: mapping.host_port.map(Into::into),
        hostIp: mapping.host_ip.map(|address| address.to_string()),
        protocol: (mapping.protocol != Protocol::Tcp).then(|| protocol_to_wire(mapping.protocol)),
        range: (mapping.range != 1).then_some(mapping.range.into()),
    }
}

/// All addresses of a running container.
pub(super) fn addresses(state: Option<&NetworkState>) -> Vec<String> {
    let attached = state.into_iter().flat_map(|state| &state.attached);
    attached.flat_map(|attached| &attached.addresses).map(|address| address.addr().to_string()).collect()
}

/// The published ports of a running container.
pub(super) fn published(state: Option<&NetworkState>) -> Vec<wire::PublishedPort> {
    let port = |port: &Published| wire::PublishedPort {
        hostIp: port.host_ip.map(|address| address.to_string()),
        hostPort: port.host_port.into(),
        containerPort: port.container_port.into(),
        protocol: protocol_to_wire(port.protocol),
        range: port.range.into(),
    };
    state.into_iter().flat_map(|state| &state.ports).map(port).collect()
}

/// The networks of a running container.
pub(super) fn statuses(state: Option<&NetworkState>) -> Vec<wire::NetworkStatus> {
    let status = |attached: &crate::engine::Attached| wire::NetworkStatus {
        network: attached.network.clone(),
        interface: attached.interface.clone(),
        addresses: attached.addresses.iter().map(ToString::to_string).collect(),
        gateways: attached.gateways.iter().map(ToString::to_string).collect(),
        mac: attached.mac.clone(),
        aliases: attached.aliases.clone(),
    };
    state.into_iter().flat_map(|state| &state.attached).map(status).collect()
}
