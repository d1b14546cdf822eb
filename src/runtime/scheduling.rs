//! How the kernel shares processors, disks and memory nodes out to a process: what the specification says of it.

use oci_spec::runtime::{
    ExecCPUAffinity, IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler,
};
use rustix::io::Errno;
use rustix::thread::CpuSet;

use super::process::Failure;
use super::syscall::{self, SchedulerAttributes};
use super::{RuntimeError, SpecError, Step};

/// As many as the kernel can be built for.
const NODES_MAX: usize = 1024;

/// Ready to be put into force.
#[derive(Debug, Default)]
pub(super) struct Scheduling {
    scheduler: Option<SchedulerAttributes>,
    /// Class and level as ioprio_set(2) takes them.
    io_priority: Option<i32>,
    /// Before and after the process has entered the container's cgroup; of processes that enter only.
    pub affinity: (Option<CpuSet>, Option<CpuSet>),
}

impl Scheduling {
    pub fn new(process: &Process) -> Result<Self, RuntimeError> {
        Ok(Self {
            scheduler: process.scheduler().as_ref().map(attributes),
            io_priority: process.io_priority().as_ref().map(io_priority).transpose()?,
            affinity: process.exec_cpu_affinity().as_ref().map(affinity).transpose()?.unwrap_or_default(),
        })
    }

    pub fn apply(&self, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        if let Some(attributes) = &self.scheduler {
            syscall::set_scheduler(attributes)
                .map_err(|errno| (Step::Process, format!("set the scheduler to {attributes:?}"), errno))?;
        }
        if let Some(priority) = self.io_priority {
            match syscall::set_io_priority(priority) {
                Err(Errno::NOSYS) => warn("this kernel has no priorities of input and output".to_owned()),
                other => other.map_err(|errno| {
                    (Step::Process, format!("set the I/O priority to {priority:#x}"), errno)
                })?,
            }
        }
        Ok(())
    }
}

/// Has this process run on these processors only.
pub(super) fn run_on(cpus: Option<&CpuSet>) -> Result<(), Failure> {
    let Some(cpus) = cpus else { return Ok(()) };
    rustix::thread::sched_setaffinity(None, cpus)
        .map_err(|errno| (Step::Process, "choose the processors".to_owned(), errno))
}

/// From which memory nodes a process takes its memory: mode with flags, and a bit for each node, as set_mempolicy(2) has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MemoryPolicy {
    mode: i32,
    nodes: Vec<u64>,
}

impl MemoryPolicy {
    pub fn new(policy: &LinuxMemoryPolicy) -> Result<Self, SpecError> {
        // Source: linux/mempolicy.h.
        let mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flag = |flag: &MemoryPolicyFlagType| match flag {
            MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
            MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
        };
        let flags = policy.flags().iter().flatten().fold(0, |flags, one| flags | flag(one));
        let list = policy.nodes().as_deref().unwrap_or_default();
        let invalid = || SpecError::Invalid {
            field: "linux.memoryPolicy.nodes",
            value: list.to_owned(),
            reason: "it is a list of memory nodes like 0-3,7",
        };
        let mut nodes = Vec::new();
        for (first, last) in ranges(list, NODES_MAX).ok_or_else(invalid)? {
            for node in first..=last {
                if nodes.len() <= node / 64 {
                    nodes.resize(node / 64 + 1, 0);
                }
                nodes[node / 64] |= 1 << (node % 64);
            }
        }
        Ok(Self { mode: mode | flags, nodes })
    }

    /// Of this process, and of those that it makes.
    pub fn apply(&self) -> Result<(), Failure> {
        let what =
            || "set the memory policy (linux.memoryPolicy), which wants nodes that this host has".to_owned();
        syscall::set_memory_policy(self.mode, &self.nodes).map_err(|errno| (Step::Process, what(), errno))
    }
}

fn attributes(scheduler: &Scheduler) -> SchedulerAttributes {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        // linux/sched.h reserves its number.
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    SchedulerAttributes {
        policy: policy.cast_unsigned(),
        flags: scheduler.flags().iter().flatten().fold(0, |flags, one| flags | flag(one)),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0).cast_unsigned(),
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..SchedulerAttributes::default()
    }
}

fn io_priority(priority: &LinuxIOPriority) -> Result<i32, SpecError> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match i32::try_from(priority.priority()) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(SpecError::Invalid {
            field: "process.ioPriority.priority",
            value: priority.priority().to_string(),
            reason: "it is 0 to 7",
        }),
    }
}

fn affinity(affinity: &ExecCPUAffinity) -> Result<(Option<CpuSet>, Option<CpuSet>), SpecError> {
    let read = |list: &Option<String>| list.as_deref().filter(|list| !list.is_empty()).map(cpus).transpose();
    Ok((read(affinity.initial())?, read(affinity.cpu_affinity_final())?))
}

/// `0-3,7`.
fn cpus(list: &str) -> Result<CpuSet, SpecError> {
    let invalid = || SpecError::Invalid {
        field: "process.execCPUAffinity",
        value: list.to_owned(),
        reason: "it is a list of processors like 0-3,7",
    };
    let mut set = CpuSet::new();
    for (first, last) in
        ranges(list, CpuSet::MAX_CPU).filter(|ranges| !ranges.is_empty()).ok_or_else(invalid)?
    {
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Ok(set)
}

/// `0-3,7`, of numbers below `end`.
fn ranges(list: &str, end: usize) -> Option<Vec<(usize, usize)>> {
    let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < end);
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first).zip(number(last)).filter(|(first, last)| first <= last)
    };
    if list.is_empty() { Some(Vec::new()) } else { list.split(',').map(range).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        let set = cpus("0-2,7").unwrap();
        assert_eq!((0..10).filter(|cpu| set.is_set(*cpu)).collect::<Vec<_>>(), [0, 1, 2, 7]);
        for wrong in ["", "3-1", "x", "99999", "-1", "1,,2"] {
            assert!(cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_memory_policy_is_a_mode_and_a_mask() {
        let policy = |json: serde_json::Value| MemoryPolicy::new(&serde_json::from_value(json).unwrap());
        let json =
            serde_json::json!({"mode": "MPOL_INTERLEAVE", "nodes": "0,65", "flags": ["MPOL_F_STATIC_NODES"]});
        assert_eq!(policy(json).unwrap(), MemoryPolicy { mode: 3 | 1 << 15, nodes: vec![1, 2] });
        let json = serde_json::json!({"mode": "MPOL_DEFAULT"});
        assert_eq!(policy(json).unwrap(), MemoryPolicy { mode: 0, nodes: Vec::new() });
        assert!(policy(serde_json::json!({"mode": "MPOL_BIND", "nodes": "0-"})).is_err());
    }
}
