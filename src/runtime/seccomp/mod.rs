//! seccomp: from a profile to a filter.
//!
//! A profile comes from [`default_profile`], from a caller's JSON ([`profile_from_json`]), or from a specification; all
//! are [`LinuxSeccomp`]. [`compile`] makes the kernel's classic BPF of it.

mod agent;
mod bpf;
mod profile;
mod tables;

pub(super) use agent::Agent;
pub(super) use bpf::{Compiled, compile};
pub use profile::profile_from_json;

use oci_spec::runtime::{
    Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

/// A profile that cannot be read or compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The profile's JSON is not of the form that Docker and Podman share.
    #[error("the seccomp profile is not in the format of Docker and Podman")]
    Format {
        /// The parser's error.
        #[from]
        source: serde_json::Error,
    },
    /// An errno for an action that has none.
    #[error("the seccomp action {action} has no errno to return")]
    Errno {
        /// As the profile names it.
        action: String,
    },
    /// A condition on an argument that no system call has.
    #[error("a rule of the seccomp profile is about argument {index}, and system calls have 0 to 5")]
    NoArgument {
        /// As the profile counts it.
        index: usize,
    },
    /// A rule for no system call.
    #[error("a rule of the seccomp profile names no system call")]
    NoNames,
    /// The call by which the descriptor is handed on would wait for who waits for the descriptor.
    #[error("sendmsg can't be notified of: the runtime hands the filter's descriptor on by it")]
    NotifiedTooEarly,
    /// Notifications, and nobody to get them.
    #[error("the seccomp profile notifies, and linux.seccomp.listenerPath does not say whom")]
    NobodyToNotify,
    /// The filter does not fit.
    #[error("the seccomp profile is too large: {instructions} instructions, the kernel takes 4096")]
    TooLarge {
        /// How many it would take.
        instructions: usize,
    },
    /// This machine's calls are not known.
    #[error("seccomp filters are not supported on {architecture}; run the container unconfined")]
    Architecture {
        /// Of this machine.
        architecture: &'static str,
    },
}

/// EPERM and ENOSYS, which are the same numbers everywhere.
const EPERM: u32 = libc::EPERM.cast_unsigned();
const ENOSYS: u32 = libc::ENOSYS.cast_unsigned();
/// `AF_VSOCK`, `AF_NETLINK` and `NETLINK_AUDIT`.
const AF_VSOCK: u64 = 40;
const AF_NETLINK: u64 = 16;
const NETLINK_AUDIT: u64 = 9;

/// The machines whose calls are known here, as profiles name them.
pub fn architecture_names() -> Vec<String> {
    bpf::architectures().iter().map(ToString::to_string).collect()
}

/// The profile of a container that has `capabilities` and no profile of its own.
pub fn default_profile(capabilities: &[Capability]) -> LinuxSeccomp {
    let names: Vec<serde_json::Value> =
        capabilities.iter().filter_map(|have| serde_json::to_value(have).ok()).collect();
    let has = |wanted: &str| names.iter().any(|name| name.as_str() == Some(wanted));
    let allowed = |names: &[&str]| rule(names, LinuxSeccompAction::ScmpActAllow);
    let refused = |names: &[&str], errno: u32| {
        let mut rule = rule(names, LinuxSeccompAction::ScmpActErrno);
        rule.set_errno_ret(Some(errno));
        rule
    };
    let mut rules = vec![allowed(tables::ALLOWED), refused(tables::REFUSED, EPERM)];
    for (capability, names) in tables::WITH_CAPABILITY {
        rules.push(if has(capability) { allowed(names) } else { refused(names, EPERM) });
    }
    // Linux, Linux in 32 bit, and both with the old address layout; asking for the current one.
    for persona in [0u64, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(only_if(allowed(&["personality"]), &[(0, LinuxSeccompOperator::ScmpCmpEq, persona)]));
    }
    if !has("CAP_AUDIT_WRITE") {
        rules.push(only_if(
            refused(&["socket"], libc::EINVAL.cast_unsigned()),
            &[
                (0, LinuxSeccompOperator::ScmpCmpEq, AF_NETLINK),
                (2, LinuxSeccompOperator::ScmpCmpEq, NETLINK_AUDIT),
            ],
        ));
    }
    // Sockets to the host that other machines' sockets are (vsock) are not for containers.
    rules.push(only_if(allowed(&["socket"]), &[(0, LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK)]));
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(ENOSYS))
        .set_architectures(Some(bpf::architectures().to_vec()))
        .set_syscalls(Some(rules));
    profile
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(ToString::to_string).collect()).set_action(action);
    rule
}

/// A rule for calls whose arguments are so: the index of each, how it is compared, and with what.
fn only_if(mut rule: LinuxSyscall, conditions: &[(usize, LinuxSeccompOperator, u64)]) -> LinuxSyscall {
    let conditions = conditions.iter().map(|(index, operator, value)| {
        LinuxSeccompArgBuilder::default()
            .index(*index)
            .op(*operator)
            .value(*value)
            .build()
            .expect("what is not set has a default")
    });
    rule.set_args(Some(conditions.collect()));
    rule
}
