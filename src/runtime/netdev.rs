//! Network devices of the host that become a container's (config-linux, "Network Devices"), by rtnetlink(7).
//!
//! A device loses its addresses when it changes its namespace. So those that are meant to last are read before, in the
//! host's namespace, and given back inside, by a process that is in there for that alone.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::LinuxNetDevice;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::launch::{Child, host};
use super::syscall::{self, Cloned};
use super::{RuntimeError, Step};

/// Of linux/netlink.h and linux/rtnetlink.h.
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
const RT_SCOPE_UNIVERSE: u8 = 0;
const HEADER: usize = 16;
const IFNAMSIZ: usize = 16;

/// Moves devices into the network namespace of a process.
pub(super) fn move_all(devices: &HashMap<String, LinuxNetDevice>, pid: i32) -> Result<(), RuntimeError> {
    let path = format!("/proc/{pid}/ns/net");
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let namespace = rustix::fs::open(&path, flags, rustix::fs::Mode::empty())
        .map_err(host(Step::Network, format!("open {path}")))?;
    for (name, device) in devices {
        let inside = device.name().as_deref().filter(|inside| !inside.is_empty()).unwrap_or(name);
        let what = format!("move the network device {name} into the container as {inside}");
        move_one(name, inside, &namespace).map_err(host(Step::Network, what))?;
    }
    Ok(())
}

fn move_one(name: &str, inside: &str, namespace: &OwnedFd) -> Result<(), Errno> {
    for name in [name, inside] {
        if name.is_empty() || name.len() >= IFNAMSIZ || name.contains(['/', '\0']) {
            return Err(Errno::INVAL);
        }
    }
    let mut socket = Netlink::open()?;
    let index = socket.index_of(name)?;
    let addresses = socket.lasting_addresses(index)?;
    let number = u32::try_from(std::os::fd::AsRawFd::as_raw_fd(namespace)).map_err(|_| Errno::BADF)?;
    // Only one that is down can be renamed.
    let mut request = link(index, 0, libc::IFF_UP);
    attribute(&mut request, IFLA_NET_NS_FD, &number.to_ne_bytes());
    attribute(&mut request, IFLA_IFNAME, &[inside.as_bytes(), b"\0"].concat());
    socket.ask(RTM_NEWLINK, NLM_F_ACK, &request)?;
    // The index may be another one inside; where the kernel chooses the name, only the index tells which it is.
    let child = match syscall::clone3(0, libc::SIGCHLD, None)? {
        Cloned::Child => {
            let outcome = finish(inside, index, namespace, &addresses);
            syscall::exit_now(outcome.err().map_or(0, Errno::raw_os_error))
        }
        Cloned::Parent { pid, pidfd } => Child::new(pid, pidfd),
    };
    let (_, pidfd) = child.keep();
    match syscall::reap(pidfd.as_fd())? {
        (libc::CLD_EXITED, 0) => Ok(()),
        (libc::CLD_EXITED, errno) => Err(Errno::from_raw_os_error(errno)),
        _ => Err(Errno::CANCELED),
    }
}

/// Inside: the addresses come back, and the device is up.
fn finish(name: &str, index: u32, namespace: &OwnedFd, addresses: &[Vec<u8>]) -> Result<(), Errno> {
    syscall::setns(namespace.as_fd(), libc::CLONE_NEWNET)?;
    let mut socket = Netlink::open()?;
    let index = if name.contains('%') { index } else { socket.index_of(name)? };
    for address in addresses {
        let mut address = address.clone();
        // struct ifaddrmsg: the device's index is its last field.
        address.get_mut(4..8).ok_or(Errno::PROTO)?.copy_from_slice(&index.to_ne_bytes());
        match socket.ask(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE, &address) {
            Err(Errno::EXIST) => {}
            other => other.map(drop)?,
        }
    }
    socket.ask(RTM_NEWLINK, NLM_F_ACK, &link(index, libc::IFF_UP, libc::IFF_UP)).map(drop)
}

/// `struct ifinfomsg`: which device, and which of its flags are to be what.
fn link(index: u32, flags: libc::c_int, mask: libc::c_int) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(index.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(mask.to_ne_bytes());
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

/// A connection to the kernel's routing side.
struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> Result<Self, Errno> {
        let protocol = None; // NETLINK_ROUTE
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request, and gives the bodies of all that comes back, each with its type.
    fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Errno> {
        self.sequence += 1;
        let length = u32::try_from(HEADER + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let (received, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..received).unwrap_or_default();
            while rest.len() >= HEADER {
                let length = usize::try_from(number(rest, 0)?).map_err(|_| Errno::PROTO)?;
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let body = rest.get(HEADER..length).ok_or(Errno::PROTO)?;
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        return match i32::from_ne_bytes(number(body, 0)?.to_ne_bytes()) {
                            0 => Ok(answers),
                            errno => Err(Errno::from_raw_os_error(-errno)),
                        };
                    }
                    kind => answers.push((kind, body.to_vec())),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
            // What was no dump and needs no acknowledgement is whole.
            if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
                return Ok(answers);
            }
        }
    }

    fn index_of(&mut self, name: &str) -> Result<u32, Errno> {
        let mut request = link(0, 0, 0);
        attribute(&mut request, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        let answers = self.ask(RTM_GETLINK, 0, &request)?;
        let (_, body) = answers.iter().find(|(kind, _)| *kind == RTM_NEWLINK).ok_or(Errno::NODEV)?;
        number(body, 4)
    }

    /// The addresses of a device that are meant to last, for everybody, as requests to make them again.
    fn lasting_addresses(&mut self, index: u32) -> Result<Vec<Vec<u8>>, Errno> {
        let answers = self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; 8])?;
        let mut lasting = Vec::new();
        for (kind, body) in answers {
            // struct ifaddrmsg: family, prefix length, flags, scope, index.
            if kind != RTM_NEWADDR || body.len() < 8 || number(&body, 4)? != index {
                continue;
            }
            let flags = find(&body[8..], IFA_FLAGS).and_then(|value| number(value, 0).ok());
            let flags = flags.unwrap_or_else(|| u32::from(body[2]));
            if flags & IFA_F_PERMANENT != 0 && body[3] == RT_SCOPE_UNIVERSE {
                lasting.push(body);
            }
        }
        Ok(lasting)
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u32, Errno> {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(Errno::PROTO)?;
    Ok(u32::from_ne_bytes(four))
}

/// The value of an attribute.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        if u16::from_ne_bytes([c, d]) == wanted {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}
