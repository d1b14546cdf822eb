//! Services of other hosts that have a name: `connections.toml` in the user's configuration.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::errors::CliError;
use crate::cli::remote::Destination;
use crate::cli::service::Service;

/// What the file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// Addresses by name.
    #[serde(default)]
    pub connections: BTreeMap<String, String>,
}

impl Connections {
    /// Where the file is.
    pub fn path() -> PathBuf {
        let from = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
        let directory = match from("XDG_CONFIG_HOME") {
            Some(directory) => PathBuf::from(directory),
            None => PathBuf::from(from("HOME").unwrap_or_else(|| "/".into())).join(".config"),
        };
        directory.join("dormouse/connections.toml")
    }

    /// Reads the file; without one there are none.
    ///
    /// # Errors
    /// If it can't be read, or is not what it should be.
    pub fn load() -> Result<Self, CliError> {
        let path = Self::path();
        let attempted = || format!("read {}", path.display());
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            result => result.map_err(|error| CliError::io(attempted(), &error))?,
        };
        toml::from_str(&text).map_err(|error| {
            CliError::new(format!("cannot {}: {}", attempted(), error.message()))
                .with_hint("it holds lines as web = \"ssh://root@web.example\" below [connections]")
        })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn store(&self) -> Result<(), CliError> {
        let path = Self::path();
        let failed = |error: io::Error| CliError::io(format!("write {}", path.display()), &error);
        let text = toml::to_string(self).map_err(|error| failed(io::Error::other(error)))?;
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let unfinished = path.with_extension(format!("new.{}", std::process::id()));
        std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path)).map_err(
            |error| {
                let _ = std::fs::remove_file(&unfinished);
                failed(error)
            },
        )
    }
}

/// Whether a name can stand for an address, and is not taken for one.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// The service that an address or a name leads to.
///
/// # Errors
/// If it is neither.
pub fn resolve(text: &str) -> Result<Service, CliError> {
    if !is_name(text) {
        return at(text);
    }
    match Connections::load()?.connections.get(text) {
        Some(address) => at(address),
        None => Err(CliError::usage(format!("there is no connection {text:?}"))
            .with_hint("`dormouse connection ls` lists them, `dormouse connection add` makes one")),
    }
}

/// The service at an address.
///
/// # Errors
/// If it is none.
pub fn at(address: &str) -> Result<Service, CliError> {
    if address.starts_with("unix:") || address.starts_with('/') {
        return Ok(Service::at(Some(address)));
    }
    address.parse::<Destination>().map(Service::there).map_err(CliError::usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_taken_for_an_address() {
        assert!(is_name("web") && is_name("web-1.example"));
        for address in ["ssh://web", "unix:/run/x", "/run/x", "", "a b"] {
            assert!(!is_name(address), "{address}");
        }
        assert!(at("ssh://web").unwrap().is_remote());
        assert!(!at("unix:/run/x").unwrap().is_remote());
        assert!(at("web").is_err());
    }
}
