//! registries.conf: short names, mirrors, registries without TLS.
//!
//! Source: containers-registries.conf(5), version 2 of the format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::RegistryError;
use crate::image::{ImageError, Reference};

const SYSTEM_FILE: &str = "/etc/containers/registries.conf";

/// How registries are to be used.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    search: Vec<String>,
    entries: Vec<Entry>,
    aliases: BTreeMap<String, String>,
}

/// A place to get an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The image's name there.
    pub reference: Reference,
    /// TLS is not required, and certificates are not checked.
    pub insecure: bool,
}

impl Endpoint {
    /// Host and port to connect to.
    pub fn host(&self) -> &str {
        match self.reference.registry() {
            "docker.io" => "registry-1.docker.io",
            host => host,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<String>>,
    #[serde(default)]
    registry: Vec<Entry>,
    #[serde(default)]
    aliases: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

impl Registries {
    /// Reads the configuration of this user: `$CONTAINERS_REGISTRIES_CONF`, or `containers/registries.conf` in the user's
    /// configuration, or that of the system with its `registries.conf.d`. What is not there says nothing.
    /// # Errors
    /// [`RegistryError::Config`] for what can't be read or understood.
    pub fn load() -> Result<Self, RegistryError> {
        let mut registries = Self::default();
        if let Some(path) = std::env::var_os("CONTAINERS_REGISTRIES_CONF") {
            registries.add_file(Path::new(&path))?;
            return Ok(registries);
        }
        let of_user = super::auth::config_home().map(|home| home.join("containers/registries.conf"));
        let main = of_user.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(SYSTEM_FILE));
        if main.exists() {
            registries.add_file(&main)?;
        }
        for directory in [PathBuf::from(format!("{SYSTEM_FILE}.d")), main.with_extension("conf.d")] {
            let Ok(listing) = directory.read_dir() else { continue };
            let mut files: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
            files.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
            files.sort();
            for file in files {
                registries.add_file(&file)?;
            }
        }
        Ok(registries)
    }

    fn add_file(&mut self, path: &Path) -> Result<(), RegistryError> {
        let bad = |reason: String| RegistryError::Config { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        self.add(&text).map_err(bad)
    }

    /// Takes the text of one more file up; what it says goes before what was there.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        if let Some(search) = file.unqualified_search_registries {
            self.search = search;
        }
        for mut entry in file.registry {
            if entry.prefix.is_empty() {
                entry.prefix.clone_from(&entry.location);
            }
            if entry.location.is_empty() && !entry.prefix.starts_with("*.") {
                entry.location.clone_from(&entry.prefix);
            }
            self.entries.retain(|known| known.prefix != entry.prefix);
            self.entries.push(entry);
        }
        self.aliases.extend(file.aliases);
        Ok(())
    }

    /// The full names that a name can stand for, in the order in which they are to be tried.
    /// # Errors
    /// [`ImageError::BadReference`].
    pub fn resolve(&self, name: &str) -> Result<Vec<Reference>, ImageError> {
        if !Reference::is_short(name) {
            return Ok(vec![name.parse()?]);
        }
        let local: Reference = name.parse()?;
        if let Some(alias) = self.aliases.get(local.repository()).filter(|alias| !alias.is_empty()) {
            return Ok(vec![local.at(alias)?]);
        }
        if self.search.is_empty() {
            return Ok(vec![Reference::of_docker(name)?]);
        }
        self.search.iter().map(|registry| local.at(&format!("{registry}/{}", local.repository()))).collect()
    }

    /// Where an image can be had: its mirrors, then the registry itself.
    /// # Errors
    /// [`RegistryError::Blocked`]; [`RegistryError::Config`] for a location that makes no name.
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistryError> {
        let Some(entry) = self.entry(reference) else {
            return Ok(vec![Endpoint { reference: reference.clone(), insecure: false }]);
        };
        if entry.blocked {
            return Err(RegistryError::Blocked { registry: entry.prefix.clone() });
        }
        let by_digest = reference.digest().is_some();
        let mut endpoints = Vec::new();
        for mirror in &entry.mirror {
            let wanted = match mirror.pull_from_mirror.as_deref() {
                Some("digest-only") => by_digest,
                Some("tag-only") => !by_digest,
                _ => by_digest || !entry.mirror_by_digest_only,
            };
            if wanted {
                let reference = moved(reference, &entry.prefix, &mirror.location)?;
                endpoints.push(Endpoint { reference, insecure: mirror.insecure });
            }
        }
        let location = if entry.location.is_empty() { reference.registry() } else { &entry.location };
        let prefix = if entry.prefix.starts_with("*.") { reference.registry() } else { &entry.prefix };
        endpoints.push(Endpoint { reference: moved(reference, prefix, location)?, insecure: entry.insecure });
        Ok(endpoints)
    }

    /// Where an image is pushed to: the registry itself, never a mirror.
    /// # Errors
    /// As for [`Self::endpoints`].
    pub fn primary(&self, reference: &Reference) -> Result<Endpoint, RegistryError> {
        let mut endpoints = self.endpoints(reference)?;
        Ok(endpoints.pop().unwrap_or_else(|| Endpoint { reference: reference.clone(), insecure: false }))
    }

    /// The registries that unqualified names are looked for in.
    pub fn search_registries(&self) -> &[String] {
        &self.search
    }

    /// The prefixes of names for whose registries TLS is not required.
    pub fn insecure_registries(&self) -> Vec<String> {
        self.prefixes(|entry| entry.insecure)
    }

    /// The prefixes of names that are not to be had.
    pub fn blocked_registries(&self) -> Vec<String> {
        self.prefixes(|entry| entry.blocked)
    }

    fn prefixes(&self, fits: impl Fn(&&Entry) -> bool) -> Vec<String> {
        self.entries.iter().filter(fits).map(|entry| entry.prefix.clone()).collect()
    }

    /// The entry with the longest prefix that fits.
    fn entry(&self, reference: &Reference) -> Option<&Entry> {
        let name = reference.name();
        let fits = |entry: &&Entry| match entry.prefix.strip_prefix('*') {
            Some(suffix) => reference.registry().ends_with(suffix),
            None => name
                .strip_prefix(entry.prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
        };
        self.entries.iter().filter(fits).max_by_key(|entry| entry.prefix.len())
    }
}

/// Replaces the beginning of a name.
fn moved(reference: &Reference, prefix: &str, location: &str) -> Result<Reference, RegistryError> {
    let name = reference.name();
    let rest = name.strip_prefix(prefix).unwrap_or_default();
    reference.at(&format!("{location}{rest}")).map_err(|error| RegistryError::Config {
        path: PathBuf::from(SYSTEM_FILE),
        reason: format!("location {location:?}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries() -> Registries {
        let mut registries = Registries::default();
        registries
            .add(
                r#"
                unqualified-search-registries = ["quay.io", "docker.io"]
                [[registry]]
                location = "registry.example:5000"
                insecure = true
                [[registry]]
                prefix = "docker.io/library"
                location = "hub.example/official"
                [[registry.mirror]]
                location = "localhost:5000/hub"
                insecure = true
                [[registry.mirror]]
                location = "digests.example"
                pull-from-mirror = "digest-only"
                [[registry]]
                prefix = "bad.example/team"
                blocked = true
                [aliases]
                "debian" = "docker.io/library/debian"
                "#,
            )
            .unwrap();
        registries
    }

    fn places(name: &str) -> Vec<String> {
        let endpoints = registries().endpoints(&name.parse().unwrap()).unwrap();
        endpoints
            .iter()
            .map(|place| format!("{}{}", place.reference, if place.insecure { " insecure" } else { "" }))
            .collect()
    }

    #[test]
    fn short_names_are_resolved_as_configured() {
        let resolve = |name: &str| -> Vec<String> {
            registries().resolve(name).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(resolve("debian:12"), ["docker.io/library/debian:12"]);
        assert_eq!(resolve("web"), ["quay.io/web:latest", "docker.io/library/web:latest"]);
        assert_eq!(resolve("localhost:5000/web"), ["localhost:5000/web:latest"]);
        assert_eq!(
            Registries::default().resolve("web").unwrap()[0].to_string(),
            "docker.io/library/web:latest"
        );
        assert!(registries().resolve("No Name").is_err());
    }

    #[test]
    fn mirrors_come_first_and_the_longest_prefix_counts() {
        assert_eq!(
            places("docker.io/web:1"),
            ["localhost:5000/hub/web:1 insecure", "hub.example/official/web:1"]
        );
        let digest = crate::image::Digest::of(b"");
        assert_eq!(places(&format!("docker.io/web@{digest}")).len(), 3);
        assert_eq!(places("docker.io/team/web"), ["docker.io/team/web:latest"]);
        assert_eq!(places("registry.example:5000/web"), ["registry.example:5000/web:latest insecure"]);
        assert_eq!(places("bad.example/teams/web"), ["bad.example/teams/web:latest"]);
        let blocked = registries().endpoints(&"bad.example/team/web".parse().unwrap());
        assert!(matches!(blocked, Err(RegistryError::Blocked { .. })));
        let pushed = registries().primary(&"docker.io/web:1".parse().unwrap()).unwrap();
        assert_eq!(pushed.reference.to_string(), "hub.example/official/web:1");
    }
}
