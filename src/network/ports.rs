//! Ports of the host: whether one is free, and which one is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, Protocol as KernelProtocol, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// What carries the traffic of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // the names tell
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As in `80/tcp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The inverse of [`Self::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|protocol| protocol.as_str() == text)
    }
}

/// A socket of the host that holds a port as long as it is open.
#[derive(Debug)]
pub struct Held {
    /// One for each address family.
    _sockets: Vec<std::os::fd::OwnedFd>,
    /// The port.
    pub port: u16,
}

/// Takes a port of the host, to see that it is free; 0 takes any free one. Without an address: on all of both families.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`]; [`io::ErrorKind::AddrNotAvailable`] for an address that the host has not; EPROTONOSUPPORT for
/// a protocol that the kernel has not.
pub fn hold(protocol: Protocol, address: Option<IpAddr>, port: u16) -> io::Result<Held> {
    let Some(address) = address.filter(|address| !address.is_unspecified()) else {
        let v4 = bind(protocol, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))?;
        let port = v4.1;
        let mut sockets = vec![v4.0];
        match bind(protocol, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
            Ok((socket, _)) => sockets.push(socket),
            // A host without IPv6 has nobody there.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
        return Ok(Held { _sockets: sockets, port });
    };
    let (socket, port) = bind(protocol, SocketAddr::new(address, port))?;
    Ok(Held { _sockets: vec![socket], port })
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<(std::os::fd::OwnedFd, u16)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, rustix::net::ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, rustix::net::ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, rustix::net::ipproto::SCTP),
    };
    let protocol: Option<KernelProtocol> = Some(protocol);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Connections of an earlier listener that are not wholly over keep nobody from listening again.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, kind == SocketType::STREAM)?;
    rustix::net::bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        // With the option above, two may bind; only one may listen.
        rustix::net::listen(&socket, 1)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((socket, bound.port()))
}

/// Whether two published addresses are in each other's way; `None` is every address.
pub fn collide(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    let any = |address: Option<IpAddr>| address.is_none_or(|address| address.is_unspecified());
    any(one) || any(other) || one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_held_until_it_is_let_go() {
        let held = hold(Protocol::Tcp, None, 0).unwrap();
        assert_ne!(held.port, 0);
        let refused = hold(Protocol::Tcp, Some(Ipv4Addr::LOCALHOST.into()), held.port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let port = held.port;
        drop(held);
        hold(Protocol::Tcp, None, port).unwrap();
    }

    #[test]
    fn an_address_of_another_host_is_told_apart() {
        let far = "198.51.100.7".parse().unwrap();
        assert_eq!(hold(Protocol::Udp, Some(far), 0).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn every_address_is_in_the_way_of_each() {
        let one: Option<IpAddr> = "127.0.0.1".parse().ok();
        let other: Option<IpAddr> = "127.0.0.2".parse().ok();
        assert!(collide(None, one) && collide(one, one) && collide("0.0.0.0".parse().ok(), other));
        assert!(!collide(one, other));
    }
}
