//! Looking at the system and its units.

use std::collections::HashMap;

use zbus::{OwnedObjectPath, OwnedVariant};

use super::{
    InsideError, MANAGER, MANAGER_PATH, Manager, PROPERTIES,
    error::clean,
    names::{normalise_unit_name, type_interface},
};

/// How the system inside is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemState {
    /// systemd's word: `initializing`, `starting`, `running`, `degraded`, `maintenance`, `stopping`.
    pub state: String,
    /// As `252.39-1~deb12u1` or `257`.
    pub version: String,
    /// Units that have failed.
    pub failed_units: u32,
    /// Jobs that wait or run.
    pub jobs: u32,
    /// Names of units that are loaded.
    pub names: u32,
    /// Why the system is not as systemd would like it, as `unmerged-bin`; empty if it is.
    pub tainted: String,
}

/// Which units to list; the empty filter takes all that are loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitFilter {
    /// Load, active or sub states, as `failed` or `running`; any of them will do.
    pub states: Vec<String>,
    /// Names or shell patterns of names; any of them will do. A name without a type is a service's.
    pub patterns: Vec<String>,
}

/// A unit in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitInfo {
    /// The full name.
    pub name: String,
    /// The unit file's `Description=`.
    pub description: String,
    /// `loaded`, `not-found`, `masked`, `error`, …
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`, …
    pub active_state: String,
    /// The state in the words of its type: `running`, `exited`, `listening`, …
    pub sub_state: String,
    /// `start`, `stop`, … if a job waits or runs for it.
    pub job: Option<String>,
}

/// All about one unit. Times are microseconds of CLOCK_REALTIME, `None` for never.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitDetails {
    /// Name, description and states.
    pub info: UnitInfo,
    /// The unit file, as a path inside.
    pub fragment_path: Option<String>,
    /// `enabled`, `disabled`, `static`, `generated`, …
    pub unit_file_state: Option<String>,
    /// When it became active.
    pub active_enter_usec: Option<u64>,
    /// When it became inactive.
    pub inactive_enter_usec: Option<u64>,
    /// When its state changed last.
    pub state_change_usec: Option<u64>,
    /// The main process, as numbered inside.
    pub main_pid: Option<u32>,
    /// `success`, `exit-code`, `signal`, `timeout`, `oom-kill`, …; for the types that have one.
    pub result: Option<String>,
    /// The last main process's exit code, if it has exited.
    pub exit_code: Option<i32>,
    /// The signal that has ended the last main process, if one has.
    pub exit_signal: Option<i32>,
    /// What a service says of itself (`STATUS=`).
    pub status_text: Option<String>,
    /// How many times systemd has restarted it by itself.
    pub restarts: Option<u32>,
    /// Memory in use, if it is counted.
    pub memory_bytes: Option<u64>,
    /// Processes and threads, if they are counted.
    pub tasks: Option<u64>,
}

type Properties = HashMap<String, OwnedVariant>;
/// Name, description, load, active and sub state, followed unit, path; job id, type and path.
type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

impl Manager {
    /// Returns how the system is.
    pub async fn system_state(&self) -> Result<SystemState, InsideError> {
        let properties = self.properties(MANAGER_PATH, MANAGER).await?;
        Ok(SystemState {
            state: required(&properties, "SystemState")?,
            version: required(&properties, "Version")?,
            failed_units: get(&properties, "NFailedUnits").unwrap_or(0),
            jobs: get(&properties, "NJobs").unwrap_or(0),
            names: get(&properties, "NNames").unwrap_or(0),
            tainted: text(&properties, "Tainted").unwrap_or_default(),
        })
    }

    /// Returns the units that are loaded and pass the filter, sorted by name.
    /// # Errors
    /// [`InsideError::BadUnitName`] for a pattern that is too long or has a NUL.
    pub async fn list_units(&self, filter: &UnitFilter) -> Result<Vec<UnitInfo>, InsideError> {
        let mut patterns = Vec::new();
        for pattern in &filter.patterns {
            if pattern.contains(['*', '?', '[']) {
                if pattern.len() > 255 || pattern.contains('\0') {
                    let name = pattern.chars().take(256).collect();
                    return Err(InsideError::BadUnitName { name, reason: "it is no pattern of unit names" });
                }
                patterns.push(pattern.clone());
            } else {
                patterns.push(normalise_unit_name(pattern)?);
            }
        }
        let arguments = (&filter.states, &patterns);
        let reply = self.call("ListUnitsByPatterns", &arguments).await.map_err(InsideError::from_call)?;
        let (listed,): (Vec<ListedUnit>,) = reply.body().map_err(InsideError::from_bus)?;
        let mut units: Vec<_> = listed
            .into_iter()
            .map(|(name, description, load_state, active_state, sub_state, _, _, job_id, job_type, _)| {
                UnitInfo {
                    name: clean(&name),
                    description: clean(&description),
                    load_state: clean(&load_state),
                    active_state: clean(&active_state),
                    sub_state: clean(&sub_state),
                    job: (job_id != 0).then(|| clean(&job_type)),
                }
            })
            .collect();
        units.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(units)
    }

    /// Returns all about one unit, loading it if it is not loaded.
    /// # Errors
    /// [`InsideError::NoSuchUnit`] if there is no unit file and nothing else that makes it a unit.
    pub async fn unit(&self, name: &str) -> Result<UnitDetails, InsideError> {
        let unit = normalise_unit_name(name)?;
        let reply = self
            .call("LoadUnit", &(&unit,))
            .await
            .map_err(|error| InsideError::from_unit_call(&unit, error))?;
        let (path,): (OwnedObjectPath,) = reply.body().map_err(InsideError::from_bus)?;
        let generic = self.properties(path.as_str(), "org.freedesktop.systemd1.Unit").await?;
        let info = UnitInfo {
            name: required(&generic, "Id")?,
            description: text(&generic, "Description").unwrap_or_default(),
            load_state: required(&generic, "LoadState")?,
            active_state: required(&generic, "ActiveState")?,
            sub_state: required(&generic, "SubState")?,
            job: None,
        };
        // A unit whose file was removed while it runs is "not-found" as well, but there.
        if info.load_state == "not-found" && info.active_state == "inactive" {
            return Err(InsideError::NoSuchUnit { unit });
        }
        let special = match type_interface(&info.name) {
            Some(interface) => self.properties(path.as_str(), interface).await?,
            None => Properties::new(),
        };
        let time = |key| get(&generic, key).filter(|&usec: &u64| usec != 0);
        // waitid(2)'s codes: CLD_EXITED, or CLD_KILLED and CLD_DUMPED.
        let code: i32 = get(&special, "ExecMainCode").unwrap_or(0);
        let status: Option<i32> = get(&special, "ExecMainStatus");
        // All ones: not known.
        let counted = |key| get(&special, key).filter(|&value: &u64| value != u64::MAX);
        Ok(UnitDetails {
            info,
            fragment_path: text(&generic, "FragmentPath").filter(|path| !path.is_empty()),
            unit_file_state: text(&generic, "UnitFileState").filter(|state| !state.is_empty()),
            active_enter_usec: time("ActiveEnterTimestamp"),
            inactive_enter_usec: time("InactiveEnterTimestamp"),
            state_change_usec: time("StateChangeTimestamp"),
            main_pid: get(&special, "MainPID").filter(|&pid: &u32| pid != 0),
            result: text(&special, "Result"),
            exit_code: status.filter(|_| code == 1),
            exit_signal: status.filter(|_| matches!(code, 2 | 3)),
            status_text: text(&special, "StatusText").filter(|text| !text.is_empty()),
            restarts: get(&special, "NRestarts"),
            memory_bytes: counted("MemoryCurrent"),
            tasks: counted("TasksCurrent"),
        })
    }

    async fn properties(&self, path: &str, interface: &str) -> Result<Properties, InsideError> {
        let reply =
            self.call_on(path, PROPERTIES, "GetAll", &(interface,)).await.map_err(InsideError::from_call)?;
        reply.body().map(|(properties,)| properties).map_err(InsideError::from_bus)
    }
}

fn get<T: TryFrom<OwnedVariant>>(properties: &Properties, key: &str) -> Option<T> {
    T::try_from(properties.get(key)?.try_clone().ok()?).ok()
}

fn text(properties: &Properties, key: &str) -> Option<String> {
    get::<String>(properties, key).map(|text| clean(&text))
}

fn required(properties: &Properties, key: &str) -> Result<String, InsideError> {
    text(properties, key)
        .ok_or_else(|| InsideError::Protocol { reason: format!("there is no property {key}") })
}
