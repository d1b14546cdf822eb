//! pasta: a network for a user without root. A process that has a socket of the host for each connection of the container,
//! and so needs no right that other programs of the user have not.
//!
//! It takes addresses and routes of the host over to the container, and ends by itself when the namespace's name is gone.
//! Source: passt(1), of the version in Debian 12 and later.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NetworkError;
use super::ports::Protocol;

/// What a container's network is called that pasta makes.
pub const NAME: &str = "pasta";

/// Ports of the host that lead to ports of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// tcp or udp.
    pub protocol: Protocol,
    /// `None` is every address.
    pub host_ip: Option<IpAddr>,
    /// The first.
    pub host_port: u16,
    /// The first.
    pub container_port: u16,
    /// How many.
    pub range: u16,
}

/// The program.
#[derive(Debug, Clone)]
pub struct Pasta {
    program: PathBuf,
}

impl Pasta {
    /// Finds it.
    ///
    /// # Errors
    /// [`NetworkError::Missing`].
    pub fn find() -> Result<Self, NetworkError> {
        ["/usr/local/bin", "/usr/bin", "/bin"]
            .iter()
            .map(|dir| Path::new(dir).join("pasta"))
            .find(|path| path.is_file())
            .map(|program| Self { program })
            .ok_or(NetworkError::Missing { program: "pasta", package: "passt" })
    }

    /// Connects the namespace with the name `namespace`, and returns when that is done. The process that stays writes its
    /// pid into `pid_file`; it is returned.
    ///
    /// # Errors
    /// [`NetworkError::Program`], with what pasta says.
    pub fn start(
        &self,
        namespace: &Path,
        pid_file: &Path,
        forwards: &[Forward],
    ) -> Result<i32, NetworkError> {
        let failed = |source| NetworkError::Program { attempted: "connect the container by pasta", source };
        let output = Command::new(&self.program)
            // The host's own loopback interface is not for the container, nor is the other way round.
            .args(["--config-net", "--quiet", "--no-map-gw", "--netns-only"])
            .args(["--tcp-ns", "none", "--udp-ns", "none"])
            .args(arguments(forwards))
            .arg("--pid")
            .arg(pid_file)
            .arg("--netns")
            .arg(namespace)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(failed)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
            return Err(failed(std::io::Error::other(last.trim().to_owned())));
        }
        let text = std::fs::read_to_string(pid_file).map_err(failed)?;
        text.trim().parse().map_err(|_| failed(std::io::Error::other(format!("{text:?} is no pid"))))
    }
}

fn arguments(forwards: &[Forward]) -> Vec<String> {
    let mut arguments = Vec::new();
    for (flag, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
        let mut none = true;
        for forward in forwards.iter().filter(|forward| forward.protocol == protocol) {
            none = false;
            arguments.extend([flag.to_owned(), forward.text()]);
        }
        if none {
            arguments.extend([flag.to_owned(), "none".to_owned()]);
        }
    }
    arguments
}

impl Forward {
    /// `[ADDRESS/]FIRST[-LAST]:FIRST[-LAST]`
    fn text(&self) -> String {
        let ports = |first: u16| match self.range {
            0 | 1 => first.to_string(),
            range => format!("{first}-{}", first.saturating_add(range - 1)),
        };
        let address = self.host_ip.map_or_else(String::new, |address| format!("{address}/"));
        format!("{address}{}:{}", ports(self.host_port), ports(self.container_port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_as_pasta_wants_them() {
        let forward = |protocol, host_ip: Option<&str>, host_port, container_port, range| Forward {
            protocol,
            host_ip: host_ip.map(|address| address.parse().unwrap()),
            host_port,
            container_port,
            range,
        };
        assert_eq!(arguments(&[]), ["--tcp-ports", "none", "--udp-ports", "none"]);
        let forwards = [
            forward(Protocol::Tcp, None, 8080, 80, 1),
            forward(Protocol::Tcp, Some("127.0.0.1"), 8000, 80, 4),
            forward(Protocol::Udp, Some("::1"), 53, 53, 1),
        ];
        let expected = [
            "--tcp-ports",
            "8080:80",
            "--tcp-ports",
            "127.0.0.1/8000-8003:80-83",
            "--udp-ports",
            "::1/53:53",
        ];
        assert_eq!(arguments(&forwards), expected);
    }
}
