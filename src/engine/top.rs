//! The processes in a container, as the kernel tells them. Names and arguments are the container's own words.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::time::{ClockId, clock_gettime};

use crate::image::Owners;
use crate::runtime::cgroup::Cgroup;

use super::passwd::{RootView, user_names};
use super::{Engine, EngineError, users};

/// Enough for any line of arguments that a person reads; a process may have megabytes of them.
const ARGUMENTS_MAX_BYTES: usize = 4 << 10;
/// For all processes together. A container may have thousands, and arguments of one letter each, which take thirty times as
/// much here; those that come too late are told without arguments.
const ALL_ARGUMENTS_MAX_BYTES: usize = 1 << 20;
/// The list of a process's groups may be long.
const STATUS_MAX_BYTES: usize = 1 << 20;

/// A process in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct Process {
    pub pid: i32,
    pub host_pid: i32,
    pub parent_pid: i32,
    pub user: Option<String>,
    pub uid: u32,
    pub gid: u32,
    pub state: char,
    pub threads: u32,
    pub nice: i32,
    pub cpu_usec: u64,
    pub started_usec: i64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub terminal: Option<String>,
    pub name: String,
    pub command: Vec<String>,
}

impl Engine {
    /// The processes of a running container, by their pids in it. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::WrongState`].
    pub fn top(&self, name: &str) -> Result<Vec<Process>, EngineError> {
        let container = self.find(name)?;
        let live = self.live(&container.row.id)?;
        let wrong = || EngineError::WrongState {
            attempted: "list the processes of",
            name: container.row.name.clone(),
            state: live.phase,
            wanted: "running",
        };
        if !live.phase.is_alive() {
            return Err(wrong());
        }
        let told = live.told.as_ref().ok_or_else(wrong)?;
        let init = told.init.ok_or_else(wrong)?;
        let failed = |reason: String| EngineError::Failed {
            attempted: format!("list the processes of {name:?}"),
            reason,
        };
        let cgroup = Cgroup::open(&told.cgroup).map_err(|error| failed(error.to_string()))?;
        let processes = || -> Result<Vec<i32>, EngineError> {
            if cgroup.is_none() {
                return Ok(in_pid_namespace_of(init.pid));
            }
            cgroup.processes().map_err(|error| failed(error.to_string()))
        };
        let pids = processes()?;
        // How deep the container's pid namespace is.
        let level = namespace_pids(&read_of(init.pid, "status")).len().saturating_sub(1);
        let mut left = ALL_ARGUMENTS_MAX_BYTES;
        let found: Vec<Found> = pids.into_iter().filter_map(|pid| Found::read(pid, &mut left)).collect();
        // A pid that was given to another process between the two is not among these, or is the container's again.
        let still: HashSet<i32> = processes()?.into_iter().collect();
        let users = user_names(&RootView::new(self, &container)?);
        let owners = users::owners(init.pid);
        let clock = Clock::now();
        let pids: HashMap<i32, i32> = found
            .iter()
            .map(|found| (found.host_pid, pid_at(&found.status, level, found.host_pid)))
            .collect();
        let mut processes: Vec<Process> = found
            .iter()
            .filter(|found| still.contains(&found.host_pid))
            .filter_map(|found| found.process(&pids, &users, &owners, &clock))
            .collect();
        processes.sort_by_key(|process| (process.pid, process.host_pid));
        Ok(processes)
    }
}

/// Where no cgroup tells who belongs to a container: all processes that see the same ones.
fn in_pid_namespace_of(leader: i32) -> Vec<i32> {
    let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let wanted = namespace(leader);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| wanted.is_some() && namespace(*pid) == wanted).collect()
}

/// The texts of a process, all of the same one.
struct Found {
    host_pid: i32,
    stat: String,
    status: String,
    arguments: Vec<u8>,
}

impl Found {
    /// `None` if it has gone. `left`: of the bytes of all arguments.
    fn read(host_pid: i32, left: &mut usize) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(format!("/proc/{host_pid}"), flags, Mode::empty()).ok()?;
        let text =
            |name: &str| String::from_utf8_lossy(&read_in(&directory, name, STATUS_MAX_BYTES)).into_owned();
        let is_wanted = |line: &&str| ["Uid:", "Gid:", "NSpid:"].iter().any(|key| line.starts_with(key));
        let status = text("status").lines().filter(is_wanted).collect::<Vec<_>>().join("\n");
        let stat = text("stat");
        let arguments = read_in(&directory, "cmdline", ARGUMENTS_MAX_BYTES.min(*left));
        *left -= arguments.len();
        (!stat.is_empty() && !status.is_empty()).then_some(Self { host_pid, stat, status, arguments })
    }

    fn process(
        &self,
        pids: &HashMap<i32, i32>,
        users: &HashMap<u32, String>,
        owners: &Owners,
        clock: &Clock,
    ) -> Option<Process> {
        // The name is in parentheses, and may have some itself; the fields after it are numbered from 3, proc(5).
        let (head, tail) = self.stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let number = |index: usize| field(index).parse::<u64>().unwrap_or(0);
        let id = |key: &str| {
            let line = self.status.lines().find_map(|line| line.strip_prefix(key))?;
            // Real, effective, saved, of the file system.
            line.split_whitespace().nth(1)?.parse::<u32>().ok()
        };
        let (uid, gid) = owners.inside(id("Uid:")?, id("Gid:")?);
        let parent = field(4).parse::<i32>().unwrap_or(0);
        let arguments = self.arguments.strip_suffix(&[0]).unwrap_or(&self.arguments);
        let command = if arguments.is_empty() {
            Vec::new()
        } else {
            arguments
                .split(|byte| *byte == 0)
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect()
        };
        Some(Process {
            pid: pids.get(&self.host_pid).copied()?,
            host_pid: self.host_pid,
            parent_pid: pids.get(&parent).copied().unwrap_or(0),
            user: users.get(&uid).cloned(),
            uid,
            gid,
            state: field(3).chars().next()?,
            threads: u32::try_from(number(20)).unwrap_or(u32::MAX),
            nice: field(19).parse().unwrap_or(0),
            cpu_usec: clock.usec(number(14).saturating_add(number(15))),
            started_usec: clock.boot_usec.saturating_add_unsigned(clock.usec(number(22))),
            resident_bytes: number(24).saturating_mul(rustix::param::page_size() as u64),
            virtual_bytes: number(23),
            terminal: terminal(number(7)),
            name,
            command,
        })
    }
}

/// How the kernel's ticks become times.
struct Clock {
    /// When the machine was booted, in microseconds of CLOCK_REALTIME.
    boot_usec: i64,
    ticks_per_second: u64,
}

impl Clock {
    fn now() -> Self {
        let usec = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000)
        };
        Self {
            boot_usec: usec(ClockId::Realtime).saturating_sub(usec(ClockId::Boottime)),
            ticks_per_second: rustix::param::clock_ticks_per_second().max(1),
        }
    }

    fn usec(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1_000_000 / self.ticks_per_second)
    }
}

/// From the number of a terminal's device, as proc(5) writes it; pseudo-terminals have the majors 136 to 143.
fn terminal(device: u64) -> Option<String> {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match (major, minor) {
        (0, 0) => None,
        (136..=143, _) => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        (4, 0..=63) => Some(format!("tty{minor}")),
        (4, _) => Some(format!("ttyS{}", minor - 64)),
        (5, 1) => Some("console".to_owned()),
        _ => Some(format!("{major}:{minor}")),
    }
}

/// The pids of a process in its pid namespace and those above it, outermost first.
fn namespace_pids(status: &str) -> Vec<i32> {
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    line.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn pid_at(status: &str, level: usize, host_pid: i32) -> i32 {
    namespace_pids(status).get(level).copied().unwrap_or(host_pid)
}

fn read_of(pid: i32, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// Empty if the process has gone.
fn read_in(directory: &OwnedFd, name: &str, bytes_max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        && File::from(file).take(bytes_max as u64).read_to_end(&mut bytes).is_err()
    {
        bytes.clear();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_calls_itself() {
        let found = Found {
            host_pid: 4711,
            stat: "4711 (a) R (b) S 4700 7 7 34819 7 4194560 1 0 0 0 150 50 0 0 20 -5 3 0 1000 8192 2 3"
                .into(),
            status: "Name:\tx\nNSpid:\t4711\t7\nUid:\t33\t34\t33\t33\nGid:\t5\t6\t5\t5\n".into(),
            arguments: b"sh\0-c\0\0\xff\0".to_vec(),
        };
        let clock = Clock { boot_usec: 0, ticks_per_second: 100 };
        let pids = HashMap::from([(4711, pid_at(&found.status, 1, 4711)), (4700, 1)]);
        let process =
            found.process(&pids, &HashMap::from([(34, "www".into())]), &Owners::default(), &clock).unwrap();
        assert_eq!((process.pid, process.host_pid, process.parent_pid), (7, 4711, 1));
        assert_eq!((process.name.as_str(), process.state), ("a) R (b", 'S'));
        assert_eq!((process.uid, process.gid, process.user.as_deref()), (34, 6, Some("www")));
        assert_eq!((process.cpu_usec, process.started_usec), (2_000_000, 10_000_000));
        assert_eq!((process.nice, process.threads, process.virtual_bytes), (-5, 3, 8192));
        assert_eq!(process.terminal.as_deref(), Some("pts/3"));
        assert_eq!(process.command, ["sh", "-c", "", "\u{fffd}"]);
    }

    #[test]
    fn terminals_have_their_usual_names() {
        for (device, name) in
            [(0, None), (0x8801, Some("pts/1")), (0x501, Some("console")), (0x401, Some("tty1"))]
        {
            assert_eq!(terminal(device).as_deref(), name);
        }
    }
}
