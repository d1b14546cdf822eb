//! One more process in a running container.
//!
//! The caller enters the container's namespaces itself, all at once by a pidfd, and then clones: the pid namespace counts
//! for children only. It does nothing else afterwards but wait, and is hidden from the container: it is not dumpable, and
//! not in its pid namespace. Nothing is loaded or looked up inside by name (CVE-2019-14271): what is needed of the
//! outside is opened before.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::CpuSet;

use super::launch::{Child, clone_successor, descriptors, host, pipes, start_time, successor};
use super::process::{Failure, Prepared};
use super::report::{Message, Report, to_error};
use super::root::Root;
use super::scheduling::run_on;
use super::syscall::{self, Cloned};
use super::{Cgroup, ExecRequest, Running, RuntimeError, Stdio, Step, devices, seccomp};

const ALL: [(&str, libc::c_int); 8] = [
    ("user", libc::CLONE_NEWUSER),
    ("mnt", libc::CLONE_NEWNS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("uts", libc::CLONE_NEWUTS),
    ("ipc", libc::CLONE_NEWIPC),
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("time", super::time::CLONE_NEWTIME),
];

pub(super) fn exec(request: ExecRequest<'_>) -> Result<Running, RuntimeError> {
    let gone = || RuntimeError::LeaderGone { leader: request.leader };
    let pid = Pid::from_raw(request.leader).ok_or_else(gone)?;
    let leader = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    // After the open: if it is still the same, the descriptor is of the same.
    if start_time(request.leader) != Some(request.leader_start_time) {
        return Err(gone());
    }
    let prepared = Prepared::new(request.process, request.seccomp)?;
    // Before it is in another mount namespace, where that path would mean something else.
    let agent = match request.seccomp {
        Some(filter) if prepared.notifies() => Some(connect_agent(filter)?),
        _ => None,
    };
    run_on(prepared.scheduling.affinity.0.as_ref()).map_err(local)?;
    let cgroup = Cgroup::open(request.cgroup)?;
    let entrance = cgroup.entrance_beside(request.leader)?;
    let namespaces =
        foreign_namespaces(request.leader).map_err(host(Step::Namespaces, "look at the namespaces"))?;
    let (ours, theirs) = Report::pair().map_err(host(Step::Clone, "make a socket pair"))?;
    syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0).map_err(host(Step::Process, "hide this process"))?;
    let mut entering = Entering {
        request: &request,
        prepared: &prepared,
        tasks: &entrance.tasks,
        report: &theirs,
        leader: &leader,
        namespaces,
    };
    // The new process enters the cgroup from outside, and only then its namespace: with the mount option nsdelegate nobody
    // in a cgroup namespace moves what is not below its root.
    let has_users = namespaces & libc::CLONE_NEWUSER != 0;
    if !has_users {
        entering.join(namespaces & !libc::CLONE_NEWCGROUP)?;
    }
    let unified = entrance.unified.as_ref().map(AsFd::as_fd);
    let mut warnings = Vec::new();
    let mut child =
        match syscall::clone3(0, libc::SIGCHLD, unified).map_err(host(Step::Clone, "make the process"))? {
            Cloned::Child => {
                drop(ours);
                if has_users { entering.run_after_stage() } else { entering.run() }
            }
            Cloned::Parent { pid, pidfd } => Child::new(pid, pidfd),
        };
    if has_users {
        child = successor(&ours, child, &mut warnings, &prepared.program)?;
    }
    drop((theirs, entrance));
    let mut agent = agent;
    let mut console = None;
    loop {
        match ours.receive().map_err(host(Step::Clone, "hear from the new process"))? {
            Message::Warning(text) => warnings.push(text),
            Message::Console(master) => console = Some(master),
            Message::Failed { step, errno, what } => {
                return Err(to_error(step, errno, what, &prepared.program));
            }
            Message::Notify(listener) => {
                if let Some((agent, what, metadata)) = agent.take() {
                    let none = serde_json::Value::Null;
                    let mut state = request.state.unwrap_or(&none).clone();
                    state["pid"] = child.pid.into();
                    agent.tell(listener, &state, metadata).map_err(host(Step::Seccomp, what))?;
                }
            }
            Message::End => break,
            Message::Ready | Message::Go | Message::Hooks | Message::Successor(_) => {}
        }
    }
    let (pid, pidfd) = child.keep();
    // A command that has ended already is no failure; nobody else can have its pid before it is reaped. The container's
    // /proc, which is what this process sees now, does not tell of it.
    Ok(Running { pid, pidfd, start_time: 0, cgroup, console, warnings })
}

/// The agent of a filter, what an error calls that, and what it wants to be told.
type FilterAgent<'a> = (seccomp::Agent, String, Option<&'a str>);

fn connect_agent(filter: &LinuxSeccomp) -> Result<FilterAgent<'_>, RuntimeError> {
    let path = filter.listener_path().as_deref().unwrap_or(std::path::Path::new(""));
    let what = seccomp::Agent::what(path);
    let agent = seccomp::Agent::connect(path).map_err(host(Step::Seccomp, what.clone()))?;
    Ok((agent, what, filter.listener_metadata().as_deref()))
}

/// A failure of this process itself.
fn local((step, what, errno): Failure) -> RuntimeError {
    host(step, what)(errno)
}

/// What undoes a choice of processors, as far as the cgroup allows.
fn all_processors() -> Option<CpuSet> {
    let mut all = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
    Some(all)
}

/// Those of the leader's namespaces that are not ours already.
fn foreign_namespaces(leader: i32) -> Result<libc::c_int, Errno> {
    let mut flags = 0;
    for (name, flag) in ALL {
        let own = rustix::fs::stat(format!("/proc/self/ns/{name}"))?;
        let theirs = rustix::fs::stat(format!("/proc/{leader}/ns/{name}"))?;
        if (own.st_dev, own.st_ino) != (theirs.st_dev, theirs.st_ino) {
            flags |= flag;
        }
    }
    Ok(flags)
}

/// The side of the process that enters.
struct Entering<'a> {
    request: &'a ExecRequest<'a>,
    prepared: &'a Prepared,
    tasks: &'a [(std::path::PathBuf, OwnedFd)],
    report: &'a Report,
    leader: &'a OwnedFd,
    /// The leader's that are not ours.
    namespaces: libc::c_int,
}

fn failed(step: Step, what: &str) -> impl Fn(Errno) -> Failure + use<> {
    let what = what.to_owned();
    move |errno| (step, what.clone(), errno)
}

impl Entering<'_> {
    fn join(&self, namespaces: libc::c_int) -> Result<(), RuntimeError> {
        syscall::setns(self.leader.as_fd(), namespaces).map_err(host(Step::Namespaces, "enter the container"))
    }

    fn run(&mut self) -> ! {
        let (step, what, errno) = match self.enter_cgroup(false).and_then(|_| self.become_program()) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        self.fail(step, errno, what)
    }

    /// Into a user namespace: what can't be done there comes first, and what goes on is a new process, the caller's child.
    fn run_after_stage(&mut self) -> ! {
        let result = self.enter_cgroup(true).and_then(|entered| {
            syscall::setns(self.leader.as_fd(), self.namespaces & !entered)
                .map_err(failed(Step::Namespaces, "enter the container"))?;
            syscall::change_user(0, 0, Some(&[]))
                .map_err(failed(Step::Credentials, "become root of the user namespace"))?;
            syscall::prctl(libc::PR_SET_DUMPABLE, 0, 0)
                .map_err(failed(Step::Process, "hide this process"))?;
            clone_successor(0).map_err(failed(Step::Clone, "make the process"))
        });
        match result {
            Ok(Cloned::Child) => {
                let known = match self.report.receive() {
                    Ok(Message::Go) => Ok(()),
                    _ => Err((Step::Clone, "wait for the maker".to_owned(), Errno::PIPE)),
                };
                let (step, what, errno) = match known.and_then(|()| self.become_program()) {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                };
                self.fail(step, errno, what)
            }
            Ok(Cloned::Parent { pidfd, .. }) => {
                let _ = self.report.send(&Message::Successor(pidfd));
                syscall::exit_now(0)
            }
            Err((step, what, errno)) => self.fail(step, errno, what),
        }
    }

    fn fail(&self, step: Step, errno: Errno, what: String) -> ! {
        let _ = self.report.send(&Message::Failed { step, errno: errno.raw_os_error(), what });
        syscall::exit_now(1)
    }

    /// Enters the cgroup, and its namespace; gives back which namespaces it has joined. `later`: what an ordinary user may not
    /// join yet is joined with the user namespace.
    fn enter_cgroup(&self, later: bool) -> Result<libc::c_int, Failure> {
        syscall::reset_signals().map_err(failed(Step::Process, "reset signals"))?;
        for (path, tasks) in self.tasks {
            rustix::io::write(tasks, b"0").map_err(failed(Step::Cgroup, &format!("enter {path:?}")))?;
        }
        let mut entered = self.namespaces & libc::CLONE_NEWCGROUP;
        if entered != 0 {
            match syscall::setns(self.leader.as_fd(), libc::CLONE_NEWCGROUP) {
                Err(Errno::PERM) if later => entered = 0,
                other => other.map_err(failed(Step::Namespaces, "enter the cgroup namespace"))?,
            }
        }
        // The cgroup has a say in this, so only now; where nothing is said, it alone decides.
        let (initially, finally) = &self.prepared.scheduling.affinity;
        run_on(finally.as_ref().or(initially.as_ref().and(all_processors().as_ref())))?;
        let mut warn = |text| {
            let _ = self.report.send(&Message::Warning(text));
        };
        self.prepared.set_rlimits(&mut warn)?;
        self.prepared.set_scheduling(&mut warn)?;
        self.prepared.open_labels()?;
        Ok(entered)
    }

    fn become_program(&self) -> Result<std::convert::Infallible, Failure> {
        let Self { request, prepared, report, .. } = *self;
        rustix::process::setsid().map_err(failed(Step::Process, "make a session"))?;
        let stdio = match &request.stdio {
            Stdio::Terminal { size } => {
                let flags =
                    rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
                let root = rustix::fs::open("/", flags, rustix::fs::Mode::empty())
                    .map_err(failed(Step::Console, "open the container's root"))?;
                let console = devices::console(&Root::new(root), *size, prepared.uid, false)
                    .map_err(|(what, errno)| (Step::Console, what, errno))?;
                report
                    .send(&Message::Console(console.master))
                    .map_err(failed(Step::Console, "pass the terminal on"))?;
                syscall::set_controlling_terminal(console.slave.as_fd())
                    .map_err(failed(Step::Console, "make the terminal the controlling one"))?;
                let copy = || {
                    console
                        .slave
                        .try_clone()
                        .map_err(|_| (Step::Console, "use the terminal".to_owned(), Errno::MFILE))
                };
                [copy()?, copy()?, copy()?]
            }
            Stdio::Pipes { .. } => pipes(&request.stdio, prepared.uid)
                .map_err(failed(Step::Descriptors, "take the standard streams"))?
                .ok_or((Step::Descriptors, "take the standard streams".to_owned(), Errno::BADF))?,
        };
        let descriptors = descriptors(stdio, &request.preserved_fds)
            .map_err(failed(Step::Descriptors, "take the passed descriptors"))?;
        let report = Report::moved(report).map_err(failed(Step::Descriptors, "keep the report"))?;
        prepared.place(descriptors)?;
        let (step, what, errno) = match prepared.enter_cwd().and_then(|()| prepared.drop_privileges(&report))
        {
            Ok(()) => prepared.execute(),
            Err(failure) => failure,
        };
        let _ = report.send(&Message::Failed { step, errno: errno.raw_os_error(), what });
        syscall::exit_now(1)
    }
}
