//! The side of the caller: what is prepared before the clone, and what is undone if anything fails.
//!
//! # The host's binary
//!
//! A payload could reach the binary that made it through `/proc/PID/exe` and, if it may write there, overwrite it
//! (CVE-2019-5736). Three things keep it out. Until exec the new process is not dumpable, so that nothing without
//! CAP_SYS_PTRACE over it can look through its /proc directory; after exec it is another program. And the engine runs this
//! binary through a read-only copy of its mount ([`crate::engine`]), so that even `#!/proc/self/exe`, which runs it inside
//! the container, finds a file system that can't be written to.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::cgroup::{Cgroup, PendingCgroup};
use super::hooks::{self, Identity};
use super::overlay::{Driver, fuse};
use super::process::{Descriptors, Prepared};
use super::report::{Message, Report, to_error};
use super::scheduling::MemoryPolicy;
use super::syscall::{self, Cloned};
use super::userns::UserNamespace;
use super::{CreateRequest, Rootfs, Running, RuntimeError, SpecError, Stdio, Step, init, seccomp};

/// The namespaces of a container: those to be made, and those to be joined.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    pub new: libc::c_int,
    pub joined: Vec<(libc::c_int, OwnedFd)>,
    pub joined_pid: Option<OwnedFd>,
    pub joined_users: Option<OwnedFd>,
}

/// An init that waits for its order. Dropping it kills it and removes its cgroup.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    spec: &'a Spec,
    identity: Identity<'a>,
    child: Option<Child>,
    cgroup: Option<PendingCgroup>,
    report: Report,
    program: String,
    console: Option<OwnedFd>,
    warnings: Vec<String>,
}

/// A child that is killed and reaped unless it is kept.
#[derive(Debug)]
pub(super) struct Child {
    pub pid: i32,
    pidfd: Option<OwnedFd>,
}

impl Child {
    pub fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd) }
    }

    pub fn keep(mut self) -> (i32, OwnedFd) {
        (self.pid, self.pidfd.take().expect("it is taken only here, and this consumes the guard"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(pidfd) = &self.pidfd else { return };
        if let Err(errno) = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL)
            && errno != Errno::SRCH
        {
            tracing::warn!(pid = self.pid, %errno, "cannot kill what could not be started, ignoring");
        }
        if let Err(errno) = syscall::reap(pidfd.as_fd()) {
            tracing::warn!(pid = self.pid, %errno, "cannot reap what could not be started, ignoring");
        }
    }
}

pub(super) fn host(step: Step, what: impl Into<String>) -> impl FnOnce(Errno) -> RuntimeError {
    let what = what.into();
    move |errno| RuntimeError::Host { step, what, source: errno.into() }
}

pub(super) fn create(request: CreateRequest<'_>) -> Result<Waiting<'_>, RuntimeError> {
    let missing = |field| RuntimeError::Spec { source: SpecError::Missing { field } };
    let spec = request.spec;
    let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
    let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
    super::spec::check(spec)?;
    let prepared = Prepared::new(process, linux.seccomp().as_ref())?;
    let memory_policy = linux.memory_policy().as_ref().map(MemoryPolicy::new).transpose()?;
    let namespaces = namespaces(linux)?;
    if namespaces.new & libc::CLONE_NEWNS == 0 {
        return Err(missing("linux.namespaces with a new mount namespace"));
    }
    let path = linux
        .cgroups_path()
        .as_ref()
        .and_then(|path| path.to_str())
        .ok_or_else(|| missing("linux.cgroupsPath"))?;
    let cgroup = Cgroup::open(path)?.create(linux.resources().as_ref())?;
    let entrance = cgroup.cgroup().entrance()?;
    let unified = entrance.unified.as_ref().map(AsFd::as_fd);
    // Whoever serves it is no process of the container's.
    let served = match request.rootfs {
        Rootfs::Overlay { lower, upper, work, driver: Driver::Fuse } => Some(
            fuse::serve(lower, Some((upper, work)))
                .map_err(|failure| host(Step::Rootfs, failure.what)(failure.errno))?,
        ),
        _ => None,
    };
    let served = served.map(|served| served.mount);
    let (ours, theirs) = Report::pair().map_err(host(Step::Clone, "make a socket pair"))?;
    let hide =
        || syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(host(Step::Process, "hide this process"));
    let users = match &namespaces.joined_users {
        Some(fd) => {
            hide()?;
            let fd = fd
                .try_clone()
                .map_err(|_| host(Step::Namespaces, "join the user namespace")(Errno::MFILE))?;
            Some(UserNamespace::existing(fd)?)
        }
        None if namespaces.new & libc::CLONE_NEWUSER != 0 => {
            // Nobody else is in it yet; and of a hidden process an ordinary user maps nobody.
            Some(UserNamespace::new(linux.uid_mappings(), linux.gid_mappings())?)
        }
        None => None,
    };
    // Nobody looks into the new process before it is another program.
    hide()?;
    if let Some(users) = &users {
        let uid = users.user(0).ok_or_else(|| missing("linux.uidMappings with the container's user 0"))?;
        let gid = users.group(0).ok_or_else(|| missing("linux.gidMappings with the container's group 0"))?;
        if has_writable_cgroup(spec) {
            cgroup.cgroup().give_to(uid, gid)?;
        }
    }
    let join_pid = |namespace: &OwnedFd| {
        // Of the children only; this process stays where it is.
        syscall::setns(namespace.as_fd(), libc::CLONE_NEWPID)
            .map_err(host(Step::Namespaces, "join the pid namespace"))
    };
    let own_pid = match &namespaces.joined_pid {
        None => None,
        Some(namespace) => {
            let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(host(Step::Namespaces, "open the own pid namespace"))?;
            join_pid(namespace)?;
            Some(own)
        }
    };
    let time = if namespaces.new & super::time::CLONE_NEWTIME == 0 {
        None
    } else {
        Some(super::time::make(linux).map_err(|(what, errno)| host(Step::Namespaces, what)(errno))?)
    };
    // The cgroup namespace is made later, inside: its root is the cgroup that the process is in at that moment.
    let later = libc::CLONE_NEWCGROUP | super::time::CLONE_NEWTIME;
    let inner = namespaces.new & !later & !libc::CLONE_NEWUSER;
    let flags = if users.is_some() { 0 } else { u64::from(inner.cast_unsigned()) };
    let child = match syscall::clone3(flags, libc::SIGCHLD, unified)
        .map_err(host(Step::Clone, "make the process"))?
    {
        Cloned::Child => {
            drop(ours);
            let init = init::Init {
                request,
                prepared: &prepared,
                memory_policy: memory_policy.as_ref(),
                namespaces: &namespaces,
                entrance: &entrance,
                hierarchies: cgroup.cgroup().hierarchies(),
                report: theirs,
                staged: None,
                served,
            };
            match &users {
                Some(users) => init.run_after_stage(users, inner),
                None => init.run(),
            }
        }
        Cloned::Parent { pid, pidfd } => Child::new(pid, pidfd),
    };
    // Hooks are children too, and belong to the host.
    own_pid.as_ref().map(join_pid).transpose()?;
    if let Some(time) = time {
        time.leave().map_err(host(Step::Namespaces, "go back to the own time namespace"))?;
    }
    drop((theirs, entrance, request.stdio, request.preserved_fds, request.options.gate));
    let identity = Identity {
        id: request.id,
        bundle: request.options.bundle.unwrap_or(std::path::Path::new("")),
        annotations: spec.annotations().as_ref(),
    };
    let mut waiting = Waiting {
        spec,
        identity,
        child: Some(child),
        cgroup: Some(cgroup),
        report: ours,
        program: prepared.program.clone(),
        console: None,
        warnings: Vec::new(),
    };
    if users.is_some() {
        waiting.await_successor()?;
    }
    if let Some(devices) = linux.net_devices().as_ref().filter(|devices| !devices.is_empty()) {
        super::netdev::move_all(devices, waiting.pid())?;
    }
    waiting.until(Message::Ready)?;
    Ok(waiting)
}

/// Whether the container is to make cgroups of its own.
fn has_writable_cgroup(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"))
            && !mount.options().iter().flatten().any(|option| option == "ro")
    })
}

/// Makes init the child of the caller, out of a stage that is in the user namespace already.
pub(super) fn clone_successor(flags: libc::c_int) -> Result<Cloned, Errno> {
    // It tells of its end as its sibling does: clone(2), "CLONE_PARENT".
    syscall::clone3(u64::from((flags | libc::CLONE_PARENT).cast_unsigned()), 0, None)
}

/// Waits for the process that goes on in place of `stage`, and tells it that it is known.
pub(super) fn successor(
    report: &Report,
    stage: Child,
    warnings: &mut Vec<String>,
    program: &str,
) -> Result<Child, RuntimeError> {
    loop {
        match report.receive().map_err(host(Step::Clone, "hear from the new process"))? {
            Message::Warning(text) => warnings.push(text),
            Message::Successor(pidfd) => {
                let pid = pid_of(&pidfd).ok_or(RuntimeError::Died { step: Step::Clone })?;
                let successor = Child::new(pid, pidfd);
                // It has nothing more to do.
                drop(stage);
                report.send(&Message::Go).map_err(|_| RuntimeError::Died { step: Step::UserMapping })?;
                return Ok(successor);
            }
            Message::Failed { step, errno, what } => return Err(to_error(step, errno, what, program)),
            Message::End => return Err(RuntimeError::Died { step: Step::Clone }),
            _ => {}
        }
    }
}

/// The pid behind a pidfd, as this process's /proc has it. Source: pidfd_open(2), proc_pid_fdinfo(5).
fn pid_of(pidfd: &OwnedFd) -> Option<i32> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    (pid > 0).then_some(pid)
}

/// Lets an init that waits at its gate go on.
pub(super) fn release(
    connection: OwnedFd,
    spec: &Spec,
    state: &serde_json::Value,
) -> Result<Vec<String>, RuntimeError> {
    let report = Report::over(connection);
    report.send(&Message::Go).map_err(|_| RuntimeError::Died { step: Step::Exec })?;
    let program = spec.process().as_ref().and_then(|process| process.args().as_ref()?.first().cloned());
    let mut warnings = Vec::new();
    loop {
        match report.receive().map_err(host(Step::Clone, "hear from the container's first process"))? {
            Message::Warning(text) => warnings.push(text),
            Message::Notify(listener) => notify(spec, listener, state)?,
            Message::Failed { step, errno, what } => {
                return Err(to_error(step, errno, what, &program.unwrap_or_default()));
            }
            Message::End => return Ok(warnings),
            _ => {}
        }
    }
}

/// Hands the descriptor of a filter's notifications to the agent that the specification names.
fn notify(spec: &Spec, listener: OwnedFd, state: &serde_json::Value) -> Result<(), RuntimeError> {
    let seccomp = linux(spec).and_then(|linux| linux.seccomp().as_ref());
    let path = seccomp
        .and_then(|seccomp| seccomp.listener_path().as_ref())
        .ok_or(RuntimeError::Spec { source: SpecError::Missing { field: "linux.seccomp.listenerPath" } })?;
    let metadata = seccomp.and_then(|seccomp| seccomp.listener_metadata().as_deref());
    let agent = seccomp::Agent::connect(path).map_err(host(Step::Seccomp, seccomp::Agent::what(path)))?;
    agent.tell(listener, state, metadata).map_err(host(Step::Seccomp, seccomp::Agent::what(path)))
}

impl Waiting<'_> {
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Lets init wait at its gate, without this process.
    pub fn leave(mut self) -> Result<(), RuntimeError> {
        self.report.send(&Message::Go).map_err(|_| RuntimeError::Died { step: Step::Exec })?;
        if let Some(child) = self.child.take() {
            child.keep();
        }
        if let Some(cgroup) = self.cgroup.take() {
            cgroup.keep();
        }
        Ok(())
    }

    /// Lets the program run, and returns when it does.
    pub fn start(mut self) -> Result<Running, RuntimeError> {
        self.report.send(&Message::Go).map_err(|_| RuntimeError::Died { step: Step::Exec })?;
        self.until(Message::End)?;
        let child = self.child.take().expect("it is taken only here, and this consumes the container");
        let cgroup =
            self.cgroup.take().expect("it is taken only here, and this consumes the container").keep();
        let (pid, pidfd) = child.keep();
        let start_time = start_time(pid).ok_or(RuntimeError::Died { step: Step::Exec })?;
        Ok(Running {
            pid,
            pidfd,
            start_time,
            cgroup,
            console: self.console.take(),
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// Takes what is reported until the expected message comes.
    fn until(&mut self, expected: Message) -> Result<(), RuntimeError> {
        let wait_for_end = matches!(expected, Message::End);
        loop {
            match self.report.receive().map_err(host(Step::Clone, "hear from the new process"))? {
                Message::Warning(text) => self.warnings.push(text),
                Message::Console(master) => self.console = Some(master),
                Message::Ready if !wait_for_end => return Ok(()),
                Message::End if wait_for_end => return Ok(()),
                Message::Failed { step, errno, what } => {
                    return Err(to_error(step, errno, what, &self.program));
                }
                Message::Hooks => {
                    self.run_hooks()?;
                    self.report.send(&Message::Go).map_err(|_| RuntimeError::Died { step: Step::Hooks })?;
                }
                Message::Notify(listener) => {
                    notify(self.spec, listener, &self.identity.state("running", Some(self.pid())))?;
                }
                Message::End => return Err(RuntimeError::Died { step: Step::Clone }),
                Message::Ready | Message::Go | Message::Successor(_) => {}
            }
        }
    }

    fn run_hooks(&self) -> Result<(), RuntimeError> {
        let Some(all) = self.spec.hooks() else { return Ok(()) };
        let state = self.identity.state("creating", Some(self.pid()));
        #[allow(deprecated)] // they still have to run
        let prestart = all.prestart();
        hooks::run("prestart", prestart.as_ref(), &state)
            .and_then(|()| hooks::run("createRuntime", all.create_runtime().as_ref(), &state))
            .map_err(|error| RuntimeError::Hook { reason: error.to_string() })
    }

    fn await_successor(&mut self) -> Result<(), RuntimeError> {
        let stage = self.child.take().expect("it has been there from the beginning, and is put back");
        self.child = Some(successor(&self.report, stage, &mut self.warnings, &self.program)?);
        Ok(())
    }
}

fn namespaces(linux: &Linux) -> Result<Namespaces, RuntimeError> {
    let mut namespaces = Namespaces::default();
    for namespace in linux.namespaces().iter().flatten() {
        let flag = match namespace.typ() {
            LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
            LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
            LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
            LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
            LinuxNamespaceType::User => libc::CLONE_NEWUSER,
            LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
            LinuxNamespaceType::Network => libc::CLONE_NEWNET,
            LinuxNamespaceType::Time => super::time::CLONE_NEWTIME,
        };
        match namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            None => namespaces.new |= flag,
            Some(path) => {
                let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(host(Step::Namespaces, format!("open the namespace {path:?}")))?;
                match flag {
                    libc::CLONE_NEWPID => namespaces.joined_pid = Some(fd),
                    libc::CLONE_NEWUSER => namespaces.joined_users = Some(fd),
                    _ => namespaces.joined.push((flag, fd)),
                }
            }
        }
    }
    Ok(namespaces)
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)): clock ticks since boot.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The descriptors of a payload without a terminal. Pipes are given to its user, who could not open them by name
/// (`/dev/stdout`) otherwise.
pub(super) fn pipes(stdio: &Stdio, uid: u32) -> Result<Option<[OwnedFd; 3]>, Errno> {
    match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => {
            let copy = |fd: &OwnedFd| fd.try_clone().map_err(|_| Errno::MFILE);
            for fd in [stdin, stdout, stderr] {
                if uid != 0 && super::root::file_type(fd.as_fd())? == rustix::fs::FileType::Fifo {
                    // One that belongs to somebody else in a user namespace can't be given away; it works all the same.
                    let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), None);
                }
            }
            Ok(Some([copy(stdin)?, copy(stdout)?, copy(stderr)?]))
        }
        Stdio::Terminal { .. } => Ok(None),
    }
}

/// What the payload gets beside its streams.
pub(super) fn descriptors(stdio: [OwnedFd; 3], preserved: &[OwnedFd]) -> Result<Descriptors, Errno> {
    let preserved =
        preserved.iter().map(|fd| fd.try_clone().map_err(|_| Errno::MFILE)).collect::<Result<_, _>>()?;
    Ok(Descriptors { stdio, preserved })
}

/// The specification's `linux` part, for what only looks at it.
pub(super) fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}
