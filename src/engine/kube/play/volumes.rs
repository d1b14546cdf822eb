//! Volumes of a pod, and where its containers mount them.
//!
//! What is shared by the containers of the pod and lives no longer than it is a volume of ours without a name: an emptyDir,
//! and the files of a ConfigMap. It is filled before any container can see it, and goes with the pod.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::fields::{Fields, Place, Rest};
use super::sources::{Items, Sources, missing};
use super::words::thousandths;
use crate::engine::EngineError;
use crate::engine::kube::SOURCE_LABEL;
use crate::engine::spec::{ContainerSpec, Device, Mount, MountKind, SecretKind, SecretUse};

/// A volume that is made for the pod alone.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub place: Place,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Path, bytes and permission bits of each file.
    pub files: Vec<(String, Vec<u8>, u32)>,
    /// Directories that are mounted by themselves.
    pub parts: Vec<String>,
}

/// What is made on the host if it is not there.
#[derive(Debug)]
pub(super) struct OnHost {
    pub place: Place,
    pub path: PathBuf,
    pub is_file: bool,
}

enum Source {
    Host {
        path: String,
        is_device: bool,
    },
    /// One of those that the pod alone has.
    Shared {
        index: usize,
        in_memory: Option<Memory>,
        read_only: bool,
    },
    /// Our secrets, and their files.
    Secrets(Vec<(String, String, u32)>),
    Claim {
        name: String,
        read_only: bool,
    },
    Image(String),
}

#[derive(Clone, Copy)]
struct Memory {
    size: Option<u64>,
    mounts: usize,
}

/// All volumes of a pod.
#[derive(Default)]
pub(super) struct Volumes {
    sources: BTreeMap<String, Source>,
    pub shared: Vec<Shared>,
    pub on_host: Vec<OnHost>,
    /// Of the pod's /dev/shm.
    pub shm_size: Option<u64>,
}

impl Volumes {
    /// `mounts` counts the mounts of each volume.
    pub fn read(
        pod: &mut Fields<'_>,
        sources: &Sources,
        mounts: &BTreeMap<String, usize>,
    ) -> Result<Self, EngineError> {
        let mut volumes = Self::default();
        for mut volume in pod.objects("volumes")? {
            let name = volume.needed("name")?;
            let count = mounts.get(&name).copied().unwrap_or_default();
            let source = volumes.source(&name, &mut volume, sources, count)?;
            if volumes.sources.insert(name.clone(), source).is_some() {
                return Err(volume.invalid("name", format!("there are two volumes {name:?}")));
            }
            // Any other kind of source.
            volume.finish(Rest::Refused)?;
        }
        Ok(volumes)
    }

    fn source(
        &mut self,
        name: &str,
        volume: &mut Fields<'_>,
        sources: &Sources,
        mounts: usize,
    ) -> Result<Source, EngineError> {
        if let Some(host) = volume.object("hostPath")? {
            return self.host_path(host);
        }
        // `emptyDir:` without anything says as much.
        if let Some(given) = volume.take_even_if_null("emptyDir") {
            let given = if given.is_null() { json!({}) } else { given };
            let empty = volume.inner("emptyDir", given)?;
            return self.empty(name, empty, mounts);
        }
        if let Some(map) = volume.object("configMap")? {
            return self.config_map(name, map, sources);
        }
        if let Some(mut secret) = volume.object("secret")? {
            let wanted = secret.needed("secretName")?;
            let items = Items::of(&mut secret)?;
            let place = secret.place("secretName");
            secret.finish(Rest::Told)?;
            let Some(keys) = sources.keys_of(&wanted) else {
                if items.optional {
                    return Ok(Source::Secrets(Vec::new()));
                }
                return Err(place.invalid(missing("Secret", &wanted)));
            };
            return Ok(Source::Secrets(items.choose(&keys)?));
        }
        if let Some(mut claim) = volume.object("persistentVolumeClaim")? {
            let (name, read_only) = (claim.needed("claimName")?, claim.is("readOnly")?);
            claim.finish(Rest::Told)?;
            return Ok(Source::Claim { name, read_only });
        }
        if let Some(mut image) = volume.object("image")? {
            let reference = image.needed("reference")?;
            image.pass_over(&["pullPolicy"]);
            image.finish(Rest::Told)?;
            return Ok(Source::Image(reference));
        }
        match volume.names().first().cloned() {
            Some(kind) => Err(volume.invalid(
                &kind,
                "there are no such volumes here; hostPath, emptyDir, configMap, secret, persistentVolumeClaim and image are possible",
            )),
            None => Err(volume.place.invalid("it says nothing of what the volume is, as emptyDir: {} does")),
        }
    }

    fn host_path(&mut self, mut host: Fields<'_>) -> Result<Source, EngineError> {
        let path = host.needed("path")?;
        let kind = host.text("type")?.unwrap_or_default();
        let place = host.place("path");
        if !path.starts_with('/') {
            return Err(place.invalid(format!("{path:?} is not absolute")));
        }
        let is_device = matches!(kind.as_str(), "CharDevice" | "BlockDevice");
        let is_there = std::fs::metadata(&path).ok().map(|found| found.file_type());
        use std::os::unix::fs::FileTypeExt as _;
        let fits = match (kind.as_str(), is_there) {
            ("DirectoryOrCreate" | "FileOrCreate", None) => {
                let is_file = kind == "FileOrCreate";
                self.on_host.push(OnHost { place: place.clone(), path: path.clone().into(), is_file });
                true
            }
            ("" | "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice", None) => {
                return Err(place.invalid(format!("there is no {path:?} on this host; make it first")));
            }
            ("", Some(_)) => true,
            ("Directory" | "DirectoryOrCreate", Some(found)) => found.is_dir(),
            ("File" | "FileOrCreate", Some(found)) => found.is_file(),
            ("Socket", Some(found)) => found.is_socket(),
            ("CharDevice", Some(found)) => found.is_char_device(),
            ("BlockDevice", Some(found)) => found.is_block_device(),
            _ => return Err(host.invalid("type", format!("{kind:?} is no type of a path"))),
        };
        if !fits {
            return Err(place.invalid(format!("{path:?} is there, and no {kind}")));
        }
        host.finish(Rest::Told)?;
        Ok(Source::Host { path, is_device })
    }

    fn empty(&mut self, name: &str, mut empty: Fields<'_>, mounts: usize) -> Result<Source, EngineError> {
        let medium = empty.text("medium")?.unwrap_or_default();
        let size = match empty.scalar("sizeLimit")? {
            None => None,
            Some(text) => match thousandths(&text) {
                Some(size) => Some(size.div_ceil(1000)),
                None => {
                    return Err(empty.invalid("sizeLimit", format!("{text:?} is no quantity, as in 64Mi")));
                }
            },
        };
        let in_memory = match medium.as_str() {
            "" => {
                if size.is_some() {
                    empty.warn("sizeLimit", "only what is in memory has a limit here");
                }
                None
            }
            "Memory" => Some(Memory { size, mounts }),
            other => {
                let reason = format!("{other:?} is no medium here; Memory is, and none for the disk");
                return Err(empty.invalid("medium", reason));
            }
        };
        let mut options = BTreeMap::new();
        let mut described = json!({});
        if in_memory.is_some() {
            let size_option = size.map(|size| format!(",size={size}")).unwrap_or_default();
            options.insert("type".to_owned(), "tmpfs".to_owned());
            options.insert("device".to_owned(), "tmpfs".to_owned());
            options.insert("o".to_owned(), format!("mode=0777{size_option}"));
            described = json!({"medium": "Memory"});
            if let Some(size) = size {
                described["sizeLimit"] = json!(size.to_string());
            }
        }
        let place = empty.place.clone();
        empty.finish(Rest::Told)?;
        let labels = labels(name, json!({"emptyDir": described}));
        let index = self.add(Shared { place, options, labels, ..Shared::default() });
        Ok(Source::Shared { index, in_memory, read_only: false })
    }

    fn config_map(
        &mut self,
        name: &str,
        mut map: Fields<'_>,
        sources: &Sources,
    ) -> Result<Source, EngineError> {
        let wanted = map.needed("name")?;
        let items = Items::of(&mut map)?;
        let place = map.place("name");
        map.finish(Rest::Told)?;
        let files = match sources.map(&wanted) {
            Some(entries) => items.choose(entries)?,
            None if items.optional => Vec::new(),
            None => return Err(place.invalid(missing("ConfigMap", &wanted))),
        };
        let labels = labels(name, json!({"configMap": {"name": wanted}}));
        let index = self.add(Shared { place, labels, files, ..Shared::default() });
        Ok(Source::Shared { index, in_memory: None, read_only: true })
    }

    fn add(&mut self, shared: Shared) -> usize {
        self.shared.push(shared);
        self.shared.len() - 1
    }

    /// Mounts what a container wants. The names of shared volumes are known only when they are made: returned are the
    /// mounts that want one, with its index.
    pub fn mount(
        &mut self,
        container: &mut Fields<'_>,
        is_init: bool,
        spec: &mut ContainerSpec,
    ) -> Result<Vec<(usize, usize)>, EngineError> {
        let mut wanted = Vec::new();
        for mut mounted in container.objects("volumeMounts")? {
            let (name, target) = (mounted.needed("name")?, mounted.needed("mountPath")?);
            let read_only = mounted.is("readOnly")?;
            let part = mounted.text("subPath")?.filter(|part| !part.is_empty());
            let propagation = match mounted.text("mountPropagation")?.as_deref() {
                None | Some("None") => "rprivate",
                Some("HostToContainer") => "rslave",
                Some("Bidirectional") => "rshared",
                Some(other) => {
                    return Err(mounted.invalid("mountPropagation", format!("there is no {other:?}")));
                }
            };
            mounted.pass_over(&["recursiveReadOnly"]);
            let (place, part_place) = (mounted.place("name"), mounted.place("subPath"));
            mounted.finish(Rest::Refused)?;
            let Some(source) = self.sources.get(&name) else {
                return Err(place.invalid(format!("the pod has no volume {name:?}")));
            };
            let (kind, read_only) = match source {
                Source::Host { path, is_device: true } => {
                    let permissions = if read_only { "r" } else { "rwm" }.to_owned();
                    spec.devices.push(Device { path: path.clone(), container_path: target, permissions });
                    continue;
                }
                Source::Host { path, is_device: false } => {
                    let propagation = propagation.to_owned();
                    (MountKind::Bind { source: path.clone(), propagation, recursive: true }, read_only)
                }
                // That of the pod.
                Source::Shared { in_memory: Some(memory), .. } if target == "/dev/shm" => {
                    self.shm_size = memory.size.or(self.shm_size);
                    continue;
                }
                Source::Shared { in_memory: Some(memory), .. } if memory.mounts == 1 && part.is_none() => {
                    let kind = MountKind::Tmpfs { size_bytes: memory.size, mode: Some(0o777), copy: false };
                    (kind, read_only)
                }
                Source::Shared { in_memory: Some(_), .. } if is_init || part.is_some() => {
                    return Err(place.invalid(format!(
                        "the volume {name:?} is in memory, and empty again when no container runs that has it; use one on the disk"
                    )));
                }
                Source::Shared { index, in_memory, read_only: is_fixed } => {
                    let shared = &mut self.shared[*index];
                    if let Some(part) = &part
                        && in_memory.is_none()
                    {
                        let is_there = shared.files.iter().any(|(path, ..)| {
                            path == part || path.strip_prefix(part).is_some_and(|rest| rest.starts_with('/'))
                        });
                        if *is_fixed && !is_there {
                            return Err(part_place.invalid(format!("there is no {part:?} in {name:?}")));
                        }
                        if !is_there {
                            shared.parts.push(part.clone());
                        }
                    }
                    wanted.push((spec.mounts.len(), *index));
                    // The name comes when it is made.
                    let kind = MountKind::Volume { name: None, copy: false, options: BTreeMap::new() };
                    (kind, read_only || *is_fixed)
                }
                Source::Secrets(files) => {
                    let mut found = false;
                    for (path, secret, mode) in files {
                        let target = match &part {
                            Some(part) if part == path => target.clone(),
                            Some(_) => continue,
                            None => format!("{}/{path}", target.trim_end_matches('/')),
                        };
                        found = true;
                        let kind = SecretKind::File { target: Some(target), uid: 0, gid: 0, mode: *mode };
                        spec.secrets.push(SecretUse { secret: secret.clone(), kind });
                    }
                    if !found && let Some(part) = part {
                        return Err(part_place.invalid(format!("there is no {part:?} in {name:?}")));
                    }
                    continue;
                }
                Source::Claim { name, read_only: is_fixed } => {
                    // At its first use it gets what the image has, as with podman; a part of it is made.
                    let name = Some(name.clone());
                    let copy = part.is_none();
                    (MountKind::Volume { name, copy, options: BTreeMap::new() }, read_only || *is_fixed)
                }
                Source::Image(image) => (MountKind::Image { image: image.clone() }, read_only),
            };
            spec.mounts.push(Mount { subpath: part, ..Mount::new(kind, target, read_only) });
        }
        Ok(wanted)
    }

    /// Images whose trees are mounted.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.sources.values().filter_map(|source| match source {
            Source::Image(image) => Some(image.as_str()),
            _ => None,
        })
    }
}

/// For who describes it again.
fn labels(name: &str, mut source: Value) -> BTreeMap<String, String> {
    source["name"] = json!(name);
    BTreeMap::from([(SOURCE_LABEL.to_owned(), source.to_string())])
}
