//! The texts that name resolution reads in a container: /etc/hosts, /etc/resolv.conf and /etc/hostname.
//!
//! Source: hosts(5), resolv.conf(5).

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::NetworkError;

/// What glibc looks at, resolv.conf(5).
const SERVERS_MAX: usize = 3;

/// What resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Whom to ask, in this order.
    pub servers: Vec<IpAddr>,
    /// Domains that are tried for a name without one.
    pub search: Vec<String>,
    /// As in `ndots:1`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf; what is not understood is left out.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|server| server.parse::<IpAddr>().ok()));
                }
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    /// The host's. Servers on its loopback interface can't be reached from elsewhere: where systemd-resolved listens
    /// there, those that it asks take their place.
    pub fn of_host() -> Self {
        let read = |path| Self::parse(&std::fs::read_to_string(path).unwrap_or_default());
        let mut host = read("/etc/resolv.conf");
        host.servers.retain(|server| !server.is_loopback());
        if host.servers.is_empty() {
            host.servers = read("/run/systemd/resolve/resolv.conf").servers;
            host.servers.retain(|server| !server.is_loopback());
        }
        host
    }

    /// The file.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        for server in self.servers.iter().take(SERVERS_MAX) {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

/// The file /etc/hosts: loopback, then each address with its names.
pub fn hosts(entries: &[(IpAddr, Vec<String>)]) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for (address, names) in entries.iter().filter(|(_, names)| !names.is_empty()) {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// Whether a text is a name that these files can hold: letters, digits, `-`, `.`, `_`; at most 253 characters.
pub fn is_host_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && !name.starts_with(['-', '.'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Writes a file in its place: the container sees this very file, so that another one by the same name would not be seen.
///
/// # Errors
/// [`NetworkError::File`].
pub fn write_in_place(path: &Path, text: &str) -> Result<(), NetworkError> {
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| NetworkError::File { attempted: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolv_conf_is_read_and_written() {
        let text = "# by hand\nnameserver 192.0.2.53\nnameserver 2001:db8::53\nnameserver nonsense\n\
                    domain old.example\nsearch a.example b.example\noptions ndots:2 edns0\n";
        let resolver = Resolver::parse(text);
        assert_eq!(
            resolver.text(),
            "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example\noptions ndots:2 edns0\n"
        );
        assert_eq!(Resolver::parse(&resolver.text()), resolver);
    }

    #[test]
    fn hosts_begin_with_the_host_itself() {
        let text = hosts(&[("10.1.2.3".parse().unwrap(), vec!["web".into(), "www".into()])]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("\n10.1.2.3\tweb www\n"));
    }

    #[test]
    fn a_name_can_not_forge_a_line() {
        assert!(is_host_name("db.internal-1_x"));
        for bad in ["", "a b", "a\n1.2.3.4 bank", "-x", ".x", "a\tb", "#"] {
            assert!(!is_host_name(bad), "{bad:?}");
        }
    }
}
