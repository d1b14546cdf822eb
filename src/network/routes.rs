//! The host's own routes: what no network of ours may hide.
//!
//! Source: proc(5), /proc/net/route; Linux, net/ipv6/route.c, /proc/net/ipv6_route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; never everywhere.
    pub net: IpNet,
    /// Through which interface.
    pub interface: String,
}

/// All routes of the host but the default ones, and those to the host itself. What can't be read is left out.
pub fn host_routes() -> Vec<Route> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = parse_v4(&read("/proc/net/route"));
    routes.extend(parse_v6(&read("/proc/net/ipv6_route")));
    routes
}

fn parse_v4(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let interface = fields.next()?.to_owned();
        // In the byte order of the machine's memory, which is that of the network.
        let address = |field: &str| Some(Ipv4Addr::from(u32::from_str_radix(field, 16).ok()?.to_ne_bytes()));
        let destination = address(fields.next()?)?;
        let mask = address(fields.nth(5)?)?;
        let net = IpNet::with_netmask(IpAddr::V4(destination), IpAddr::V4(mask)).ok()?;
        Some(Route { net, interface })
    };
    text.lines().skip(1).filter_map(line).filter(|route| route.net.prefix_len() > 0).collect()
}

fn parse_v6(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let destination = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
        let prefix = u8::from_str_radix(fields.get(1)?, 16).ok()?;
        let net = IpNet::new(IpAddr::V6(destination), prefix).ok()?;
        Some(Route { net, interface: (*fields.get(9)?).to_owned() })
    };
    let is_far = |route: &Route| {
        let IpNet::V6(net) = route.net else { return false };
        (1..128).contains(&net.prefix_len())
            && !net.addr().is_unicast_link_local()
            && !net.addr().is_multicast()
    };
    text.lines().filter_map(line).filter(is_far).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_without_the_default_ones() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                    eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        if cfg!(target_endian = "little") {
            let routes = parse_v4(text);
            assert_eq!(routes, [Route { net: "192.0.2.0/24".parse().unwrap(), interface: "eth0".into() }]);
        }
        let text = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                    fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                    00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n";
        let routes = parse_v6(text);
        assert_eq!(routes, [Route { net: "fd00::/64".parse().unwrap(), interface: "eth0".into() }]);
        assert!(parse_v4("Iface\nx\n\n").is_empty() && parse_v6("zz\n").is_empty());
    }
}
