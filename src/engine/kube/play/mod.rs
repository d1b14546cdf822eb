//! Documents of Kubernetes become pods, volumes and secrets of ours, and go again.
//!
//! First all of the text is read, and what it asks for is planned ([`KubePlan`]); then the images are there; only then anything is made or
//! removed. If something fails on the way, what was made goes again ([`make`]). A field that can't be carried out is told as
//! podman passes over it, and refused where the container could do more without it.

mod container;
mod document;
mod down;
mod fields;
mod make;
mod pod;
mod security;
mod sources;
mod volumes;
mod words;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::super::spec::{Log, NetworkAttachment, PortMapping};
use super::super::{Engine, EngineError, NewVolume, PullRequest, VolumeDefinition};
use container::Pull;
use document::Kind;
use fields::{Fields, Place, Rest, Warnings};
use pod::PlannedPod;
use sources::{NewKey, Sources};

pub use down::RemovedKube;
pub use make::{PlayedKube, PlayedPod};
pub(super) use words::escape;

/// What is to be made of documents, and what is asked for beside them.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct KubePlay {
    pub yaml: String,
    pub config_maps: Vec<String>,
    pub replace: bool,
    pub start: bool,
    pub networks: Option<Vec<NetworkAttachment>>,
    pub host_network: bool,
    pub ports: Vec<PortMapping>,
    pub log: Log,
}

/// What will be made.
#[derive(Default)]
pub struct KubePlan {
    pods: Vec<PlannedPod>,
    secrets: Vec<NewKey>,
    claims: Vec<(Place, NewVolume)>,
    warnings: Vec<String>,
    replace: bool,
    start: bool,
}

impl std::fmt::Debug for KubePlan {
    /// There are secrets in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubePlan").finish_non_exhaustive()
    }
}

impl Engine {
    /// Reads documents, and says what they would make. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::InvalidDocument`].
    pub fn plan_kube(&self, request: &KubePlay) -> Result<KubePlan, EngineError> {
        let warnings = Warnings::default();
        let mut sources = Sources::default();
        for (index, text) in request.config_maps.iter().enumerate() {
            for document in document::read(text, &warnings).map_err(|error| in_config_map(index, error))? {
                if document.kind != Kind::ConfigMap {
                    return Err(in_config_map(index, document.fields.invalid("kind", "it is no ConfigMap")));
                }
                sources
                    .add_map(document.name, document.fields)
                    .map_err(|error| in_config_map(index, error))?;
            }
        }
        let mut plan = KubePlan { replace: request.replace, start: request.start, ..KubePlan::default() };
        let (mut pods, mut known) = (Vec::new(), 0);
        // What pods refer to may stand behind them.
        for document in document::read(&request.yaml, &warnings)? {
            known += 1;
            match document.kind {
                Kind::ConfigMap => sources.add_map(document.name, document.fields)?,
                Kind::Secret => plan.secrets.extend(sources.add_secret(document.name, document.fields)?),
                Kind::Claim => plan.claims.push(claim(document.name, document.fields)?),
                Kind::Pod | Kind::Deployment | Kind::DaemonSet | Kind::Job => pods.push(document),
            }
        }
        if known == 0 {
            return Err(EngineError::InvalidDocument {
                document: 1,
                field: "kind".to_owned(),
                reason: "there is no Pod, Deployment, DaemonSet, Job, ConfigMap, Secret or PersistentVolumeClaim in it".to_owned(),
            });
        }
        sources.there = self.secrets()?.into_iter().map(|(secret, _)| secret.row.name).collect();
        for document in pods {
            let pod = pod::read(document, &sources, request)?;
            if plan.pods.iter().any(|other| other.spec.name == pod.spec.name) {
                return Err(pod.place.invalid("an earlier document makes a pod of this name"));
            }
            plan.pods.push(pod);
        }
        plan.warnings = warnings.into_inner();
        Ok(plan)
    }

    /// Gets the images that are not there, or are always to be asked for. Blocks the thread. `begun` is told each name.
    ///
    /// # Errors
    /// Those of [`Self::pull`], with the place of the image.
    pub fn pull_for_kube(
        &self,
        plan: &KubePlan,
        cancelled: &Arc<AtomicBool>,
        begun: &dyn Fn(&str),
    ) -> Result<(), EngineError> {
        let mut asked = Vec::new();
        for pod in &plan.pods {
            let mounted = pod.volumes.images().map(|image| (image, Pull::Missing, pod.place.clone()));
            let own = pod.containers.iter().filter_map(|container| {
                Some((container.spec.image.as_deref()?, container.pull, container.place.below("image")))
            });
            for (image, pull, place) in own.chain(mounted) {
                if asked.contains(&(image, pull)) {
                    continue;
                }
                asked.push((image, pull));
                let is_there = match self.find_image(image) {
                    Ok(_) => true,
                    Err(EngineError::ImageNotFound { .. }) => false,
                    Err(error) => return Err(place.of(error)),
                };
                match pull {
                    Pull::Missing if is_there => continue,
                    Pull::Never if is_there => continue,
                    Pull::Never => {
                        return Err(place.of(EngineError::ImageNotFound { image: image.to_owned() }));
                    }
                    Pull::Always | Pull::Missing => {}
                }
                begun(image);
                let request = PullRequest { name: image.to_owned(), ..PullRequest::default() };
                self.pull(&request, cancelled, &|_| {}).map_err(|error| place.of(error))?;
            }
        }
        Ok(())
    }
}

fn in_config_map(index: usize, error: EngineError) -> EngineError {
    match error {
        EngineError::InvalidDocument { document, field, reason } => EngineError::InvalidSpec {
            field: format!("configMaps[{index}]"),
            reason: format!("document {document}, {field}: {reason}"),
        },
        error => error,
    }
}

/// A claim is a volume with a name. What of a volume Kubernetes has no word for stands in annotations, which are podman's.
fn claim(name: String, mut fields: Fields<'_>) -> Result<(Place, NewVolume), EngineError> {
    let place = fields.place("metadata.name");
    let mut definition = VolumeDefinition::default();
    if let Some(mut metadata) = fields.object("metadata")? {
        definition.labels = metadata.map("labels")?;
        let mut owner = Vec::new();
        for (annotation, value) in metadata.map("annotations")? {
            let Some(option) = annotation.strip_prefix("volume.podman.io/") else { continue };
            let place = metadata.place("annotations").below(&annotation);
            match option {
                "driver" if value == "local" => {}
                "type" | "device" => drop(definition.options.insert(option.to_owned(), value)),
                "mount-options" => owner.insert(0, value),
                "uid" | "gid" => owner.push(format!("{option}={value}")),
                _ => return Err(place.invalid("no volume here can have this; take it out")),
            }
        }
        if !owner.is_empty() {
            definition.options.insert("o".to_owned(), owner.join(","));
        }
    }
    // Its size and access are those of the host's disk.
    fields.pass_over(&["spec"]);
    fields.finish(Rest::Told)?;
    Ok((place, NewVolume { name: Some(name), definition }))
}
