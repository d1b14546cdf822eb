//! Lists and details: nothing here changes anything.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};

use crate::runtime::cgroup::Mounted;
use crate::store::ContainerRow;

use super::container::damaged;
use super::definition::DefinitionHead;
use super::{Container, Engine, EngineError, Live, NetworkState, Phase};

/// Which containers are wanted; what is empty does not filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerFilter {
    /// Names, ids, or prefixes of ids.
    pub names: Vec<String>,
    /// States.
    pub phases: Vec<Phase>,
    /// Labels, all of which must be there; an empty value matches every value.
    pub labels: BTreeMap<String, String>,
}

/// A container in a list.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // told once, in the IDL
pub struct ContainerSummary {
    pub id: String,
    pub name: String,
    pub image: Option<String>,
    pub image_id: Option<String>,
    pub pod: Option<String>,
    pub command: Vec<String>,
    pub systemd: bool,
    pub created_usec: i64,
    pub labels: BTreeMap<String, String>,
    pub live: Live,
    pub network: Option<NetworkState>,
}

impl Engine {
    /// Lists containers, oldest first. One that is removed while the list is made is left out.
    ///
    /// # Errors
    /// Those of the store.
    pub fn list(&self, filter: &ContainerFilter) -> Result<Vec<ContainerSummary>, EngineError> {
        let mut found = Vec::new();
        let mounted: LazyCell<Option<Mounted>> = LazyCell::new(|| Mounted::read().ok());
        let mut rows = self.store()?.containers()?;
        super::keep_named(&mut rows, &filter.names, |row| (&row.id, &row.name));
        let started = self.run_directories()?;
        for row in rows {
            // The steps of builds are nobody's containers, unless asked for by name.
            if filter.names.is_empty() && super::build::is_step(&row.name) {
                continue;
            }
            let live = match started.contains(OsStr::new(&row.id)) {
                true => self.live_on(&row.id, &mounted)?,
                false => Live::NOT_STARTED,
            };
            let summary = self.summarise(row, live)?;
            let wanted_labels =
                filter.labels.iter().all(|(key, value)| super::is_label(summary.labels.get(key), value));
            let wanted_phase = filter.phases.is_empty() || filter.phases.contains(&summary.live.phase);
            if wanted_labels && wanted_phase {
                found.push(summary);
            }
        }
        Ok(found)
    }

    /// The ids of the containers that have been started since the machine booted, and maybe others. Their states are looked for
    /// only there: a name that does not exist is looked up by its whole path each time.
    fn run_directories(&self) -> Result<HashSet<OsString>, EngineError> {
        let path = self.paths().run_containers();
        let failed = |source| EngineError::io("read", path.clone(), source);
        match std::fs::read_dir(&path) {
            Ok(entries) => entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<_, _>>()
                .map_err(failed),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(HashSet::new()),
            Err(error) => Err(failed(error)),
        }
    }

    fn summarise(&self, row: ContainerRow, live: Live) -> Result<ContainerSummary, EngineError> {
        let head: DefinitionHead =
            serde_json::from_str(&row.definition).map_err(|error| damaged(&row.name, error))?;
        let network = if live.phase.is_alive() { self.network_state(&row.id)? } else { None };
        Ok(ContainerSummary {
            network,
            id: row.id,
            name: row.name,
            image: head.spec.image,
            pod: head.spec.pod,
            image_id: row.image_id,
            command: head.command,
            systemd: head.systemd,
            created_usec: row.created_usec,
            labels: head.labels,
            live,
        })
    }

    /// All of one container.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    pub fn inspect(&self, name: &str) -> Result<(Container, ContainerSummary), EngineError> {
        let container = self.find(name)?;
        let summary = self.summarise(container.row.clone(), self.live(&container.row.id)?)?;
        Ok((container, summary))
    }

    /// The log file of a container whose driver writes one.
    pub fn log_file(&self, container: &Container) -> Option<std::path::PathBuf> {
        matches!(container.definition.spec.log, super::spec::Log::K8sFile { .. })
            .then(|| self.log_path(&container.row.id))
    }

    /// The runtime specification of a container: that of its last start since the machine booted, else the one that it would
    /// be started with now. Nothing is changed by it, and variables that are secrets have no value in it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; a damaged file; what would keep it from being started.
    pub fn runtime_spec(&self, name: &str) -> Result<serde_json::Value, EngineError> {
        let container = self.find(name)?;
        let path = self.runtime_spec_path(&container.row.id);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.planned_spec(&container)?,
            Err(source) => return Err(EngineError::io("read", path, source)),
        };
        let mut spec: serde_json::Value =
            serde_json::from_slice(&text).map_err(|source| damaged(&container.row.name, source))?;
        let secret: Vec<String> =
            super::secrets::variables_of(&container.definition).map(|name| format!("{name}=")).collect();
        for pair in spec["process"]["env"].as_array_mut().into_iter().flatten() {
            let text = pair.as_str().unwrap_or_default();
            if let Some(name) = secret.iter().find(|name| text.starts_with(name.as_str())) {
                *pair = serde_json::Value::String(name.clone());
            }
        }
        Ok(spec)
    }

    /// Looks whether a container could be started now, as far as that can be told without doing it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`]; what would keep it from being started.
    pub fn check_start(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        self.check_networks(&container.definition)?;
        self.planned_spec(&container).map(drop)
    }

    fn planned_spec(&self, container: &Container) -> Result<Vec<u8>, EngineError> {
        let volumes = self.places_of_volumes(container)?;
        let cgroup = self.cgroup_path(&container.row.id);
        let users = self.likely_user_map(container);
        let purpose = super::oci::Purpose::Look;
        Ok(super::oci::build(self, container, &cgroup, &volumes, users.as_ref(), purpose)?.spec)
    }

    /// Where [`Self::runtime_spec`] is, once the container was started.
    pub fn runtime_spec_path(&self, id: &str) -> std::path::PathBuf {
        self.paths().run_container(id).join(crate::monitor::config::SPEC_FILE_NAME)
    }

    /// The bytes of disk that a container's own changes take. Walks them, and blocks the thread for it.
    pub fn written_bytes(&self, id: &str) -> u64 {
        super::images::blocks_below(&self.paths().container(id).join("upper"))
    }

    /// The cgroup controllers of this host: those with a hierarchy of their own, and those of the unified one.
    pub fn cgroup_controllers() -> Vec<String> {
        let legacy = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unified = ["/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/unified/cgroup.controllers"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default();
        let mut names: Vec<String> = legacy
            .lines()
            .flat_map(controllers_of)
            .chain(unified.split_whitespace())
            .map(str::to_owned)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The runtimes that can be asked for on this host.
    pub fn runtimes() -> Vec<&'static str> {
        let external =
            ["crun", "runc"].into_iter().filter(|name| super::launch::find_program(name).is_some());
        std::iter::once("native").chain(external).collect()
    }
}

/// The controllers that a line of /proc/self/cgroup names (cgroups(7)).
fn controllers_of(line: &str) -> impl Iterator<Item = &str> {
    line.split(':')
        .nth(1)
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty() && !name.contains('='))
}
