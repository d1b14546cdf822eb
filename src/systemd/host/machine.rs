//! Registration with systemd-machined, so that machinectl, `journalctl -M` and `systemctl -M` know a container.
//!
//! Source: systemd's varlink interface io.systemd.Machine (since 256), method Register. machined forgets a machine by itself
//! when its leader ends.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::HostError;

const SOCKET: &str = "/run/systemd/machine/io.systemd.Machine";
const SERVICE: &str = "systemd-machined.service";
const METHOD: &str = "io.systemd.Machine.Register";
const TIMEOUT: Duration = Duration::from_secs(20);
/// The answer to a registration is empty or an error.
const ANSWER_MAX_BYTES: u64 = 64 << 10;
/// The longest name that machined takes, HOST_NAME_MAX.
const NAME_MAX_BYTES: usize = 64;

/// What is registered.
#[derive(Debug, Clone)]
pub struct Machine<'a> {
    /// The container's name. machined wants host names, so what those can't have becomes a `-`.
    pub name: &'a str,
    /// Its uuid as 32 hexadecimal digits.
    pub uuid: Option<&'a str>,
    /// Its first process.
    pub leader: i32,
    /// Its root on the host, where it has one there.
    pub root: Option<&'a Path>,
}

/// Whether machined can be asked here: it is started when it is first needed.
pub fn registers_machines() -> bool {
    // It is the system's, and asks who registers.
    if !crate::identity::is_root() {
        return false;
    }
    let is_installed = |dir: &str| Path::new(dir).join(SERVICE).exists();
    Path::new(SOCKET).exists()
        || ["/usr/lib/systemd/system", "/lib/systemd/system"].into_iter().any(is_installed)
}

/// Registers a container as a machine. Its processes must be in a unit of their own already, which then is the machine's.
///
/// # Errors
/// [`HostError::Unreachable`], [`HostError::Refused`], as for a name that another machine has.
pub fn register(machine: &Machine<'_>) -> Result<(), HostError> {
    let unreachable = |source| HostError::Unreachable { path: PathBuf::from(SOCKET), source };
    if !Path::new(SOCKET).exists() {
        super::start_unit(SERVICE)?;
    }
    let mut parameters = json!({
        "name": machine_name(machine.name),
        "service": "dormouse",
        "class": "container",
        "leader": machine.leader,
    });
    if let Some(uuid) = machine.uuid {
        parameters["id"] = json!(uuid);
    }
    if let Some(root) = machine.root {
        parameters["rootDirectory"] = json!(root);
    }
    let answer = call(&json!({"method": METHOD, "parameters": parameters})).map_err(unreachable)?;
    match answer.get("error").and_then(Value::as_str) {
        None => Ok(()),
        Some(error) => Err(HostError::Refused {
            attempted: format!("register the machine {:?}", machine.name),
            name: error.to_owned(),
            text: answer.get("parameters").map(Value::to_string).unwrap_or_default(),
        }),
    }
}

/// One call and its reply, each ended by a NUL.
fn call(message: &Value) -> io::Result<Value> {
    let mut socket = UnixStream::connect(SOCKET)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(0);
    socket.write_all(&bytes)?;
    let mut answer = Vec::new();
    let mut reader = io::BufReader::new(socket).take(ANSWER_MAX_BYTES);
    io::BufRead::read_until(&mut reader, 0, &mut answer)?;
    if answer.pop() != Some(0) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&answer)?)
}

/// A host name made of a container's name: letters, digits, and single dots and dashes that are not at an end of a label.
pub fn machine_name(name: &str) -> String {
    let mut host = String::with_capacity(name.len());
    for letter in name.chars() {
        let letter = if letter == '_' { '-' } else { letter };
        let after_mark = host.ends_with(['.', '-']) || host.is_empty();
        match letter {
            '.' if host.ends_with('-') => {
                while host.ends_with('-') {
                    host.pop();
                }
                if !host.is_empty() && !host.ends_with('.') {
                    host.push('.');
                }
            }
            '.' if after_mark => {}
            '-' if host.is_empty() || host.ends_with('.') => {}
            letter => host.push(letter),
        }
    }
    host.truncate(NAME_MAX_BYTES);
    host.trim_end_matches(['.', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_become_host_names() {
        for (name, host) in [
            ("web", "web"),
            ("sleepy_hazel_0123", "sleepy-hazel-0123"),
            ("a.b", "a.b"),
            ("a..b", "a.b"),
            ("a_.b", "a.b"),
            ("a._b", "a.b"),
            ("a--b", "a--b"),
            ("a_", "a"),
            ("a.", "a"),
        ] {
            assert_eq!(machine_name(name), host, "{name}");
        }
    }
}
