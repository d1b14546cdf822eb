//! Other limits for a container, whether it runs or not.

use serde_json::Value;

use crate::monitor::config::SPEC_FILE_NAME;
use crate::runtime::cgroup::{Cgroup, CgroupError};

use super::container::damaged;
use super::spec::{IoLimit, Resources};
use super::{Container, Engine, EngineError, EventKind, Live, blocking, definition, launch, oci, place};

/// Takes a limit away.
const NONE: i64 = -1;

impl Engine {
    /// Changes limits; `None` leaves one as it is. They count at once, and at every later start. Must run to its end once
    /// begun.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::InvalidSpec`], [`EngineError::Unsupported`]; nothing is changed then.
    pub async fn update(&self, name: &str, change: Resources) -> Result<(), EngineError> {
        let id = self.find_row(name)?.id;
        let lock = self.lock(&id).await?;
        let engine = self.clone();
        blocking(move || {
            let result = engine.update_locked(&id, &change);
            drop(lock);
            result
        })
        .await
    }

    fn update_locked(&self, id: &str, change: &Resources) -> Result<(), EngineError> {
        let mut container = self.find(id)?;
        let before = container.definition.spec.resources.clone();
        container.definition.spec.resources = merged(&before, change);
        definition::check_resources(&container.definition.spec).map_err(of_update)?;
        let changed = in_force(&container.definition.spec.resources, change);
        // Before anything is changed: what it names must be there.
        oci::limits(&changed).map_err(of_update)?;
        let live = self.live(id)?;
        let run_dir = self.paths().run_container(id);
        let spec_path = run_dir.join(SPEC_FILE_NAME);
        let old_spec = if live.phase.is_alive() {
            limit(&container, &live, &changed, &in_force(&before, change))?;
            // What the monitor reads when it restarts the container.
            let old =
                std::fs::read(&spec_path).map_err(|source| EngineError::io("read", &spec_path, source))?;
            self.replace_spec(&container, id, &with_limits(&container, &old)?)?;
            Some(old)
        } else {
            None
        };
        let recorded = container
            .definition
            .to_record()
            .and_then(|definition| Ok(self.store()?.update_definition(id, &definition)?));
        if let (Err(_), Some(old)) = (&recorded, old_spec) {
            let undone = limit(&container, &live, &in_force(&before, change), &changed)
                .and_then(|()| self.replace_spec(&container, id, &old));
            if let Err(error) = undone {
                tracing::warn!(id, error = error.full_text(), "cannot undo a change of limits, ignoring");
            }
        }
        recorded?;
        self.record_event(EventKind::Container, "update", id, &container.row.name);
        Ok(())
    }

    fn replace_spec(&self, container: &Container, id: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let path = self.paths().run_container(id).join(SPEC_FILE_NAME);
        let new = path.with_extension("new");
        launch::write(&new, bytes)?;
        std::fs::rename(&new, &path).map_err(|source| {
            tracing::debug!(name = container.row.name, "the specification stays as it was");
            EngineError::io("rename", new, source)
        })
    }
}

/// Puts limits into force on what runs; if one is refused, all are as they were. The one place where limits of a running
/// container are changed.
fn limit(
    container: &Container,
    live: &Live,
    limits: &Resources,
    before: &Resources,
) -> Result<(), EngineError> {
    let name = &container.row.name;
    let path = live.told.as_ref().map_or("", |told| told.cgroup.as_str());
    let cgroup = Cgroup::open(path).map_err(|error| refused(name, &error))?;
    // The scope around it, where there is one, has the same: of two limits the lower one counts.
    let changed = cgroup.update(&oci::limits(limits)?).map_err(|error| refused(name, &error));
    let Err(error) = changed.and_then(|()| place::update_scope(path, limits)) else { return Ok(()) };
    if let Err(left) = cgroup.update(&oci::limits(before)?) {
        tracing::warn!(name, error = %left, "cannot undo a change of limits, ignoring");
    }
    Err(error)
}

fn refused(name: &str, error: &CgroupError) -> EngineError {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    match error {
        CgroupError::ControllerMissing { .. } | CgroupError::NotMounted => {
            EngineError::Unsupported { feature: format!("a limit of {name:?}"), reason: error.to_string() }
        }
        // The kernel does not like the value: no such CPU, or less memory than is in use and can't be taken away.
        _ if matches!(error.errno(), Some(libc::EINVAL | libc::ERANGE | libc::EBUSY)) => {
            EngineError::InvalidSpec { field: "resources".into(), reason: format!("{error}{cause}") }
        }
        _ => EngineError::Failed {
            attempted: format!("change the limits of {name:?}"),
            reason: format!("{error}{cause}"),
        },
    }
}

/// The parameter's path in this call.
fn of_update(error: EngineError) -> EngineError {
    match error {
        EngineError::InvalidSpec { field, reason } => {
            EngineError::InvalidSpec { field: field.trim_start_matches("spec.").to_owned(), reason }
        }
        error => error,
    }
}

/// The limits from now on.
fn merged(before: &Resources, change: &Resources) -> Resources {
    // No limit is no limit, not one of -1, except where the default would be one.
    let number = |new: Option<i64>, old: Option<i64>| match new {
        Some(NONE) => None,
        new => new.or(old),
    };
    let lifted = change.memory_bytes == Some(NONE);
    let old_swap = before.memory_swap_bytes.filter(|_| !lifted);
    Resources {
        memory_bytes: number(change.memory_bytes, before.memory_bytes),
        memory_swap_bytes: change.memory_swap_bytes.or(old_swap).filter(|swap| !(lifted && *swap == NONE)),
        memory_reservation_bytes: number(change.memory_reservation_bytes, before.memory_reservation_bytes),
        cpu_quota_usec: number(change.cpu_quota_usec, before.cpu_quota_usec),
        cpu_period_usec: change.cpu_period_usec.or(before.cpu_period_usec),
        cpu_shares: change.cpu_shares.or(before.cpu_shares),
        cpuset_cpus: change.cpuset_cpus.clone().or_else(|| before.cpuset_cpus.clone()),
        cpuset_mems: change.cpuset_mems.clone().or_else(|| before.cpuset_mems.clone()),
        pids_max: change.pids_max.or(before.pids_max),
        io_weight: change.io_weight.or(before.io_weight),
        io_limits: merged_io(&before.io_limits, &change.io_limits),
    }
}

fn merged_io(before: &[IoLimit], change: &[IoLimit]) -> Vec<IoLimit> {
    let mut limits = before.to_vec();
    for new in change {
        // 0 is no limit.
        let rate = |new: Option<u64>, old: Option<u64>| new.or(old).filter(|rate| *rate != 0);
        let old = limits.iter().position(|limit| limit.path == new.path).map(|index| limits.remove(index));
        let old = old.unwrap_or_default();
        limits.push(IoLimit {
            path: new.path.clone(),
            read_bytes_per_sec: rate(new.read_bytes_per_sec, old.read_bytes_per_sec),
            write_bytes_per_sec: rate(new.write_bytes_per_sec, old.write_bytes_per_sec),
            read_operations_per_sec: rate(new.read_operations_per_sec, old.read_operations_per_sec),
            write_operations_per_sec: rate(new.write_operations_per_sec, old.write_operations_per_sec),
        });
    }
    limits
}

/// Of `limits` those that `change` is about, as a cgroup is told them: one that is gone is taken away by -1 or 0.
fn in_force(limits: &Resources, change: &Resources) -> Resources {
    let number = |asked: Option<i64>, limit: Option<i64>| asked.and(Some(limit.unwrap_or(NONE)));
    let memory = change.memory_bytes.is_some() || change.memory_swap_bytes.is_some();
    // cgroup v2 counts swap alone, and so needs both to count; v1 refuses a limit on both below that on memory.
    let swap = memory && (limits.memory_swap_bytes.is_some() || change.memory_swap_bytes.is_some());
    let lifted = memory && limits.memory_bytes.is_none();
    let cpu = change.cpu_quota_usec.is_some() || change.cpu_period_usec.is_some();
    let io = |changed: &IoLimit| {
        let found =
            limits.io_limits.iter().find(|limit| limit.path == changed.path).cloned().unwrap_or_default();
        let rate = |asked: Option<u64>, limit: Option<u64>| asked.and(Some(limit.unwrap_or(0)));
        IoLimit {
            path: changed.path.clone(),
            read_bytes_per_sec: rate(changed.read_bytes_per_sec, found.read_bytes_per_sec),
            write_bytes_per_sec: rate(changed.write_bytes_per_sec, found.write_bytes_per_sec),
            read_operations_per_sec: rate(changed.read_operations_per_sec, found.read_operations_per_sec),
            write_operations_per_sec: rate(changed.write_operations_per_sec, found.write_operations_per_sec),
        }
    };
    Resources {
        memory_bytes: memory.then(|| limits.memory_bytes.unwrap_or(NONE)),
        memory_swap_bytes: (swap || lifted).then(|| limits.memory_swap_bytes.unwrap_or(NONE)),
        memory_reservation_bytes: number(change.memory_reservation_bytes, limits.memory_reservation_bytes),
        cpu_quota_usec: cpu.then(|| limits.cpu_quota_usec.unwrap_or(NONE)),
        cpu_period_usec: cpu.then(|| limits.cpu_period_usec.unwrap_or(oci::CPU_PERIOD_USEC)),
        cpu_shares: change.cpu_shares.and(limits.cpu_shares.or(Some(oci::CPU_SHARES))),
        cpuset_cpus: change.cpuset_cpus.as_ref().and(limits.cpuset_cpus.clone()),
        cpuset_mems: change.cpuset_mems.as_ref().and(limits.cpuset_mems.clone()),
        pids_max: number(change.pids_max, Some(limits.pids_max.unwrap_or(oci::PIDS_MAX))),
        io_weight: change.io_weight.and(limits.io_weight),
        io_limits: change.io_limits.iter().map(io).collect(),
    }
}

/// The specification of a start, with the limits of the definition.
fn with_limits(container: &Container, spec: &[u8]) -> Result<Vec<u8>, EngineError> {
    let name = &container.row.name;
    let mut spec: Value = serde_json::from_slice(spec).map_err(|source| damaged(name, source))?;
    let limits = serde_json::to_value(oci::whole_limits(&container.definition.spec.resources)?)
        .map_err(|source| damaged(name, source))?;
    let resources = &mut spec["linux"]["resources"];
    for key in ["memory", "cpu", "pids", "blockIO"] {
        match (limits.get(key), resources.as_object_mut()) {
            (Some(value), _) if !value.is_null() => resources[key] = value.clone(),
            (_, Some(fields)) => drop(fields.remove(key)),
            _ => {}
        }
    }
    serde_json::to_vec(&spec).map_err(|source| damaged(name, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(bytes: Option<i64>, swap: Option<i64>) -> Resources {
        Resources { memory_bytes: bytes, memory_swap_bytes: swap, ..Resources::default() }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let before = Resources { pids_max: Some(5), cpu_quota_usec: Some(1000), ..memory(Some(1), Some(2)) };
        let after = merged(&before, &Resources { cpu_quota_usec: Some(-1), ..Resources::default() });
        assert_eq!(after, Resources { cpu_quota_usec: None, ..before.clone() });
        let told = in_force(&after, &Resources { cpu_quota_usec: Some(-1), ..Resources::default() });
        let expected =
            Resources { cpu_quota_usec: Some(-1), cpu_period_usec: Some(100_000), ..Resources::default() };
        assert_eq!(told, expected);
    }

    #[test]
    fn memory_is_lifted_together_with_its_swap() {
        let after = merged(&memory(Some(10), Some(20)), &memory(Some(-1), None));
        assert_eq!(after, memory(None, None));
        assert_eq!(in_force(&after, &memory(Some(-1), None)), memory(Some(-1), Some(-1)));
        // And comes back as it was.
        assert_eq!(
            in_force(&memory(Some(10), Some(20)), &memory(Some(-1), None)),
            memory(Some(10), Some(20))
        );
    }

    #[test]
    fn unlimited_processes_are_not_the_default_number() {
        let change = Resources { pids_max: Some(-1), ..Resources::default() };
        assert_eq!(merged(&Resources::default(), &change).pids_max, Some(-1));
        assert_eq!(in_force(&Resources::default(), &change).pids_max, Some(2048));
    }

    #[test]
    fn limits_of_devices_are_changed_one_by_one() {
        let limit = |read, write| IoLimit {
            path: "/dev/a".into(),
            read_bytes_per_sec: read,
            write_bytes_per_sec: write,
            ..IoLimit::default()
        };
        let after = merged_io(&[limit(Some(1), Some(2))], &[limit(None, Some(0))]);
        assert_eq!(after, [limit(Some(1), None)]);
        let resources = |io_limits| Resources { io_limits, ..Resources::default() };
        let told = in_force(&resources(after), &resources(vec![limit(None, Some(0))]));
        assert_eq!(told.io_limits, [limit(None, Some(0))]);
    }
}
