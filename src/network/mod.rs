//! Networks as the kernel and netavark see them: subnets, namespaces with a name, the texts that name resolution reads,
//! and the program that does the work.
//!
//! This module knows no containers and no store: [`crate::engine`] tells it what to do. Bridges, veth pairs, firewall
//! rules and names are made by netavark and aardvark-dns, the programs that podman uses too; [`netavark`] speaks to them.
//! What they need is one JSON document for each container, kept as long as the network is up, so that the very same can
//! be undone by whoever comes to do it.

mod error;
pub mod files;
pub mod namespace;
pub mod netavark;
pub mod pasta;
pub mod ports;
pub mod routes;
mod subnet;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use error::NetworkError;
pub use ipnet::IpNet;
pub use subnet::{Subnet, choose_free, overlap, unique_local};

/// What a network is, as recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDefinition {
    /// What connects the containers.
    pub driver: Driver,
    /// The bridge; for the others the interface of the host that they sit on.
    pub interface: String,
    /// At least one.
    pub subnets: Vec<Subnet>,
    /// No way out of the host.
    pub internal: bool,
    /// Names are told by aardvark-dns.
    pub dns: bool,
    /// Nothing is forwarded between this network and others. For bridges only.
    pub isolate: bool,
    /// The largest packet in bytes; `None` is the kernel's default.
    pub mtu: Option<u32>,
    /// As netavark calls them: bridge, private, vepa, passthru; l2, l3, l3s. `None` is the first.
    pub mode: Option<String>,
    /// For people.
    pub labels: BTreeMap<String, String>,
}

/// What connects the containers of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A switch of the host, with the host as the router.
    Bridge,
    /// Interfaces with addresses of their own on an interface of the host.
    Macvlan,
    /// The same, but all with the hardware address of the host's interface.
    Ipvlan,
}

impl Driver {
    /// The word that netavark and the interfaces use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// Whether a name fits an interface of the kernel: 1 to 15 bytes, no slash, colon or white space, not `.` or `..`.
///
/// Source: Linux, net/core/dev.c, dev_valid_name().
pub fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && !matches!(name, "." | "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'))
}

/// Whether a text is a hardware address of one interface, as in `02:00:00:00:00:01`.
pub fn is_hardware_address(text: &str) -> bool {
    let bytes: Vec<_> = text.split(':').collect();
    let parsed: Option<Vec<u8>> = bytes
        .iter()
        .map(|byte| {
            let is_hex = byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(byte, 16).ok()).flatten()
        })
        .collect();
    // The lowest bit of the first byte tells a group.
    parsed.is_some_and(|bytes| bytes.len() == 6 && bytes[0] & 1 == 0 && bytes.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces_are_those_that_the_kernel_takes() {
        for good in ["eth0", "host0", "a", "dm0123456789abc", "veth.1", "x-y_z"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "0123456789abcdef", "a:1", "a\n", "eth%d", "ö"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses_are_of_one_interface() {
        assert!(is_hardware_address("02:00:5e:10:00:Ff"));
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:01:02",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+2:00:5e:10:00:01",
        ] {
            assert!(!is_hardware_address(bad), "{bad}");
        }
    }
}
