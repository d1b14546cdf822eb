//! The side of the new process: from a copy of its maker, in fresh namespaces, to the program.
//!
//! It may allocate: its maker has one thread. Whatever fails is reported with its step, and ends it.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::cgroup::{Entrance, Hierarchy};
use super::hooks::{self, Identity};
use super::launch::{Namespaces, clone_successor, descriptors, linux, pipes};
use super::mounts::{self, MountFailure};
use super::process::{Descriptors, Failure, Prepared};
use super::report::{Message, Report};
use super::root::Root;
use super::scheduling::MemoryPolicy;
use super::stage::{self, Staged};
use super::syscall::Cloned;
use super::userns::UserNamespace;
use super::{BOOT_ID, CreateRequest, Stdio, Step, devices, gate, reaper, report, syscall};

/// All that the new process knows.
pub(super) struct Init<'a> {
    pub request: CreateRequest<'a>,
    pub prepared: &'a Prepared,
    pub memory_policy: Option<&'a MemoryPolicy>,
    pub namespaces: &'a Namespaces,
    pub entrance: &'a Entrance,
    /// As the host sees them: in its own cgroup namespace this process would not know them.
    pub hierarchies: &'a [Hierarchy],
    pub report: Report,
    /// What was made for it before it was in its user namespace, if it has one.
    pub staged: Option<Staged>,
    /// The root file system, where a process serves it.
    pub served: Option<OwnedFd>,
}

fn at(step: Step) -> impl Fn(MountFailure) -> Failure {
    move |failure| (step, failure.what, failure.errno)
}

fn failed(step: Step, what: &str) -> impl Fn(Errno) -> Failure + use<> {
    let what = what.to_owned();
    move |errno| (step, what.clone(), errno)
}

/// Tells a warning; it does not matter if nobody listens.
fn warn(report: &Report) -> impl FnMut(String) {
    move |text| {
        let _ = report.send(&Message::Warning(text));
    }
}

impl Init<'_> {
    /// Becomes the program, or ends.
    pub fn run(mut self) -> ! {
        let all: Vec<usize> = (0..self.namespaces.joined.len()).collect();
        let entered = self.enter().and_then(|()| self.join_namespaces(Some(&all)));
        let (step, what, errno) = match entered.and_then(|_| self.become_program()) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        self.fail(step, errno, what)
    }

    /// Does what can't be done in the user namespace, joins it, and goes on in a new process, which is the caller's child. This
    /// one ends. `namespaces`: those to be made, which so belong to the user namespace.
    pub fn run_after_stage(mut self, users: &UserNamespace, namespaces: libc::c_int) -> ! {
        let result = self.enter().and_then(|()| {
            self.staged = Some(stage::prepare(self.request.spec, self.request.rootfs, users)?);
            let left = self.join_namespaces(None)?;
            users.enter().map_err(failed(Step::UserMapping, "become root of the user namespace"))?;
            self.join_namespaces(Some(&left))?;
            clone_successor(namespaces).map_err(failed(Step::Clone, "make the process"))
        });
        match result {
            Ok(Cloned::Child) => {
                let (step, what, errno) = match self.await_maker().and_then(|()| self.become_program()) {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                };
                self.fail(step, errno, what)
            }
            Ok(Cloned::Parent { pidfd, .. }) => {
                // If nobody listens any more, the new process finds out as well.
                let _ = self.report.send(&Message::Successor(pidfd));
                syscall::exit_now(0)
            }
            Err((step, what, errno)) => self.fail(step, errno, what),
        }
    }

    fn fail(&self, step: Step, errno: Errno, what: String) -> ! {
        // If nobody listens any more, nobody wants to know.
        let _ = self.report.send(&Message::Failed { step, errno: errno.raw_os_error(), what });
        syscall::exit_now(1)
    }

    /// Returns when the maker knows this process.
    fn await_maker(&self) -> Result<(), Failure> {
        match self.report.receive() {
            Ok(Message::Go) => Ok(()),
            _ => Err((Step::Clone, "wait for the maker".to_owned(), Errno::PIPE)),
        }
    }

    /// What comes before a user namespace: there less is allowed.
    fn enter(&self) -> Result<(), Failure> {
        syscall::reset_signals().map_err(failed(Step::Process, "reset signals"))?;
        self.enter_cgroups()?;
        // Limits before anything that belongs to a user namespace: root of the host may raise more.
        self.prepared.set_rlimits(&mut warn(&self.report))?;
        self.adjust_oom_score()?;
        self.prepared.set_scheduling(&mut warn(&self.report))?;
        // The cgroup has a say in which nodes there are.
        self.memory_policy.map_or(Ok(()), MemoryPolicy::apply)
    }

    fn become_program(&mut self) -> Result<std::convert::Infallible, Failure> {
        let new = |flag| self.namespaces.new & flag != 0;
        let spec = self.request.spec;
        if new(libc::CLONE_NEWCGROUP) {
            syscall::unshare(libc::CLONE_NEWCGROUP)
                .map_err(failed(Step::Namespaces, "make the cgroup namespace"))?;
        }
        rustix::process::setsid().map_err(failed(Step::Process, "make a session"))?;
        // A keyring of its own, named after the container; some kernels have none.
        if !self.request.options.keep_keyring
            && let Ok(name) = std::ffi::CString::new(self.request.id)
        {
            match syscall::join_session_keyring(&name) {
                Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::DQUOT) => {}
                Err(errno) => return Err((Step::Process, "make a session keyring".to_owned(), errno)),
            }
        }
        if new(libc::CLONE_NEWNET) {
            syscall::loopback_up().map_err(failed(Step::Network, "bring the loopback interface up"))?;
        }
        if new(libc::CLONE_NEWUTS)
            || self.namespaces.joined.iter().any(|(flag, _)| *flag == libc::CLONE_NEWUTS)
        {
            self.set_names()?;
        }
        let console = self.build_root()?;
        if let Some(domain) = linux(spec).and_then(|linux| linux.personality().as_ref()) {
            let persona = match domain.domain() {
                oci_spec::runtime::LinuxPersonalityDomain::PerLinux => 0,
                oci_spec::runtime::LinuxPersonalityDomain::PerLinux32 => 8,
            };
            syscall::personality(persona).map_err(failed(Step::Process, "set the personality"))?;
        }
        let stdio = match console {
            Some(slave) => {
                syscall::set_controlling_terminal(slave.as_fd())
                    .map_err(failed(Step::Console, "make the terminal the controlling one"))?;
                let copy = || {
                    slave
                        .try_clone()
                        .map_err(|_| (Step::Console, "use the terminal".to_owned(), Errno::MFILE))
                };
                [copy()?, copy()?, slave]
            }
            None => pipes(&self.request.stdio, self.prepared.uid)
                .map_err(failed(Step::Descriptors, "take the standard streams"))?
                .ok_or((Step::Descriptors, "take the standard streams".to_owned(), Errno::BADF))?,
        };
        let descriptors = descriptors(stdio, &self.request.preserved_fds)
            .map_err(failed(Step::Descriptors, "take the passed descriptors"))?;
        if self.request.options.look_for_program {
            self.prepared.look_for_program()?;
        }
        // What is still needed must not be in a place that the payload's descriptors take.
        let keep = failed(Step::Descriptors, "keep the report");
        let report = Report::moved(&self.report).map_err(&keep)?;
        let gate = self.request.options.gate.as_ref();
        let gate = gate.map(|gate| report::out_of_the_way(gate.as_fd())).transpose().map_err(keep)?;
        match self.finish(descriptors, report, gate) {
            Ok(never) => match never {},
            Err((report, (step, what, errno))) => {
                if let Some(report) = report {
                    let _ = report.send(&Message::Failed { step, errno: errno.raw_os_error(), what });
                }
                syscall::exit_now(1)
            }
        }
    }

    /// Returns when the program may run, with the connection to whoever said so.
    fn wait_for_order(&self, report: Report, gate: Option<OwnedFd>, first: i32) -> Report {
        let Some(gate) = gate else {
            return match report.receive() {
                Ok(Message::Go) => report,
                // Whoever made us has changed its mind, or is gone.
                _ => syscall::exit_now(1),
            };
        };
        // It may wait for long, and must hold nothing of its maker's open meanwhile.
        let mut keep = self.prepared.descriptors();
        keep.extend([report.as_raw_fd(), gate.as_raw_fd()]);
        syscall::close_all_but(first, &keep);
        gate::wait(&gate, &report).unwrap_or_else(|_| syscall::exit_now(1))
    }

    /// The last steps. A failure comes with the connection to tell it over, unless a child has it.
    fn finish(
        &self,
        descriptors: Descriptors,
        report: Report,
        gate: Option<OwnedFd>,
    ) -> Result<std::convert::Infallible, (Option<Report>, Failure)> {
        let first = i32::try_from(3 + descriptors.preserved.len()).unwrap_or(i32::MAX);
        let ready = self
            .prepared
            .place(descriptors)
            .and_then(|()| report.send(&Message::Ready).map_err(failed(Step::Exec, "report")));
        if let Err(failure) = ready {
            return Err((Some(report), failure));
        }
        let report = self.wait_for_order(report, gate, first);
        if self.request.reaper {
            reaper::name_this_process();
        }
        let result = self
            .prepared
            .enter_cwd()
            .and_then(|()| self.prepared.drop_privileges(&report))
            .and_then(|()| self.run_hooks("startContainer", "created"));
        let mut report = Some(report);
        let (step, what, errno) = match result {
            Ok(()) if self.request.reaper => reaper::run(|| self.prepared.execute(), &mut report),
            Ok(()) => self.prepared.execute(),
            Err(failure) => failure,
        };
        Err((report, (step, what, errno)))
    }

    /// Where another namespace is a user namespace's own, it may be that it can be joined only from inside that one; where it is
    /// the host's, only from outside. Returns those that are left; `only`: of these alone.
    fn join_namespaces(&self, only: Option<&[usize]>) -> Result<Vec<usize>, Failure> {
        let mut left = Vec::new();
        for (index, (flag, namespace)) in self.namespaces.joined.iter().enumerate() {
            if only.is_some_and(|only| !only.contains(&index)) {
                continue;
            }
            match syscall::setns(namespace.as_fd(), *flag) {
                Err(Errno::PERM) if only.is_none() => left.push(index),
                other => other.map_err(failed(Step::Namespaces, "join a namespace"))?,
            }
        }
        Ok(left)
    }

    /// Hooks of the container's side.
    fn run_hooks(&self, kind: &'static str, status: &str) -> Result<(), Failure> {
        let Some(all) = self.request.spec.hooks() else { return Ok(()) };
        let hooks = match kind {
            "createContainer" => all.create_container(),
            _ => all.start_container(),
        };
        if !hooks::any(hooks.as_ref()) {
            return Ok(());
        }
        let identity = Identity {
            id: self.request.id,
            bundle: self.request.options.bundle.unwrap_or(Path::new("")),
            annotations: self.request.spec.annotations().as_ref(),
        };
        let own = rustix::process::getpid().as_raw_nonzero().get();
        hooks::run(kind, hooks.as_ref(), &identity.state(status, Some(own)))
            .map_err(|error| (Step::Hooks, error.to_string(), Errno::CANCELED))
    }

    /// What the specification wants run when all is there but the root's change.
    fn create_hooks(&self) -> Result<(), Failure> {
        let Some(all) = self.request.spec.hooks() else { return Ok(()) };
        #[allow(deprecated)] // they still have to run
        let outside = hooks::any(all.prestart().as_ref()) || hooks::any(all.create_runtime().as_ref());
        if outside {
            self.report.send(&Message::Hooks).map_err(failed(Step::Hooks, "ask for hooks"))?;
            match self.report.receive() {
                Ok(Message::Go) => {}
                // The reason is known where they ran.
                _ => syscall::exit_now(1),
            }
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        let outcome = self.run_hooks("createContainer", "creating");
        rustix::process::umask(Mode::empty());
        outcome
    }

    /// On v1 by its own hand: a process that moves itself through `tasks` needs none of the locks that moving another
    /// one takes, which wait for every CPU.
    fn enter_cgroups(&self) -> Result<(), Failure> {
        for (path, tasks) in &self.entrance.tasks {
            rustix::io::write(tasks, b"0").map_err(failed(Step::Cgroup, &format!("enter {path:?}")))?;
        }
        Ok(())
    }

    fn adjust_oom_score(&self) -> Result<(), Failure> {
        let Some(score) = self.prepared.oom_score_adjust else { return Ok(()) };
        match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                warn(&self.report)(format!(
                    "the out-of-memory score may not be lowered to {score} on this host, left as it is"
                ));
                Ok(())
            }
            Err(error) => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Err((Step::Process, format!("set the out-of-memory score to {score}"), errno))
            }
        }
    }

    fn set_names(&self) -> Result<(), Failure> {
        if let Some(hostname) = self.request.spec.hostname() {
            rustix::system::sethostname(hostname.as_bytes())
                .map_err(failed(Step::Hostname, "set the host name"))?;
        }
        if let Some(domainname) = self.request.spec.domainname() {
            rustix::system::setdomainname(domainname.as_bytes())
                .map_err(failed(Step::Hostname, "set the domain name"))?;
        }
        Ok(())
    }

    /// Builds the file system, and makes it the root. Returns the payload's side of the terminal.
    fn build_root(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let spec = self.request.spec;
        let linux = linux(spec).ok_or((Step::Spec, "read the specification".to_owned(), Errno::INVAL))?;
        let (root, mut binds, nodes) = match self.staged.take() {
            Some(Staged { root, binds, nodes }) => {
                (mounts::attach_root(root).map_err(at(Step::Rootfs))?, binds, nodes)
            }
            None => {
                mounts::isolate(linux.rootfs_propagation().as_deref()).map_err(at(Step::Rootfs))?;
                let root = mounts::root(self.request.rootfs, self.served.take()).map_err(at(Step::Rootfs))?;
                (root, VecDeque::new(), VecDeque::new())
            }
        };
        // What is inside has the masks that it says, not ours.
        rustix::process::umask(Mode::empty());
        let has_namespace = self.namespaces.new & libc::CLONE_NEWCGROUP != 0
            || self.namespaces.joined.iter().any(|(flag, _)| *flag == libc::CLONE_NEWCGROUP);
        let path = linux.cgroups_path().as_deref().filter(|_| !has_namespace);
        let own = path.map(|path| path.strip_prefix("/").unwrap_or(path));
        let of_host = mounts::Cgroups { hierarchies: self.hierarchies, own };
        for mount in spec.mounts().iter().flatten() {
            let bound = if mounts::is_bind(mount) { binds.pop_front() } else { None };
            mounts::mount(&root, mount, &of_host, bound).map_err(at(Step::Mount))?;
        }
        let wanted = linux.devices().as_deref().unwrap_or_default();
        devices::populate(&root, wanted, nodes).map_err(|(what, errno)| (Step::Devices, what, errno))?;
        let console = match &self.request.stdio {
            Stdio::Terminal { size } => {
                let console = devices::console(&root, *size, self.prepared.uid, true)
                    .map_err(|(what, errno)| (Step::Console, what, errno))?;
                self.report
                    .send(&Message::Console(console.master))
                    .map_err(failed(Step::Console, "pass the terminal on"))?;
                Some(console.slave)
            }
            Stdio::Pipes { .. } => None,
        };
        self.set_sysctls()?;
        self.create_hooks()?;
        self.hide_paths(&root)?;
        if spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
            mounts::read_only_root(&root).map_err(at(Step::Rootfs))?;
        }
        self.prepared.open_labels()?;
        if self.request.options.no_pivot {
            move_root(&root)?
        } else {
            pivot(&root)?
        }
        if let Some((kind, recursive)) = linux.rootfs_propagation().as_deref().and_then(mounts::propagation) {
            mounts::propagate_root(kind, recursive).map_err(at(Step::Rootfs))?;
        }
        Ok(console)
    }

    fn set_sysctls(&self) -> Result<(), Failure> {
        let Some(sysctls) = linux(self.request.spec).and_then(|linux| linux.sysctl().as_ref()) else {
            return Ok(());
        };
        if sysctls.is_empty() {
            return Ok(());
        }
        // Not the container's: something may lie in its place or over a part of it (CVE-2019-19921, CVE-2025-52881).
        let proc = mounts::own_proc().map_err(failed(Step::Sysctl, "mount a procfs"))?;
        for (name, value) in sysctls {
            let failed = failed(Step::Sysctl, &format!("set the kernel parameter {name} to {value:?}"));
            let path = mounts::sysctl_path(name).ok_or_else(|| failed(Errno::INVAL))?;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
            let file = rustix::fs::openat2(&proc, Path::new("sys").join(path), flags, Mode::empty(), resolve)
                .map_err(&failed)?;
            rustix::io::write(&file, value.as_bytes()).map_err(&failed)?;
        }
        Ok(())
    }

    fn hide_paths(&self, root: &Root) -> Result<(), Failure> {
        let Some(linux) = linux(self.request.spec) else { return Ok(()) };
        for path in linux.readonly_paths().iter().flatten() {
            mounts::read_only(root, Path::new(path)).map_err(at(Step::MaskedPaths))?;
        }
        let annotations = self.request.spec.annotations().as_ref();
        if annotations.and_then(|all| all.get(BOOT_ID)).is_some_and(|value| value == "new") {
            mounts::boot_id(root).map_err(at(Step::MaskedPaths))?;
        }
        let masked = linux.masked_paths().as_deref().unwrap_or_default();
        if masked.is_empty() {
            return Ok(());
        }
        let null = devices::open_null(root).map_err(|(what, errno)| (Step::MaskedPaths, what, errno))?;
        for path in masked {
            mounts::mask(root, Path::new(path), null.as_fd()).map_err(at(Step::MaskedPaths))?;
        }
        Ok(())
    }
}

/// As [`pivot`], where the host's root is the initial ramdisk, of which the kernel can't let go: it stays below, out of
/// reach.
fn move_root(root: &Root) -> Result<(), Failure> {
    let step = |what: &'static str| failed(Step::PivotRoot, what);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = rustix::fs::openat2(root.as_fd(), ".", flags, Mode::empty(), ResolveFlags::empty())
        .map_err(step("open the root"))?;
    rustix::process::fchdir(&inside).map_err(step("enter the root"))?;
    rustix::mount::mount_move(".", "/").map_err(step("move the root"))?;
    rustix::process::chroot(".").map_err(step("change the root"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))
}

/// Makes the container's root the root, and lets go of the host's.
fn pivot(root: &Root) -> Result<(), Failure> {
    let step = |what: &'static str| failed(Step::PivotRoot, what);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = rustix::fs::openat2(root.as_fd(), ".", flags, Mode::empty(), ResolveFlags::empty())
        .map_err(step("open the root"))?;
    rustix::process::fchdir(&inside).map_err(step("enter the root"))?;
    // The old root lands on top of the new one, and is taken off there: no directory is needed for it.
    rustix::process::pivot_root(".", ".").map_err(step("change the root"))?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)
        .map_err(step("let go of the host's root"))?;
    rustix::process::chdir("/").map_err(step("enter the root"))
}
