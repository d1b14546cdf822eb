//! Cgroups made by systemd (`--systemd-cgroup`): a scope for each container, and the container in a leaf of it.
//!
//! ```text
//! SLICE/PREFIX-NAME.scope/            systemd's, handed over (Delegate=yes)
//! SLICE/PREFIX-NAME.scope/holder      a process that is there only so that a scope can be, until the container is
//! SLICE/PREFIX-NAME.scope/container   the container, with its limits
//! ```
//!
//! Limits are in the leaf, which systemd never writes to. The scope has them too, once the holder is gone: there systemctl and
//! engines look for them.

use std::io::Read as _;
use std::process::{Child, Command, ExitCode, Stdio};

use oci_spec::runtime::LinuxResources;

use super::error::{OciError, with_causes};
use crate::runtime::Cgroup;
use crate::runtime::cgroup::{self, Layout};
use crate::systemd::host::{self, Limits, NamedScope};

/// Of a quota that comes without one.
const CPU_PERIOD_USEC: u64 = 100_000;
const HOLDER: &str = "holder";
const LEAF: &str = "container";

/// A scope, and the process that holds it.
#[derive(Debug)]
pub struct Scope {
    /// The unit's name.
    pub unit: String,
    cgroup: String,
    holder: Child,
}

/// The role of the process that holds a scope: it waits until it may go.
pub fn hold() -> ExitCode {
    let mut nothing = Vec::new();
    // Whoever made it closes the other end, in whichever way it ends.
    let _ = std::io::stdin().read_to_end(&mut nothing);
    ExitCode::SUCCESS
}

/// Makes one, of `SLICE:PREFIX:NAME`.
///
/// # Errors
/// [`OciError::Scope`].
pub fn make(path: Option<&str>, id: &str) -> Result<Scope, OciError> {
    let refused = |reason: String| OciError::Scope { reason };
    if !matches!(cgroup::layout(), Ok(Layout::V2)) {
        return Err(refused(
            "--systemd-cgroup needs a host with cgroup v2 alone; leave it out here".to_owned(),
        ));
    }
    let default = format!("system.slice:dormouse-runtime:{id}");
    let parts: Vec<&str> = path.unwrap_or(&default).split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        return Err(refused(format!("cgroupsPath {:?} is not SLICE:PREFIX:NAME", path.unwrap_or_default())));
    };
    let slice = if slice.is_empty() { "system.slice" } else { slice };
    let unit = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    let holder = Command::new("/proc/self/exe")
        .args(["runtime", "hold"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| refused(format!("cannot make a process to hold the scope: {error}")))?;
    let pid = i32::try_from(holder.id()).unwrap_or_default();
    let mut scope = Scope { unit, cgroup: String::new(), holder };
    let description = format!("dormouse-runtime container {id}");
    host::start_named_scope(&NamedScope { unit: &scope.unit, slice, description: &description, pid })
        .map_err(|error| refused(with_causes(&error)))?;
    scope.cgroup = Cgroup::path_of(pid)?;
    // A cgroup with processes of its own has no controllers for those below.
    Cgroup::open(&format!("{}/{HOLDER}", scope.cgroup))?.take_in(pid)?;
    Ok(scope)
}

/// Gives a scope the limits of the container in it; what `resources` leaves open stays as it is.
///
/// # Errors
/// [`OciError::Scope`].
pub fn limit(unit: &str, resources: &LinuxResources) -> Result<(), OciError> {
    host::set_limits(unit, &limits(resources))
        .map_err(|error| OciError::Scope { reason: with_causes(&error) })
}

/// As systemd has them; what is not above zero is no limit.
fn limits(resources: &LinuxResources) -> Limits {
    let number = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    let mut limits = Limits {
        tasks_max: resources.pids().as_ref().map(|pids| number(pids.limit())),
        io_weight: resources.block_io().as_ref().and_then(|io| io.weight()).map(cgroup::io_weight),
        ..Limits::default()
    };
    if let Some(memory) = resources.memory() {
        limits.memory_max = memory.limit().map(number);
        limits.memory_low = memory.reservation().and_then(|low| u64::try_from(low).ok());
        limits.memory_swap_max = memory.swap().and_then(|both| match (both, memory.limit()) {
            (..=-1, _) => Some(u64::MAX),
            // Together with memory there, alone here.
            (both, Some(limit)) if limit > 0 => u64::try_from(both - limit).ok(),
            _ => None,
        });
    }
    if let Some(cpu) = resources.cpu() {
        let period = cpu.period().filter(|period| *period > 0);
        let per_second = |quota: i64| match u64::try_from(quota) {
            Ok(quota @ 1..) => quota.saturating_mul(1_000_000) / period.unwrap_or(CPU_PERIOD_USEC),
            _ => u64::MAX,
        };
        limits.cpu_weight = cpu.shares().filter(|shares| *shares > 0).map(cgroup::weight_from_shares);
        limits.cpu_usec_per_sec = cpu.quota().map(per_second);
        limits.cpu_period_usec = period;
        let list = |list: &Option<String>| list.clone().filter(|list| !list.is_empty());
        (limits.allowed_cpus, limits.allowed_memory_nodes) = (list(cpu.cpus()), list(cpu.mems()));
    }
    limits
}

impl Scope {
    /// The leaf for the container.
    pub fn container_cgroup(&self) -> String {
        format!("{}/{LEAF}", self.cgroup)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        // Its end is all that it waits for. A scope that is empty then goes by itself.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        if let Ok(cgroup) = Cgroup::open(&format!("{}/{HOLDER}", self.cgroup)) {
            let _ = cgroup.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_scope_has_its_containers_limits() {
        let of = |resources: serde_json::Value| limits(&serde_json::from_value(resources).unwrap());
        let all = of(
            json!({"pids": {"limit": 50}, "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 7},
            "cpu": {"quota": 50_000, "period": 200_000, "cpus": "0-1", "mems": ""}}),
        );
        assert_eq!(
            (all.tasks_max, all.memory_max, all.memory_swap_max),
            (Some(50), Some(1 << 26), Some(1 << 26))
        );
        assert_eq!(
            (all.memory_low, all.cpu_usec_per_sec, all.cpu_period_usec),
            (Some(7), Some(250_000), Some(200_000))
        );
        assert_eq!((all.allowed_cpus.as_deref(), all.allowed_memory_nodes), (Some("0-1"), None));
        let none =
            of(json!({"pids": {"limit": -1}, "memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}}));
        assert_eq!((none.tasks_max, none.memory_max), (Some(u64::MAX), Some(u64::MAX)));
        assert_eq!((none.memory_swap_max, none.cpu_usec_per_sec), (Some(u64::MAX), Some(u64::MAX)));
        assert_eq!(of(json!({})), Limits::default());
        let mad =
            of(json!({"memory": {"limit": i64::MAX, "swap": 1}, "cpu": {"quota": i64::MAX, "period": 1}}));
        assert_eq!((mad.memory_swap_max, mad.cpu_usec_per_sec), (None, Some(u64::MAX)));
    }
}
