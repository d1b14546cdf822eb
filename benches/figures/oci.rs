//! The OCI command line beside crun and runc: the same bundles, the same words, taking turns.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::figure::{Figure, Limit, Result, Unit, failed, median, ms};
use crate::host::{Bench, check_interrupt, run};

/// How many at a time.
const CROWD: usize = 100;

/// A program with the OCI command line, and a bundle of its own.
struct Runtime {
    words: Vec<String>,
    bundle: PathBuf,
    state: PathBuf,
    name: &'static str,
    count: std::cell::Cell<u32>,
}

impl Runtime {
    fn new(bench: &Bench, name: &'static str, words: &[&str]) -> Result<Self> {
        let bundle = bench.directory(&format!("oci-{name}"))?;
        let sleeper = bundle.join("sleeper");
        std::fs::create_dir_all(&sleeper).map_err(failed(format!("make {}", sleeper.display())))?;
        let rootfs = bench.tree("busybox")?;
        write(&bundle, &rootfs, name, &["/bin/true"])?;
        write(&sleeper, &rootfs, name, &["/bin/sleep", "3600"])?;
        let state = bench.directory(&format!("oci-{name}-state"))?;
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Ok(Self { words, bundle, state, name, count: std::cell::Cell::new(0) })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg("--root").arg(&self.state).args(words).stdin(Stdio::null());
        command
    }

    fn id(&self) -> String {
        self.count.set(self.count.get() + 1);
        format!("bench-{}-{}-{}", self.name, std::process::id(), self.count.get())
    }

    fn bundle(&self) -> &str {
        self.bundle.to_str().unwrap_or_default()
    }

    fn run(&self) -> Result<f64> {
        let since = Instant::now();
        run(&mut self.command(&["run", "--bundle", self.bundle(), &self.id()]))?;
        Ok(ms(since.elapsed()))
    }

    /// create, start, the end, delete.
    fn steps(&self) -> Result<f64> {
        let id = self.id();
        let since = Instant::now();
        // The container keeps what it gets open, so it gets nothing.
        let mut create = self.command(&["create", "--bundle", self.bundle(), &id]);
        let created = create.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !created.map_err(failed("run create"))?.success() {
            return Err(failed(format!("create a container by {}", self.name))("it failed"));
        }
        run(&mut self.command(&["start", &id]))?;
        // By force: whether it has ended by itself already is the payload's matter.
        run(&mut self.command(&["delete", "--force", &id]))?;
        Ok(ms(since.elapsed()))
    }

    /// A container to run commands in.
    fn sleeper(&self) -> Result<String> {
        let id = self.id();
        let bundle = self.bundle.join("sleeper");
        let mut command =
            self.command(&["run", "--detach", "--bundle", bundle.to_str().unwrap_or_default(), &id]);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.map_err(failed("run a container"))?;
        Ok(id)
    }

    fn exec(&self, id: &str) -> Result<f64> {
        let since = Instant::now();
        run(&mut self.command(&["exec", id, "/bin/true"]))?;
        Ok(ms(since.elapsed()))
    }

    fn delete(&self, id: &str) {
        if let Err(failure) = run(&mut self.command(&["delete", "--force", id])) {
            eprintln!("figures: {failure}, ignoring");
        }
    }

    /// So many runs at once, each of all: from the first start to the last end.
    fn crowd(&self) -> Result<f64> {
        let ids: Vec<String> = (0..CROWD).map(|_| self.id()).collect();
        let since = Instant::now();
        let mut children = Vec::new();
        for id in &ids {
            let mut command = self.command(&["run", "--bundle", self.bundle(), id]);
            children.push(command.stdout(Stdio::null()).spawn().map_err(failed("run a container"))?);
        }
        for mut child in children {
            if !child.wait().map_err(failed("wait for a container"))?.success() {
                return Err(failed(format!("run {CROWD} containers at once by {}", self.name))("one failed"));
            }
        }
        Ok(ms(since.elapsed()))
    }
}

fn write(bundle: &Path, rootfs: &Path, name: &str, command: &[&str]) -> Result<()> {
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"];
    let config: Value = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": command, "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "noNewPrivileges": true,
        },
        "root": {"path": rootfs},
        "hostname": name,
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "resources": {"pids": {"limit": 2048}, "memory": {"limit": 1u64 << 30}},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "seccomp": dormouse::runtime::seccomp::default_profile(&[]),
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    });
    let path = bundle.join("config.json");
    std::fs::write(&path, config.to_string()).map_err(failed(format!("write {}", path.display())))
}

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let ours = Runtime::new(bench, "dormouse", &[env!("CARGO_BIN_EXE_dormouse"), "runtime"])?;
    let mut figures = Vec::new();
    for (program, limit) in [("crun", 1.0), ("runc", 1.0)] {
        let theirs = Runtime::new(bench, program, &[program])?;
        let mut figure = |name, what: String, against: String, (ours, theirs): (Vec<f64>, Vec<f64>)| {
            figures.push(Figure {
                name,
                what,
                against,
                unit: Unit::Milliseconds,
                ours: median(&ours),
                theirs: median(&theirs),
                limit: Limit::Ratio(limit),
                samples: (ours.len(), theirs.len()),
            });
        };
        let turns = bench.take_turns(50, || ours.run(), || theirs.run())?;
        figure("oci-run", "runtime run of /bin/true".to_owned(), format!("{program} run"), turns);
        let turns = bench.take_turns(50, || ours.steps(), || theirs.steps())?;
        figure("oci-steps", "runtime create, start, delete".to_owned(), program.to_owned(), turns);
        let (our_sleeper, their_sleeper) = (ours.sleeper()?, theirs.sleeper()?);
        let turns = bench.take_turns(50, || ours.exec(&our_sleeper), || theirs.exec(&their_sleeper));
        ours.delete(&our_sleeper);
        theirs.delete(&their_sleeper);
        figure("oci-exec", "runtime exec of /bin/true".to_owned(), format!("{program} exec"), turns?);
        check_interrupt()?;
        let turns = bench.take_turns(3, || ours.crowd(), || theirs.crowd())?;
        figure("oci-crowd", format!("{CROWD} runtime runs at once"), program.to_owned(), turns);
    }
    Ok(figures)
}
