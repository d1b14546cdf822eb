//! Bundles for the OCI command line, and the words to use them by.
//!
//! Each bundle has a busybox of its own as root file system, a state directory and an id that nobody else has. Dropped, it
//! deletes its container, and asserts that nothing is left of it.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]
// The lint's exception for tests does not reach helpers, and each test binary uses a part of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take before a test fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct Bundle {
    place: TempDir,
    pub id: String,
    pub config: Value,
}

/// What a call said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The standard output of a call that must have gone well.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The complaint of a call that must have failed.
    #[track_caller]
    pub fn refused(self) -> String {
        assert!(self.code != 0 && !self.err.is_empty(), "it should have failed: {self:?}");
        self.err
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Bundle {
    /// A bundle that runs a script in a shell. `None`, said aloud, where such a test can't run.
    pub fn sh(script: &str) -> Option<Self> {
        let mut bundle = Self::new()?;
        bundle.config["process"]["args"] = json!(["sh", "-c", script]);
        Some(bundle)
    }

    /// A bundle that runs until it is killed.
    pub fn sleeper() -> Option<Self> {
        Self::sh("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
    }

    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: containers with all their parts need root");
            return None;
        }
        if !Path::new("/bin/busybox").exists() {
            eprintln!("SKIPPED: /bin/busybox is missing (apt install busybox-static)");
            return None;
        }
        let place = tempfile::Builder::new().prefix("dormouse-oci-").tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let id = format!("oci-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        make_root(&place.path().join("bundle/rootfs"));
        Some(Self { place, config: default_config(), id })
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    pub fn dir(&self) -> PathBuf {
        self.path().join("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir().join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Changes the configuration, as in `at("/process/cwd", json!("/tmp"))`. What is on the way is made.
    pub fn at(mut self, pointer: &str, value: Value) -> Self {
        let mut place = &mut self.config;
        for part in pointer.split('/').skip(1) {
            place = match part.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => &mut place[part],
            };
        }
        *place = value;
        self
    }

    /// Puts one more thing into a list of the configuration.
    pub fn and(mut self, pointer: &str, value: Value) -> Self {
        if self.config.pointer(pointer).is_none() {
            self = self.at(pointer, json!([]));
        }
        self.config.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
        self
    }

    /// Takes a namespace out.
    pub fn without_namespace(mut self, kind: &str) -> Self {
        self.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != kind);
        self
    }

    pub fn write(&self) {
        fs::write(self.dir().join("config.json"), self.config.to_string()).unwrap();
    }

    /// `dormouse-runtime`, with its global options.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = runtime();
        command.arg("--root").arg(self.state_root()).args(words).stdin(Stdio::null());
        command
    }

    /// A call that gets the container's id at its end.
    pub fn call(&self, words: &[&str]) -> Said {
        let mut words = words.to_vec();
        words.push(&self.id);
        output(self.command(&words))
    }

    pub fn run(&self) -> Said {
        self.write();
        output(self.command(&["run", "--bundle", self.dir().to_str().unwrap(), &self.id]))
    }

    pub fn create(&self) -> Said {
        self.create_with(&[])
    }

    /// Its output goes to files: the container keeps it open.
    pub fn create_with(&self, options: &[&str]) -> Said {
        self.write();
        let out = self.path().join("out");
        let err = self.path().join("err");
        let mut command = self.command(&["create", "--bundle", self.dir().to_str().unwrap()]);
        command.args(options).arg(&self.id);
        command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
        let code = wait(command.spawn().unwrap()).unwrap_or(-1);
        Said { code, out: fs::read_to_string(out).unwrap(), err: fs::read_to_string(err).unwrap() }
    }

    /// Creates and starts it.
    #[track_caller]
    pub fn up(&self) {
        self.create().good();
        self.call(&["start"]).good();
    }

    /// What a container that was created has written so far.
    pub fn written(&self) -> String {
        fs::read_to_string(self.path().join("out")).unwrap_or_default()
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.call(&["state"]).good()).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().unwrap()).unwrap()
    }

    #[track_caller]
    pub fn until(&self, status: &str) {
        wait_until(&format!("the container is {status}"), || self.status() == status);
    }

    pub fn exec(&self, script: &str) -> Said {
        output(self.command(&["exec", &self.id, "sh", "-c", script]))
    }

    /// Asserts that there is nothing of the container, anywhere.
    #[track_caller]
    pub fn assert_gone(&self) {
        let left = || {
            let mut left = Vec::new();
            if fs::read_dir(self.state_root()).is_ok_and(|mut entries| entries.next().is_some()) {
                left.push("its state".to_owned());
            }
            left.extend(cgroups_of(&self.id).iter().map(|path| path.display().to_string()));
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let place = self.path().to_str().unwrap();
            left.extend(mounts.lines().filter(|line| line.contains(place)).map(str::to_owned));
            left.extend(processes_of(place));
            left
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !left().is_empty() {
            assert!(Instant::now() < deadline, "left behind: {:?}", left());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.call(&["delete", "--force"]);
        if !std::thread::panicking() {
            assert_eq!(deleted.code, 0, "{deleted:?}");
            self.assert_gone();
        }
    }
}

/// The program, by the name that makes it a runtime.
pub fn runtime() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    command.arg("runtime");
    command
}

pub fn output(mut command: Command) -> Said {
    let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (command.stdout.take().unwrap(), command.stderr.take().unwrap());
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let code = wait(command).unwrap_or(-1);
    Said { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

/// The exit code; 128 and the signal for a violent end. One that hangs is killed, and fails the test.
fn wait(mut child: Child) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().or_else(|| Some(128 + status.signal()?));
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("it hangs");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where the host's hierarchies of cgroups are.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    cgroups.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap())).collect()
}

/// The cgroups of a container, in all hierarchies.
pub fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let places = hierarchies.iter().flat_map(|root| [root.join("dormouse-runtime").join(id), root.join(id)]);
    places.filter(|path| path.is_dir()).collect()
}

/// The file of a cgroup's controller, wherever this host has it.
pub fn cgroup_file(id: &str, controller: &str, v1: &str, v2: &str) -> Option<String> {
    let root = Path::new("/sys/fs/cgroup");
    let below = Path::new("dormouse-runtime").join(id);
    let path = if root.join(controller).is_dir() {
        root.join(controller).join(below).join(v1)
    } else if root.join("cgroup.controllers").exists() {
        root.join(below).join(v2)
    } else {
        return None;
    };
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Processes of dormouse that name a place.
/// The processes whose command line names `place` and a runtime: runtimes, and engines with their monitors.
pub fn processes_of(place: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let lines = pids.filter_map(|pid| {
        let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
        (line.contains(place) && line.contains("runtime")).then(|| format!("{pid} {line}"))
    });
    lines.collect()
}

fn make_root(root: &Path) {
    for dir in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let tools = [
        "sh", "cat", "echo", "ls", "sleep", "true", "false", "id", "stat", "test", "mount", "umount", "grep",
        "ps", "hostname", "dd", "touch", "mkdir", "rm", "readlink", "kill", "env", "pwd", "head", "tail",
        "tr", "cut", "wc", "sed", "date", "mknod", "chmod", "ln", "mv", "ip", "nc", "sync", "sort", "tty",
        "stty", "find", "unshare", "setsid", "printf", "seq", "taskset", "uname", "dmesg", "cp", "xargs",
        "awk", "od", "nice",
    ];
    for tool in tools {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
}

fn default_config() -> Value {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
        },
        "root": {"path": "rootfs"},
        "hostname": "of-the-test",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {"namespaces": [
            {"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}, {"type": "cgroup"},
        ]},
    })
}
