//! What can go wrong between a specification and a running process.

use std::fmt;
use std::io;

use super::cgroup::CgroupError;
use super::seccomp::SeccompError;
use super::spec::SpecError;

/// The steps of a start, as failures name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Checking the specification.
    Spec,
    /// Making the cgroup or setting its limits.
    Cgroup,
    /// Compiling or installing the seccomp filter.
    Seccomp,
    /// Making the process and its namespaces.
    Clone,
    /// Joining namespaces that exist already.
    Namespaces,
    /// Mapping users and groups.
    UserMapping,
    /// Mounting the root file system.
    Rootfs,
    /// Mounting something below the root.
    Mount,
    /// Making device nodes.
    Devices,
    /// Making the terminal.
    Console,
    /// Changing into the root file system.
    PivotRoot,
    /// Hiding paths, or making them read-only.
    MaskedPaths,
    /// Setting kernel parameters.
    Sysctl,
    /// Setting the host name or the domain name.
    Hostname,
    /// Bringing the network's loopback up.
    Network,
    /// Setting resource limits.
    Rlimits,
    /// Setting the out-of-memory score, the scheduler, the personality or the session keyring.
    Process,
    /// Changing into the working directory.
    WorkingDirectory,
    /// Changing user, groups or capabilities.
    Credentials,
    /// Arranging the descriptors.
    Descriptors,
    /// Running the program.
    Exec,
    /// Running a hook.
    Hooks,
}

impl Step {
    const ALL: [Self; 22] = [
        Self::Spec,
        Self::Cgroup,
        Self::Seccomp,
        Self::Clone,
        Self::Namespaces,
        Self::UserMapping,
        Self::Rootfs,
        Self::Mount,
        Self::Devices,
        Self::Console,
        Self::PivotRoot,
        Self::MaskedPaths,
        Self::Sysctl,
        Self::Hostname,
        Self::Network,
        Self::Rlimits,
        Self::Process,
        Self::WorkingDirectory,
        Self::Credentials,
        Self::Descriptors,
        Self::Exec,
        Self::Hooks,
    ];

    /// A short word for the step, as it is written to logs and sync pipes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Cgroup => "cgroup",
            Self::Seccomp => "seccomp",
            Self::Clone => "clone",
            Self::Namespaces => "namespaces",
            Self::UserMapping => "user-mapping",
            Self::Rootfs => "rootfs",
            Self::Mount => "mount",
            Self::Devices => "devices",
            Self::Console => "console",
            Self::PivotRoot => "pivot-root",
            Self::MaskedPaths => "masked-paths",
            Self::Sysctl => "sysctl",
            Self::Hostname => "hostname",
            Self::Network => "network",
            Self::Rlimits => "rlimits",
            Self::Process => "process",
            Self::WorkingDirectory => "working-directory",
            Self::Credentials => "credentials",
            Self::Descriptors => "descriptors",
            Self::Exec => "exec",
            Self::Hooks => "hooks",
        }
    }

    /// The step of a number that [`Step`] was cast to, `None` for any other.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == number)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A container, or a process in one, that did not come up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The specification asks for something impossible, unsafe or unknown.
    #[error("cannot run the specification")]
    Spec {
        /// What is wrong with it.
        #[from]
        source: SpecError,
    },
    /// The cgroup could not be made or limited.
    #[error("cannot prepare the cgroup")]
    Cgroup {
        /// Which file, and why.
        #[from]
        source: CgroupError,
    },
    /// The seccomp filter could not be compiled.
    #[error("cannot compile the seccomp filter")]
    Seccomp {
        /// Which rule, and why.
        #[from]
        source: SeccompError,
    },
    /// A system call of the calling process failed.
    #[error("cannot {what}")]
    Host {
        /// The step it belongs to.
        step: Step,
        /// What was attempted, on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The init process failed before it could run the program.
    #[error("cannot {what}: {}", io::Error::from_raw_os_error(*errno))]
    Init {
        /// The step that failed.
        step: Step,
        /// What was attempted, on what.
        what: String,
        /// The kernel's answer, as an errno.
        errno: i32,
    },
    /// The program does not exist in the container, nor does one of that name along its `PATH` (127 in shells).
    #[error("cannot run {program:?}: there is no such program in the container; check the command and PATH")]
    CommandNotFound {
        /// The first word of the command.
        program: String,
        /// `ENOENT` or `ENOTDIR`.
        errno: i32,
    },
    /// The program exists and cannot be executed (126 in shells).
    #[error("cannot run {program:?} in the container: {}", io::Error::from_raw_os_error(*errno))]
    CommandNotExecutable {
        /// The first word of the command.
        program: String,
        /// `EACCES`, `ENOEXEC`, …
        errno: i32,
    },
    /// The process ended without a word (killed from outside, or out of memory).
    #[error("the container's process died in the step {step} without saying why; it may have been killed")]
    Died {
        /// The last step that was known.
        step: Step,
    },
    /// A hook said no.
    #[error("{reason}")]
    Hook {
        /// Which one, and what it said.
        reason: String,
    },
    /// The container to enter is not the one that was meant, or has ended.
    #[error("cannot enter the container: its process {leader} has ended")]
    LeaderGone {
        /// The pid that was given.
        leader: i32,
    },
}

impl RuntimeError {
    /// A short word for the step that failed.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Spec { .. } => Step::Spec,
            Self::Cgroup { .. } => Step::Cgroup,
            Self::Seccomp { .. } => Step::Seccomp,
            Self::Host { step, .. } | Self::Init { step, .. } | Self::Died { step } => *step,
            Self::CommandNotFound { .. } | Self::CommandNotExecutable { .. } => Step::Exec,
            Self::Hook { .. } => Step::Hooks,
            Self::LeaderGone { .. } => Step::Namespaces,
        }
        .as_str()
    }

    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Cgroup { source } => source.errno(),
            Self::Host { source, .. } => source.raw_os_error(),
            Self::Init { errno, .. }
            | Self::CommandNotFound { errno, .. }
            | Self::CommandNotExecutable { errno, .. } => Some(*errno),
            Self::Spec { .. } | Self::Seccomp { .. } | Self::Died { .. } | Self::Hook { .. } => None,
            Self::LeaderGone { .. } => Some(libc::ESRCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_survives_the_way_through_the_pipe() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step as u8), Some(step));
        }
        assert_eq!(Step::from_number(200), None);
    }
}
