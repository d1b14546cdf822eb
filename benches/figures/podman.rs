//! Their side: podman with a storage of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::figure::{Result, failed};
use crate::host::{Bench, run};

/// A podman whose images and containers are those of this measurement. Dropped, it takes them along.
#[derive(Debug)]
pub struct Podman {
    place: PathBuf,
    run_place: PathBuf,
}

/// What dormouse is asked for: a network namespace with nothing in it; and limits that this host can grant.
pub const RUN_OPTIONS: &[&str] =
    &["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

impl Podman {
    /// podman takes no run directory with a path of more than 50 characters.
    pub fn prepare(bench: &Bench, name: &str) -> Result<Self> {
        let name = format!("p-{name}");
        Ok(Self { place: bench.directory(&name)?, run_place: bench.run_directory(&name)? })
    }

    /// The program and its global options.
    pub fn words(&self) -> Vec<String> {
        let root = self.place.join("root").display().to_string();
        let run = |name: &str| self.run_place.join(name).display().to_string();
        let words =
            ["podman", "--log-level", "error", "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"];
        let mut words: Vec<String> = words.map(str::to_owned).into();
        words.extend(["--root".to_owned(), root, "--runroot".to_owned(), run("run")]);
        words.extend(["--tmpdir".to_owned(), run("tmp")]);
        words
    }

    pub fn command(&self) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// Makes an image from a tar archive of a root file system.
    pub fn import(&self, archive: &Path, image: &str) -> Result<()> {
        run(self.command().args(["import", "--quiet"]).arg(archive).arg(image)).map(drop)
    }

    /// `podman run --rm`, without what follows.
    pub fn run_and_remove(&self) -> Command {
        let mut command = self.command();
        command.args(["run", "--rm"]).args(RUN_OPTIONS);
        command
    }

    /// The same, on podman's default network.
    pub fn run_and_remove_on_network(&self) -> Command {
        let mut command = self.command();
        command.args(["run", "--rm", "--network", "bridge"]).args(&RUN_OPTIONS[2..]);
        command
    }

    /// Starts a container that goes on, and gives its id.
    pub fn run_detached(&self, image: &str, words: &[&str]) -> Result<String> {
        let said = run(self.command().args(["run", "--detach"]).args(RUN_OPTIONS).arg(image).args(words))?;
        Ok(said.trim().to_owned())
    }

    /// The process id of a container's conmon.
    pub fn monitor_of(&self, id: &str) -> Result<i32> {
        let said = run(self.command().args(["inspect", "--format", "{{.State.ConmonPid}}", id]))?;
        said.trim().parse().map_err(failed(format!("understand {said:?} of podman inspect")))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(failure) = run(self.command().args(["rm", "--all", "--force", "--time", "0"])) {
            eprintln!("figures: {failure}, ignoring");
        }
        // podman binds its storage onto itself, and a clean-up that conmon has started may do so once more.
        for _ in 0..50 {
            let _ = run(Command::new("umount").arg(self.place.join("root/overlay")));
            if std::fs::remove_dir_all(&self.place).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("figures: cannot remove {}, ignoring", self.place.display());
    }
}
