//! What documents have made goes again.

use super::super::super::{Engine, EngineError, blocking};
use super::document::{self, Kind};
use super::fields::Warnings;
use super::sources::ours;
use crate::engine::kube::SOURCE_LABEL;

/// What was removed, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct RemovedKube {
    pub pods: Vec<String>,
    pub volumes: Vec<String>,
    pub secrets: Vec<String>,
    pub warnings: Vec<String>,
}

impl Engine {
    /// Stops and removes the pods of documents, and the secrets that they have made; with `volumes` also their claims. What is
    /// not there is no failure. Must run to its end once begun.
    ///
    /// # Errors
    /// [`EngineError::InvalidDocument`]; those of [`Self::remove_pod`].
    pub async fn remove_kube(&self, yaml: &str, volumes: bool) -> Result<RemovedKube, EngineError> {
        let (mut pods, mut secrets, mut claims) = (Vec::new(), Vec::new(), Vec::new());
        {
            let warnings = Warnings::default();
            for mut document in document::read(yaml, &warnings)? {
                pods.extend(document.pod_name());
                match document.kind {
                    Kind::Claim => claims.push(document.name),
                    Kind::Secret => {
                        for field in ["data", "stringData"] {
                            let keys = document.fields.object(field)?;
                            let keys = keys.map(|keys| keys.names()).unwrap_or_default();
                            secrets.extend(keys.iter().map(|key| ours(&document.name, key)));
                        }
                    }
                    _ => {}
                }
            }
        }
        secrets.dedup();
        let mut removed = RemovedKube::default();
        for pod in pods.into_iter().rev() {
            if self.remove_played(&pod).await? {
                removed.pods.push(pod);
            }
        }
        if volumes {
            for claim in claims {
                match self.remove_volume(&claim, false).await {
                    Ok(()) => removed.volumes.push(claim),
                    Err(EngineError::VolumeNotFound { .. }) => {}
                    Err(error @ EngineError::VolumeInUse { .. }) => removed.warnings.push(error.full_text()),
                    Err(error) => return Err(error),
                }
            }
        }
        let engine = self.clone();
        blocking(move || {
            for secret in secrets {
                // Somebody else may have made one of this name.
                let is_played = match engine.find_secret(&secret) {
                    Ok(found) => {
                        found.row.name == secret && found.definition.labels.contains_key(SOURCE_LABEL)
                    }
                    Err(EngineError::SecretNotFound { .. } | EngineError::SecretAmbiguous { .. }) => false,
                    Err(error) => return Err(error),
                };
                if !is_played {
                    continue;
                }
                match engine.remove_secret(&secret) {
                    Ok(()) => removed.secrets.push(secret),
                    Err(EngineError::SecretNotFound { .. }) => {}
                    Err(error @ EngineError::SecretInUse { .. }) => removed.warnings.push(error.full_text()),
                    Err(error) => return Err(error),
                }
            }
            Ok(removed)
        })
        .await
    }

    /// Stops a pod, each container in its own time, and removes it; false if there is none of this very name.
    pub(super) async fn remove_played(&self, name: &str) -> Result<bool, EngineError> {
        match self.find_pod(name) {
            Ok(pod) if pod.row.name == name => {}
            Ok(_) | Err(EngineError::PodNotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.stop_pod(name, None).await {
            // What could not be stopped is killed.
            Ok(()) | Err(EngineError::PodPartly { .. }) => {}
            Err(EngineError::PodNotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.remove_pod(name, true).await {
            Ok(()) => Ok(true),
            Err(EngineError::PodNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
