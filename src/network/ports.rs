//! Ports of the host: whether one is free, and which one is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

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
    sockets: Vec<OwnedFd>,
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
        return Ok(Held { sockets, port });
    };
    let (socket, port) = bind(protocol, SocketAddr::new(address, port))?;
    Ok(Held { sockets: vec![socket], port })
}

impl Held {
    /// From now on the sockets only keep others from the port: they listen no more, and what is forwarded by rules never
    /// comes to them. There is no moment between at which another gets the port.
    ///
    /// # Errors
    /// The kernel's, which lets the port go.
    pub fn keep(self) -> io::Result<Vec<OwnedFd>> {
        for socket in &self.sockets {
            match rustix::net::sockopt::socket_type(socket)? {
                // Nobody reads it; the kernel makes of it the least that there is.
                SocketType::DGRAM => rustix::net::sockopt::set_socket_recv_buffer_size(socket, 0)?,
                _ => {
                    // A port that was asked for by its number stays bound.
                    rustix::net::shutdown(socket, rustix::net::Shutdown::Both)?;
                    // It was in nobody's way that is over; from now on it is in everybody's that comes: of two that want
                    // one port, both must want to share.
                    rustix::net::sockopt::set_socket_reuseaddr(socket, false)?;
                }
            }
        }
        Ok(self.sockets)
    }
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<(OwnedFd, u16)> {
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
    fn a_reserved_port_is_nobody_elses_and_answers_nobody() {
        let free = |protocol| hold(protocol, None, 0).unwrap().port;
        let port = free(Protocol::Tcp);
        let reserved = hold(Protocol::Tcp, None, port).unwrap().keep().unwrap();
        assert_eq!(hold(Protocol::Tcp, None, port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        for address in ["0.0.0.0", "127.0.0.1", "::"] {
            let address: IpAddr = address.parse().unwrap();
            // With SO_REUSEADDR, as servers have it.
            let refused = std::net::TcpListener::bind((address, port)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
        let refused = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(reserved);
        std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let port = free(Protocol::Udp);
        let _reserved = hold(Protocol::Udp, Some(Ipv4Addr::LOCALHOST.into()), port).unwrap().keep().unwrap();
        assert!(std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        assert!(std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_err());
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
