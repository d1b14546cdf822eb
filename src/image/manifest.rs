//! Manifests and indexes, of OCI and of Docker's schema 2, which have the same shape.
//!
//! Sources: OCI image-spec, manifest.md, image-index.md, descriptor.md; distribution, manifest-v2-2.md.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Digest, ImageError, config};

/// A manifest or index larger than this is refused, as registries do.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// More layers than overlayfs can stack are of no use.
const LAYERS_MAX: usize = 500;

/// `application/vnd.oci.image.manifest.v1+json`.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// `application/vnd.oci.image.index.v1+json`.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `application/vnd.docker.distribution.manifest.v2+json`.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// `application/vnd.docker.distribution.manifest.list.v2+json`.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// `application/vnd.docker.container.image.v1+json`.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// `application/vnd.docker.image.rootfs.diff.tar.gzip`.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// `application/vnd.oci.image.config.v1+json`.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// `application/vnd.oci.image.layer.v1.tar`.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// `application/vnd.oci.image.layer.v1.tar+gzip`.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// `application/vnd.oci.image.layer.v1.tar+zstd`.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Refers to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    pub media_type: String,
    /// Of its bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// Where else it can be had; only foreign layers have this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Whatever else is told.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "config::null_is_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// What machine it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Describes bytes that are at hand.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// A descriptor with nothing but what it must have.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let (urls, annotations) = (Vec::new(), BTreeMap::new());
        Self { media_type: media_type.to_owned(), digest, size, urls, annotations, platform: None }
    }

    /// Whether it is an index or a manifest list, judged by its media type.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }
}

/// What machine an image is for, in Go's words.
///
/// Source: OCI image-spec, image-index.md, "platform".
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As in `amd64`.
    pub architecture: String,
    /// As in `linux`.
    pub os: String,
    /// As in `v7` of `arm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The one of this machine.
    pub fn host() -> Self {
        let architecture = config::architecture().to_owned();
        let variant = match architecture.as_str() {
            "arm64" => Some("v8".to_owned()),
            "arm" => Some("v7".to_owned()),
            _ => None,
        };
        Self { architecture, os: "linux".to_owned(), variant }
    }

    /// How well an offer fits: higher is better, `None` not at all.
    fn fit(&self, offer: &Self) -> Option<u8> {
        if (&self.os, &self.architecture) != (&offer.os, &offer.architecture) {
            return None;
        }
        let usual = |variant: &Option<String>| match (self.architecture.as_str(), variant) {
            ("arm64", None) => Some("v8".to_owned()),
            ("amd64", None) => Some("v1".to_owned()),
            (_, variant) => variant.clone(),
        };
        match (usual(&self.variant), usual(&offer.variant)) {
            (wanted, offered) if wanted == offered => Some(u8::MAX),
            // An older variant runs on a newer machine.
            (Some(wanted), Some(offered)) => {
                let number =
                    |variant: &str| variant.strip_prefix('v').and_then(|digits| digits.parse::<u8>().ok());
                let (wanted, offered) = (number(&wanted)?, number(&offered)?);
                (offered < wanted).then_some(offered)
            }
            (None, Some(_)) => Some(1),
            (Some(_), None) => Some(0),
            (None, None) => Some(u8::MAX),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// An image's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI leaves it out at times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// A manifest in OCI's words.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(OCI_MANIFEST.to_owned()), config, layers }
    }

    /// One of Docker's kind; layers that OCI calls otherwise get Docker's name.
    pub fn of_docker(config: Descriptor, mut layers: Vec<Descriptor>) -> Self {
        for layer in layers.iter_mut().filter(|layer| layer.media_type == OCI_LAYER_GZIP) {
            DOCKER_LAYER_GZIP.clone_into(&mut layer.media_type);
        }
        Self { schema_version: 2, media_type: Some(DOCKER_MANIFEST.to_owned()), config, layers }
    }

    /// The JSON; always the same for the same parts.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, lists and maps with string keys always serialise")
    }
}

/// One of several images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// OCI leaves it out at times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// An index in OCI's words.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(OCI_INDEX.to_owned()), manifests }
    }

    /// The JSON; always the same for the same parts.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, lists and maps with string keys always serialise")
    }

    /// The manifest that fits a platform best.
    /// # Errors
    /// [`ImageError::NoPlatform`], with those that there are.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor, ImageError> {
        // An entry without a platform is for every machine, if it is alone.
        if let [only] = self.manifests.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let fit = |offer: &Descriptor| offer.platform.as_ref().and_then(|platform| wanted.fit(platform));
        // The first of equals: that is the rule of image-index.md.
        let best = self
            .manifests
            .iter()
            .rev()
            .filter_map(|offer| Some((fit(offer)?, offer)))
            .max_by_key(|(fit, _)| *fit);
        best.map(|(_, offer)| offer).ok_or_else(|| ImageError::NoPlatform {
            wanted: wanted.to_string(),
            offered: self
                .manifests
                .iter()
                .filter_map(|offer| offer.platform.as_ref())
                .map(ToString::to_string)
                .collect(),
        })
    }
}

/// Either of the two.
#[derive(Debug, Clone)]
pub enum ManifestOrIndex {
    /// One image.
    Manifest(Manifest),
    /// A choice.
    Index(Index),
}

impl ManifestOrIndex {
    /// Reads either. `media_type` is what a registry or a descriptor says it is; what the JSON itself says wins, as there
    /// the digest vouches for it.
    /// # Errors
    /// [`ImageError::BadManifest`]; for Docker's schema 1 too, which has no digests of configurations.
    pub fn from_json(json: &[u8], media_type: Option<&str>) -> Result<Self, ImageError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Kind {
            schema_version: Option<u32>,
            media_type: Option<String>,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let bad = |reason: String| ImageError::BadManifest { reason };
        if json.len() > MANIFEST_BYTES_MAX {
            return Err(bad(format!("it is larger than {MANIFEST_BYTES_MAX} bytes")));
        }
        let kind: Kind = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        if kind.schema_version != Some(2) {
            return Err(bad(match kind.schema_version {
                Some(1) => "it is of Docker's schema 1, which no tool has written for years; push the image again with a present one".to_owned(),
                other => format!("its schemaVersion is {other:?}, not 2"),
            }));
        }
        // Whoever is both could be taken for one thing here, and for the other elsewhere.
        if kind.manifests.is_some() && kind.config.is_some() {
            return Err(bad("it is a manifest and an index at once".to_owned()));
        }
        let is_index = match kind.media_type.as_deref().or(media_type) {
            Some(OCI_INDEX | DOCKER_LIST) => true,
            Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
            _ => kind.manifests.is_some(),
        };
        if is_index {
            return serde_json::from_slice(json).map(Self::Index).map_err(|error| bad(error.to_string()));
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(|error| bad(error.to_string()))?;
        if manifest.layers.len() > LAYERS_MAX {
            return Err(bad(format!("it has more than {LAYERS_MAX} layers")));
        }
        for layer in &manifest.layers {
            if layer.media_type.contains("foreign") || layer.media_type.contains("nondistributable") {
                return Err(ImageError::ForeignLayer {
                    digest: layer.digest.clone(),
                    urls: layer.urls.clone(),
                });
            }
        }
        Ok(Self::Manifest(manifest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
        let platform = Platform {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        };
        Descriptor {
            platform: Some(platform),
            ..Descriptor::of(OCI_MANIFEST, format!("{os}{architecture}{variant:?}").as_bytes())
        }
    }

    #[test]
    fn the_best_platform_is_chosen_and_attestations_are_none() {
        let index = Index::new(vec![
            offer("unknown", "unknown", None),
            offer("linux", "arm", Some("v5")),
            offer("linux", "arm", Some("v7")),
            offer("linux", "arm", Some("v8")),
            offer("linux", "arm64", None),
            offer("linux", "amd64", None),
            offer("linux", "amd64", None),
        ]);
        let select = |os: &str, architecture: &str, variant: Option<&str>| {
            let wanted = offer(os, architecture, variant).platform.unwrap();
            index
                .select(&wanted)
                .map(|found| index.manifests.iter().position(|offer| std::ptr::eq(offer, found)).unwrap())
        };
        assert_eq!(select("linux", "amd64", None).unwrap(), 5, "the first of equals");
        assert_eq!(select("linux", "arm64", Some("v8")).unwrap(), 4);
        assert_eq!(select("linux", "arm", Some("v7")).unwrap(), 2);
        assert_eq!(
            select("linux", "arm", Some("v6")).unwrap(),
            1,
            "an older one runs too, a newer one does not"
        );
        match select("linux", "riscv64", None) {
            Err(ImageError::NoPlatform { wanted, offered }) => {
                assert_eq!(wanted, "linux/riscv64");
                assert_eq!(offered.len(), 7);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_manifest_is_told() {
        let layer = r#"{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}"#;
        for (json, reason) in [
            ("{".to_owned(), "EOF"),
            (r#"{"schemaVersion":1,"name":"x"}"#.to_owned(), "schema 1"),
            (r#"{"schemaVersion":2,"manifests":[],"config":{}}"#.to_owned(), "at once"),
            (r#"{"schemaVersion":2}"#.to_owned(), "config"),
            (format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{layer}]}}"#), "foreign"),
        ] {
            let error = ManifestOrIndex::from_json(json.as_bytes(), None).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
