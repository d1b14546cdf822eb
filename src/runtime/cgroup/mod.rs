//! A container's cgroup: made, limited, read, emptied and removed, on every layout that hosts have.
//!
//! One path names the cgroup in all hierarchies: on v2 below `/sys/fs/cgroup`, on hybrid hosts below each v1
//! hierarchy and below the cgroup2 beside them. It is made in *every* mounted hierarchy, also in those whose
//! controllers nobody limits: a cgroup namespace shows a container the host's root in each hierarchy that it
//! did not join. On Linux 6.18 a hierarchy costs about 40 µs to make, 50 µs to join and 35 µs to remove.
//!
//! Joining is done by the new process itself, which writes `0` into the `tasks` file of each v1 hierarchy:
//! moving one thread by `tasks` spares the global lock and the RCU wait that `cgroup.procs` costs (a
//! millisecond and more). The cgroup2 is entered by `CLONE_INTO_CGROUP`, which needs no move at all.
//!
//! Where a cgroup2 is mounted, it kills (`cgroup.kill`) and freezes (`cgroup.freeze`) for the hybrid layout too.

mod delegation;
mod devices_bpf;
mod hierarchy;
mod limits;
mod oom;
mod tree;
mod usage;

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

pub use self::hierarchy::Mounted;
pub(super) use self::hierarchy::{Hierarchy, Version};
use self::limits::Setting;
pub use self::limits::{io_weight, weight_from_shares};
pub use self::oom::OomSignal;
pub use self::usage::{IoUsage, Usage};
use super::syscall;

/// Which cgroup file systems the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Only cgroup2, at `/sys/fs/cgroup`.
    V2,
    /// v1 hierarchies with the controllers, and a cgroup2 beside them at `/sys/fs/cgroup/unified`.
    Hybrid,
    /// Only v1 hierarchies.
    V1,
}

/// The layout of this host's cgroups.
///
/// # Errors
/// [`CgroupError::NotMounted`] when there is no cgroup file system, [`CgroupError::File`] when the mount table
/// cannot be read.
pub fn layout() -> Result<Layout, CgroupError> {
    Ok(hierarchy::layout_of(Mounted::read()?.hierarchies()))
}

/// A cgroup that could not be made, read, changed or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// A file of the cgroup could not be used.
    #[error("cannot {what} {path:?}")]
    File {
        /// What was attempted ("read", "write", "create", "remove").
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The host has no cgroup file system mounted.
    #[error("no cgroup file system is mounted; mount cgroup2 on /sys/fs/cgroup")]
    NotMounted,
    /// The path is empty, the root, or leaves the hierarchy.
    #[error("{path:?} is not the path of a cgroup")]
    Path {
        /// The path.
        path: String,
    },
    /// A limit needs a controller that the host has not.
    #[error(
        "cannot set {setting}: the controller {controller:?} is not available here; enable it, or drop the limit"
    )]
    ControllerMissing {
        /// The controller.
        controller: &'static str,
        /// The file that would have been written.
        setting: String,
    },
    /// `resources.unified` was given on a host whose controllers are v1's.
    #[error("cannot set {key:?}: this host's controllers are cgroup v1")]
    UnifiedOnV1 {
        /// The key.
        key: String,
    },
    /// A key of `resources.unified` is no file of a controller.
    #[error("{key:?} is not a file of a cgroup v2 controller")]
    UnifiedKey {
        /// The key.
        key: String,
    },
    /// A limit of memory and swap together without, or below, one of memory alone.
    #[error("a limit of {swap} bytes for memory and swap needs a memory limit that is not larger")]
    SwapWithoutMemory {
        /// The limit of both together in bytes.
        swap: i64,
    },
    /// Realtime scheduling cannot be limited on cgroup v2.
    #[error("realtime scheduling limits do not exist on cgroup v2")]
    RealtimeOnV2,
    /// The device rules could not be put into force.
    #[error("cannot restrict the devices of {path:?}")]
    Devices {
        /// The cgroup's directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something runs in it already, or still.
    #[error("the cgroup {path:?} is in use by other processes")]
    Busy {
        /// The cgroup's directory.
        path: PathBuf,
    },
}

impl CgroupError {
    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::File { source, .. } | Self::Devices { source, .. } => source.raw_os_error(),
            Self::Busy { .. } => Some(libc::EBUSY),
            Self::NotMounted
            | Self::Path { .. }
            | Self::ControllerMissing { .. }
            | Self::UnifiedOnV1 { .. }
            | Self::UnifiedKey { .. }
            | Self::SwapWithoutMemory { .. }
            | Self::RealtimeOnV2 => None,
        }
    }
}

/// The path of no cgroup at all: what is made stays where its maker is, without limits.
pub const NONE: &str = "none";

/// How long [`Cgroup::remove`] and [`Cgroup::freeze`] wait at most.
const PATIENCE: Duration = Duration::from_secs(2);

/// A container's cgroup, in every hierarchy that the host has.
///
/// It is only a name: nothing happens to the cgroup when this is dropped.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    /// Without the leading slash.
    relative: PathBuf,
    mounted: Mounted,
}

/// The open doors of a cgroup, for a process that is about to be made.
#[derive(Debug)]
pub(super) struct Entrance {
    /// The cgroup2 directory, for `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
    /// The `tasks` file of each v1 hierarchy, to which the new process writes `0`.
    pub tasks: Vec<(PathBuf, OwnedFd)>,
}

/// A new cgroup, which is removed again unless [`PendingCgroup::keep`] is called.
#[derive(Debug)]
#[must_use]
pub(super) struct PendingCgroup {
    cgroup: Option<Cgroup>,
}

impl PendingCgroup {
    /// The cgroup, which stays from now on.
    pub fn keep(mut self) -> Cgroup {
        self.cgroup.take().expect("it is taken only here, and this consumes the guard")
    }

    pub fn cgroup(&self) -> &Cgroup {
        self.cgroup.as_ref().expect("it is taken only by `keep`, which consumes the guard")
    }
}

impl Drop for PendingCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = self.cgroup.take()
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!(path = cgroup.path, %error, "cannot remove the cgroup after a failed start, ignoring");
        }
    }
}

impl Cgroup {
    /// The cgroup of that path (`linux.cgroupsPath`, such as `/dormouse/ID`), which need not exist yet.
    ///
    /// # Errors
    /// [`CgroupError::Path`] for a path that is empty, the root, or has `..` in it;
    /// [`CgroupError::NotMounted`] on a host without cgroups.
    pub fn open(path: &str) -> Result<Self, CgroupError> {
        if path == NONE {
            return Self::open_on(&Mounted::none(), path);
        }
        Self::open_on(&Mounted::read()?, path)
    }

    /// As [`Self::open`], where the hierarchies are known.
    ///
    /// # Errors
    /// [`CgroupError::Path`].
    pub fn open_on(mounted: &Mounted, path: &str) -> Result<Self, CgroupError> {
        if path == NONE {
            return Ok(Self { path: path.to_owned(), relative: PathBuf::new(), mounted: Mounted::none() });
        }
        let refused = || CgroupError::Path { path: path.to_owned() };
        let mut relative = PathBuf::new();
        for component in Path::new(path).components() {
            match component {
                Component::RootDir | Component::CurDir => {}
                Component::Normal(name) => relative.push(name),
                Component::ParentDir | Component::Prefix(_) => return Err(refused()),
            }
        }
        if relative.as_os_str().is_empty() || path.contains(['\0', '\n', ':']) {
            return Err(refused());
        }
        Ok(Self { path: path.to_owned(), relative, mounted: mounted.clone() })
    }

    /// The path of the cgroup2 that a process is in.
    ///
    /// # Errors
    /// [`CgroupError::File`] where it can't be read, as for a process that has ended; [`CgroupError::NotMounted`] without
    /// cgroup2.
    pub fn path_of(pid: i32) -> Result<String, CgroupError> {
        let table = read(&PathBuf::from(format!("/proc/{pid}/cgroup")))?;
        let line = table.lines().find_map(|line| line.strip_prefix("0::"));
        line.map(str::to_owned).ok_or(CgroupError::NotMounted)
    }

    /// Makes it on the cgroup2 if it is not there, and moves a process into it.
    ///
    /// # Errors
    /// [`CgroupError::File`]; [`CgroupError::NotMounted`] without cgroup2.
    pub fn take_in(&self, pid: i32) -> Result<(), CgroupError> {
        let hierarchy = self.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2);
        let hierarchy = hierarchy.ok_or(CgroupError::NotMounted)?;
        let directory = self.directory(hierarchy);
        make_directory(hierarchy, &directory)?;
        write(&directory.join("cgroup.procs"), &pid.to_string())
    }

    /// The path that it was opened with.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The layout of the host that it is on.
    pub fn layout(&self) -> Layout {
        hierarchy::layout_of(self.hierarchies())
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.hierarchies().iter().any(|hierarchy| self.directory(hierarchy).is_dir())
    }

    pub(super) fn hierarchies(&self) -> &[Hierarchy] {
        self.mounted.hierarchies()
    }

    pub(super) fn directory(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.mount.join(&self.relative)
    }

    fn unified(&self) -> Option<PathBuf> {
        self.hierarchies()
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2)
            .map(|hierarchy| self.directory(hierarchy))
    }

    /// The directory in the v1 hierarchy of a controller.
    fn v1(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies()
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
            .map(|hierarchy| self.directory(hierarchy))
    }

    /// Whether there is one: of [`NONE`] there is not.
    pub fn is_none(&self) -> bool {
        self.hierarchies().is_empty()
    }

    /// The hierarchy whose list of processes counts.
    fn primary(&self) -> PathBuf {
        self.unified()
            .or_else(|| self.v1("freezer"))
            .or_else(|| self.hierarchies().first().map(|hierarchy| self.directory(hierarchy)))
            .expect("a cgroup is opened only where a hierarchy is mounted")
    }

    /// Makes it in every hierarchy and sets the limits.
    pub(super) fn create(self, resources: Option<&LinuxResources>) -> Result<PendingCgroup, CgroupError> {
        let wanted = resources.map(limits_wanted).unwrap_or_default();
        let mut made: Vec<PathBuf> = Vec::new();
        let outcome = self.hierarchies().iter().try_for_each(|hierarchy| {
            let directory = self.directory(hierarchy);
            match make_directory(hierarchy, &directory) {
                Ok(true) => made.push(directory.clone()),
                Ok(false) if is_populated(&directory) => return Err(CgroupError::Busy { path: directory }),
                Ok(false) => {}
                Err(error) => return Err(error),
            }
            if hierarchy.version == Version::V2 {
                enable_controllers(hierarchy, &self.relative, &wanted);
            }
            Ok(())
        });
        if let Err(error) = outcome {
            for directory in made {
                if let Err(source) = std::fs::remove_dir(&directory) {
                    tracing::warn!(path = ?directory, error = %source, "cannot undo a cgroup, ignoring");
                }
            }
            return Err(error);
        }
        let pending = PendingCgroup { cgroup: Some(self) };
        if let Some(resources) = resources {
            pending.cgroup().update(resources)?;
        }
        Ok(pending)
    }

    /// Opens what a new process needs to enter.
    pub(super) fn entrance(&self) -> Result<Entrance, CgroupError> {
        let mut entrance = Entrance { unified: None, tasks: Vec::new() };
        for hierarchy in self.hierarchies() {
            let directory = self.directory(hierarchy);
            let (path, flags, write) = match hierarchy.version {
                Version::V2 => (directory, libc::O_DIRECTORY, false),
                Version::V1 => (directory.join("tasks"), 0, true),
            };
            let file = OpenOptions::new()
                .read(!write)
                .write(write)
                .custom_flags(flags)
                .open(&path)
                .map_err(|source| CgroupError::File { what: "open", path: path.clone(), source })?;
            match hierarchy.version {
                Version::V2 => entrance.unified = Some(file.into()),
                Version::V1 => entrance.tasks.push((path, file.into())),
            }
        }
        Ok(entrance)
    }

    /// As [`Self::entrance`], for a process that joins one that runs already. On v2 it goes where that one is: a systemd
    /// inside moves itself below, and a cgroup that has children with controllers takes no processes.
    pub(super) fn entrance_beside(&self, leader: i32) -> Result<Entrance, CgroupError> {
        let mut entrance = self.entrance()?;
        let path = PathBuf::from(format!("/proc/{leader}/cgroup"));
        let table = std::fs::read_to_string(&path).map_err(|source| CgroupError::File {
            what: "read",
            path,
            source,
        })?;
        let own = table.lines().find_map(|line| line.strip_prefix("0::/"));
        if let (Some(own), Some(hierarchy)) =
            (own, self.hierarchies().iter().find(|hierarchy| hierarchy.version == Version::V2))
        {
            let path = hierarchy.mount.join(own);
            let file = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY)
                .open(&path)
                .map_err(|source| CgroupError::File { what: "open", path, source })?;
            entrance.unified = Some(file.into());
        }
        Ok(entrance)
    }

    /// Changes limits; what `resources` leaves open stays as it is.
    ///
    /// # Errors
    /// [`CgroupError::ControllerMissing`] when the host cannot limit what is asked; the limits before it in the
    /// order memory, cpu, pids, block IO, huge pages, network are in force then.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let settings = match self.layout() {
            Layout::V2 => limits::v2(resources)?,
            Layout::V1 | Layout::Hybrid => limits::v1(resources)?,
        };
        let mut postponed = None;
        for setting in &settings {
            match self.apply(setting) {
                // A memory limit above the one for memory and swap is refused until that one is raised.
                Err(CgroupError::File { source, .. })
                    if setting.files[0] == "memory.limit_in_bytes"
                        && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    postponed = Some(setting);
                }
                other => other?,
            }
        }
        if let Some(setting) = postponed {
            self.apply(setting)?;
        }
        match resources.devices().as_deref() {
            Some(rules) if !rules.is_empty() => self.restrict_devices(rules),
            _ => Ok(()),
        }
    }

    fn apply(&self, setting: &Setting) -> Result<(), CgroupError> {
        let missing = || CgroupError::ControllerMissing {
            controller: setting.controller,
            setting: setting.files[0].clone(),
        };
        let directory = match self.layout() {
            Layout::V2 => self.unified(),
            Layout::V1 | Layout::Hybrid => self.v1(setting.controller),
        }
        .ok_or_else(missing)?;
        for file in &setting.files {
            match write(&directory.join(file), &setting.value) {
                Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        Err(missing())
    }

    fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), CgroupError> {
        if let Some(directory) = self.v1("devices") {
            for rule in rules {
                let file = if rule.allow() { "devices.allow" } else { "devices.deny" };
                write(&directory.join(file), &v1_device_rule(rule))?;
            }
            return Ok(());
        }
        let Some(directory) = self.unified() else {
            return Err(CgroupError::ControllerMissing { controller: "devices", setting: "devices".into() });
        };
        attach_device_program(&directory, rules)
            .map_err(|source| CgroupError::Devices { path: directory, source })
    }

    /// Sends a signal to every process in it and below it. SIGKILL also reaches those that appear meanwhile.
    ///
    /// # Errors
    /// [`CgroupError::File`] when the kernel refuses; a cgroup that does not exist has no processes.
    pub fn kill_all(&self, signal: i32) -> Result<(), CgroupError> {
        if signal == libc::SIGKILL
            && let Some(directory) = self.unified()
        {
            match write(&directory.join("cgroup.kill"), "1") {
                // Without the file (before Linux 5.14) processes are killed one by one.
                Err(CgroupError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        // Frozen processes cannot fork away from the list.
        let frozen_before = self.frozen().unwrap_or(false);
        let freezes = signal == libc::SIGKILL && !frozen_before && self.freeze().is_ok();
        let outcome = self.processes().map(|processes| {
            for pid in processes {
                // A process that has gone meanwhile is no failure.
                let _ = syscall::kill(pid, signal);
            }
        });
        if freezes || (frozen_before && signal == libc::SIGKILL) {
            self.thaw()?;
        }
        outcome
    }

    /// Stops every process in it, and waits until they stand still, for two seconds at most.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when they do not stop in time (the request stays), [`CgroupError::File`] otherwise.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        if let Some(directory) = self.unified() {
            write(&directory.join("cgroup.freeze"), "1")?;
        }
        loop {
            if self.unified().is_none() {
                // Processes that were forked meanwhile are caught by writing again.
                write(&self.freezer_state()?, "FROZEN")?;
            }
            if self.frozen()? {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(CgroupError::Busy { path: self.primary() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the processes go on.
    ///
    /// # Errors
    /// [`CgroupError::File`] when the kernel refuses.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        match self.unified() {
            Some(directory) => write(&directory.join("cgroup.freeze"), "0"),
            None => write(&self.freezer_state()?, "THAWED"),
        }
    }

    fn freezer_state(&self) -> Result<PathBuf, CgroupError> {
        self.v1("freezer").map(|directory| directory.join("freezer.state")).ok_or_else(|| {
            CgroupError::ControllerMissing { controller: "freezer", setting: "freezer.state".into() }
        })
    }

    /// Whether every process in it stands still.
    ///
    /// # Errors
    /// [`CgroupError::File`] when it does not exist.
    pub fn frozen(&self) -> Result<bool, CgroupError> {
        match self.unified() {
            Some(directory) => Ok(keyed(&read(&directory.join("cgroup.events"))?, "frozen") == Some(1)),
            None => Ok(read(&self.freezer_state()?)?.trim() == "FROZEN"),
        }
    }

    /// The processes in it and below it, as pids of the caller's pid namespace.
    ///
    /// # Errors
    /// [`CgroupError::File`] when it cannot be read; one that does not exist has no processes.
    pub fn processes(&self) -> Result<Vec<i32>, CgroupError> {
        if self.hierarchies().is_empty() {
            return Ok(Vec::new());
        }
        tree::processes(&self.primary())
    }

    /// Removes it and everything below it, waiting up to two seconds for the last processes to go.
    ///
    /// A cgroup that does not exist counts as removed.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when processes stay; what could be removed is gone then.
    pub fn remove(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_micros(50);
        let mut left: Vec<PathBuf> =
            self.hierarchies().iter().map(|hierarchy| self.directory(hierarchy)).collect();
        loop {
            let mut failure = None;
            left.retain(|directory| match tree::remove(directory) {
                Ok(()) => false,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            match failure {
                None => return Ok(()),
                Some(CgroupError::Busy { .. }) if Instant::now() < deadline => {}
                Some(error) => return Err(error),
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// The controllers that a set of limits needs, so that a v2 host gets exactly those enabled for sure.
fn limits_wanted(resources: &LinuxResources) -> Vec<&'static str> {
    let mut wanted: Vec<&'static str> =
        limits::v2(resources).unwrap_or_default().iter().map(|setting| setting.controller).collect();
    wanted.dedup();
    wanted
}

/// Makes the directory and its parents; whether it was made, or there already.
fn make_directory(hierarchy: &Hierarchy, directory: &Path) -> Result<bool, CgroupError> {
    match std::fs::create_dir(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = directory.parent().filter(|parent| parent.starts_with(&hierarchy.mount));
            let Some(parent) = parent else {
                return Err(CgroupError::File { what: "create", path: directory.into(), source: error });
            };
            make_directory(hierarchy, parent)?;
            match std::fs::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                other => other.map_err(|source| CgroupError::File {
                    what: "create",
                    path: directory.into(),
                    source,
                })?,
            }
        }
        Err(source) => return Err(CgroupError::File { what: "create", path: directory.into(), source }),
    }
    // Every user of the container may look at it, whatever the service's umask.
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755))
        .map_err(|source| CgroupError::File { what: "open to all users", path: directory.into(), source })?;
    if hierarchy.version == Version::V1 && hierarchy.controllers.iter().any(|name| name == "cpuset") {
        inherit_cpuset(directory)?;
    }
    Ok(true)
}

/// A v1 cpuset starts empty, and nothing may run in it until it has processors and memory nodes.
fn inherit_cpuset(directory: &Path) -> Result<(), CgroupError> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = read(&directory.join(file))?;
        if own.trim().is_empty() {
            write(&directory.join(file), read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Enables controllers for the cgroup in all its parents.
///
/// A refusal (a parent with processes of its own, say) is no failure here: a limit that needs the controller
/// will name it, and without such a limit nothing is missed.
fn enable_controllers(hierarchy: &Hierarchy, relative: &Path, wanted: &[&str]) {
    let Ok(available) = read(&hierarchy.mount.join("cgroup.controllers")) else { return };
    let useful = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids", "rdma", "misc"];
    let controllers: Vec<&str> =
        available.split_whitespace().filter(|name| useful.contains(name) || wanted.contains(name)).collect();
    if controllers.is_empty() {
        return;
    }
    let components: Vec<_> = relative.components().collect();
    // What is above the cgroup that a unit was given is its service manager's to write to.
    let is_unit = |component: &Component<'_>| {
        let name = component.as_os_str().to_string_lossy();
        name.ends_with(".scope") || name.ends_with(".service")
    };
    let ours = components.iter().rposition(is_unit).map_or(0, |unit| unit + 1);
    let mut directory = hierarchy.mount.clone();
    for (depth, component) in components.into_iter().enumerate() {
        let file = directory.join("cgroup.subtree_control");
        directory.push(component);
        if depth < ours {
            continue;
        }
        let enabled = read(&file).unwrap_or_default();
        let enabled: Vec<&str> = enabled.split_whitespace().collect();
        for controller in &controllers {
            if !enabled.contains(controller)
                && let Err(error) = write(&file, &format!("+{controller}"))
            {
                tracing::debug!(path = ?file, controller, %error, "cannot enable a controller, ignoring");
            }
        }
    }
}

/// A device rule in the words of `devices.allow`.
fn v1_device_rule(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
        LinuxDeviceType::A | LinuxDeviceType::P => "a",
    };
    let number = |number: Option<i64>| match number {
        Some(number) if number >= 0 => number.to_string(),
        _ => "*".to_owned(),
    };
    let access = rule.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

/// Puts device rules into force on a cgroup2 directory, in place of those that are there.
fn attach_device_program(directory: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let cgroup: OwnedFd =
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(directory)?.into();
    let program = syscall::bpf_load_device_program(&devices_bpf::program(rules))?;
    let replaced = match syscall::bpf_query_device_programs(cgroup.as_fd()) {
        Ok(ids) if ids.len() == 1 => Some(syscall::bpf_program_by_id(ids[0])?),
        _ => None,
    };
    syscall::bpf_attach_device_program(cgroup.as_fd(), program.as_fd(), replaced.as_ref().map(AsFd::as_fd))?;
    Ok(())
}

/// Whether processes are in a cgroup or below it.
fn is_populated(directory: &Path) -> bool {
    if let Ok(events) = read(&directory.join("cgroup.events")) {
        return keyed(&events, "populated") == Some(1);
    }
    tree::processes(directory).is_ok_and(|processes| !processes.is_empty())
}

/// A cgroup that went away while it was looked at says one of these.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn read(path: &Path) -> Result<String, CgroupError> {
    let failed = |source| CgroupError::File { what: "read", path: path.to_path_buf(), source };
    let mut text = String::new();
    std::fs::File::open(path).map_err(failed)?.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes in one system call, as the kernel wants it, and never creates a file.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| CgroupError::File { what: "write", path: path.to_path_buf(), source })
}

/// The number behind a key of a flat keyed file.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests;
