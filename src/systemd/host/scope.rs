//! Scopes: a cgroup of its own for each container, made by systemd and handed over to us (Delegate=yes).
//!
//! Source: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd's CGROUP_DELEGATION.md.

use zbus::Variant;

use super::{HostError, Manager, blocking};

/// What containers are below, in the tree of systemctl status.
const SLICE: &str = "dormouse.slice";
/// A start waits so long for a scope of the same name that is about to go, in steps.
const NAME_TAKEN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
const NAME_TAKEN_TRIES: u32 = 6;
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";

/// What a scope is to be.
#[derive(Debug, Clone)]
pub struct ScopeRequest<'a> {
    /// The container's name, as which it shows.
    pub name: &'a str,
    /// What systemctl says of it.
    pub description: &'a str,
    /// The process that is in it from the beginning.
    pub pid: i32,
    /// Limits of all that is in it.
    pub limits: &'a Limits,
}

/// Limits as systemd has them as properties; `None` leaves a limit as it is. Source: systemd.resource-control(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// MemoryMax= in bytes; `u64::MAX` is none.
    pub memory_max: Option<u64>,
    /// MemorySwapMax= in bytes.
    pub memory_swap_max: Option<u64>,
    /// MemoryLow= in bytes.
    pub memory_low: Option<u64>,
    /// CPUWeight=, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// CPUQuota= in microseconds of processor time for each second; `u64::MAX` is none.
    pub cpu_usec_per_sec: Option<u64>,
    /// CPUQuotaPeriodSec= in microseconds.
    pub cpu_period_usec: Option<u64>,
    /// AllowedCPUs=, as `0-3,6`.
    pub allowed_cpus: Option<String>,
    /// AllowedMemoryNodes=, as `0-1`.
    pub allowed_memory_nodes: Option<String>,
    /// TasksMax=; `u64::MAX` is none.
    pub tasks_max: Option<u64>,
    /// IOWeight=, 1 to 10000.
    pub io_weight: Option<u64>,
    /// Limits of traffic with devices.
    pub io: Vec<IoLimit>,
}

/// The limits of the traffic with one block device, in units per second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IoLimit {
    /// The device's node.
    pub path: String,
    /// IOReadBandwidthMax=
    pub read_bytes: Option<u64>,
    /// IOWriteBandwidthMax=
    pub write_bytes: Option<u64>,
    /// IOReadIOPSMax=
    pub read_operations: Option<u64>,
    /// IOWriteIOPSMax=
    pub write_operations: Option<u64>,
}

type Property = (&'static str, Variant<'static>);

/// Makes a scope around a process, and returns when it is there. Its name is `dormouse-NAME.scope`, or has the pid at its
/// end where the short name is taken: by a container that was renamed, or whose last run has not gone yet.
///
/// # Errors
/// A [`HostError`]; the process stays where it was then.
pub fn start_scope(request: &ScopeRequest<'_>) -> Result<String, HostError> {
    let attempted = format!("make a scope for the container {:?}", request.name);
    blocking(&attempted, async {
        let mut manager = Manager::connect().await?;
        let unit = format!("dormouse-{}.scope", request.name);
        for _ in 0..NAME_TAKEN_TRIES {
            match start(&mut manager, &attempted, &unit, request).await {
                Err(HostError::Refused { name, .. }) if name == UNIT_EXISTS => {}
                other => return other.map(|()| unit),
            }
            tokio::time::sleep(NAME_TAKEN_PAUSE).await;
        }
        let unit = format!("dormouse-{}-{}.scope", request.name, request.pid);
        start(&mut manager, &attempted, &unit, request).await.map(|()| unit)
    })
}

async fn start(
    manager: &mut Manager,
    attempted: &str,
    unit: &str,
    request: &ScopeRequest<'_>,
) -> Result<(), HostError> {
    let pid = u32::try_from(request.pid).unwrap_or_default();
    let mut properties: Vec<Property> = vec![
        ("Description", request.description.to_owned().into()),
        ("Slice", SLICE.into()),
        ("PIDs", vec![pid].into()),
        ("Delegate", true.into()),
        // It goes as soon as it is empty, also after a failure.
        ("CollectMode", "inactive-or-failed".into()),
        // At shutdown that unit stops containers by their own signals; only what is left after it is systemd's to kill.
        ("Before", vec!["dormouse-containers.service".to_owned()].into()),
    ];
    properties.extend(request.limits.properties());
    let none: Vec<(&str, Vec<Property>)> = Vec::new();
    manager.run_job(attempted, "StartTransientUnit", &(unit, "fail", properties, none)).await
}

/// A scope whose name and place somebody else has chosen.
#[derive(Debug, Clone, Copy)]
pub struct NamedScope<'a> {
    /// The unit, as `libpod-ID.scope`.
    pub unit: &'a str,
    /// The slice that it is in, as `machine.slice`.
    pub slice: &'a str,
    /// What systemctl says of it.
    pub description: &'a str,
    /// The process that is in it from the beginning.
    pub pid: i32,
}

/// Makes such a scope, without limits, and returns when it is there.
///
/// # Errors
/// A [`HostError`]; [`HostError::Refused`] where the name is taken.
pub fn start_named_scope(scope: &NamedScope<'_>) -> Result<(), HostError> {
    let attempted = format!("make the scope {}", scope.unit);
    blocking(&attempted, async {
        let mut manager = Manager::connect().await?;
        let properties: Vec<Property> = vec![
            ("Description", scope.description.to_owned().into()),
            ("Slice", scope.slice.to_owned().into()),
            ("PIDs", vec![u32::try_from(scope.pid).unwrap_or_default()].into()),
            ("Delegate", true.into()),
            ("CollectMode", "inactive-or-failed".into()),
        ];
        let none: Vec<(&str, Vec<Property>)> = Vec::new();
        manager.run_job(&attempted, "StartTransientUnit", &(scope.unit, "fail", properties, none)).await
    })
}

/// Changes the limits of a scope that is there, until it goes.
///
/// # Errors
/// A [`HostError`]; [`HostError::Refused`] if there is no such unit.
pub fn set_limits(unit: &str, limits: &Limits) -> Result<(), HostError> {
    let properties = limits.properties();
    if properties.is_empty() {
        return Ok(());
    }
    let attempted = format!("change the limits of {unit}");
    blocking(&attempted, async {
        let mut manager = Manager::connect().await?;
        manager.call(&attempted, "SetUnitProperties", &(unit, true, properties), |_| {}).await.map(drop)
    })
}

impl Limits {
    fn properties(&self) -> Vec<Property> {
        let mut properties: Vec<Property> = Vec::new();
        for (name, value) in [
            ("MemoryMax", self.memory_max),
            ("MemorySwapMax", self.memory_swap_max),
            ("MemoryLow", self.memory_low),
            ("CPUWeight", self.cpu_weight),
            ("CPUQuotaPerSecUSec", self.cpu_usec_per_sec),
            ("CPUQuotaPeriodUSec", self.cpu_period_usec),
            ("TasksMax", self.tasks_max),
            ("IOWeight", self.io_weight),
        ] {
            properties.extend(value.map(|value| (name, value.into())));
        }
        for (name, list) in
            [("AllowedCPUs", &self.allowed_cpus), ("AllowedMemoryNodes", &self.allowed_memory_nodes)]
        {
            properties.extend(list.as_deref().and_then(bit_mask).map(|mask| (name, mask.into())));
        }
        let devices = |rate: fn(&IoLimit) -> Option<u64>| -> Vec<(String, u64)> {
            self.io.iter().filter_map(|limit| Some((limit.path.clone(), rate(limit)?))).collect()
        };
        for (name, limits) in [
            ("IOReadBandwidthMax", devices(|limit| limit.read_bytes)),
            ("IOWriteBandwidthMax", devices(|limit| limit.write_bytes)),
            ("IOReadIOPSMax", devices(|limit| limit.read_operations)),
            ("IOWriteIOPSMax", devices(|limit| limit.write_operations)),
        ] {
            if !limits.is_empty() {
                properties.push((name, limits.into()));
            }
        }
        properties
    }
}

/// `0-3,6` as systemd wants it on the wire: one bit for each number, the lowest first. `None` for what is no such list; the
/// cgroup says what is wrong with it.
fn bit_mask(list: &str) -> Option<Vec<u8>> {
    /// Linux has fewer processors than this.
    const NUMBER_MAX: usize = 8192;
    let mut mask = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > NUMBER_MAX {
            return None;
        }
        for number in first..=last {
            if mask.len() <= number / 8 {
                mask.resize(number / 8 + 1, 0);
            }
            mask[number / 8] |= 1 << (number % 8);
        }
    }
    Some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_become_bits() {
        for (list, mask) in [
            ("0", Some(vec![1])),
            ("0-3,6", Some(vec![0b100_1111])),
            ("8", Some(vec![0, 1])),
            (" 1 - 2 \n", Some(vec![0b110])),
            ("3-1", None),
            ("", None),
            ("0-99999999", None),
            ("x", None),
        ] {
            assert_eq!(bit_mask(list), mask, "{list}");
        }
    }

    #[test]
    fn only_limits_that_are_given_become_properties() {
        assert!(Limits::default().properties().is_empty());
        let limits = Limits {
            memory_max: Some(1 << 20),
            allowed_cpus: Some("0-1".to_owned()),
            io: vec![IoLimit { path: "/dev/sda".to_owned(), read_bytes: Some(5), ..IoLimit::default() }],
            ..Limits::default()
        };
        let names: Vec<_> = limits.properties().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["MemoryMax", "AllowedCPUs", "IOReadBandwidthMax"]);
    }
}
