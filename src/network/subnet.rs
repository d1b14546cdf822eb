//! Subnets: which one a network gets, and which of its addresses a container gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::NetworkError;

/// So many addresses are looked at before a range counts as full; more containers than this do not fit a host.
const TRIES_MAX: u128 = 1 << 16;

/// A range of addresses of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The whole, without host bits.
    pub net: IpNet,
    /// The router; `None` where there is none.
    pub gateway: Option<IpAddr>,
    /// The first and the last address to give away; `None` is all that are left.
    pub range: Option<(IpAddr, IpAddr)>,
}

impl Subnet {
    /// Whether an address can be given to a container: it lies in the subnet, and is neither the network itself, the
    /// broadcast address, nor the gateway.
    pub fn is_usable(&self, address: IpAddr) -> bool {
        let ends = self.net.max_prefix_len() - self.net.prefix_len() > 1
            && (address == self.net.network() || (address.is_ipv4() && address == self.net.broadcast()));
        self.net.contains(&address) && !ends && Some(address) != self.gateway
    }

    /// A usable address that is not taken, the same one for the same `seed` as long as it is free; `None` if all are taken.
    pub fn free_address(&self, taken: &BTreeSet<IpAddr>, seed: u64) -> Option<IpAddr> {
        let (first, last) = match self.range {
            Some((first, last)) => (number(first), number(last)),
            None => (number(self.net.network()), number(self.net.broadcast())),
        };
        let size = last.checked_sub(first)?.saturating_add(1);
        // Of a large range only the beginning is used, which people can read.
        let window = size.min(TRIES_MAX);
        let start = u128::from(seed) % window;
        (0..window)
            .map(|step| address(first + (start + step) % window, self.net))
            .find(|address| self.is_usable(*address) && !taken.contains(address))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(number: u128, net: IpNet) -> IpAddr {
    match net {
        // Within a subnet of IPv4, so that nothing is cut off.
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// A subnet of 256 addresses that overlaps none of those `in_use`. The search begins at a place that `seed` tells, so
/// that two who choose at once hardly choose the same.
///
/// # Errors
/// [`NetworkError::NoFreeSubnet`].
pub fn choose_free(in_use: &[IpNet], seed: u64) -> Result<IpNet, NetworkError> {
    // 10.89.0.0 to 10.254.255.0: private (RFC 1918), and not where people count by hand from 10.0.0.0 on.
    const FIRST: u32 = 0x0a59_0000;
    const COUNT: u64 = 166 * 256;
    for step in 0..COUNT {
        let index = u32::try_from((seed.wrapping_add(step)) % COUNT).unwrap_or(0);
        let base = Ipv4Addr::from(FIRST + (index << 8));
        let candidate = IpNet::V4(Ipv4Net::new_assert(base, 24));
        if !in_use.iter().any(|net| overlap(net, &candidate)) {
            return Ok(candidate);
        }
    }
    Err(NetworkError::NoFreeSubnet)
}

/// A subnet of unique local addresses (RFC 4193) with these 40 random bits.
pub fn unique_local(random: u64) -> IpNet {
    let bits = (0xfd_u128 << 120) | (u128::from(random & 0xff_ffff_ffff) << 80);
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(bits), 64))
}

/// Whether two subnets have an address in common.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(net: &str, gateway: Option<&str>) -> Subnet {
        Subnet { net: net.parse().unwrap(), gateway: gateway.map(|text| text.parse().unwrap()), range: None }
    }

    #[test]
    fn every_usable_address_is_given_once_and_no_other() {
        let subnet = subnet("10.1.2.0/29", Some("10.1.2.1"));
        let mut taken = BTreeSet::new();
        for seed in [7, 7, 7, 0, 99] {
            let address = subnet.free_address(&taken, seed).unwrap();
            assert!(taken.insert(address), "{address} was given twice");
        }
        let all: Vec<String> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        assert_eq!(subnet.free_address(&taken, 3), None);
    }

    #[test]
    fn the_same_container_gets_the_same_address_again() {
        let subnet = subnet("fd00:1::/64", Some("fd00:1::1"));
        let first = subnet.free_address(&BTreeSet::new(), 4711).unwrap();
        let other = BTreeSet::from([subnet.free_address(&BTreeSet::new(), 4712).unwrap()]);
        assert_eq!(subnet.free_address(&other, 4711), Some(first));
    }

    #[test]
    fn only_the_range_is_given_away() {
        let mut subnet = subnet("10.1.2.0/24", Some("10.1.2.1"));
        subnet.range = Some(("10.1.2.200".parse().unwrap(), "10.1.2.201".parse().unwrap()));
        let mut taken = BTreeSet::new();
        for _ in 0..2 {
            taken.insert(subnet.free_address(&taken, 5).unwrap());
        }
        assert!(taken.iter().all(|address| subnet.net.contains(address)));
        assert_eq!(subnet.free_address(&taken, 5), None);
        assert!(subnet.is_usable("10.1.2.7".parse().unwrap()), "asked for by name, it is good all the same");
    }

    #[test]
    fn a_subnet_is_chosen_beside_what_is_in_use() {
        let seed = 12;
        let first = choose_free(&[], seed).unwrap();
        let second = choose_free(&[first], seed).unwrap();
        assert!(!overlap(&first, &second));
        let all: IpNet = "10.0.0.0/8".parse().unwrap();
        assert!(matches!(choose_free(&[all], seed), Err(NetworkError::NoFreeSubnet)));
    }

    #[test]
    fn local_subnets_of_ipv6_are_unique_local() {
        let net = unique_local(0x12_3456_789a);
        assert_eq!(net.to_string(), "fd12:3456:789a::/64");
    }
}
