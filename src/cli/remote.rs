//! A service on another host: the `ssh` program leads to `dormouse bridge` there, which leads to the socket.
//!
//! Nothing listens on a network for this, and nothing has to be set up there but dormouse. Who may connect, and how, is the
//! business of ssh: its configuration, keys, agents and questions are as the user knows them.

use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::cli::errors::CliError;

/// The program, with options, where it is not simply `ssh`. Read by a shell, as GIT_SSH_COMMAND is.
const PROGRAM_VARIABLE: &str = "DORMOUSE_SSH";
/// ssh has closed its streams, and takes no longer than this to end.
const END_PATIENCE: Duration = Duration::from_secs(3);
/// What ssh ends with if it could not connect.
const SSH_FAILED: i32 = 255;
/// What a shell ends with if there is no such program.
const NO_PROGRAM: i32 = 127;

/// Where a service is: `ssh://[USER@]HOST[:PORT][/SOCKET]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    user: Option<String>,
    host: String,
    port: Option<u16>,
    /// `None`: where the service usually listens for that user.
    socket: Option<String>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = |why: &str| {
            format!("{text:?} is no address by ssh: {why}; write ssh://[USER@]HOST[:PORT][/SOCKET]")
        };
        let rest = text.strip_prefix("ssh://").ok_or_else(|| malformed("it does not begin with ssh://"))?;
        let (place, socket) = match rest.find('/') {
            Some(slash) => (&rest[..slash], &rest[slash..]),
            None => (rest, "/"),
        };
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, place),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        // ssh takes what begins with a dash for an option, wherever it stands.
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('-')
                && !name.contains(|letter: char| letter.is_whitespace() || letter.is_control())
        };
        if !is_name(host) {
            return Err(malformed("the host is missing, or no name"));
        }
        if user.is_some_and(|user| !is_name(user)) {
            return Err(malformed("the user is no name"));
        }
        if socket.contains(|letter: char| letter.is_control()) {
            return Err(malformed("the socket is no path"));
        }
        let port =
            port.map(|port| port.parse().map_err(|_| malformed("the port is no number"))).transpose()?;
        Ok(Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
            socket: (socket != "/").then(|| socket.to_owned()),
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(formatter, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(formatter, "[{}]", self.host)
        } else {
            formatter.write_str(&self.host)
        }?;
        if let Some(port) = self.port {
            write!(formatter, ":{port}")?;
        }
        formatter.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

impl Destination {
    /// Starts ssh; what it asks for a password, it asks at the terminal.
    ///
    /// # Errors
    /// If it can't be started. That it does not get there shows in the first reply that does not come.
    pub fn connect(&self) -> Result<(UnixStream, Tunnel), CliError> {
        let failed = |error: std::io::Error| CliError::io(format!("start ssh for {self}"), &error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let (stdin, stdout): (OwnedFd, OwnedFd) = (theirs.try_clone().map_err(failed)?.into(), theirs.into());
        // The keys that interrupt us interrupt all programs of the terminal. They are ours to pass on, and ssh has to go on for
        // that; it leaves signals ignored that were so when it was started.
        let script = format!("trap '' INT QUIT; exec ${{{PROGRAM_VARIABLE}:-ssh}} \"$@\"");
        let child = Command::new("sh")
            .args(["-c", &script, "dormouse"])
            .args(self.arguments())
            .stdin(stdin)
            .stdout(Stdio::from(stdout))
            .spawn()
            .map_err(failed)?;
        Ok((ours, Tunnel { destination: self.clone(), child }))
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = ["-T", "-a", "-x", "-e", "none"].map(str::to_owned).to_vec();
        if let Some(port) = self.port {
            arguments.extend(["-p".to_owned(), port.to_string()]);
        }
        if let Some(user) = &self.user {
            arguments.extend(["-l".to_owned(), user.clone()]);
        }
        arguments.extend(["--".to_owned(), self.host.clone(), "dormouse bridge".to_owned()]);
        if let (Some(socket), Some(command)) = (&self.socket, arguments.last_mut()) {
            // A shell reads it there.
            command.push_str(&format!(" --address {}", quoted(&format!("unix:{socket}"))));
        }
        arguments
    }
}

/// For a shell: the text and nothing else.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The ssh behind a connection. It ends when the connection is closed.
#[derive(Debug)]
pub struct Tunnel {
    destination: Destination,
    child: Child,
}

impl Tunnel {
    /// Why the connection has ended, as far as ssh tells.
    pub fn post_mortem(&mut self) -> (String, &'static str) {
        let until = Instant::now() + END_PATIENCE;
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                Ok(status) => break status.and_then(|status| status.code()),
                Err(_) => break None,
            }
        };
        let destination = &self.destination;
        match status {
            Some(SSH_FAILED) => (
                format!("there is no connection to {destination}"),
                "ssh has said why; try the same with `ssh` itself",
            ),
            Some(NO_PROGRAM) => (
                format!("dormouse is not found on {destination}"),
                "install it there, where the PATH of a non-interactive shell leads to it",
            ),
            Some(code) if code != 0 => (
                format!("`dormouse bridge` on {destination} has ended with {code}"),
                "it has said why; is dormouse.socket active there?",
            ),
            _ => (
                format!("the connection to {destination} was closed"),
                "the service there was stopped, or the connection was lost",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Destination {
        text.parse().unwrap()
    }

    #[test]
    fn a_destination_has_a_host_and_perhaps_more() {
        assert_eq!(parse("ssh://web").arguments().last().unwrap(), "dormouse bridge");
        let all = parse("ssh://root@web.example:2222/run/user/7/o'clock");
        let expected = [
            "-T",
            "-a",
            "-x",
            "-e",
            "none",
            "-p",
            "2222",
            "-l",
            "root",
            "--",
            "web.example",
            "dormouse bridge --address 'unix:/run/user/7/o'\\''clock'",
        ];
        assert_eq!(all.arguments(), expected);
        let six = parse("ssh://[fe80::1]:22");
        assert_eq!(
            (six.host.as_str(), six.port, six.to_string().as_str()),
            ("fe80::1", Some(22), "ssh://[fe80::1]:22")
        );
        assert_eq!(parse("ssh://a@b@c/").user.as_deref(), Some("a@b"));
        assert_eq!(all.to_string(), "ssh://root@web.example:2222/run/user/7/o'clock");
    }

    #[test]
    fn what_could_be_an_option_of_ssh_is_no_destination() {
        for text in [
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-x@host",
            "ssh://a b",
            "ssh://h:port",
            "tcp://h",
            "ssh://@h",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text}");
        }
    }
}
