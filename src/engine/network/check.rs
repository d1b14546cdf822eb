//! What of a specification's networks can be checked without a host.

use std::collections::BTreeSet;

use crate::identity;
use crate::network::files::is_host_name;
use crate::network::pasta;
use crate::network::ports::Protocol;
use crate::network::{is_hardware_address, is_interface_name};

use super::super::EngineError;
use super::super::spec::{ContainerSpec, Namespace, NetworkAttachment, PortMapping};
use super::{DEFAULT_NETWORK, invalid};

/// The networks that the container is to be on.
pub(in super::super) fn attachments(spec: &ContainerSpec) -> Vec<NetworkAttachment> {
    match (&spec.networks, &spec.network_namespace) {
        (Some(networks), _) => networks.clone(),
        (None, None) => {
            let network = if identity::is_root() { DEFAULT_NETWORK } else { pasta::NAME };
            vec![NetworkAttachment { network: network.to_owned(), ..NetworkAttachment::default() }]
        }
        (None, Some(_)) => Vec::new(),
    }
}

/// The ports to publish: those asked for, and on request those that the image serves.
pub(in super::super) fn ports_to_publish<'a>(
    spec: &ContainerSpec,
    exposed: impl Iterator<Item = &'a String>,
) -> Result<Vec<PortMapping>, EngineError> {
    let mut ports = spec.ports.clone();
    if spec.publish_all {
        for text in exposed {
            for mapping in parse_exposed(text).ok_or_else(|| {
                invalid(
                    "spec.publishAll",
                    format!("the image says that it serves {text:?}, which is no port"),
                )
            })? {
                let is_given = ports.iter().any(|given| {
                    given.protocol == mapping.protocol
                        && (given.container_port..=given.container_port.saturating_add(given.range - 1))
                            .contains(&mapping.container_port)
                });
                if !is_given {
                    ports.push(mapping);
                }
            }
        }
    }
    Ok(ports)
}

/// `80`, `80/tcp` or `8000-8003/udp`, as images have it (OCI image-spec, config, ExposedPorts).
fn parse_exposed(text: &str) -> Option<Vec<PortMapping>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::parse(protocol)?;
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    if first == 0 || last < first {
        return None;
    }
    let one =
        |container_port| PortMapping { container_port, host_port: None, host_ip: None, protocol, range: 1 };
    Some((first..=last).map(one).collect())
}

/// What is wrong whatever the host is.
pub(in super::super) fn check(spec: &ContainerSpec) -> Result<(), EngineError> {
    let private = *spec.network_namespace() == Namespace::Private;
    let on_networks = !attachments(spec).is_empty();
    if !private && spec.networks.as_ref().is_some_and(|networks| !networks.is_empty()) {
        return Err(invalid(
            "spec.networks",
            "they can be joined only in a network namespace of the container's own",
        ));
    }
    let mut seen = BTreeSet::new();
    let mut interfaces = BTreeSet::new();
    for (index, attachment) in spec.networks.iter().flatten().enumerate() {
        check_attachment(&format!("spec.networks[{index}]."), attachment)?;
        if !seen.insert(&attachment.network) {
            return Err(invalid(format!("spec.networks[{index}].network"), "it is given twice"));
        }
        if attachment.interface.as_ref().is_some_and(|name| !interfaces.insert(name)) {
            return Err(invalid(format!("spec.networks[{index}].interface"), "it is given twice"));
        }
    }
    if (!spec.ports.is_empty() || spec.publish_all) && !on_networks {
        let field = if spec.ports.is_empty() { "spec.publishAll" } else { "spec.ports" };
        return Err(invalid(field, "ports can be published only of a container that is on a network"));
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let fits = |first: u16| first != 0 && port.range != 0 && first.checked_add(port.range - 1).is_some();
        if port.range == 0 {
            return Err(invalid(field("range"), "it holds one port at least"));
        }
        if !fits(port.container_port) {
            return Err(invalid(field("containerPort"), "ports lie between 1 and 65535"));
        }
        if port.host_port.is_some_and(|first| !fits(first)) {
            return Err(invalid(field("hostPort"), "ports lie between 1 and 65535"));
        }
    }
    if matches!(spec.network_namespace(), Namespace::Container(_)) {
        for (field, given) in [
            ("spec.dnsServers", !spec.dns_servers.is_empty()),
            ("spec.dnsSearch", !spec.dns_search.is_empty()),
            ("spec.dnsOptions", !spec.dns_options.is_empty()),
            ("spec.extraHosts", !spec.extra_hosts.is_empty()),
        ] {
            if given {
                return Err(invalid(field, "the files of the container are used whose network it joins"));
            }
        }
    }
    for (field, words) in [("spec.dnsSearch", &spec.dns_search), ("spec.dnsOptions", &spec.dns_options)] {
        for (index, word) in words.iter().enumerate() {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
            if word.is_empty() || word.len() > 253 || !word.bytes().all(good) {
                return Err(invalid(
                    format!("{field}[{index}]"),
                    format!("{word:?} has no place in resolv.conf"),
                ));
            }
        }
    }
    for (name, address) in &spec.extra_hosts {
        if !is_host_name(name) {
            return Err(invalid("spec.extraHosts", format!("{name:?} is no name of a host")));
        }
        if address != super::etc::HOST_GATEWAY && address.parse::<std::net::IpAddr>().is_err() {
            return Err(invalid(
                format!("spec.extraHosts.{name}"),
                format!("{address:?} is no address, and not {}", super::etc::HOST_GATEWAY),
            ));
        }
    }
    Ok(())
}

/// What is wrong with one network of a container; `prefix` is where its fields are.
pub(super) fn check_attachment(prefix: &str, attachment: &NetworkAttachment) -> Result<(), EngineError> {
    if attachment.network.is_empty() {
        return Err(invalid(format!("{prefix}network"), "the network's name is missing"));
    }
    if let Some(mac) = &attachment.mac
        && !is_hardware_address(mac)
    {
        return Err(invalid(
            format!("{prefix}mac"),
            format!("{mac:?} is no address of one interface as in 02:00:00:00:00:01"),
        ));
    }
    if let Some(name) = &attachment.interface
        && (!is_interface_name(name) || name == "lo")
    {
        return Err(invalid(
            format!("{prefix}interface"),
            format!("{name:?} is no name of an interface: at most 15 characters"),
        ));
    }
    for (index, alias) in attachment.aliases.iter().enumerate() {
        if !is_host_name(alias) {
            return Err(invalid(
                format!("{prefix}aliases[{index}]"),
                format!("{alias:?} is no name of a host"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(spec: ContainerSpec, field: &str) {
        match check(&spec) {
            Err(EngineError::InvalidSpec { field: found, .. }) => assert_eq!(found, field),
            other => panic!("expected a refusal of {field}, got {other:?}"),
        }
    }

    fn port(container_port: u16, host_port: Option<u16>, range: u16) -> PortMapping {
        PortMapping { container_port, host_port, host_ip: None, protocol: Protocol::Tcp, range }
    }

    #[test]
    fn who_says_nothing_is_on_the_default_network_and_who_wants_none_is_on_none() {
        assert_eq!(attachments(&ContainerSpec::default())[0].network, DEFAULT_NETWORK);
        let private =
            ContainerSpec { network_namespace: Some(Namespace::Private), ..ContainerSpec::default() };
        assert!(attachments(&private).is_empty());
        let none = ContainerSpec { networks: Some(Vec::new()), ..ContainerSpec::default() };
        assert!(attachments(&none).is_empty());
    }

    #[test]
    fn what_can_not_be_is_refused_by_field() {
        let with = |attachment: NetworkAttachment| ContainerSpec {
            networks: Some(vec![NetworkAttachment { network: "n".into(), ..attachment }]),
            ..ContainerSpec::default()
        };
        refused(
            with(NetworkAttachment { mac: Some("x".into()), ..Default::default() }),
            "spec.networks[0].mac",
        );
        refused(
            with(NetworkAttachment { interface: Some("lo".into()), ..Default::default() }),
            "spec.networks[0].interface",
        );
        refused(
            with(NetworkAttachment { aliases: vec!["a b".into()], ..Default::default() }),
            "spec.networks[0].aliases[0]",
        );
        let host =
            ContainerSpec { network_namespace: Some(Namespace::Host), ..with(NetworkAttachment::default()) };
        refused(host, "spec.networks");
        for (given, field) in [
            (port(0, None, 1), "spec.ports[0].containerPort"),
            (port(80, Some(65_535), 2), "spec.ports[0].hostPort"),
            (port(80, None, 0), "spec.ports[0].range"),
        ] {
            refused(ContainerSpec { ports: vec![given], ..ContainerSpec::default() }, field);
        }
        let none = ContainerSpec {
            networks: Some(Vec::new()),
            ports: vec![port(80, None, 1)],
            ..ContainerSpec::default()
        };
        refused(none, "spec.ports");
        let hosts = |name: &str, address: &str| ContainerSpec {
            extra_hosts: [(name.to_owned(), address.to_owned())].into(),
            ..ContainerSpec::default()
        };
        refused(hosts("a\nb", "10.0.0.1"), "spec.extraHosts");
        refused(hosts("a", "10.0.0.1 b"), "spec.extraHosts.a");
        assert!(check(&hosts("a", "host-gateway")).is_ok());
    }

    #[test]
    fn what_an_image_serves_is_published_unless_it_is_already() {
        let exposed = ["80/tcp", "53/udp", "8000-8002", "443"].map(str::to_owned);
        let spec = ContainerSpec {
            ports: vec![port(443, Some(8443), 1)],
            publish_all: true,
            ..ContainerSpec::default()
        };
        let ports = ports_to_publish(&spec, exposed.iter()).unwrap();
        let all: Vec<_> =
            ports.iter().map(|port| (port.container_port, port.host_port, port.protocol.as_str())).collect();
        assert_eq!(
            all,
            [
                (443, Some(8443), "tcp"),
                (80, None, "tcp"),
                (53, None, "udp"),
                (8000, None, "tcp"),
                (8001, None, "tcp"),
                (8002, None, "tcp")
            ]
        );
        assert!(ports_to_publish(&spec, ["x/tcp".to_owned()].iter()).is_err());
    }
}
