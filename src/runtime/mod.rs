//! An OCI specification in, an isolated process out.
//!
//! This module knows the OCI runtime specification and the kernel, and nothing else: no images, no store, no
//! varlink. The monitor calls it (one container per process), and the OCI command line does.
//!
//! ```text
//!   create ──► Created ──start──► Running ──(payload ends; the caller reaps `pid`)
//!      │          │
//!      └──────────┴── an error, or a drop: init is killed, the cgroup removed, nothing is left behind
//!
//!   exec ───► Running    (one more process in the namespaces of a running container)
//! ```
//!
//! # Who does what
//!
//! The calling process (single-threaded, see [`create`]) checks the specification, compiles the seccomp
//! filter, makes the cgroup and clones the init process into fresh namespaces. The init process builds its own
//! world from inside: it joins its cgroups, mounts the root file system (detached, never visible on the host),
//! mounts everything below it through descriptors that `openat2(RESOLVE_IN_ROOT)` opened, pivots, drops its
//! privileges and waits. Where it has a user namespace, a stage comes before it that makes what only the caller's own user
//! may. [`Created::start`] lets it run the program. Warnings and the first failure, with its
//! step and errno, come back over one close-on-exec socket pair.
//!
//! # Invariants that a change must keep
//!
//! - No path in the root file system is followed outside it, not even while it changes: paths are opened with
//!   `RESOLVE_IN_ROOT`, and what is mounted is attached to the opened descriptor, never to a path.
//! - Writes to procfs go through a procfs of our own, verified to be one.
//! - The host's binary is out of reach: see [`launch`] for how.
//! - The payload has only the descriptors that it was promised, and a working directory inside its root.
//! - Whatever fails, nothing stays: processes, cgroups, mounts.

pub mod cgroup;
pub mod defaults;
mod devices;
mod error;
mod exec;
pub mod furnished;
mod gate;
pub mod hooks;
mod init;
mod labels;
mod launch;
mod mounts;
mod netdev;
pub mod overlay;
pub mod peer;
mod process;
mod reaper;
mod report;
mod root;
mod scheduling;
pub mod seccomp;
mod spec;
mod stage;
mod syscall;
mod time;
mod userns;
pub mod view;
pub mod visible;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxMemoryPolicy, LinuxSeccomp, Process, Spec};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::cgroup::Cgroup;
pub use self::error::{RuntimeError, Step};
pub use self::mounts::SUBPATH_OPTION;
pub use self::spec::{SpecError, sysctl_namespace};
pub use self::syscall::loopback_up;
pub use self::userns::{Holder, enter_own_namespace, hold_network_of_users};

/// Where the root file system of a container comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rootfs {
    /// A directory that is used as it is.
    Directory {
        /// The directory on the host.
        path: PathBuf,
    },
    /// The same, but in a user namespace its files belong inside to whom they belong on the disk.
    ShiftedDirectory {
        /// The directory on the host.
        path: PathBuf,
    },
    /// Layers that the container's init mounts as one overlay, in its own mount namespace only. In a user namespace their
    /// files, and what the container writes, belong inside to whom they belong on the disk.
    Overlay {
        /// The layers that are only read, the topmost first; at least one.
        lower: Vec<PathBuf>,
        /// The directory that takes what the container changes.
        upper: PathBuf,
        /// overlayfs's work directory, on the same file system as `upper`.
        work: PathBuf,
        /// What puts them together; by fuse-overlayfs no owners can be shifted.
        #[serde(default)]
        driver: overlay::Driver,
    },
}

/// The annotation that asks, by `new`, for a boot id of the container's own.
pub const BOOT_ID: &str = "io.dormouse.boot-id";

/// What the payload's standard streams are.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors that the payload gets as 0, 1 and 2.
    Pipes {
        /// Becomes descriptor 0.
        stdin: OwnedFd,
        /// Becomes descriptor 1.
        stdout: OwnedFd,
        /// Becomes descriptor 2.
        stderr: OwnedFd,
    },
    /// A pseudo terminal of the container's own devpts; its master comes back as [`Running::console`].
    Terminal {
        /// Rows and columns, where they are known.
        size: Option<(u16, u16)>,
    },
}

/// Everything that [`create`] needs.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The container's id; it appears in messages only.
    pub id: &'a str,
    /// The OCI specification. `root.path` is not read: [`CreateRequest::rootfs`] replaces it.
    pub spec: &'a Spec,
    /// The root file system.
    pub rootfs: &'a Rootfs,
    /// The payload's standard streams.
    pub stdio: Stdio,
    /// Descriptors that the payload gets as 3, 4, …
    pub preserved_fds: Vec<OwnedFd>,
    /// The first process stays as one that reaps and passes signals on, and the program is its child.
    pub reaper: bool,
    /// What only the OCI command line asks for.
    pub options: CreateOptions<'a>,
}

/// What a container that is made step by step, by several processes, wants besides.
#[derive(Debug, Default)]
pub struct CreateOptions<'a> {
    /// A listening SOCK_SEQPACKET socket at which init waits for its order once [`Created::leave_waiting`] was called;
    /// [`release`] gives it.
    pub gate: Option<OwnedFd>,
    /// The bundle's directory, as hooks are told it.
    pub bundle: Option<&'a Path>,
    /// Fail now if the program is not there, not only when it is started.
    pub look_for_program: bool,
    /// Change the root without pivot_root(2), for hosts that run from the initial ramdisk.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub keep_keyring: bool,
}

/// Everything that [`exec`] needs.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The container's init, as a pid of the host.
    pub leader: i32,
    /// The start time of that process (field 22 of `/proc/PID/stat`), so that a reused pid is noticed.
    pub leader_start_time: u64,
    /// The process to run.
    pub process: &'a Process,
    /// The container's seccomp filter.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// From which memory nodes the container takes its memory.
    pub memory_policy: Option<&'a LinuxMemoryPolicy>,
    /// The container's cgroup, as `linux.cgroupsPath` of its specification has it.
    pub cgroup: &'a str,
    /// The standard streams.
    pub stdio: Stdio,
    /// Descriptors that the process gets as 3, 4, …
    pub preserved_fds: Vec<OwnedFd>,
    /// The state of the container, as an agent of its seccomp filter is told it.
    pub state: Option<&'a serde_json::Value>,
}

/// A process that runs in a container.
///
/// Dropping it does nothing to the process, which is a child of the caller and wants to be reaped.
#[derive(Debug)]
pub struct Running {
    /// The process, as a pid of the host.
    pub pid: i32,
    /// The process again, immune to reuse of the pid.
    pub pidfd: OwnedFd,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_time: u64,
    /// The container's cgroup.
    pub cgroup: Cgroup,
    /// The master of the pseudo terminal, with [`Stdio::Terminal`].
    pub console: Option<OwnedFd>,
    /// What did not go as asked without being worth a failure: a limit that was lowered, for example.
    pub warnings: Vec<String>,
}

/// A container whose init waits just before it runs the program.
///
/// Dropping it kills init and removes the cgroup.
#[derive(Debug)]
pub struct Created<'a> {
    waiting: launch::Waiting<'a>,
}

impl Created<'_> {
    /// Lets init run its program, and returns when it does.
    ///
    /// # Errors
    /// [`RuntimeError::CommandNotFound`] and the like when the program cannot be run; the container is gone then.
    pub fn start(self) -> Result<Running, RuntimeError> {
        self.waiting.start()
    }

    /// The pid of the waiting init on the host.
    pub fn pid(&self) -> i32 {
        self.waiting.pid()
    }

    /// The start time of the waiting init, field 22 of `/proc/PID/stat`; `None` when it has ended.
    pub fn start_time(&self) -> Option<u64> {
        launch::start_time(self.waiting.pid())
    }

    /// The master of the pseudo terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.waiting.take_console()
    }

    /// What did not go as asked so far.
    pub fn warnings(&self) -> &[String] {
        self.waiting.warnings()
    }

    /// Lets init wait at its gate, and lives on without this process.
    ///
    /// # Errors
    /// [`RuntimeError::Died`]; the container is gone then.
    pub fn leave_waiting(self) -> Result<(), RuntimeError> {
        self.waiting.leave()
    }
}

/// The capabilities that are known here, by name.
pub fn capability_names() -> Vec<String> {
    process::capability_names()
}

/// The mount options that are understood here, without those of file systems.
pub fn mount_options() -> Vec<String> {
    mounts::known_options()
}

/// Orders an init that waits at its gate to run its program, over a connection to it. Returns when it does, with what did
/// not go as asked. An agent of the seccomp filter, if there is one, is told `state`.
///
/// # Errors
/// [`RuntimeError::CommandNotFound`] and the like; the first process has ended then.
pub fn release(
    connection: OwnedFd,
    spec: &Spec,
    state: &serde_json::Value,
) -> Result<Vec<String>, RuntimeError> {
    launch::release(connection, spec, state)
}

/// Descriptors that this process was started with, from 3 on; all become close-on-exec.
///
/// # Errors
/// EBADF where there are fewer.
pub fn inherited_descriptors(count: u32) -> Result<Vec<OwnedFd>, Errno> {
    let last = i32::try_from(count).ok().and_then(|count| count.checked_add(3)).ok_or(Errno::BADF)?;
    let taken = (3..last).map(syscall::duplicate_inherited).collect::<Result<_, _>>()?;
    syscall::close_on_exec_from(3)?;
    Ok(taken)
}

/// Replaces this process by this program again, from a descriptor of it (execveat(2)). Returns only to say why not.
pub fn execute_again(program: BorrowedFd<'_>, arguments: Vec<CString>, environment: Vec<CString>) -> Errno {
    syscall::fexecve(program, &syscall::StringArray::new(arguments), &syscall::StringArray::new(environment))
}

/// Makes a container up to the point where only the program is missing.
///
/// The caller has one thread. It is not dumpable afterwards.
///
/// # Errors
/// A [`RuntimeError`] that names the step; nothing is left behind.
pub fn create(request: CreateRequest<'_>) -> Result<Created<'_>, RuntimeError> {
    launch::create(request).map(|waiting| Created { waiting })
}

/// Runs one more process in a running container.
///
/// The caller has one thread, and is in the container's namespaces afterwards, whatever the outcome: it is a process that
/// does nothing else. [`Running::start_time`] is 0: the host's /proc is out of its sight.
///
/// # Errors
/// A [`RuntimeError`] that names the step; no process is left behind.
pub fn exec(request: ExecRequest<'_>) -> Result<Running, RuntimeError> {
    exec::exec(request)
}

/// This program, opened through a read-only copy of its mount that nobody else sees. Whatever runs by this descriptor has a
/// `/proc/PID/exe` that can't be opened for writing (CVE-2019-5736).
///
/// # Errors
/// EPERM without the right to mount.
pub fn read_only_program() -> Result<OwnedFd, Errno> {
    let program = mounts::copy_tree(rustix::fs::CWD, std::path::Path::new("/proc/self/exe"), false)?;
    mounts::freeze(program.as_fd())?;
    Ok(program)
}

/// Whether this process may make mounts and namespaces: it is root, of the host or of a user namespace.
pub fn may_mount() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    syscall::permitted_capabilities().is_ok_and(|permitted| permitted & CAP_SYS_ADMIN != 0)
}

/// Runs `work` as another user for files alone, with all capabilities. Of this thread only.
///
/// # Errors
/// EPERM for who may not be another.
pub fn with_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T, Errno> {
    syscall::with_file_ids(uid, gid, work)
}

/// `pidfd_send_signal(2)`, with any signal that the kernel has.
///
/// # Errors
/// ESRCH where the process has ended, EINVAL for what is no signal.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    syscall::pidfd_send_signal(process, signal)
}
