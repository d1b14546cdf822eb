//! ConfigMaps and Secrets: what variables and files of containers come from.
//!
//! A ConfigMap is nothing by itself. A Secret becomes one of ours for each of its keys, called `NAME_KEY`: no name of
//! Kubernetes has an underscore, so that no two of them meet. The key of a Secret that no document makes may also be one of
//! ours whose name is the key, which is how such a one is described for Kubernetes.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::fields::{Fields, Place, Rest};
use crate::engine::EngineError;
use crate::engine::kube::dns_label;

/// Of a key, and of the file that it becomes. Source: Kubernetes, IsConfigMapKey.
const KEY_BYTES_MAX: usize = 253;

/// A secret that a document makes.
pub(super) struct NewKey {
    pub place: Place,
    /// Ours.
    pub name: String,
    pub bytes: Vec<u8>,
}

/// Everything that can be referred to.
#[derive(Default)]
pub(super) struct Sources {
    maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Of documents, by their keys.
    secrets: BTreeMap<String, BTreeSet<String>>,
    /// Those that are there, by our names.
    pub there: BTreeSet<String>,
}

impl Sources {
    pub fn add_map(&mut self, name: String, mut fields: Fields<'_>) -> Result<(), EngineError> {
        let mut entries: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (key, text) in fields.map("data")? {
            check_key(&fields.place("data"), &key)?;
            entries.insert(key, text.into_bytes());
        }
        for (key, text) in fields.map("binaryData")? {
            let place = fields.place("binaryData");
            check_key(&place, &key)?;
            entries.insert(key.clone(), decoded(&place.below(&key), &text)?);
        }
        fields.pass_over(&["metadata", "immutable"]);
        fields.finish(Rest::Told)?;
        self.maps.insert(name, entries);
        Ok(())
    }

    /// What the document makes.
    pub fn add_secret(&mut self, name: String, mut fields: Fields<'_>) -> Result<Vec<NewKey>, EngineError> {
        let mut entries: BTreeMap<String, (Place, Vec<u8>)> = BTreeMap::new();
        for (key, text) in fields.map("data")? {
            let place = fields.place("data").below(&key);
            let bytes = decoded(&place, &text)?;
            entries.insert(key, (place, bytes));
        }
        for (key, text) in fields.map("stringData")? {
            let place = fields.place("stringData").below(&key);
            entries.insert(key, (place, text.into_bytes()));
        }
        fields.pass_over(&["metadata", "immutable", "type"]);
        fields.finish(Rest::Told)?;
        self.secrets.insert(name.clone(), entries.keys().cloned().collect());
        let new = |(key, (place, bytes)): (String, (Place, Vec<u8>))| {
            check_key(&place, &key)?;
            if bytes.is_empty() {
                return Err(place.invalid("a secret has at least one byte"));
            }
            Ok(NewKey { place, name: ours(&name, &key), bytes })
        };
        entries.into_iter().map(new).collect()
    }

    pub fn map(&self, name: &str) -> Option<&BTreeMap<String, Vec<u8>>> {
        self.maps.get(name)
    }

    /// Our name of a key of a secret.
    pub fn secret(&self, name: &str, key: &str) -> Option<String> {
        if let Some(keys) = self.secrets.get(name) {
            return keys.contains(key).then(|| ours(name, key));
        }
        let candidates = [Some(ours(name, key)), (dns_label(key) == name).then(|| key.to_owned())];
        candidates.into_iter().flatten().find(|candidate| self.there.contains(candidate))
    }

    /// All keys of a secret, with our names.
    pub fn keys_of(&self, name: &str) -> Option<BTreeMap<String, String>> {
        if let Some(keys) = self.secrets.get(name) {
            return Some(keys.iter().map(|key| (key.clone(), ours(name, key))).collect());
        }
        let prefix = ours(name, "");
        let known = |there: &String| match there.strip_prefix(&prefix) {
            Some(key) if !key.is_empty() => Some((key.to_owned(), there.clone())),
            _ => (dns_label(there) == name).then(|| (there.clone(), there.clone())),
        };
        let keys: BTreeMap<String, String> = self.there.iter().filter_map(known).collect();
        (!keys.is_empty()).then_some(keys)
    }
}

/// What we call a key of a secret.
pub(super) fn ours(name: &str, key: &str) -> String {
    format!("{name}_{key}")
}

fn check_key(place: &Place, key: &str) -> Result<(), EngineError> {
    let is_good = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if key.is_empty()
        || key.len() > KEY_BYTES_MAX
        || !key.chars().all(is_good)
        || key.starts_with("..")
        || key == "."
    {
        let reason = format!("{key:?} is no key: letters, digits, '-', '_' and '.' are possible");
        return Err(place.invalid(reason));
    }
    Ok(())
}

fn decoded(place: &Place, text: &str) -> Result<Vec<u8>, EngineError> {
    let text: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(text).map_err(|_| place.invalid("it is no base64; plain text goes to stringData"))
}

/// One key of a source, and its file.
struct Item {
    place: Place,
    key: String,
    path: String,
    mode: Option<u32>,
}

/// Names of keys in `items`, and the paths of their files; all keys if there are none.
pub(super) struct Items {
    items: Option<Vec<Item>>,
    pub mode: u32,
    pub optional: bool,
}

impl Items {
    /// Of the source of a volume.
    pub fn of(source: &mut Fields<'_>) -> Result<Self, EngineError> {
        let mode = source.number("defaultMode")?.unwrap_or(0o644);
        let optional = source.is("optional")?;
        let mut items = Vec::new();
        for mut item in source.objects("items")? {
            let path = item.needed("path")?;
            let is_below = std::path::Path::new(&path)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            if !is_below || path.contains('\0') {
                return Err(item.invalid("path", format!("{path:?} is no path below the volume")));
            }
            let place = item.place.clone();
            items.push(Item { place, key: item.needed("key")?, path, mode: item.number("mode")? });
            item.finish(Rest::Told)?;
        }
        Ok(Self { items: (!items.is_empty()).then_some(items), mode, optional })
    }

    /// What becomes which file.
    pub fn choose<T: Clone>(&self, all: &BTreeMap<String, T>) -> Result<Vec<(String, T, u32)>, EngineError> {
        let Some(items) = &self.items else {
            return Ok(all.iter().map(|(key, what)| (key.clone(), what.clone(), self.mode)).collect());
        };
        let mut chosen = Vec::new();
        for Item { place, key, path, mode } in items {
            match all.get(key) {
                Some(what) => chosen.push((path.clone(), what.clone(), mode.unwrap_or(self.mode))),
                None if self.optional => {}
                None => return Err(place.below("key").invalid(format!("there is no key {key:?} in it"))),
            }
        }
        Ok(chosen)
    }
}

/// Why a source is not there.
pub(super) fn missing(kind: &str, name: &str) -> String {
    match kind {
        "ConfigMap" => {
            format!("there is no ConfigMap {name:?}; add it to the file, or give it with --configmap")
        }
        _ => format!(
            "there is no secret {name:?}; add it to the file, or make it with `dormouse secret create`"
        ),
    }
}
