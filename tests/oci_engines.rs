//! Other engines with this runtime: a day with podman, and with containerd.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod oci_support;
#[path = "common/user.rs"]
#[allow(dead_code)]
mod user;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use oci_support::{Bundle, Said, output, processes_of, wait_until};

fn is_missing(program: &str, package: &str) -> bool {
    let there =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("SKIPPED: {program} is missing (apt install {package})");
    }
    !there
}

/// The binary, under the name that makes it a runtime.
fn link(bundle: &Bundle) -> PathBuf {
    let link = bundle.path().join("dormouse-runtime");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dormouse"), &link).unwrap();
    link
}

/// A podman with a storage of its own, and our runtime. Dropped, it takes its containers along.
struct Podman {
    bundle: Bundle,
    runtime: PathBuf,
}

impl Podman {
    fn new() -> Option<Self> {
        if is_missing("podman", "podman") {
            return None;
        }
        let bundle = Bundle::new()?;
        let runtime = link(&bundle);
        let podman = Self { bundle, runtime };
        let tar = podman.bundle.path().join("image.tar");
        let packed =
            Command::new("tar").arg("-C").arg(podman.bundle.rootfs()).arg("-cf").arg(&tar).arg(".").status();
        assert!(packed.unwrap().success());
        podman.call(&["import", "--quiet", tar.to_str().unwrap(), "box"]).good();
        Some(podman)
    }

    fn call(&self, words: &[&str]) -> Said {
        output(self.command(words))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(["--log-level", "error", "--cgroup-manager", "cgroupfs", "--storage-driver", "overlay"]);
        // podman takes no run directory with a path of more than 50 characters.
        command
            .arg("--root")
            .arg(self.bundle.path().join("r"))
            .arg("--runroot")
            .arg(self.bundle.path().join("p"));
        command.arg("--runtime").arg(&self.runtime).args(words).stdin(Stdio::null());
        command
    }

    fn run(&self, options: &[&str], command: &[&str]) -> Said {
        let limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        self.call(&[&["run"], &limits[..], options, &["box"], command].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "--all", "--force", "--time", "0"]);
        let storage = self.bundle.path().join("r");
        // podman binds its storage onto itself, and a clean-up that conmon has started does so once more.
        for _ in 0..100 {
            if !processes_of(self.bundle.path().to_str().unwrap()).is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(100));
                continue;
            }
            let _ = Command::new("umount").arg(storage.join("overlay")).stderr(Stdio::null()).status();
            if std::fs::remove_dir_all(&storage).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

const UNTIL_STOPPED: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done";

#[test]
fn podman_runs_commands_and_gets_their_codes() {
    let Some(podman) = Podman::new() else { return };
    assert_eq!(podman.run(&["--rm"], &["echo", "hello"]).good(), "hello\n");
    assert_eq!(podman.run(&["--rm"], &["sh", "-c", "exit 7"]).code, 7);
    let missing = podman.run(&["--rm"], &["nonesuch"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    let said = podman.run(&["--rm", "--tty"], &["sh", "-c", "test -t 1 && echo terminal"]).good();
    assert_eq!(said, "terminal\r\n");
    let data = podman.bundle.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let volume = format!("{}:/data:ro", data.display());
    let options =
        ["--rm", "--volume", &volume, "--tmpfs", "/x", "--read-only", "--user", "1000", "--workdir", "/data"];
    let script = "pwd; id -u; touch /data/x 2>/dev/null || echo no; touch /x/y && ls /x; touch /z 2>/dev/null || echo no";
    assert_eq!(podman.run(&options, &["sh", "-c", script]).good(), "/data\n1000\nno\ny\nno\n");
}

#[test]
fn podman_looks_after_a_container_that_runs() {
    let Some(podman) = Podman::new() else { return };
    let limits = ["--detach", "--name", "day", "--memory", "64m", "--pids-limit", "50"];
    podman.run(&limits, &["sh", "-c", UNTIL_STOPPED]).good();
    wait_until("it is up", || podman.call(&["logs", "day"]).out.contains("up"));
    assert_eq!(podman.call(&["exec", "day", "sh", "-c", "echo inside; exit 3"]).code, 3);
    assert_eq!(podman.call(&["exec", "day", "nonesuch"]).code, 127);
    assert_eq!(
        podman.call(&["exec", "--tty", "day", "sh", "-c", "test -t 0 && echo terminal"]).good(),
        "terminal\r\n"
    );
    let stats = podman.call(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "day"]).good();
    assert!(stats.contains("67.11MB"), "{stats}");
    assert!(podman.call(&["top", "day"]).good().contains("sleep 1000"));
    podman.call(&["pause", "day"]).good();
    assert_eq!(podman.call(&["ps", "--all", "--format", "{{.Status}}"]).good(), "Paused\n");
    podman.call(&["unpause", "day"]).good();
    podman.call(&["update", "--memory", "32m", "day"]).good();
    let pid = podman.call(&["inspect", "--format", "{{.State.Pid}}", "day"]).good();
    assert_eq!(memory_limit(pid.trim()), (32 << 20).to_string());
    podman.call(&["restart", "day"]).good();
    podman.call(&["stop", "day"]).good();
    let exited = podman.call(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "day"]).good();
    assert_eq!(exited, "exited 0\n");
    podman.call(&["start", "day"]).good();
    podman.call(&["kill", "day"]).good();
    wait_until("it has ended", || podman.call(&["ps", "--quiet"]).good().is_empty());
    podman.call(&["rm", "day"]).good();
}

/// The memory limit of a process's cgroup, on any layout.
fn memory_limit(pid: &str) -> String {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = |marker: &str| table.lines().find_map(|line| Some(line.split_once(marker)?.1.to_owned()));
    let file = match path(":memory:") {
        Some(path) => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
        None => format!("/sys/fs/cgroup{}/memory.max", path("0::").unwrap()),
    };
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn podman_boots_a_systemd() {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/target/images/bookworm-systemd.tar");
    if !std::path::Path::new(image).exists() {
        eprintln!("SKIPPED: {image} is missing (cargo xtask images)");
        return;
    }
    let Some(podman) = Podman::new() else { return };
    podman.call(&["import", "--quiet", image, "machine"]).good();
    let limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let words = ["--detach", "--name", "vm", "--systemd", "always", "machine", "/sbin/init"];
    podman.call(&[&["run"], &limits[..], &words[..]].concat()).good();
    let state = || podman.call(&["exec", "vm", "systemctl", "is-system-running"]).out;
    wait_until("the systemd runs", || state() == "running\n");
    let script =
        "systemctl is-active systemd-journald; { echo 7 > /proc/sys/kernel/panic; } 2>/dev/null || echo no";
    assert_eq!(podman.call(&["exec", "vm", "sh", "-c", script]).good(), "active\nno\n");
    podman.call(&["stop", "--time", "50", "vm"]).good();
    assert_eq!(podman.call(&["inspect", "--format", "{{.State.ExitCode}}", "vm"]).good(), "0\n");
}

/// podman for an ordinary user, without any service: no cgroup is that user's here.
#[test]
fn podman_works_without_root() {
    let Some(user) = user::TestUser::new() else { return };
    if is_missing("podman", "podman") {
        return;
    }
    let Some(bundle) = Bundle::new() else { return };
    let home = bundle.path().join("home");
    std::fs::create_dir_all(home.join("xdg")).unwrap();
    let tar = home.join("image.tar");
    let packed = Command::new("tar").arg("-C").arg(bundle.rootfs()).arg("-cf").arg(&tar).arg(".").status();
    assert!(packed.unwrap().success());
    user.settle_in(&home);
    std::os::unix::fs::chown(home.join("xdg"), Some(user.uid()), None).unwrap();
    let runtime = home.join("dormouse-runtime");
    std::os::unix::fs::symlink("dormouse", &runtime).unwrap();
    let podman = |words: &[&str]| {
        let mut command = user.program_named("podman", &home);
        command.args(["--log-level", "error", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]);
        command.arg("--runtime").arg(&runtime).args(words).stdin(Stdio::null());
        output(command)
    };
    let run = |options: &[&str], command: &[&str]| {
        let limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        podman(&[&["run"], &limits[..], options, &["box"], command].concat())
    };
    podman(&["import", "--quiet", tar.to_str().unwrap(), "box"]).good();
    assert_eq!(run(&["--rm", "--user", "33"], &["sh", "-c", "id -u; echo x > /dev/null"]).good(), "33\n");
    assert_eq!(run(&["--rm"], &["sh", "-c", "exit 7"]).code, 7);
    run(
        &["--detach", "--name", "mine"],
        &["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 1000 & wait $!; done"],
    )
    .good();
    assert_eq!(podman(&["exec", "mine", "sh", "-c", "id -u; exit 4"]).code, 4);
    podman(&["stop", "mine"]).good();
    assert_eq!(podman(&["inspect", "--format", "{{.State.ExitCode}}", "mine"]).good(), "3\n");
    podman(&["rm", "mine"]).good();
    // The process that keeps podman's namespace, and files that belong to users of it.
    podman(&["system", "migrate"]).good();
    podman(&["unshare", "rm", "-rf", home.join(".local").to_str().unwrap()]).good();
}

/// What a payload tells goes through conmon, and the runtime leaves it alone.
#[test]
fn podman_passes_readiness_on() {
    let Some(podman) = Podman::new() else { return };
    let path = podman.bundle.path().join("manager");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(oci_support::PATIENCE)).unwrap();
    let limits = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let words = ["--detach", "--name", "told", "--sdnotify", "container", "box", "sh", "-c", UNTIL_STOPPED];
    let mut command = podman.command(&[&["run"], &limits[..], &words[..]].concat());
    command.env("NOTIFY_SOCKET", &path);
    output(command).good();
    let pid = podman.call(&["inspect", "--format", "{{.State.Pid}}", "told"]).good();
    let inside = format!("/proc/{}/root/run/notify/notify.sock", pid.trim());
    wait_until("the payload's socket is there", || std::path::Path::new(&inside).exists());
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", inside).unwrap();
    let mut buffer = [0; 1000];
    wait_until("it is ready", || {
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).contains("READY=1")
    });
}

#[test]
fn podman_puts_containers_of_a_pod_into_the_same_namespaces() {
    let Some(podman) = Podman::new() else { return };
    // The first process of a pod is an image of podman's own; here a container lends its namespaces instead.
    podman.run(&["--detach", "--name", "first", "--hostname", "shared"], &["sh", "-c", UNTIL_STOPPED]).good();
    let join = ["--rm", "--pid", "container:first", "--uts", "container:first", "--ipc", "container:first"];
    let said = podman.run(&join, &["sh", "-c", "hostname; ps | grep -c '[w]ait'"]).good();
    assert_eq!(said, "shared\n1\n");
}

/// A containerd of its own. Dropped, it ends.
struct Containerd {
    bundle: Bundle,
    runtime: PathBuf,
    service: Child,
}

impl Containerd {
    fn new() -> Option<Self> {
        if is_missing("containerd", "containerd") {
            return None;
        }
        let bundle = Bundle::new()?;
        let runtime = link(&bundle);
        let place = bundle.path().display();
        let disabled = [
            "grpc.v1.cri",
            "snapshotter.v1.btrfs",
            "snapshotter.v1.zfs",
            "snapshotter.v1.devmapper",
            "internal.v1.opt",
        ];
        let disabled = disabled.map(|name| format!("\"io.containerd.{name}\"")).join(", ");
        let config = format!(
            "version = 2\nroot = \"{place}/c\"\nstate = \"{place}/s\"\ndisabled_plugins = [{disabled}]\n[grpc]\naddress = \"{place}/sock\"\n"
        );
        let path = bundle.path().join("containerd.toml");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(bundle.path().join("containerd.log")).unwrap();
        let mut command = Command::new("containerd");
        command.arg("--config").arg(path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let containerd = Self { bundle, runtime, service: command.spawn().unwrap() };
        wait_until("containerd answers", || containerd.call(&["version"]).code == 0);
        Some(containerd)
    }

    fn call(&self, words: &[&str]) -> Said {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.bundle.path().join("sock")).args(words).stdin(Stdio::null());
        output(command)
    }

    fn run(&self, options: &[&str], id: &str, command: &[&str]) -> Said {
        let root = self.bundle.rootfs();
        let ours = ["--rootfs", "--runc-binary", self.runtime.to_str().unwrap()];
        self.call(&[&["run"], options, &ours, &[root.to_str().unwrap(), id], command].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.service.kill();
        let _ = self.service.wait();
    }
}

#[test]
fn containerd_runs_containers() {
    let Some(containerd) = Containerd::new() else { return };
    let name = |what: &str| format!("{}-{what}", containerd.bundle.id);
    let (first, second) = (name("one"), name("two"));
    assert_eq!(containerd.run(&["--rm"], &first, &["/bin/echo", "hello"]).good(), "hello\n");
    assert_eq!(containerd.run(&["--rm"], &first, &["/bin/sh", "-c", "exit 6"]).code, 6);
    containerd.run(&["--detach"], &second, &["/bin/sleep", "1000"]).good();
    let status = |wanted: &str| {
        let list = containerd.call(&["task", "ls"]).good();
        assert!(list.lines().any(|line| line.contains(&second) && line.contains(wanted)), "{list}");
    };
    status("RUNNING");
    let said = containerd.call(&["task", "exec", "--exec-id", "x", &second, "/bin/echo", "inside"]).good();
    assert_eq!(said, "inside\n");
    containerd.call(&["task", "pause", &second]).good();
    status("PAUSED");
    containerd.call(&["task", "resume", &second]).good();
    assert!(containerd.call(&["task", "metrics", &second]).good().contains("memory"));
    containerd.call(&["task", "kill", "--signal", "KILL", &second]).good();
    wait_until("the task has stopped", || {
        containerd
            .call(&["task", "ls"])
            .out
            .lines()
            .any(|line| line.contains(&second) && line.contains("STOPPED"))
    });
    let removed = containerd.call(&["task", "rm", &second]);
    assert!(removed.err.contains("137"), "it tells the code that the task ended with: {removed:?}");
    containerd.call(&["container", "rm", &second]).good();
}
