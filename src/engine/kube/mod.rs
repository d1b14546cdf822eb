//! Containers, pods and volumes as Kubernetes has them: what of them has a word there becomes a document, and for what has
//! none there is a warning.

mod container;
mod play;
mod pod;

use serde_json::{Map, Value, json};

use super::volumes::Volume;
use super::{Engine, EngineError};
use pod::Draft;

pub use play::{KubePlan, KubePlay, PlayedKube, PlayedPod, RemovedKube};

/// Marks what was made of a document: a volume with what Kubernetes calls it, and a secret.
const SOURCE_LABEL: &str = "io.dormouse.kube";
/// What a volume asks for, which has no size of its own. Podman's, too.
const CLAIM: &str = "1Gi";

/// What documents are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct KubeRequest {
    pub names: Vec<String>,
    pub kind: KubeKind,
    pub replicas: Option<u32>,
    pub service: bool,
}

/// What holds the containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub enum KubeKind {
    #[default]
    Pod,
    Deployment,
    DaemonSet,
}

/// Documents for Kubernetes, and what is to be said about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GeneratedKube {
    /// Claims of volumes first, then each pod, with its service behind it.
    pub documents: Vec<Value>,
    /// For a person.
    pub warnings: Vec<String>,
}

impl GeneratedKube {
    /// All documents, as a file for `kubectl create -f`.
    ///
    /// # Errors
    /// [`EngineError::Failed`].
    pub fn text(&self) -> Result<String, EngineError> {
        let mut text = format!("# Made by dormouse {}.\n", env!("CARGO_PKG_VERSION"));
        for document in &self.documents {
            let written = serde_saphyr::to_string(document).map_err(|error| EngineError::Failed {
                attempted: "write YAML".to_owned(),
                reason: error.to_string(),
            })?;
            text.push_str("---\n");
            text.push_str(&written);
        }
        Ok(text)
    }
}

impl Engine {
    /// Describes containers, pods and volumes for Kubernetes. All containers that are named come into one pod.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::InvalidSpec`]; [`EngineError::Unsupported`] for a container without an image.
    pub fn generate_kube(&self, request: &KubeRequest) -> Result<GeneratedKube, EngineError> {
        request.check()?;
        let (mut containers, mut pods, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        for name in &request.names {
            match self.find(name) {
                Ok(container) => containers.push(container),
                Err(EngineError::NotFound { .. }) => match (self.find_pod(name), self.find_volume(name)) {
                    (Ok(pod), _) => pods.push(pod),
                    (_, Ok(volume)) => claims.push(claim(&volume)),
                    (
                        Err(EngineError::PodNotFound { .. }),
                        Err(EngineError::VolumeNotFound { .. } | EngineError::VolumeAmbiguous { .. }),
                    ) => return Err(EngineError::NotFound { name: name.clone() }),
                    (Err(EngineError::PodNotFound { .. }), Err(error)) | (Err(error), _) => {
                        return Err(error);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        let mut generated = GeneratedKube { documents: claims, warnings: Vec::new() };
        if let Some(first) = containers.first() {
            let mut draft = Draft::new(self, &format!("{}-pod", first.row.name));
            for container in &containers {
                draft.add(container)?;
            }
            draft.finish(request, &mut generated);
        }
        for pod in &pods {
            let mut draft = Draft::new(self, &pod.row.name);
            draft.describe_pod(&pod.definition);
            for member in self.pod_members(&pod.row.id)? {
                draft.add(&self.find(&member.id)?)?;
            }
            if draft.is_empty() {
                return Err(EngineError::PodEmpty { pod: pod.row.name.clone() });
            }
            draft.finish(request, &mut generated);
        }
        Ok(generated)
    }
}

impl KubeRequest {
    fn check(&self) -> Result<(), EngineError> {
        let invalid = |field: &str, reason: &str| EngineError::InvalidSpec {
            field: field.to_owned(),
            reason: reason.to_owned(),
        };
        if self.names.is_empty() {
            return Err(invalid("names", "nothing is named"));
        }
        if self.replicas.is_some() && self.kind != KubeKind::Deployment {
            return Err(invalid("replicas", "only a deployment has a number of them"));
        }
        Ok(())
    }

    /// A pod, or what makes such pods.
    fn document(&self, name: &str, metadata: Value, mut spec: Map<String, Value>) -> Value {
        let (kind, mut holder) = match self.kind {
            KubeKind::Pod => {
                return json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            }
            KubeKind::Deployment => ("Deployment", json!({"replicas": self.replicas.unwrap_or(1)})),
            KubeKind::DaemonSet => ("DaemonSet", json!({})),
        };
        // They know no other.
        spec.insert("restartPolicy".to_owned(), json!("Always"));
        holder["selector"] = json!({"matchLabels": {"app": metadata["labels"]["app"]}});
        holder["template"] = json!({"metadata": metadata, "spec": spec});
        let labels = &holder["template"]["metadata"]["labels"];
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "labels": labels}, "spec": holder})
    }
}

/// A volume as a claim of one; its options stand in podman's annotations, which have words for them.
fn claim(volume: &Volume) -> Value {
    let mut metadata = json!({"name": volume.row.name});
    for (option, annotation) in [("type", "type"), ("device", "device"), ("o", "mount-options")] {
        if let Some(value) = volume.definition.options.get(option) {
            metadata["annotations"][format!("volume.podman.io/{annotation}")] = json!(value);
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": CLAIM}}},
    })
}

/// A name as Kubernetes takes them: of small letters, digits and hyphens. Source: RFC 1123, "label".
fn dns_label(text: &str) -> String {
    let letters = text.chars().map(|letter| match letter.to_ascii_lowercase() {
        letter if letter.is_ascii_alphanumeric() => letter,
        _ => '-',
    });
    let label: String = letters.take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "x".to_owned() } else { label.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        for (name, label) in [("web", "web"), ("Web_1.x", "web-1-x"), ("-a-", "a"), ("___", "x")] {
            assert_eq!(dns_label(name), label);
        }
        assert_eq!(dns_label(&"a".repeat(100)).len(), 63);
    }

    #[test]
    fn text_that_looks_like_something_else_stays_text() {
        let document = json!({"a": ["yes", "8080", "null", "1e3", "", "x: y", "l1\nl2", "100m", "\u{7}"], "b": {}, "c": 1});
        let text = GeneratedKube { documents: vec![document.clone()], warnings: Vec::new() }.text().unwrap();
        let (_, yaml) = text.split_once("---\n").unwrap();
        assert!(yaml.contains("- \"yes\"\n- \"8080\"\n- \"null\"\n"), "{yaml}");
        assert!(yaml.contains("- 100m\n"), "{yaml}");
    }
}
