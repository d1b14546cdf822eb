//! An ordinary user whose service is looked at: with subordinate ids, and a cgroup of its own if a test wants that.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const NAME: &str = "dormouse-test";

/// The user.
pub struct TestUser {
    uid: u32,
    gid: u32,
    cgroups: Vec<PathBuf>,
}

impl TestUser {
    /// Makes the user if it is not there. `None`, said aloud, where that can't be.
    pub fn new() -> Option<Self> {
        if !["newuidmap", "setpriv"].iter().all(|program| is_installed(program)) {
            eprintln!("SKIPPED: newuidmap or setpriv is missing (apt install uidmap)");
            return None;
        }
        let find = || nix::unistd::User::from_name(NAME).unwrap();
        if find().is_none() {
            // Two tests may do it at once.
            let _ = Command::new("useradd")
                .args(["--system", "--add-subids-for-system", "--no-create-home", NAME])
                .output();
        }
        let user = find().expect("useradd has made it");
        let given = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
        assert!(
            given.lines().any(|line| line.starts_with(&format!("{NAME}:"))),
            "{NAME} has subordinate ids"
        );
        // As udev has it on every host; a machine without it has what the kernel made.
        if let Ok(tun) = std::fs::metadata("/dev/net/tun")
            && tun.permissions().mode() & 0o777 != 0o666
        {
            std::fs::set_permissions("/dev/net/tun", std::fs::Permissions::from_mode(0o666)).unwrap();
        }
        Some(Self { uid: user.uid.as_raw(), gid: user.gid.as_raw(), cgroups: Vec::new() })
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Gives the user a cgroup in every hierarchy, as a service manager would.
    pub fn delegate(&mut self) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("dormouse-user-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let root = Path::new("/sys/fs/cgroup");
        let mut hierarchies = vec![root.to_owned()];
        hierarchies.extend(entries(root).into_iter().filter(|path| path.join("cgroup.procs").exists()));
        for hierarchy in hierarchies.into_iter().filter(|path| path.join("cgroup.procs").exists()) {
            let cgroup = hierarchy.join(&name);
            std::fs::create_dir(&cgroup).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if cgroup.join("cgroup.clone_children").exists() && cgroup.join(file).exists() {
                    std::fs::write(cgroup.join(file), std::fs::read(hierarchy.join(file)).unwrap()).unwrap();
                }
            }
            for path in entries(&cgroup).into_iter().chain([cgroup.clone()]) {
                chown(path, Some(self.uid), Some(self.gid)).unwrap();
            }
            self.cgroups.push(cgroup);
        }
    }

    /// The cgroups of containers that are there.
    pub fn containers(&self) -> Vec<PathBuf> {
        let below =
            |cgroup: &PathBuf| entries(&cgroup.join("dormouse")).into_iter().filter(|path| path.is_dir());
        self.cgroups.iter().flat_map(below).collect()
    }

    /// Gives the user a directory, and a program to run in it.
    pub fn settle_in(&self, dir: &Path) {
        let program = dir.join("dormouse");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_dormouse"), &program).unwrap();
        }
        for path in [dir, &program] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            chown(path, Some(self.uid), Some(self.gid)).unwrap();
        }
    }

    /// The program, to be run by the user, in its cgroup.
    pub fn program(&self, dir: &Path) -> Command {
        self.program_named(dir.join("dormouse"), dir)
    }

    /// The same of another program.
    pub fn program_named(&self, program: impl AsRef<std::ffi::OsStr>, dir: &Path) -> Command {
        let mut command = Command::new("sh");
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        let enter: String = self
            .cgroups
            .iter()
            .map(|cgroup| format!("echo $$ > {}/cgroup.procs && ", cgroup.display()))
            .collect();
        command.args(["-c", &format!("{enter} exec \"$@\""), "sh"]);
        command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]).arg(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", dir).env("XDG_RUNTIME_DIR", dir.join("xdg")).current_dir("/");
        command
    }
}

impl Drop for TestUser {
    fn drop(&mut self) {
        for cgroup in &self.cgroups {
            for path in entries(&cgroup.join("dormouse")) {
                let _ = std::fs::remove_dir(path);
            }
            let _ = std::fs::remove_dir(cgroup.join("dormouse"));
            // Monitors are about to end.
            let deadline = Instant::now() + Duration::from_secs(5);
            while std::fs::remove_dir(cgroup).is_err() && cgroup.exists() {
                if Instant::now() > deadline {
                    eprintln!("{cgroup:?} is not empty");
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn is_installed(program: &str) -> bool {
    ["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
}
