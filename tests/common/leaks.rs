//! What must not stay behind: mounts, cgroups, processes, zombies, files, rows, descriptors of the service.
//!
//! Other hosts may live beside the one that is looked at (tests run side by side), so only what belongs to it counts:
//! what names its directory, and cgroups that belong to no monitor of another one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::Host;

/// What takes this long to go away is a leak: a sweep comes 200 ms after a wake.
const GRACE: Duration = Duration::from_secs(5);

/// What there was at one time.
pub struct Leaks<'a> {
    host: &'a Host,
    before: BTreeSet<String>,
    descriptors: (i32, Vec<String>),
}

impl<'a> Leaks<'a> {
    pub fn before(host: &'a Host) -> Self {
        Self { host, before: remains(host), descriptors: descriptors(host) }
    }

    /// What there was, to be compared with after a crash of the host.
    pub fn kept(&self) -> BTreeSet<String> {
        self.before.clone()
    }

    /// Compares with what there was at an earlier time.
    pub fn since(host: &'a Host, before: BTreeSet<String>) -> Self {
        Self { host, before, descriptors: descriptors(host) }
    }

    /// Asserts that there is nothing more now, or soon, than there was before.
    #[track_caller]
    pub fn assert_none_after(&self) {
        let deadline = Instant::now() + GRACE;
        let mut leaked: Option<BTreeSet<String>> = None;
        loop {
            let mut now: BTreeSet<String> = remains(self.host).difference(&self.before).cloned().collect();
            let (serve, open) = descriptors(self.host);
            if serve == self.descriptors.0 && open.len() > self.descriptors.1.len() {
                let more: Vec<_> =
                    open.iter().filter(|target| !self.descriptors.1.contains(target)).collect();
                now.insert(format!(
                    "{} descriptors of the service, of {more:?}",
                    open.len() - self.descriptors.1.len()
                ));
            }
            // What has been gone once and is back belongs to another test.
            let still = leaked.map_or(now.clone(), |leaked| leaked.intersection(&now).cloned().collect());
            if still.is_empty() {
                return;
            }
            let still_there =
                || still.iter().chain(&inhabitants(&still)).cloned().collect::<Vec<_>>().join("\n");
            assert!(Instant::now() < deadline, "left behind:\n{}", still_there());
            leaked = Some(still);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn remains(host: &Host) -> BTreeSet<String> {
    let mut remains = BTreeSet::new();
    let dir = host.path().to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    remains.extend(mounts.lines().filter(|line| line.contains(dir)).map(|line| format!("mount: {line}")));
    let foreign = foreign_ids(dir);
    let ours = |cgroup: &PathBuf| !foreign.contains(&name(cgroup));
    remains.extend(cgroups().filter(ours).map(|cgroup| format!("cgroup: {}", cgroup.display())));
    for (pid, command) in processes_of(dir) {
        if pid != host.serve_pid() {
            remains.insert(format!("process: {pid} {command}"));
        }
    }
    remains.extend(zombies_of(host.serve_pid()).into_iter().map(|pid| format!("zombie: {pid}")));
    for parent in [
        "state/containers",
        "state/volumes",
        "state/secrets",
        "state/layers",
        "state/records",
        "state/builds",
        "run/builds",
        "run/containers",
        "run/locks",
        "run/mounts",
    ] {
        remains.extend(entries(&host.path().join(parent)).map(|path| format!("file: {}", path.display())));
    }
    let containers = host.call("Container.List", json!({})).unwrap();
    for container in containers["containers"].as_array().unwrap() {
        remains.insert(format!("container: {}", container["name"]));
    }
    remains
}

/// The processes that keep a cgroup of these from going.
fn inhabitants(left: &BTreeSet<String>) -> Vec<String> {
    let cgroups = left.iter().filter_map(|line| line.strip_prefix("cgroup: "));
    let pids: BTreeSet<i32> = cgroups
        .filter_map(|cgroup| fs::read_to_string(Path::new(cgroup).join("cgroup.procs")).ok())
        .flat_map(|pids| pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    let told = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
        format!("there: {pid} {} {state}", command_line(*pid))
    };
    pids.iter().map(told).collect()
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// All cgroups of containers, in all hierarchies.
fn cgroups() -> impl Iterator<Item = PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::iter::once(root.to_owned()).chain(entries(root));
    let below: Vec<PathBuf> =
        hierarchies.flat_map(|hierarchy| entries(&hierarchy.join("dormouse"))).collect();
    below.into_iter().filter(|path| path.is_dir())
}

fn processes() -> impl Iterator<Item = i32> {
    entries(Path::new("/proc")).filter_map(|path| name(&path).parse().ok())
}

fn command_line(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).replace('\0', " ")
}

/// Processes of dormouse, of any build, that name this directory.
fn processes_of(dir: &str) -> Vec<(i32, String)> {
    let ours = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| name(&exe).contains("dormouse"))
    };
    let commands = processes().filter(ours).map(|pid| (pid, command_line(pid)));
    let environment = |pid: i32| {
        String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()).into_owned()
    };
    commands.filter(|(pid, command)| command.contains(dir) || environment(*pid).contains(dir)).collect()
}

/// The ids of containers that have a monitor or a directory elsewhere.
fn foreign_ids(dir: &str) -> BTreeSet<String> {
    let commands =
        processes().map(command_line).filter(|command| command.contains("monitor") && !command.contains(dir));
    let mut ids = BTreeSet::new();
    for command in commands {
        ids.extend(command.split(['/', ' ']).filter(|word| word.len() == 64).map(str::to_owned));
    }
    let hosts = entries(&std::env::temp_dir())
        .filter(|path| name(path).starts_with("dormouse-") && *path != Path::new(dir));
    ids.extend(hosts.flat_map(|host| entries(&host.join("run/containers"))).map(|path| name(&path)));
    ids
}

fn zombies_of(parent: i32) -> Vec<i32> {
    let is_zombie = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        fields.next() == Some("Z") && fields.next() == Some(&parent.to_string())
    };
    processes().filter(is_zombie).collect()
}

/// The service's process id, and what its descriptors are open on.
fn descriptors(host: &Host) -> (i32, Vec<String>) {
    // The call lets the service notice that the connections of earlier calls are gone.
    host.call("Manager.Version", json!({})).unwrap();
    let serve = host.serve_pid();
    let target = |fd: PathBuf| Some(fs::read_link(fd).ok()?.to_string_lossy().into_owned());
    (serve, entries(Path::new(&format!("/proc/{serve}/fd"))).filter_map(target).collect())
}

/// Kills whatever a failed test has left below a directory.
pub fn clear(dir: &Path) {
    let containers = dir.join("run/containers");
    let ids: Vec<String> = entries(&containers).map(|path| name(&path)).collect();
    for (pid, _) in processes_of(dir.to_str().unwrap()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for cgroup in cgroups().filter(|cgroup| ids.contains(&name(cgroup))) {
        let deadline = Instant::now() + GRACE;
        while fs::remove_dir(&cgroup).is_err() && cgroup.exists() && Instant::now() < deadline {
            let members = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            for pid in members.lines().filter_map(|line| line.parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
