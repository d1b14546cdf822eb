//! Looking images up, and the `Image` of the interface.

use std::collections::HashSet;

use crate::api::looked_up;
use crate::engine::{Engine, EngineError, Image};

use super::super::errors::{failed, failed_anyhow};
use super::super::text::time_of_second;
use super::super::{Call, CallError, PodmanInterface, bare, wire};

/// Finds an image by name, id or the beginning of the id.
pub(super) fn find(engine: &Engine, name: &str) -> Result<Image, EngineError> {
    if name.is_empty() {
        // The beginning of every id.
        return Err(EngineError::ImageNotFound { image: String::new() });
    }
    engine.find_image(name)
}

/// The digest of an image where it came from; empty if it came from nowhere.
pub(super) fn digest(image: &Image) -> String {
    image.row.digests.first().map(|(_, digest)| digest.clone()).unwrap_or_default()
}

/// As in `registry/name@sha256:…`.
pub(super) fn repository_digests(image: &Image) -> Vec<String> {
    image.row.digests.iter().map(|(name, digest)| format!("{name}@{digest}")).collect()
}

/// Whether another image has all its layers, and more.
fn is_parent(image: &Image, all: &[Image]) -> bool {
    let layers = &image.row.layers;
    !layers.is_empty()
        && all
            .iter()
            .any(|other| other.row.layers.len() > layers.len() && other.row.layers.starts_with(layers))
}

fn to_wire(image: &Image, all: &[Image]) -> wire::Image {
    let digests: HashSet<&String> = image.row.digests.iter().map(|(_, digest)| digest).collect();
    wire::Image {
        id: bare(&image.row.id).to_owned(),
        digest: digest(image),
        digests: digests.into_iter().cloned().collect(),
        parentId: String::new(),
        repoTags: image.row.names.clone(),
        repoDigests: repository_digests(image),
        created: time_of_second(image.row.created_usec),
        size: image.row.size_bytes,
        virtualSize: image.row.size_bytes,
        containers: image.row.containers,
        labels: image.config.config.labels.clone().into_iter().collect(),
        isParent: is_parent(image, all),
        topLayer: image.row.layers.last().map(|layer| bare(layer).to_owned()).unwrap_or_default(),
        readOnly: false,
        history: image.row.names.clone(),
    }
}

/// A filter of images, `key=value`.
enum Filter {
    Before(i64),
    Since(i64),
    Dangling(bool),
    Label(String, Option<String>),
    Reference(String),
}

impl Filter {
    fn parse(engine: &Engine, text: &str) -> Result<Self, EngineError> {
        let wrong = |reason: String| EngineError::InvalidSpec { field: "filters".to_owned(), reason };
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| wrong(format!("{text:?} is no filter; key=value is the form")))?;
        Ok(match key {
            "before" => Self::Before(find(engine, value)?.row.created_usec),
            "since" | "after" => Self::Since(find(engine, value)?.row.created_usec),
            "dangling" => Self::Dangling(
                value.parse().map_err(|_| wrong(format!("dangling is true or false, not {value:?}")))?,
            ),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(value.to_owned(), None),
            },
            "reference" => Self::Reference(value.to_owned()),
            other => return Err(wrong(format!("there is no filter {other:?} of images"))),
        })
    }

    fn fits(&self, image: &Image) -> bool {
        match self {
            Self::Before(usec) => image.row.created_usec < *usec,
            Self::Since(usec) => image.row.created_usec > *usec,
            Self::Dangling(wanted) => image.row.names.is_empty() == *wanted,
            Self::Label(key, wanted) => image
                .config
                .config
                .labels
                .get(key)
                .is_some_and(|have| wanted.as_ref().is_none_or(|wanted| have == wanted)),
            Self::Reference(pattern) => image.row.names.iter().any(|name| matches(pattern, name)),
        }
    }
}

/// A name, its end, or a pattern with `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let untagged = name.rsplit_once(':').map_or(name, |(name, _)| name);
    [name, untagged].into_iter().any(|name| {
        // Short: the registry and the path before it may be left out.
        let starts = std::iter::once(0).chain(name.match_indices('/').map(|(at, _)| at + 1));
        starts.into_iter().any(|start| {
            let Some(mut rest) = name[start..].strip_prefix(first) else { return false };
            let mut last = first;
            for part in parts.clone() {
                match rest.find(part) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => return false,
                }
                last = part;
            }
            rest.is_empty() || (pattern.contains('*') && last.is_empty())
        })
    })
}

impl PodmanInterface {
    pub(super) async fn list_images(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let images = looked_up(move || {
            let all = engine.images()?;
            Ok(all.iter().map(|image| to_wire(image, &all)).collect())
        });
        call.reply(wire::ListImages_Reply { images: images.await.map_err(failed)? }).await
    }

    pub(super) async fn list_images_filtered(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ListImagesWithFilters_Args = call.parameters()?;
        let engine = self.engine.clone();
        let images = looked_up(move || {
            let filters = given.filters.iter().map(|text| Filter::parse(&engine, text));
            let filters = filters.collect::<Result<Vec<_>, _>>()?;
            let all = engine.images()?;
            let wanted = all.iter().filter(|image| filters.iter().all(|filter| filter.fits(image)));
            Ok(wanted.map(|image| to_wire(image, &all)).collect())
        });
        call.reply(wire::ListImagesWithFilters_Reply { images: images.await.map_err(failed_anyhow)? }).await
    }

    pub(super) async fn get_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::GetImage_Args = call.parameters()?;
        let engine = self.engine.clone();
        let image = looked_up(move || {
            let image = find(&engine, &given.id)?;
            Ok(to_wire(&image, &engine.images()?))
        });
        call.reply(wire::GetImage_Reply { image: image.await.map_err(failed)? }).await
    }

    pub(super) async fn image_exists(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ImageExists_Args = call.parameters()?;
        let engine = self.engine.clone();
        let exists = looked_up(move || match find(&engine, &given.name) {
            Ok(_) => Ok(0),
            Err(EngineError::ImageNotFound { .. }) => Ok(1),
            Err(error) => Err(error),
        });
        call.reply(wire::ImageExists_Reply { exists: exists.await.map_err(failed)? }).await
    }

    /// An image that is known to be there; for methods that only check it.
    pub(super) async fn image(&self, name: &str) -> Result<Image, EngineError> {
        let (engine, name) = (self.engine.clone(), name.to_owned());
        looked_up(move || find(&engine, &name)).await
    }

    pub(super) async fn diff(&self, call: &mut Call) -> Result<(), CallError> {
        use crate::engine::ChangeKind;
        let given: wire::Diff_Args = call.parameters()?;
        let id = self.id_of(&given.name).await.map_err(failed_anyhow)?;
        let engine = self.engine.clone();
        let changes = looked_up(move || engine.diff(&id)).await.map_err(failed_anyhow)?;
        let change = |change: crate::engine::Change| wire::DiffInfo {
            path: change.path,
            changeType: match change.kind {
                ChangeKind::Added => "A",
                ChangeKind::Modified => "C",
                ChangeKind::Deleted => "D",
            }
            .to_owned(),
        };
        call.reply(wire::Diff_Reply { diffs: changes.into_iter().map(change).collect() }).await
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn references_are_names_ends_of_names_and_patterns() {
        let name = "docker.io/library/alpine:3.9";
        for pattern in
            ["alpine", "alpine:3.9", "library/alpine", "docker.io/library/alpine:3.9", "alp*", "*:3.9", "*"]
        {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["alpin", "pine", "alpine:3", "debian*", "*:4"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }
}
