//! From a specification to a container that exists.

use std::os::unix::fs::DirBuilderExt;

use crate::image::ImageConfig;
use crate::store::{ContainerRow, StoreError};

use super::spec::{ContainerSpec, Log, Namespace};
use super::{Definition, Engine, EngineError, EventKind, Image, blocking, names, now_usec, oci, users};

/// How often what a container uses is looked for again, if it changes all the time.
const ATTEMPTS: u32 = 8;

/// A container that exists now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Given or invented.
    pub name: String,
    /// What was asked for and will be less, in words.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes a container. Its directories come first, its record last: cut short anywhere, it does not exist, and the
    /// next wake removes what is left.
    ///
    /// # Errors
    /// [`EngineError::ImageNotFound`], [`EngineError::AlreadyExists`], [`EngineError::InvalidSpec`],
    /// [`EngineError::StorageFull`].
    pub async fn create(&self, mut spec: ContainerSpec) -> Result<Created, EngineError> {
        if let Some(name) = &spec.name {
            names::check("spec.name", name)?;
            // Early, before anything is made; the record's constraint decides among those who come at once.
            if self.store()?.find_container(name)?.ok().is_some_and(|row| row.name == *name) {
                return Err(EngineError::AlreadyExists { name: name.clone() });
            }
        }
        let id = names::new_id()?;
        let _lock = self.lock(&id).await?;
        let name = spec.name.clone().unwrap_or_else(|| names::invent(&id));
        let pod = self.join_pod(&mut spec)?;
        let (mut definition, image) = self.define(spec)?;
        definition.pod = pod;
        self.create_defined(id, name, definition, image).await
    }

    /// Makes a container on layers that no image has yet, under a name that no user can give.
    pub(super) async fn create_on_layers(
        &self,
        name: String,
        spec: ContainerSpec,
        config: &ImageConfig,
        layers: Vec<String>,
    ) -> Result<Created, EngineError> {
        let id = names::new_id()?;
        let _lock = self.lock(&id).await?;
        self.create_defined(id, name, Definition::new(spec, Some(config), layers)?, None).await
    }

    /// The caller holds the lock of the id.
    async fn create_defined(
        &self,
        id: String,
        name: String,
        mut definition: Definition,
        image: Option<Image>,
    ) -> Result<Created, EngineError> {
        // What is made before there is a database would look as if that had been lost.
        self.store()?;
        let mut warnings = self.check_on_this_host(&definition)?;
        let directories = PendingDirectories::make(self, &id)?;
        for attempt in 0.. {
            let config = image.as_ref().map(|image| &image.config);
            let mut resolved = self.resolve_mounts(&mut definition, config)?;
            resolved.uses.pod.clone_from(&definition.pod);
            resolved.uses.secrets = self.resolve_secrets(&mut definition.spec)?;
            let row = ContainerRow {
                id: id.clone(),
                name: name.clone(),
                image_id: image.as_ref().map(|image| image.row.id.clone()),
                created_usec: now_usec(),
                definition: definition.to_record()?,
            };
            let recorded = self.store()?.insert_container_using(&row, &resolved.uses);
            if let (Err(StoreError::Changed { .. }), Some(pod)) = (&recorded, &definition.pod)
                && !self.store()?.has_pod(pod)?
            {
                return Err(EngineError::PodNotFound { pod: pod.clone() });
            }
            match recorded {
                // A volume was made or removed since it was looked for.
                Err(StoreError::Changed { .. }) if attempt < ATTEMPTS => continue,
                recorded => recorded?,
            }
            for volume in resolved.pending {
                let volume = volume.keep();
                self.record_event(EventKind::Volume, "create", &volume.id, &volume.name);
            }
            warnings.append(&mut resolved.warnings);
            break;
        }
        directories.keep();
        let engine = self.clone();
        blocking(move || Ok(engine.store()?.flush()?)).await?;
        self.record_event(EventKind::Container, "create", &id, &name);
        Ok(Created { id, name, warnings })
    }

    pub(super) fn define(&self, spec: ContainerSpec) -> Result<(Definition, Option<Image>), EngineError> {
        let Some(image) = spec.image.clone() else {
            return Ok((Definition::new(spec, None, Vec::new())?, None));
        };
        let image = self.find_image(&image)?;
        let definition = Definition::new(spec, Some(&image.config), image.row.layers.clone())?;
        Ok((definition, Some(image)))
    }

    /// What depends on this host. Checked again at start, where the host may be another one.
    fn check_on_this_host(&self, definition: &Definition) -> Result<Vec<String>, EngineError> {
        let spec = &definition.spec;
        if let Some(rootfs) = &spec.rootfs
            && !rootfs.is_dir()
        {
            return Err(EngineError::InvalidSpec {
                field: "spec.rootfs".into(),
                reason: format!("{rootfs:?} is no directory of the host"),
            });
        }
        for (field, namespace) in [
            ("spec.pidNamespace", &spec.pid_namespace),
            ("spec.ipcNamespace", &spec.ipc_namespace),
            ("spec.utsNamespace", &spec.uts_namespace),
            ("spec.networkNamespace", spec.network_namespace()),
        ] {
            if let Namespace::Container(other) = namespace
                && let Err(error) = self.find_row(other)
            {
                return Err(EngineError::InvalidSpec { field: field.into(), reason: error.to_string() });
            }
        }
        users::check_on_this_host(spec)?;
        self.check_networks(definition)?;
        if spec.log == Log::Journald && !std::path::Path::new("/run/systemd/journal/socket").exists() {
            return Err(EngineError::Unsupported {
                feature: "the log driver journald".into(),
                reason: "no journald runs on this host; use k8sFile".into(),
            });
        }
        // Building it finds unknown capabilities, limits, devices and mounts of things that are not there.
        oci::check(definition)
    }
}

/// The directories of a container that has no record yet; removed again unless it gets one.
#[must_use]
struct PendingDirectories<'a> {
    engine: &'a Engine,
    id: &'a str,
    armed: bool,
}

impl<'a> PendingDirectories<'a> {
    fn make(engine: &'a Engine, id: &'a str) -> Result<Self, EngineError> {
        let pending = Self { engine, id, armed: true };
        let container = engine.paths().container(id);
        let run_dir = engine.paths().run_container(id);
        for (dir, mode) in [
            (container.clone(), 0o700),
            // The root of the container's file system, seen by whatever user runs inside.
            (container.join("upper"), 0o755),
            (container.join("work"), 0o700),
            (container.join("log"), 0o700),
            (container.join("etc"), 0o755),
            (run_dir, 0o700),
        ] {
            std::fs::DirBuilder::new()
                .mode(mode)
                .create(&dir)
                .map_err(|source| EngineError::io("make directory", &dir, source))?;
        }
        Ok(pending)
    }

    fn keep(mut self) {
        self.armed = false;
    }
}

impl Drop for PendingDirectories<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.engine.remove_directories(self.id);
        }
    }
}
