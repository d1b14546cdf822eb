//! Where a container's processes are.
//!
//! Where systemd manages the host and cgroups are v2 alone, every start gets a scope of its own below dormouse.slice, made
//! by systemd and delegated to us: `dormouse-NAME.scope`. In it are two leaves, for no process may be in a cgroup that has
//! controllers for others: `monitor`, and `payload`, which is the container's. The monitor is moved there before it makes
//! the payload, and holds the scope for as long as it lives, over restarts. Nothing of it is in the service's cgroup.
//!
//! Elsewhere each container has the cgroup `/dormouse/ID` in every hierarchy, and monitors stay where the service is.

use std::os::fd::OwnedFd;

use crate::identity;
use crate::monitor::state::RunState;
use crate::runtime::cgroup::{self, Cgroup, CgroupError, Layout};
use crate::systemd::host::{self, IoLimit, Limits, Machine, ScopeRequest};

use super::spec::{ContainerSpec, Namespace, Resources, Runtime};
use super::{Container, Engine, EngineError, oci};

/// The unit whose main process this is, and to which its containers belong.
#[derive(Debug)]
pub struct UnitFrame {
    /// The unit's cgroup, delegated to us and without processes of its own; `None` where it is not delegated, and containers
    /// are elsewhere.
    pub cgroup: Option<String>,
    /// What the service manager passed, for the payload.
    pub sockets: Vec<PassedSocket>,
}

/// A descriptor of sd_listen_fds(3).
#[derive(Debug)]
pub struct PassedSocket {
    /// `FileDescriptorName=`
    pub name: String,
    /// The descriptor.
    pub fd: OwnedFd,
}

impl UnitFrame {
    /// The cgroup of the container that the unit is, where its own is delegated to us.
    pub(super) fn enter(&self, container: &Container) -> Option<String> {
        let unit = self.cgroup.as_ref()?;
        bound(unit, &container.row.name);
        Some(format!("{unit}/{PAYLOAD_LEAF}"))
    }

    /// The variables by which a payload finds what was passed. Source: sd_listen_fds(3).
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] where its pid can't be foretold, or an external runtime would lose the descriptors.
    pub(super) fn socket_variables(&self, spec: &ContainerSpec) -> Result<Vec<String>, EngineError> {
        if self.sockets.is_empty() {
            return Ok(Vec::new());
        }
        let unsupported = |reason: &str| EngineError::Unsupported {
            feature: "passing sockets to the container".to_owned(),
            reason: reason.to_owned(),
        };
        if spec.runtime != Runtime::Native {
            return Err(unsupported("only the native runtime does it"));
        }
        if spec.pid_namespace != Namespace::Private {
            return Err(unsupported("without a pid namespace of its own it can't be told its LISTEN_PID"));
        }
        let names: Vec<&str> = self.sockets.iter().map(|socket| socket.name.as_str()).collect();
        Ok(vec![
            // With a small init before it, it is the second process.
            format!("LISTEN_PID={}", if spec.init { 2 } else { 1 }),
            format!("LISTEN_FDS={}", self.sockets.len()),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ])
    }
}

/// With its pid, the name of the socket in the run directory on which a unit's main process serves itself.
pub const UNIT_SOCKET: &str = "unit-";

const MONITOR_LEAF: &str = "monitor";
const PAYLOAD_LEAF: &str = "payload";
const SCOPE_SUFFIX: &str = ".scope";
/// So many cgroups a container may make, whose root makes them as it likes: an eighth of the 65,536 with a memory controller
/// that a host can have. A systemd has one for each service that runs, and some more.
const CGROUPS_MAX: u32 = 8192;
/// Microseconds.
const SECOND: u64 = 1_000_000;
/// The kernel's own.
const CPU_PERIOD_USEC: u64 = 100_000;

/// The path of a container's cgroup where no systemd makes it.
pub(super) fn without_scope(id: &str) -> String {
    if identity::is_root() {
        return oci::cgroup_path(id);
    }
    // Of an ordinary user only if somebody has given it a cgroup to make others in; without limits otherwise.
    match Cgroup::own_delegated() {
        Ok(Some(own)) => format!("{own}{}", oci::cgroup_path(id)),
        Ok(None) => cgroup::NONE.to_owned(),
        Err(error) => {
            tracing::debug!(%error, "this user's cgroup is not known");
            cgroup::NONE.to_owned()
        }
    }
}

/// Refuses what can't be without a cgroup, and tells of the rest.
pub(super) fn check_without_cgroup(container: &Container) -> Result<String, EngineError> {
    const WHY: &str = "no cgroup is delegated to this user; let the user's systemd start the service (systemctl --user enable --now dormouse.socket)";
    let unsupported =
        |feature: &str| Err(EngineError::Unsupported { feature: feature.to_owned(), reason: WHY.to_owned() });
    if container.definition.systemd {
        return unsupported("a systemd in a container");
    }
    if container.definition.spec.resources != Resources::default() {
        return unsupported("a limit");
    }
    Ok(format!("without limits, and it can't be paused: {WHY}"))
}

/// Whether containers get scopes on this host.
pub(super) fn uses_scopes() -> bool {
    host::manages() && cgroup::layout().is_ok_and(|layout| layout == Layout::V2)
}

/// Puts a monitor that has no payload yet into a scope of its own. Returns the path of the payload's cgroup, which does not
/// exist yet.
///
/// # Errors
/// [`EngineError::Failed`] with what systemd or the kernel say.
pub(super) fn enter_scope(container: &Container, monitor: i32) -> Result<String, EngineError> {
    let spec = &container.definition.spec;
    let source = match &spec.image {
        Some(image) => image.clone(),
        None => spec.rootfs.as_deref().unwrap_or("/".as_ref()).display().to_string(),
    };
    let failed = |reason: String| EngineError::Failed {
        attempted: format!("make a cgroup for {:?}", container.row.name),
        reason,
    };
    host::start_scope(&ScopeRequest {
        name: &container.row.name,
        description: &format!("Container {} ({source})", container.row.name),
        pid: monitor,
        limits: &Limits {
            tasks_max: Some(tasks_max(spec.resources.pids_max.unwrap_or(oci::PIDS_MAX))),
            ..limits(&spec.resources)
        },
    })
    .map_err(|error| failed(full_text(&error)))?;
    // systemd has put it there; which path that is depends on whose systemd it is.
    let scope = Cgroup::path_of(monitor).map_err(|error| failed(full_text(&error)))?;
    if !scope.ends_with(SCOPE_SUFFIX) {
        return Err(failed(format!("its monitor is in {scope:?} and not in a scope")));
    }
    move_monitor(&scope, monitor).map_err(|error| failed(full_text(&error)))?;
    bound(&scope, &container.row.name);
    Ok(format!("{scope}/{PAYLOAD_LEAF}"))
}

/// Bounds how many cgroups a container can make: in its unit's, above its own, where it can't change that.
fn bound(unit: &str, container: &str) {
    if let Err(error) = Cgroup::open(unit).and_then(|unit| unit.bound_descendants(CGROUPS_MAX)) {
        tracing::warn!(container, %error, "the number of the container's cgroups is not bounded, ignoring");
    }
}

/// Puts the first process of a pod into a scope of its own.
///
/// # Errors
/// [`EngineError::Failed`] with what systemd says.
pub(super) fn enter_pod_scope(name: &str, pod: &str, pid: i32) -> Result<(), EngineError> {
    let limits = Limits::default();
    let description = format!("Pod {pod}");
    let request = ScopeRequest { name, description: &description, pid, limits: &limits };
    host::start_scope(&request).map(drop).map_err(|error| EngineError::Failed {
        attempted: format!("make a cgroup for the pod {pod:?}"),
        reason: full_text(&error),
    })
}

/// Puts another monitor into the scope of a container that has lost its first one. Does nothing where there is no scope.
pub(super) fn rejoin_scope(payload: &str, monitor: i32) -> Result<(), CgroupError> {
    match scope_of(payload) {
        Some(scope) => move_monitor(scope, monitor),
        None => Ok(()),
    }
}

fn move_monitor(scope: &str, monitor: i32) -> Result<(), CgroupError> {
    Cgroup::open(&format!("{scope}/{MONITOR_LEAF}"))?.take_in(monitor)
}

/// The scope that a payload's cgroup is in.
fn scope_of(payload: &str) -> Option<&str> {
    payload
        .strip_suffix(PAYLOAD_LEAF)
        .and_then(|path| path.strip_suffix('/'))
        .filter(|path| path.ends_with(SCOPE_SUFFIX))
}

fn register(container: &Container, leader: i32) -> Result<(), EngineError> {
    let uuid = crate::systemd::mode::container_uuid(&container.row.id);
    let machine = Machine {
        name: &container.row.name,
        uuid: uuid.as_deref(),
        leader,
        root: container.definition.spec.rootfs.as_deref(),
    };
    host::register(&machine).map_err(|error| EngineError::Failed {
        attempted: format!("register {:?} as a machine", container.row.name),
        reason: full_text(&error),
    })
}

/// Tells systemd of new limits of a container that runs, so that its properties say what the cgroup does. `payload` is the
/// container's cgroup, whose own limits are changed by [`Cgroup::update`]. Blocks the thread.
///
/// # Errors
/// [`EngineError::Failed`] with what systemd says.
pub(super) fn update_scope(payload: &str, resources: &Resources) -> Result<(), EngineError> {
    let Some(unit) = scope_of(payload).and_then(|scope| scope.rsplit('/').next()) else { return Ok(()) };
    host::set_limits(unit, &limits(resources)).map_err(|error| EngineError::Failed {
        attempted: format!("change the limits of {unit}"),
        reason: full_text(&error),
    })
}

/// Whether the container becomes a machine of systemd-machined when it starts.
pub(super) fn becomes_machine(container: &Container) -> bool {
    container.definition.systemd && uses_scopes() && host::registers_machines()
}

impl Engine {
    /// Registers a container that runs with systemd-machined.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`]; [`EngineError::Failed`] with what machined says.
    pub fn register_machine(&self, name: &str) -> Result<(), EngineError> {
        let container = self.find(name)?;
        let live = self.live(&container.row.id)?;
        let Some(leader) = live.pid() else {
            return Err(EngineError::WrongState {
                attempted: "register as a machine",
                name: container.row.name,
                state: live.phase,
                wanted: "running",
            });
        };
        register(&container, leader)
    }

    /// The path of the cgroup in which a container's last payload was, or would have been.
    pub(super) fn cgroup_path(&self, id: &str) -> String {
        match RunState::load(&self.paths().run_container(id)) {
            Ok(Some(told)) => told.cgroup,
            _ => oci::cgroup_path(id),
        }
    }
}

/// The scope's limits are those of the container: with its monitor, which needs about a MiB and two tasks.
fn limits(resources: &Resources) -> Limits {
    let number = |number: i64| u64::try_from(number).unwrap_or(u64::MAX);
    let memory_max = resources.memory_bytes.filter(|bytes| *bytes != 0).map(number);
    // Ours of 0 is none.
    let rate = |rate: u64| if rate == 0 { u64::MAX } else { rate };
    let period = resources.cpu_period_usec.filter(|period| *period != 0);
    Limits {
        memory_max,
        // Ours is of both together, systemd's of swap alone.
        memory_swap_max: resources.memory_swap_bytes.filter(|bytes| *bytes != 0).map(
            |both| match memory_max {
                Some(memory) if both >= 0 && memory != u64::MAX => number(both).saturating_sub(memory),
                _ => u64::MAX,
            },
        ),
        memory_low: resources.memory_reservation_bytes.filter(|bytes| *bytes != 0).map(number),
        cpu_weight: resources.cpu_shares.filter(|shares| *shares != 0).map(cgroup::weight_from_shares),
        cpu_usec_per_sec: resources.cpu_quota_usec.map(|quota| match u64::try_from(quota) {
            Ok(quota) if quota > 0 => quota.saturating_mul(SECOND) / period.unwrap_or(CPU_PERIOD_USEC),
            _ => u64::MAX,
        }),
        cpu_period_usec: period,
        allowed_cpus: resources.cpuset_cpus.clone(),
        allowed_memory_nodes: resources.cpuset_mems.clone(),
        tasks_max: resources.pids_max.map(tasks_max),
        io_weight: resources.io_weight.filter(|weight| *weight != 0).map(cgroup::io_weight),
        io: resources
            .io_limits
            .iter()
            .map(|limit| IoLimit {
                path: limit.path.clone(),
                read_bytes: limit.read_bytes_per_sec.map(rate),
                write_bytes: limit.write_bytes_per_sec.map(rate),
                read_operations: limit.read_operations_per_sec.map(rate),
                write_operations: limit.write_operations_per_sec.map(rate),
            })
            .collect(),
    }
}

fn tasks_max(pids_max: i64) -> u64 {
    u64::try_from(pids_max).ok().filter(|max| *max > 0).unwrap_or(u64::MAX)
}

pub(super) fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_is_found_from_the_payload() {
        assert_eq!(
            scope_of("/dormouse.slice/dormouse-web.scope/payload"),
            Some("/dormouse.slice/dormouse-web.scope")
        );
        assert_eq!(scope_of("/dormouse/0123"), None);
        assert_eq!(scope_of("/dormouse/payload"), None);
    }

    #[test]
    fn limits_are_those_that_the_cgroup_gets() {
        let resources = Resources {
            memory_bytes: Some(64 << 20),
            memory_swap_bytes: Some(96 << 20),
            cpu_quota_usec: Some(50_000),
            cpu_shares: Some(1024),
            pids_max: Some(-1),
            ..Resources::default()
        };
        let limits = limits(&resources);
        assert_eq!(limits.memory_max, Some(64 << 20));
        assert_eq!(limits.memory_swap_max, Some(32 << 20));
        assert_eq!(limits.cpu_usec_per_sec, Some(SECOND / 2));
        assert_eq!(limits.cpu_period_usec, None);
        assert_eq!(limits.cpu_weight, Some(39));
        assert_eq!(limits.tasks_max, Some(u64::MAX));
    }
}
