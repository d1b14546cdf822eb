//! Names of images.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError};

/// The registry part of a name that has none: images made on this machine.
const DEFAULT_REGISTRY: &str = "localhost";
const DEFAULT_TAG: &str = "latest";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A normalised image name: `registry/repository:tag` or `registry/repository@sha256:…`.
///
/// `web` is `localhost/web:latest`, `web:1` is `localhost/web:1`. A first component that holds a dot or a colon,
/// or is `localhost`, is a registry. A name with a tag and a digest keeps the digest, which says more.
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
        Some((first, rest)) if first.contains(['.', ':']) || first == DEFAULT_REGISTRY => (first, rest),
        _ => (DEFAULT_REGISTRY, path),
    };
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
    Ok(Reference { registry: registry.to_owned(), repository: repository.to_owned(), version })
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
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
            (&format!("web:1@{digest}"), &format!("localhost/web@{digest}")),
        ] {
            assert_eq!(given.parse::<Reference>().unwrap().to_string(), expected);
        }
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
