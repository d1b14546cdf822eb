//! Their side: systemd-nspawn booting a directory.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::dormouse::terminate;
use crate::figure::{Result, failed, ms};

const MACHINE: &str = "dormouse-bench";

/// Boots a directory, whose content stays as it is, and gives the time from the start of systemd-nspawn until the systemd
/// inside has sent READY=1, in milliseconds. It is shut down again.
pub fn boot(tree: &Path, place: &Path) -> Result<f64> {
    let socket_path = place.join("notify");
    let _ = fs::remove_file(&socket_path);
    let socket = UnixDatagram::bind(&socket_path).map_err(failed("make a notify socket"))?;
    socket.set_read_timeout(Some(Duration::from_secs(60))).map_err(failed("prepare the notify socket"))?;
    let leftovers = Leftovers::expect();
    let since = Instant::now();
    let child = Command::new("systemd-nspawn")
        .args([
            "--quiet",
            "--boot",
            "--volatile=overlay",
            "--notify-ready=yes",
            "--private-network",
            "--link-journal=no",
        ])
        // Without a systemd as PID 1 of the host there is nobody to register with, and no unit to make.
        .args(["--register=no", "--keep-unit", "--console=pipe", "--machine", MACHINE, "--directory"])
        .arg(tree)
        .env("NOTIFY_SOCKET", &socket_path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed("start systemd-nspawn"))?;
    let mut machine = Machine(child);
    let mut message = [0; 4096];
    loop {
        let count =
            socket.recv(&mut message).map_err(failed("wait until systemd in systemd-nspawn is ready"))?;
        if message[..count].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            break;
        }
    }
    let took = ms(since.elapsed());
    // It sends SIGRTMIN+3 on, and ends when the machine has.
    terminate(&mut machine.0);
    drop(machine);
    drop(leftovers);
    Ok(took)
}

struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        terminate(&mut self.0);
    }
}

/// The cgroups that systemd-nspawn makes beside its own (`--keep-unit`), and leaves.
struct Leftovers(Vec<PathBuf>);

impl Leftovers {
    fn expect() -> Self {
        let hierarchies = ["", "unified", "systemd"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        let groups = hierarchies
            .iter()
            .flat_map(|hierarchy| ["payload", "supervisor"].map(|name| hierarchy.join(name)));
        Self(groups.filter(|group| !group.exists()).collect())
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for group in &self.0 {
            remove_groups(group);
        }
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
