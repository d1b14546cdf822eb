//! What a service leaves behind: mounts, cgroups, processes, directories and rows, before and after.
//!
//! Tests run side by side, each with a host of its own, so only what belongs to one host is looked at: mounts and
//! processes that name its directory, and cgroups of containers that it has ever told of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Host;

/// What there was before.
#[derive(Debug)]
pub struct LeakCheck {
    before: BTreeSet<String>,
}

impl LeakCheck {
    pub fn before(host: &Host) -> Self {
        Self { before: traces(host) }
    }

    /// Fails unless all that is there now was there before, and the other way round. What goes away within seconds is
    /// waited for.
    #[track_caller]
    pub fn assert_same(&self, host: &Host) {
        let since = Instant::now();
        loop {
            let now = traces(host);
            if now == self.before {
                return;
            }
            let more: Vec<_> = now.difference(&self.before).collect();
            let less: Vec<_> = self.before.difference(&now).collect();
            assert!(since.elapsed() < Duration::from_secs(10), "left behind: {more:#?}\ngone: {less:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Everything of a host that can leak, a line each.
fn traces(host: &Host) -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let place = host.path().to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for mount in mounts.lines().filter(|mount| mount.contains(&place)) {
        traces.insert(format!("mount {mount}"));
    }
    for group in cgroups_of(host) {
        traces.insert(format!("cgroup {}", group.display()));
    }
    for pid in processes_of(host.path()) {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // The service itself is looked at from outside, whichever process it is.
        if Some(pid) != host.serve_pid() && !words.is_empty() {
            traces.insert(format!("process {pid} {words}"));
        }
    }
    for directory in [host.state_dir(), host.run_dir()] {
        files(&directory, &mut traces);
    }
    for (method, list) in [("Container.List", "containers"), ("Image.List", "images")] {
        let reply = host.must(method, json!({}));
        for row in reply[list].as_array().unwrap() {
            traces.insert(format!("row {list} {}", row["id"]));
        }
    }
    traces
}

/// Files and directories, without those that live as long as the service's state: the database, the log of events, locks.
fn files(directory: &Path, traces: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("dormouse.db") || name.starts_with("events.log") || name == "locks" {
            continue;
        }
        traces.insert(format!("file {}", entry.path().display()));
        // What is below a layer or a container belongs to it.
        let is_inner = directory
            .parent()
            .and_then(Path::file_name)
            .is_some_and(|name| name == "layers" || name == "upper");
        if !is_inner && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), traces);
        }
    }
}

/// The cgroups, in every hierarchy, of containers that the host has made.
fn cgroups_of(host: &Host) -> Vec<PathBuf> {
    let log = fs::read_to_string(host.run_dir().join("events.log")).unwrap_or_default();
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ids: BTreeSet<String> =
        events.filter_map(|event| event["id"].as_str().map(str::to_owned)).collect();
    let reply = host.must("Container.List", json!({}));
    ids.extend(
        reply["containers"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()),
    );
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if ids.iter().any(|id| name.contains(id.as_str())) {
                found.push(entry.path());
            } else {
                directories.push(entry.path());
            }
        }
    }
    found
}

/// The processes that name a directory in their command line: services, monitors, sessions.
pub fn processes_of(directory: &Path) -> Vec<i32> {
    let place = directory.to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let is_ours =
            fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(super::BINARY));
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        is_ours && String::from_utf8_lossy(&words).contains(&place)
    })
    .collect()
}
