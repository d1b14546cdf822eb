//! systemd mode: what a container gets whose PID 1 is a systemd.
//!
//! [`apply`] changes an OCI specification, and [`prepare_host_directory`] makes what the payload sees as `/run/host`.
//! Nothing in the image has to be prepared for it.
//!
//! Source: systemd's "Container Interface" (docs/CONTAINER_INTERFACE.md). podman does the same where it does
//! something, except that it knows neither `/run/host` nor readiness.

mod host_directory;
mod mounts;
mod selinux;

use std::path::Path;

use oci_spec::runtime::Spec;

pub use self::host_directory::{HostDirectoryError, prepare_host_directory};
pub use self::selinux::selinux_hint;

/// What stops a systemd that is PID 1: the clean way down, to a halt. Source: systemd(1), "Signals".
pub const STOP_SIGNAL: &str = "SIGRTMIN+3";

/// The name in the payload's variable `container`, and in `/run/host/container-manager`.
pub const MANAGER_NAME: &str = "dormouse";

/// Says whether a command (entrypoint and arguments) is a systemd or another init, as podman tells it.
///
/// Any path that ends in `systemd`, or the names under which systems keep their init.
pub fn is_systemd_command(command: &[String]) -> bool {
    let Some(program) = command.first() else { return false };
    matches!(program.as_str(), "/sbin/init" | "/usr/sbin/init" | "/usr/local/sbin/init")
        || Path::new(program).file_name().is_some_and(|name| name == "systemd")
}

/// Returns the uuid of a container: the first 32 digits of its id, which is hexadecimal and longer.
///
/// The systemd inside takes it as its machine id if the image's `/etc/machine-id` is empty. `None` for an id that is
/// too short, not hexadecimal, or all zeros.
pub fn container_uuid(id: &str) -> Option<String> {
    let uuid = id.get(..32)?.to_ascii_lowercase();
    let usable = uuid.bytes().all(|b| b.is_ascii_hexdigit()) && uuid.bytes().any(|b| b != b'0');
    usable.then_some(uuid)
}

/// Returns the variables `container_host_*` that the host's os-release(5) gives.
pub fn host_variables(os_release: &str) -> Vec<(String, String)> {
    const KEYS: [(&str, &str); 4] = [
        ("ID", "container_host_id"),
        ("VERSION_ID", "container_host_version_id"),
        ("BUILD_ID", "container_host_build_id"),
        ("VARIANT_ID", "container_host_variant_id"),
    ];
    let mut variables = Vec::new();
    for line in os_release.lines() {
        let Some((key, value)) = line.trim().split_once('=') else { continue };
        let Some((_, variable)) = KEYS.iter().find(|(known, _)| *known == key) else {
            continue;
        };
        let value = unquote(value);
        if !value.is_empty() && !value.contains(['\0', '\n']) {
            variables.retain(|(known, _): &(String, String)| known != variable);
            variables.push(((*variable).to_owned(), value));
        }
    }
    variables
}

/// Undoes the quoting of os-release(5): one pair of quotes, a backslash before `$ " \ ` and the back-quote.
fn unquote(value: &str) -> String {
    let value = value.trim();
    if let Some(inner) = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')) {
        return inner.to_owned();
    }
    let Some(inner) = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            character => text.push(character),
        }
    }
    text
}

/// What [`apply`] has to know beside the specification.
#[derive(Debug, Clone, Default)]
pub struct SystemdContext<'a> {
    /// The container's id.
    pub container_id: &'a str,
    /// The directory that [`prepare_host_directory`] has made, on the host.
    pub host_directory: Option<&'a Path>,
    /// The socket that takes the payload's notifications, on the host. It must be there when the container starts.
    pub notify_socket: Option<&'a Path>,
    /// A directory of credentials, on the host.
    pub credentials: Option<&'a Path>,
    /// The content of the host's os-release file.
    pub host_os_release: &'a str,
    /// Terminals for the payload beside its console, as `pts/1`.
    pub ttys: &'a [String],
    /// The container has a terminal as its console.
    pub terminal: bool,
    /// A privileged container: `/sys` and `/proc/sys` stay as they are.
    pub privileged: bool,
}

/// Changes a specification so that a systemd can be PID 1.
///
/// What the user has asked for comes first: a mount, or a variable, that is there already is kept. Calling it twice
/// changes nothing more. The stop signal is no part of a specification; see [`STOP_SIGNAL`].
pub fn apply(spec: &mut Spec, context: &SystemdContext<'_>) {
    mounts::apply(spec, context);
    environment(spec, context);
}

fn environment(spec: &mut Spec, context: &SystemdContext<'_>) {
    let mut process = spec.process().clone().unwrap_or_default();
    let mut variables = process.env().clone().unwrap_or_default();
    let mut set = |name: &str, value: &str| {
        let known =
            |variable: &String| variable.split_once('=').map_or(variable.as_str(), |(name, _)| name) == name;
        if !variables.iter().any(known) {
            variables.push(format!("{name}={value}"));
        }
    };
    set("container", MANAGER_NAME);
    if let Some(uuid) = container_uuid(context.container_id) {
        set("container_uuid", &uuid);
    }
    for (name, value) in host_variables(context.host_os_release) {
        set(&name, &value);
    }
    if !context.ttys.is_empty() {
        set("container_ttys", &context.ttys.join(" "));
    }
    if context.terminal {
        set("TERM", "xterm");
    }
    if context.notify_socket.is_some() {
        set("NOTIFY_SOCKET", mounts::NOTIFY_SOCKET);
    }
    if context.credentials.is_some() {
        set("CREDENTIALS_DIRECTORY", mounts::CREDENTIALS);
    }
    process.set_env(Some(variables));
    spec.set_process(Some(process));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_are_an_init_are_told() {
        let command = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for text in
            ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init", "/lib/systemd/systemd", "systemd"]
        {
            assert!(is_systemd_command(&command(text)), "{text}");
        }
        assert!(is_systemd_command(&command("/sbin/init --log-level=debug")));
        for text in ["init", "/bin/init", "sh -c /sbin/init", "/usr/bin/systemd-run", "tini"] {
            assert!(!is_systemd_command(&command(text)), "{text}");
        }
        assert!(!is_systemd_command(&[]));
    }

    #[test]
    fn the_uuid_is_the_beginning_of_the_id() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(container_uuid(&id).as_deref(), Some(&id[..32]));
        for id in ["", "0123", &"0".repeat(64), &"x".repeat(64), &"ä".repeat(40)] {
            assert_eq!(container_uuid(id), None, "{id}");
        }
    }

    #[test]
    fn the_host_is_described_by_its_os_release() {
        let text = "# c\nNAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\nVARIANT_ID='a b'\nBUILD_ID=\"x\\\"y\"\nBROKEN\n";
        let expected = [
            ("container_host_id", "debian"),
            ("container_host_version_id", "12"),
            ("container_host_variant_id", "a b"),
            ("container_host_build_id", "x\"y"),
        ];
        let found = host_variables(text);
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert!(host_variables("ID=\nVERSION_ID=\"\"").is_empty());
    }

    #[test]
    fn variables_of_the_user_are_kept_and_the_others_set_once() {
        let mut spec = Spec::default();
        let mut process = spec.process().clone().unwrap();
        process.set_env(Some(vec!["container=mine".to_owned(), "PATH=/bin".to_owned()]));
        spec.set_process(Some(process));
        let id = "ab".repeat(32);
        let context = SystemdContext {
            container_id: &id,
            notify_socket: Some(Path::new("/run/x/notify.sock")),
            host_os_release: "ID=debian\n",
            terminal: true,
            ..SystemdContext::default()
        };
        apply(&mut spec, &context);
        let once = spec.process().clone().unwrap().env().clone().unwrap();
        assert_eq!(
            once,
            [
                "container=mine",
                "PATH=/bin",
                &format!("container_uuid={}", &id[..32]),
                "container_host_id=debian",
                "TERM=xterm",
                "NOTIFY_SOCKET=/run/host/notify"
            ]
        );
        apply(&mut spec, &context);
        assert_eq!(spec.process().clone().unwrap().env().clone().unwrap(), once);
    }
}
