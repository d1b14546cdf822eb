//! Networks, published ports and names.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Map, Value, json};

use super::security::namespace;
use super::{nonempty, nonempty_map, put, when};
use crate::cli::errors::CliError;

/// The network of containers that say nothing; podman calls its own `bridge` too.
const DEFAULT_NETWORK: &str = "dormouse";

#[derive(Debug, Args)]
pub struct NetworkFlags {
    /// Network: NAME[:ip=…,mac=…,alias=…,interface_name=…], none (loopback only), host, container:NAME [default: dormouse; without root pasta]
    #[arg(long = "network", visible_alias = "net", value_name = "NETWORK", help_heading = "Network")]
    networks: Vec<String>,
    /// Publish a port: [[HOST-IP:][HOST-PORT]:]PORT[/tcp|udp|sctp]; ports may be ranges, as in 8000-8003:80-83
    #[arg(short = 'p', long = "publish", value_name = "PORTS", help_heading = "Network")]
    ports: Vec<String>,
    /// Publish all ports that the image says it serves, on free ports of the host
    #[arg(short = 'P', long, help_heading = "Network")]
    publish_all: bool,
    /// Address on its network
    #[arg(long = "ip", visible_alias = "ip6", value_name = "ADDRESS", help_heading = "Network")]
    addresses: Vec<String>,
    /// Hardware address on its network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    mac_address: Option<String>,
    /// Further name on its network
    #[arg(long = "network-alias", value_name = "NAME", help_heading = "Network")]
    aliases: Vec<String>,
    /// Whom to ask for names
    #[arg(long = "dns", value_name = "ADDRESS", help_heading = "Network")]
    dns: Vec<String>,
    /// Domain that is tried for a name without one
    #[arg(long = "dns-search", value_name = "DOMAIN", help_heading = "Network")]
    dns_search: Vec<String>,
    /// Option of the resolver, as in ndots:1
    #[arg(long = "dns-option", visible_alias = "dns-opt", value_name = "OPTION", help_heading = "Network")]
    dns_options: Vec<String>,
    /// Line for /etc/hosts, as NAME:ADDRESS; host-gateway is the address of the host
    #[arg(long = "add-host", value_name = "NAME:ADDRESS", help_heading = "Network")]
    hosts: Vec<String>,
}

impl NetworkFlags {
    pub fn add_to(&self, spec: &mut Map<String, Value>) -> Result<(), CliError> {
        let mut attachments = Vec::new();
        for text in &self.networks {
            match text.as_str() {
                "none" | "private" | "host" => {
                    put(spec, "networkNamespace", Some(namespace("--network", text)?))
                }
                other if other.starts_with("container:") => {
                    put(spec, "networkNamespace", Some(namespace("--network", text)?));
                }
                other => attachments.push(attachment(other)?),
            }
        }
        if spec.contains_key("networkNamespace") && self.networks.len() > 1 {
            return Err(CliError::usage("--network: none, host and container:NAME stand alone"));
        }
        let details = !self.addresses.is_empty() || self.mac_address.is_some() || !self.aliases.is_empty();
        if details {
            if attachments.is_empty() && !spec.contains_key("networkNamespace") {
                attachments.push(Map::from_iter([("network".to_owned(), json!(DEFAULT_NETWORK))]));
            }
            let [only] = attachments.as_mut_slice() else {
                return Err(CliError::usage("--ip, --mac-address and --network-alias are for one network")
                    .with_hint("with several, write --network NAME:ip=…,mac=…,alias=…"));
            };
            extend(only, "addresses", &self.addresses);
            put(only, "mac", self.mac_address.as_ref());
            extend(only, "aliases", &self.aliases);
        }
        put(spec, "networks", nonempty(&attachments));
        let ports = self.ports.iter().map(|text| parse_port(text)).collect::<Result<Vec<_>, _>>()?;
        put(spec, "ports", nonempty(&ports));
        put(spec, "publishAll", when(self.publish_all));
        put(spec, "dnsServers", nonempty(&self.dns));
        put(spec, "dnsSearch", nonempty(&self.dns_search));
        put(spec, "dnsOptions", nonempty(&self.dns_options));
        let hosts = self.hosts.iter().map(|text| match text.split_once([':', '=']) {
            Some((name, address)) if !name.is_empty() && !address.is_empty() => {
                Ok((name.to_owned(), address.trim_matches(['[', ']']).to_owned()))
            }
            _ => Err(CliError::usage(format!("--add-host: {text:?} is not NAME:ADDRESS"))),
        });
        put(spec, "extraHosts", nonempty_map(hosts.collect::<Result<BTreeMap<_, _>, _>>()?));
        Ok(())
    }
}

/// What a pod that is made of a document is told of networks and ports.
pub fn of_played_pods(
    networks: &[String],
    ports: &[String],
    parameters: &mut Map<String, Value>,
) -> Result<(), CliError> {
    match networks.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["host"] => put(parameters, "hostNetwork", Some(true)),
        ["none"] => put(parameters, "networks", Some(json!([]))),
        texts => {
            let alone =
                |text: &&str| matches!(*text, "host" | "none" | "private") || text.starts_with("container:");
            if let Some(text) = texts.iter().find(|text| alone(text)) {
                return Err(CliError::usage(format!("--network: {text:?} is not possible for a pod"))
                    .with_hint("names of networks are, and none or host alone"));
            }
            let attachments = texts.iter().map(|text| attachment(text)).collect::<Result<Vec<_>, _>>()?;
            put(parameters, "networks", nonempty(&attachments));
        }
    }
    let ports = ports.iter().map(|text| parse_port(text)).collect::<Result<Vec<_>, _>>()?;
    put(parameters, "ports", nonempty(&ports));
    Ok(())
}

fn extend(object: &mut Map<String, Value>, field: &str, more: &[String]) {
    if !more.is_empty() {
        let list = object.entry(field).or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.extend(more.iter().map(|text| json!(text)));
        }
    }
}

/// `NAME[:KEY=VALUE,…]`, as podman has it.
fn attachment(text: &str) -> Result<Map<String, Value>, CliError> {
    let (name, options) = text.split_once(':').unwrap_or((text, ""));
    let name = if matches!(name, "bridge" | "default") { DEFAULT_NETWORK } else { name };
    let mut attachment = Map::from_iter([("network".to_owned(), json!(name))]);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("ip" | "ip6", value)) => extend(&mut attachment, "addresses", &[value.to_owned()]),
            Some(("alias", value)) => extend(&mut attachment, "aliases", &[value.to_owned()]),
            Some(("mac", value)) => put(&mut attachment, "mac", Some(value)),
            Some(("interface_name" | "interface", value)) => put(&mut attachment, "interface", Some(value)),
            _ => {
                return Err(CliError::usage(format!("--network: there is no option {option:?}"))
                    .with_hint("ip=, mac=, alias= and interface_name= are known"));
            }
        }
    }
    Ok(attachment)
}

/// `[[HOST-IP:][HOST-PORT]:]PORT[/PROTOCOL]`; an address of IPv6 stands in brackets.
fn parse_port(text: &str) -> Result<Value, CliError> {
    let wrong = || {
        CliError::usage(format!("--publish: {text:?} is no port to publish"))
            .with_hint("[[HOST-IP:][HOST-PORT]:]PORT[/tcp|udp|sctp] is the form, as in 127.0.0.1:8080:80")
    };
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, protocol)) => (rest, Some(protocol.to_ascii_lowercase())),
        None => (text, None),
    };
    if protocol.as_ref().is_some_and(|protocol| !["tcp", "udp", "sctp"].contains(&protocol.as_str())) {
        return Err(wrong());
    }
    let (host, container) = match rest.rsplit_once(':') {
        Some((host, container)) => (host, container),
        None => ("", rest),
    };
    let (ip, host) = match host.rsplit_once(':') {
        Some((ip, port)) => (Some(ip.trim_start_matches('[').trim_end_matches(']')), port),
        None => (None, host),
    };
    let (first, count) = parse_range(container).ok_or_else(wrong)?;
    let mut port = Map::from_iter([("containerPort".to_owned(), json!(first))]);
    if !host.is_empty() && host != "0" {
        let (first, host_count) = parse_range(host).ok_or_else(wrong)?;
        if host_count != count {
            return Err(CliError::usage(format!(
                "--publish: the ranges of {text:?} are not of the same length"
            )));
        }
        put(&mut port, "hostPort", Some(first));
    }
    put(&mut port, "hostIp", ip.filter(|ip| !ip.is_empty()));
    put(&mut port, "protocol", protocol.filter(|protocol| protocol != "tcp"));
    put(&mut port, "range", (count != 1).then_some(count));
    Ok(Value::Object(port))
}

/// `80` or `80-83`: the first, and how many.
fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then(|| (first, last - first + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_all_their_forms() {
        let check = |text: &str, expected: Value| assert_eq!(parse_port(text).unwrap(), expected, "{text}");
        check("80", json!({"containerPort": 80}));
        check("8080:80", json!({"containerPort": 80, "hostPort": 8080}));
        check("0:80/tcp", json!({"containerPort": 80}));
        check(":80/udp", json!({"containerPort": 80, "protocol": "udp"}));
        check("127.0.0.1:8080:80", json!({"containerPort": 80, "hostPort": 8080, "hostIp": "127.0.0.1"}));
        check("127.0.0.1::80", json!({"containerPort": 80, "hostIp": "127.0.0.1"}));
        check(
            "[::1]:8080:80/SCTP",
            json!({"containerPort": 80, "hostPort": 8080, "hostIp": "::1", "protocol": "sctp"}),
        );
        check("8000-8003:80-83", json!({"containerPort": 80, "hostPort": 8000, "range": 4}));
        for wrong in ["", ":", "0", "80/icmp", "x:80", "65536", "83-80", "8000-8001:80", "-:80"] {
            assert!(parse_port(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_is_a_name_with_options() {
        let network = attachment(
            "web:ip=10.1.2.3,ip6=fd00::3,alias=a,alias=b,mac=02:00:00:00:00:01,interface_name=host0",
        );
        assert_eq!(
            Value::Object(network.unwrap()),
            json!({"network": "web", "addresses": ["10.1.2.3", "fd00::3"], "aliases": ["a", "b"],
                   "mac": "02:00:00:00:00:01", "interface": "host0"})
        );
        assert_eq!(attachment("bridge").unwrap()["network"], "dormouse");
        assert!(attachment("web:color=red").is_err());
    }
}
