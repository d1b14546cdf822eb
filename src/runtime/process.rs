//! The process of a specification, prepared before the clone, and its last steps before exec. Shared by the first process
//! of a container and by those that enter it later.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxSeccomp, PosixRlimitType, Process};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::labels::Labels;
use super::report::{Message, Report};
use super::scheduling::Scheduling;
use super::syscall::{self, StringArray};
use super::{RuntimeError, SpecError, Step, seccomp};

/// Everything about the process that can be known before it exists.
#[derive(Debug)]
pub(super) struct Prepared {
    pub program: String,
    pub uid: u32,
    arguments: StringArray,
    environment: StringArray,
    /// Where the program may be, in order.
    candidates: Vec<CString>,
    cwd: PathBuf,
    gid: u32,
    groups: Vec<u32>,
    umask: u32,
    bounding: u64,
    effective: u64,
    permitted: u64,
    inheritable: u64,
    ambient: u64,
    rlimits: Vec<(PosixRlimitType, Resource, Rlimit)>,
    pub oom_score_adjust: Option<i32>,
    no_new_privileges: bool,
    filter: Option<seccomp::Compiled>,
    pub scheduling: Scheduling,
    labels: Labels,
}

/// Where the arguments stop being ours: descriptors that the payload gets as 3, 4, ….
#[derive(Debug)]
pub(super) struct Descriptors {
    pub stdio: [OwnedFd; 3],
    pub preserved: Vec<OwnedFd>,
}

/// A failed step.
pub(super) type Failure = (Step, String, Errno);

impl Prepared {
    pub fn new(process: &Process, filter: Option<&LinuxSeccomp>) -> Result<Self, RuntimeError> {
        super::spec::check_process(process)?;
        let missing = |field| RuntimeError::Spec { source: SpecError::Missing { field } };
        let args = process
            .args()
            .as_deref()
            .filter(|args| !args.is_empty())
            .ok_or_else(|| missing("process.args"))?;
        let env = process.env().as_deref().unwrap_or_default();
        let strings = |strings: &[String], field| {
            strings
                .iter()
                .map(|string| CString::new(string.as_str()).map_err(|_| missing(field)))
                .collect::<Result<Vec<_>, _>>()
                .map(StringArray::new)
        };
        let program = args[0].clone();
        let path = env
            .iter()
            .find_map(|variable| variable.strip_prefix("PATH="))
            .unwrap_or("/usr/sbin:/usr/bin:/sbin:/bin");
        let candidates = candidates(&program, path);
        let capabilities = process.capabilities().as_ref();
        let mask = |set: Option<&Option<std::collections::HashSet<Capability>>>| {
            set.and_then(Option::as_ref)
                .map_or(0, |set| set.iter().fold(0, |mask, capability| mask | 1u64 << number(*capability)))
        };
        let user = process.user();
        let rlimits = process.rlimits().as_deref().unwrap_or_default();
        Ok(Self {
            program,
            uid: user.uid(),
            arguments: strings(args, "process.args without a NUL byte")?,
            environment: strings(env, "process.env without a NUL byte")?,
            candidates,
            cwd: process.cwd().clone(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022),
            bounding: mask(capabilities.map(|sets| sets.bounding())),
            effective: mask(capabilities.map(|sets| sets.effective())),
            permitted: mask(capabilities.map(|sets| sets.permitted())),
            inheritable: mask(capabilities.map(|sets| sets.inheritable())),
            ambient: mask(capabilities.map(|sets| sets.ambient())),
            rlimits: rlimits
                .iter()
                .map(|limit| {
                    let bound = |value: u64| (value != u64::MAX).then_some(value);
                    (
                        limit.typ(),
                        resource(limit.typ()),
                        Rlimit { current: bound(limit.soft()), maximum: bound(limit.hard()) },
                    )
                })
                .collect(),
            oom_score_adjust: process.oom_score_adj(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            filter: filter
                .map(seccomp::compile)
                .transpose()
                .map_err(|source| RuntimeError::Seccomp { source })?,
            scheduling: Scheduling::new(process)?,
            labels: Labels::new(process)?,
        })
    }

    /// Sets the limits. One that may not be raised is lowered to the hard limit that there is, with a warning.
    pub fn set_rlimits(&self, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        for (kind, resource, wanted) in &self.rlimits {
            match rustix::process::setrlimit(*resource, *wanted) {
                Ok(()) => {}
                Err(Errno::PERM) => {
                    let current = rustix::process::getrlimit(*resource);
                    let lesser = |limit: Option<u64>| match (limit, current.maximum) {
                        (Some(limit), Some(maximum)) => Some(limit.min(maximum)),
                        (limit, None) => limit,
                        (None, maximum) => maximum,
                    };
                    let lowered = Rlimit { current: lesser(wanted.current), maximum: lesser(wanted.maximum) };
                    rustix::process::setrlimit(*resource, lowered)
                        .map_err(|errno| (Step::Rlimits, format!("set {kind:?}"), errno))?;
                    let limit =
                        lowered.maximum.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
                    warn(format!("{kind:?} may not be raised on this host, lowered to {limit}"));
                }
                Err(errno) => return Err((Step::Rlimits, format!("set {kind:?}"), errno)),
            }
        }
        Ok(())
    }

    /// Opens the working directory, made if it is missing. Below the root by whatever path: no magic link, which could
    /// lead to a directory of the host through a descriptor (CVE-2024-21626), is followed.
    pub fn enter_cwd(&self) -> Result<(), Failure> {
        let failed =
            |errno| (Step::WorkingDirectory, format!("use {:?} as the working directory", self.cwd), errno);
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed)?;
        let relative = self.cwd.strip_prefix("/").map_err(|_| failed(Errno::INVAL))?;
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::openat2(
                &root,
                relative,
                flags,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        };
        let dir = match open() {
            Err(Errno::NOENT) => {
                super::root::Root::new(root.try_clone().map_err(|_| failed(Errno::MFILE))?)
                    .make_directories(&self.cwd)
                    .map_err(failed)?;
                open().map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        rustix::process::fchdir(&dir).map_err(failed)?;
        // The kernel says "(unreachable)" of what is outside this root.
        match rustix::process::getcwd(Vec::new()) {
            Ok(path) if path.to_bytes().starts_with(b"/") => Ok(()),
            Ok(_) => Err(failed(Errno::ACCESS)),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Puts the descriptors in their places; all others close at exec.
    pub fn place(&self, descriptors: Descriptors) -> Result<(), Failure> {
        let failed = |errno| (Step::Descriptors, "arrange the descriptors".to_owned(), errno);
        let all: Vec<OwnedFd> = descriptors.stdio.into_iter().chain(descriptors.preserved).collect();
        let count = i32::try_from(all.len()).map_err(|_| failed(Errno::MFILE))?;
        // First all above the places, so that none is overwritten before it is copied.
        let above: Vec<OwnedFd> = all
            .iter()
            .map(|fd| syscall::duplicate_above(fd.as_fd(), count + 64))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        // They are in the copies now; closing the originals first would free their numbers for nobody.
        std::mem::forget(all);
        for (target, fd) in above.iter().enumerate() {
            syscall::duplicate_onto(fd.as_raw_fd(), i32::try_from(target).unwrap_or(i32::MAX))
                .map_err(failed)?;
        }
        std::mem::forget(above);
        syscall::close_on_exec_from(u32::try_from(count).unwrap_or(u32::MAX)).map_err(failed)
    }

    /// Whether an agent decides about some system calls.
    pub fn notifies(&self) -> bool {
        let listens = |filter: &seccomp::Compiled| {
            u64::from(filter.flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0
        };
        self.filter.as_ref().is_some_and(listens)
    }

    /// Scheduler, priorities and processors, where the specification says anything of them.
    pub fn set_scheduling(&self, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        self.scheduling.apply(warn)
    }

    /// Opens what security modules are told a label through, as long as there is a procfs to trust.
    pub fn open_labels(&self) -> Result<(), Failure> {
        self.labels.open()
    }

    /// What must stay open for [`Self::drop_privileges`].
    pub fn descriptors(&self) -> Vec<i32> {
        self.labels.descriptors()
    }

    /// Makes sure that there is a program, without looking at more of it than whether it is a file that may be executed.
    pub fn look_for_program(&self) -> Result<(), Failure> {
        let mut worst = Errno::NOENT;
        for candidate in &self.candidates {
            match rustix::fs::stat(candidate.as_c_str()) {
                Ok(found) if found.st_mode & libc::S_IFMT == libc::S_IFREG && found.st_mode & 0o111 != 0 => {
                    return Ok(());
                }
                Ok(_) => worst = Errno::ACCESS,
                // Who runs it may see more, or less.
                Err(Errno::ACCESS) => return Ok(()),
                Err(_) => {}
            }
        }
        Err((Step::Exec, format!("run {:?}", self.program), worst))
    }

    /// User, capabilities, filter. Nothing privileged works any more after this.
    pub fn drop_privileges(&self, report: &Report) -> Result<(), Failure> {
        let failed = |what: &'static str| move |errno| (Step::Credentials, what.to_owned(), errno);
        rustix::process::umask(Mode::from_raw_mode(self.umask));
        // Without no_new_privs, installing a filter takes CAP_SYS_ADMIN, which goes next.
        self.labels.write()?;
        if !self.no_new_privileges {
            self.install_filter(report)?;
        }
        for capability in 0..64 {
            if self.bounding & (1 << capability) != 0 {
                continue;
            }
            match syscall::prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // Past the last one that the kernel knows.
                Err(Errno::INVAL) => break,
                result => result.map(drop).map_err(failed("drop capabilities from the bounding set"))?,
            }
        }
        syscall::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(failed("keep capabilities"))?;
        syscall::change_user(self.uid, self.gid, Some(&self.groups))
            .map_err(failed("change the user and groups"))?;
        syscall::prctl(libc::PR_SET_KEEPCAPS, 0, 0).map_err(failed("keep capabilities"))?;
        let granted = self.set_capabilities(report)?;
        for capability in (0..64).filter(|capability| self.ambient & granted & (1 << capability) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE.cast_unsigned();
            match syscall::prctl(libc::PR_CAP_AMBIENT, raise.into(), capability) {
                // One that is not permitted and inheritable too can't be granted, which is no reason to fail.
                Err(Errno::PERM) => {
                    let text = format!(
                        "capability {capability} can't be ambient: it is not permitted and inheritable"
                    );
                    let _ = report.send(&Message::Warning(text));
                }
                other => other.map(drop).map_err(failed("raise ambient capabilities"))?,
            }
        }
        if self.no_new_privileges {
            syscall::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map_err(failed("give up gaining privileges"))?;
            self.install_filter(report)?;
        }
        Ok(())
    }

    /// Sets what of the capabilities this host has to give, and gives those back.
    fn set_capabilities(&self, report: &Report) -> Result<u64, Failure> {
        let failed = |errno| (Step::Credentials, "set the capabilities".to_owned(), errno);
        match syscall::capset(self.effective, self.permitted, self.inheritable) {
            Ok(()) => return Ok(u64::MAX),
            Err(Errno::PERM) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let have = syscall::permitted_capabilities().map_err(failed)?;
        syscall::capset(self.effective & have, self.permitted & have, self.inheritable & have)
            .map_err(failed)?;
        let missing = (self.effective | self.permitted | self.inheritable) & !have;
        let text = format!("capabilities that are not there to be given are left out: mask {missing:#x}");
        let _ = report.send(&Message::Warning(text));
        Ok(have)
    }

    fn install_filter(&self, report: &Report) -> Result<(), Failure> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let failed = |what: &'static str| move |errno| (Step::Seccomp, what.to_owned(), errno);
        let listener = syscall::install_seccomp(&filter.program, filter.flags)
            .map_err(failed("install the seccomp filter"))?;
        match listener {
            Some(listener) => report
                .send(&Message::Notify(listener))
                .map_err(failed("pass the seccomp filter's notifications on")),
            None => Ok(()),
        }
    }

    /// Runs the program. Returns only to say why not: as a shell, a refusal counts more than not having found it.
    pub fn execute(&self) -> Failure {
        let mut worst = Errno::NOENT;
        for candidate in &self.candidates {
            match syscall::execve(candidate, &self.arguments, &self.environment) {
                Errno::NOENT | Errno::NOTDIR => {}
                errno => {
                    worst = errno;
                    if errno != Errno::ACCESS {
                        break;
                    }
                }
            }
        }
        (Step::Exec, format!("run {:?}", self.program), worst)
    }
}

fn candidates(program: &str, path: &str) -> Vec<CString> {
    let c_string = |path: &OsStr| CString::new(path.as_bytes()).ok();
    if program.contains('/') {
        return c_string(OsStr::new(program)).into_iter().collect();
    }
    path.split(':')
        .map(|dir| if dir.is_empty() { Path::new(".") } else { Path::new(dir) })
        .filter_map(|dir| c_string(dir.join(program).as_os_str()))
        .collect()
}

/// The names of all capabilities.
pub(super) fn capability_names() -> Vec<String> {
    let name = |capability: &Capability| serde_json::to_value(capability).ok()?.as_str().map(str::to_owned);
    ALL_CAPABILITIES.iter().filter_map(name).collect()
}

/// In the order of their numbers, `linux/capability.h`.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn number(capability: Capability) -> usize {
    let found = ALL_CAPABILITIES.iter().position(|one| *one == capability);
    found.expect("the list has each of them, as a test asserts")
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_its_number() {
        let names = capability_names();
        assert_eq!(names.len(), ALL_CAPABILITIES.len());
        assert_eq!((number(Capability::Chown), number(Capability::CheckpointRestore)), (0, 40));
        for name in names {
            let capability: Capability = serde_json::from_value(name.clone().into()).unwrap();
            assert_eq!(ALL_CAPABILITIES[number(capability)], capability, "{name}");
        }
    }
}
