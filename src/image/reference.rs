//! Names of images.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// The registry part of a name that has none: images made on this machine.
const DEFAULT_REGISTRY: &str = "localhost";
const DOCKER_REGISTRY: &str = "docker.io";
/// Where docker.io keeps names of one component.
const DOCKER_OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A normalised image name: `registry/repository:tag` or `registry/repository@sha256:…`.
///
/// `web` is `localhost/web:latest`, `web:1` is `localhost/web:1`. A first component that holds a dot or a colon,
/// or is `localhost`, is a registry. A name with a tag and a digest keeps the digest, which says more.
/// `docker.io/web` is `docker.io/library/web:latest`, and `index.docker.io` is `docker.io`.
///
/// Source: the grammar of distribution/reference, which OCI distribution-spec takes up for `<name>` and `<reference>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// The host (and port) that the image is kept at; `localhost` for images of this machine.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Reads a name as Docker would: one without a registry is of docker.io.
    /// # Errors
    /// Those of [`str::parse`].
    pub fn of_docker(name: &str) -> Result<Self, ImageError> {
        if Self::is_short(name) { format!("{DOCKER_REGISTRY}/{name}").parse() } else { name.parse() }
    }

    /// Whether a name says nothing of the registry.
    pub fn is_short(name: &str) -> bool {
        !matches!(name.split_once('/'), Some((first, _)) if is_registry(first))
    }

    /// The same version of the same repository elsewhere. `place` is a registry with or without a path.
    /// # Errors
    /// [`ImageError::BadReference`] if that is no name.
    pub fn at(&self, place: &str) -> Result<Self, ImageError> {
        let separator = if self.digest().is_some() { '@' } else { ':' };
        format!("{place}{separator}{}", self.version()).parse()
    }

    /// The tag, or the digest with its algorithm, as the last part of a registry's address.
    pub fn version(&self) -> &str {
        match &self.version {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest.as_str(),
        }
    }

    /// Registry and repository, without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The path below the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless the name is one by digest.
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, if the name is one by digest.
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }
}

impl FromStr for Reference {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        parse(name)
            .map_err(|reason| ImageError::BadReference { name: name.chars().take(300).collect(), reason })
    }
}

fn parse(name: &str) -> Result<Reference, &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > 2 * NAME_BYTES_MAX {
        return Err("it is too long");
    }
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => {
            (name, Some(digest.parse().map_err(|_| "what follows @ is not a sha256 digest")?))
        }
        None => (name, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_REGISTRY, path),
    };
    let registry = if registry == "index.docker.io" { DOCKER_REGISTRY } else { registry };
    let official = registry == DOCKER_REGISTRY && !repository.contains('/');
    let repository = if official { format!("{DOCKER_OFFICIAL}/{repository}") } else { repository.to_owned() };
    check_registry(registry)?;
    if path.len() > NAME_BYTES_MAX {
        return Err("it is longer than 255 bytes");
    }
    for component in repository.split('/') {
        check_component(component)?;
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let version = match (digest, tag) {
        (Some(digest), _) => Version::Digest(digest),
        (None, tag) => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
    };
    Ok(Reference { registry: registry.to_owned(), repository, version })
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == DEFAULT_REGISTRY
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    if let Some(rest) = registry.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or("the registry's address has no closing bracket")?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| "the registry's address is not of IPv6")?;
        let port_ok =
            port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        return if port_ok { Ok(()) } else { Err("the registry's port is not a number") };
    }
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    if let Some(port) = port
        && (port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err("the registry's port is not a number");
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.split('.').all(label_ok) { Ok(()) } else { Err("the registry is not a host name") }
}

/// One component: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn check_component(component: &str) -> Result<(), &'static str> {
    if component.is_empty() {
        return Err("a part between slashes is empty");
    }
    if component.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("it has upper-case letters");
    }
    if !component.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
        return Err("only a-z, 0-9, and between them . _ - are allowed");
    }
    let separator = |b: u8| matches!(b, b'.' | b'_' | b'-');
    let bytes = component.as_bytes();
    if bytes.first().copied().is_some_and(separator) || bytes.last().copied().is_some_and(separator) {
        return Err("a part begins or ends with . _ or -");
    }
    let runs = bytes.split(|&b| !separator(b)).filter(|run| !run.is_empty());
    for run in runs {
        if !matches!(run, b"." | b"_" | b"__") && !run.iter().all(|&b| b == b'-') {
            return Err("separators . _ - may not be combined");
        }
    }
    Ok(())
}

/// A tag: `[\w][\w.-]{0,127}`.
fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if tag.is_empty() {
        return Err("the tag is empty");
    }
    if tag.len() > TAG_BYTES_MAX {
        return Err("the tag is longer than 128 bytes");
    }
    if !tag.bytes().next().is_some_and(word) || !tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        return Err("the tag may only have letters, digits, _ . - and begins with none of . -");
    }
    Ok(())
}

impl TryFrom<String> for Reference {
    type Error = ImageError;

    fn try_from(name: String) -> Result<Self, ImageError> {
        name.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let digest = Digest::of(b"");
        for (given, expected) in [
            ("web", "localhost/web:latest"),
            ("web:1", "localhost/web:1"),
            ("localhost/web:latest", "localhost/web:latest"),
            ("team/web", "localhost/team/web:latest"),
            ("quay.io/team/web:v1.2", "quay.io/team/web:v1.2"),
            ("registry:5000/web", "registry:5000/web:latest"),
            ("localhost:5000/web:1", "localhost:5000/web:1"),
            ("a__b/c--d.e", "localhost/a__b/c--d.e:latest"),
            ("docker.io/web", "docker.io/library/web:latest"),
            ("index.docker.io/team/web", "docker.io/team/web:latest"),
            ("127.0.0.1:5000/web", "127.0.0.1:5000/web:latest"),
            ("[::1]:5000/web:2", "[::1]:5000/web:2"),
            (&format!("web:1@{digest}"), &format!("localhost/web@{digest}")),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), expected);
        }
    }

    #[test]
    fn docker_means_its_own_registry_by_a_short_name() {
        for (given, expected) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("team/web:1", "docker.io/team/web:1"),
            ("localhost/web:1", "localhost/web:1"),
            ("quay.io/web", "quay.io/web:latest"),
        ] {
            assert_eq!(Reference::of_docker(given).unwrap().to_string(), expected);
        }
    }

    #[test]
    fn a_name_can_be_moved_to_a_mirror() {
        let name: Reference = "docker.io/web:1".parse().unwrap();
        assert_eq!(
            name.at("mirror:5000/hub/library/web").unwrap().to_string(),
            "mirror:5000/hub/library/web:1"
        );
    }

    #[test]
    fn the_normal_form_of_a_name_is_its_own_normal_form() {
        for name in ["web", "registry:5000/a/b:1", "quay.io/x"] {
            let once: Reference = name.parse().unwrap();
            assert_eq!(once.to_string().parse::<Reference>().unwrap(), once);
        }
    }

    #[test]
    fn bad_names_say_which_rule_they_break() {
        for (name, reason) in [
            ("", "it is empty"),
            ("Web", "it has upper-case letters"),
            ("web:", "the tag is empty"),
            ("web:-1", "the tag may only have letters, digits, _ . - and begins with none of . -"),
            ("/web", "a part between slashes is empty"),
            ("web/", "a part between slashes is empty"),
            ("../etc", "the registry is not a host name"),
            ("a/../b", "a part begins or ends with . _ or -"),
            ("a..b", "separators . _ - may not be combined"),
            ("a b", "only a-z, 0-9, and between them . _ - are allowed"),
            ("web@sha256:12", "what follows @ is not a sha256 digest"),
            ("host:port/web", "the registry's port is not a number"),
            ("-x.org/web", "the registry is not a host name"),
        ] {
            match name.parse::<Reference>() {
                Err(ImageError::BadReference { reason: found, .. }) => assert_eq!(found, reason, "{name:?}"),
                other => panic!("{name:?} gave {other:?}"),
            }
        }
        let long = "a".repeat(256);
        assert!(long.parse::<Reference>().is_err());
    }
}
