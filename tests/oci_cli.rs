//! The OCI command line as its users use it.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod oci_support;

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_support::{Bundle, output, runtime, wait_until};
use serde_json::{Value, json};

#[test]
fn a_life_step_by_step() {
    let Some(bundle) =
        Bundle::sh("echo begun; trap 'echo told; exit 7' TERM; while :; do sleep 1000 & wait $!; done")
    else {
        return;
    };
    let pid_file = bundle.path().join("pid");
    bundle.create_with(&["--pid-file", pid_file.to_str().unwrap()]).good();
    assert_eq!(bundle.status(), "created");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), bundle.pid().to_string());
    assert_eq!(bundle.written(), "", "the program waits for the order");
    bundle.call(&["start"]).good();
    assert_eq!(bundle.status(), "running");
    wait_until("it has begun", || bundle.written() == "begun\n");
    output(bundle.command(&["kill", &bundle.id, "TERM"])).good();
    bundle.until("stopped");
    assert_eq!(bundle.written(), "begun\ntold\n");
    bundle.call(&["delete"]).good();
    bundle.assert_gone();
}

#[test]
fn run_passes_output_and_the_exit_code_on_and_leaves_nothing() {
    let Some(bundle) = Bundle::sh("echo out; echo err >&2; exit 42") else { return };
    let said = bundle.run();
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (42, "out\n", "err\n"));
    bundle.assert_gone();
    let Some(bundle) = Bundle::sh("kill -KILL $$") else { return };
    assert_eq!(
        bundle
            .at("/linux/namespaces/1", json!({"type": "uts"}))
            .at("/linux/namespaces/3", json!({"type": "time"}))
            .run()
            .code,
        137
    );
}

#[test]
fn run_passes_signals_on() {
    let Some(bundle) = Bundle::sh("trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait $!; done")
    else {
        return;
    };
    bundle.write();
    let mut run = bundle.command(&["run", "--bundle", bundle.dir().to_str().unwrap(), &bundle.id]);
    let mut run = run.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    run.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(run.id()).unwrap()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(9));
    bundle.assert_gone();
}

#[test]
fn run_detached_returns_while_the_container_runs() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.write();
    let mut run =
        bundle.command(&["run", "--detach", "--bundle", bundle.dir().to_str().unwrap(), &bundle.id]);
    assert!(run.stdout(Stdio::null()).status().unwrap().success());
    assert_eq!(bundle.status(), "running");
    let list: Value =
        serde_json::from_str(&output(bundle.command(&["list", "--format", "json"])).good()).unwrap();
    assert_eq!(list[0]["id"], bundle.id.as_str());
    assert_eq!(output(bundle.command(&["list", "--quiet"])).good(), format!("{}\n", bundle.id));
    assert!(output(bundle.command(&["list"])).good().contains("running"));
}

#[test]
fn more_processes_run_in_a_container() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    let said = bundle.exec("echo $0 $X; id -u; exit 5");
    assert_eq!((said.code, said.out.as_str()), (5, "sh\n0\n"));
    let words = ["exec", "--user", "7:8", "--cwd", "/tmp", "--env", "X=y", "--cap", "SYS_TIME", &bundle.id];
    let script = "id -u; id -g; pwd; echo $X; grep CapEff /proc/self/status";
    let said = output(bundle.command(&[&words[..], &["sh", "-c", script]].concat())).good();
    assert_eq!(
        said, "7\n8\n/tmp\ny\nCapEff:\t0000000000000000\n",
        "who is not root has what execve(2) leaves"
    );
    let capability = ["exec", "--cap", "CAP_SYS_TIME", &bundle.id, "grep", "CapEff", "/proc/self/status"];
    assert_eq!(
        output(bundle.command(&capability)).good(),
        format!("CapEff:\t{:016x}\n", 1u64 << 25 | 1 << 5)
    );
    let file = bundle.path().join("process.json");
    fs::write(
        &file,
        json!({"args": ["pwd"], "cwd": "/proc", "user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin"]})
            .to_string(),
    )
    .unwrap();
    let said = output(bundle.command(&["exec", "--process", file.to_str().unwrap(), &bundle.id]));
    assert_eq!(said.good(), "/proc\n");
}

#[test]
fn a_process_that_is_left_alone_has_its_pid_in_a_file() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    let pid_file = bundle.path().join("exec-pid");
    let words = ["exec", "--detach", "--pid-file", pid_file.to_str().unwrap(), &bundle.id, "sleep", "1000"];
    assert!(bundle.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    let pid = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "sleep\n");
    let pids: Vec<i32> =
        serde_json::from_str(&output(bundle.command(&["ps", "--format", "json", &bundle.id])).good())
            .unwrap();
    assert!(pids.contains(&pid.parse().unwrap()) && pids.contains(&bundle.pid()), "{pids:?}");
    let table = output(bundle.command(&["ps", &bundle.id])).good();
    assert!(table.lines().next().unwrap().contains("PID") && table.contains("sleep 1000"), "{table}");
}

#[test]
fn a_missing_program_is_told_at_once_and_leaves_nothing() {
    for verb in ["create", "run"] {
        let Some(bundle) = Bundle::new() else { return };
        let bundle = bundle.at("/process/args", json!(["/no/such/program"]));
        let said = if verb == "create" { bundle.create() } else { bundle.run() };
        assert!(said.refused().contains("no such file or directory"));
        bundle.assert_gone();
    }
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    assert!(
        output(bundle.command(&["exec", &bundle.id, "nonesuch"]))
            .refused()
            .contains("executable file not found")
    );
}

#[test]
fn paused_containers_stand_still() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    bundle.call(&["pause"]).good();
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.call(&["pause"]).refused().contains("it is paused"));
    assert!(bundle.exec("true").refused().contains("it is paused"));
    bundle.call(&["resume"]).good();
    assert_eq!(bundle.status(), "running");
    assert!(bundle.call(&["resume"]).refused().contains("not paused"));
    bundle.call(&["pause"]).good();
    bundle.call(&["delete", "--force"]).good();
    bundle.assert_gone();
}

#[test]
fn limits_are_changed_and_use_is_told() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    output(bundle.command(&["update", "--pids-limit", "55", &bundle.id])).good();
    assert_eq!(oci_support::cgroup_file(&bundle.id, "pids", "pids.max", "pids.max").unwrap(), "55");
    let file = bundle.path().join("resources.json");
    fs::write(&file, json!({"memory": {"limit": 64 << 20}, "cpu": {}, "pids": null}).to_string()).unwrap();
    output(bundle.command(&["update", "--resources", file.to_str().unwrap(), &bundle.id])).good();
    let limit = oci_support::cgroup_file(&bundle.id, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(limit.unwrap(), (64 << 20).to_string());
    let stats: Value =
        serde_json::from_str(&output(bundle.command(&["events", "--stats", &bundle.id])).good()).unwrap();
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!(bundle.id)));
    assert_eq!(stats["data"]["pids"]["limit"], 55);
    assert!(stats["data"]["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{stats}");
}

#[test]
fn errors_are_lines_of_json_for_engines() {
    let Some(bundle) = Bundle::new() else { return };
    let log = bundle.path().join("log.json");
    let mut command = runtime();
    command.args(["--root", bundle.state_root().to_str().unwrap(), "--log", log.to_str().unwrap()]);
    let said = output({
        command.args(["--log-format", "json", "start", "nobody"]);
        command
    });
    assert!(said.refused().contains("does not exist"));
    let line: Value =
        serde_json::from_str(fs::read_to_string(&log).unwrap().lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["msg"], "container \"nobody\" does not exist");
    assert!(line["time"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_terminal_is_handed_to_the_console_socket() {
    let Some(bundle) = Bundle::sh("stty size; tty; test -t 0 && test -t 1 && test -t 2 && echo terminal")
    else {
        return;
    };
    let bundle = bundle
        .at("/process/terminal", json!(true))
        .at("/process/consoleSize", json!({"height": 33, "width": 99}));
    assert!(bundle.create().refused().contains("--console-socket"));
    let socket = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    bundle.create_with(&["--console-socket", socket.to_str().unwrap()]).good();
    let master = receive(&listener);
    bundle.call(&["start"]).good();
    let mut text = Vec::new();
    // At its end a terminal gives an error.
    let _ = fs::File::from(master).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "33 99\r\n/dev/pts/0\r\nterminal\r\n");
    bundle.until("stopped");
}

#[test]
fn a_process_in_a_container_can_have_a_terminal_too() {
    let Some(bundle) = Bundle::sleeper() else { return };
    bundle.up();
    let socket = bundle.path().join("console.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let words = ["exec", "--tty", "--detach", "--console-socket", socket.to_str().unwrap(), &bundle.id];
    output(bundle.command(&[&words[..], &["sh", "-c", "test -t 1 && echo yes"]].concat())).good();
    let mut text = Vec::new();
    let _ = fs::File::from(receive(&listener)).read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "yes\r\n");
}

fn receive(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(&stream, &mut parts, &mut control, rustix::net::RecvFlags::CMSG_CLOEXEC).unwrap();
    let descriptors = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.expect("the terminal's master came along")
}

#[test]
fn descriptors_are_passed_only_when_told() {
    let Some(bundle) = Bundle::sh("ls /proc/self/fd; cat <&3") else { return };
    bundle.write();
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, b"passed on\n").unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    // A shell arranges the number, and lets go of what it was called by.
    let run = |preserve: &str| {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "exec 3<&0 </dev/null; exec \"$@\"",
            "sh",
            env!("CARGO_BIN_EXE_dormouse"),
            "runtime",
        ]);
        shell.args(["--root", bundle.state_root().to_str().unwrap(), "run", "--preserve-fds", preserve]);
        shell.args(["--bundle", bundle.dir().to_str().unwrap(), &bundle.id]).stdin(file.try_clone().unwrap());
        output_of(shell)
    };
    let passed = run("1");
    assert!(passed.contains("3\n") && passed.ends_with("passed on\n"), "{passed}");
    let kept = run("0");
    assert!(!kept.contains("passed on"), "{kept}");
    assert!(file.as_fd().as_raw_fd() > 2);
}

fn output_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_specification_is_written_to_begin_with() {
    let Some(bundle) = Bundle::new() else { return };
    let dir = bundle.path().join("new");
    fs::create_dir(&dir).unwrap();
    let write = || output(bundle.command(&["spec", "--bundle", dir.to_str().unwrap()]));
    write().good();
    assert!(write().refused().contains("File exists"));
    let mut config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["sh", "-c", "hostname; touch /x 2>/dev/null || echo read-only"]);
    config["root"]["path"] = json!(bundle.rootfs());
    let bundle = bundle.at("", config);
    assert_eq!(bundle.run().good(), "dormouse\nread-only\n");
}

#[test]
fn the_binary_is_a_runtime_by_its_name() {
    let Some(bundle) = Bundle::new() else { return };
    let link = bundle.path().join("dormouse-runtime");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dormouse"), &link).unwrap();
    let mut command = Command::new(&link);
    command.arg("--version");
    let said = output(command).good();
    assert!(said.starts_with("dormouse-runtime version ") && said.contains("\nspec: 1.2"), "{said}");
}

#[test]
fn what_was_begun_and_never_finished_is_removed_by_force() {
    let Some(bundle) = Bundle::sleeper() else { return };
    // As a `create` leaves it that was killed right after it made the directory.
    fs::create_dir_all(bundle.state_root().join(&bundle.id)).unwrap();
    assert!(bundle.call(&["state"]).refused().contains("does not exist"));
    assert!(bundle.create().refused().contains("exists already"));
    bundle.call(&["delete", "--force"]).good();
    bundle.up();
}

#[test]
fn a_create_that_is_killed_leaves_no_process() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "sleep 1000"]});
    let bundle = bundle.at("/hooks/createRuntime", json!([hook]));
    bundle.write();
    let mut create = bundle.command(&["create", "--bundle", bundle.dir().to_str().unwrap(), &bundle.id]);
    let mut create = create.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the container has a cgroup with a process", || {
        oci_support::cgroups_of(&bundle.id)
            .iter()
            .any(|cgroup| !fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().is_empty())
    });
    create.kill().unwrap();
    create.wait().unwrap();
    wait_until("its process has gone", || {
        oci_support::cgroups_of(&bundle.id)
            .iter()
            .all(|cgroup| fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default().is_empty())
    });
    bundle.call(&["delete", "--force"]).good();
    bundle.assert_gone();
}

/// A service manager's socket, and what it hears.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new(bundle: &Bundle) -> Self {
        let path = bundle.path().join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(oci_support::PATIENCE)).unwrap();
        Self { socket, path }
    }

    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn call(&self, bundle: &Bundle, words: &[&str]) -> Child {
        let mut command = bundle.command(words);
        command.env("NOTIFY_SOCKET", &self.path).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }
}

/// Says something as a payload would, from inside its root.
fn say(bundle: &Bundle, text: &str) {
    let socket = format!("/proc/{}/root/run/notify/notify.sock", bundle.pid());
    wait_until("the payload's socket is there", || fs::metadata(&socket).is_ok());
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), socket).unwrap();
}

#[test]
fn readiness_is_passed_on_to_the_service_manager() {
    let Some(bundle) =
        Bundle::sh("echo $NOTIFY_SOCKET; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
    else {
        return;
    };
    let manager = Manager::new(&bundle);
    bundle.write();
    let dir = bundle.dir();
    let mut run = manager.call(&bundle, &["run", "--bundle", dir.to_str().unwrap(), &bundle.id]);
    wait_until("it runs", || bundle.call(&["state"]).out.contains("\"running\""));
    say(&bundle, "MAINPID=1\nFDSTORE=1");
    say(&bundle, "STATUS=loading");
    assert_eq!(manager.hears(), "STATUS=loading\n");
    say(&bundle, "READY=1\nMAINPID=1");
    assert_eq!(manager.hears(), format!("READY=1\nMAINPID={}\n", bundle.pid()));
    say(&bundle, "WATCHDOG=1");
    assert_eq!(manager.hears(), "WATCHDOG=1\n");
    output(bundle.command(&["kill", &bundle.id, "TERM"])).good();
    assert!(run.wait().unwrap().success());
    bundle.assert_gone();
    // Step by step: the start waits, and only the readiness ends it.
    let mut create = manager.call(&bundle, &["create", "--bundle", dir.to_str().unwrap(), &bundle.id]);
    assert!(create.wait().unwrap().success());
    let mut start = manager.call(&bundle, &["start", &bundle.id]);
    wait_until("it runs", || bundle.status() == "running");
    say(&bundle, "STATUS=loading");
    assert_eq!(manager.hears(), "STATUS=loading\n");
    assert!(start.try_wait().unwrap().is_none(), "it waits");
    say(&bundle, "READY=1");
    assert!(start.wait().unwrap().success());
    assert_eq!(manager.hears(), format!("READY=1\nMAINPID={}\n", bundle.pid()));
    bundle.call(&["delete", "--force"]).good();
    bundle.assert_gone();
    // One that ends without a word does not hold its start.
    let Some(short) = Bundle::sh("test $NOTIFY_SOCKET = /run/notify/notify.sock") else { return };
    short.write();
    let dir = short.dir();
    let mut run = manager.call(&short, &["run", "--detach", "--bundle", dir.to_str().unwrap(), &short.id]);
    assert!(run.wait().unwrap().success());
    short.until("stopped");
    // An engine that has given it a socket is not interfered with.
    let Some(other) = Bundle::sh("test $NOTIFY_SOCKET = /engine && test ! -e /run/notify") else { return };
    let other = other.and("/process/env", json!("NOTIFY_SOCKET=/engine"));
    other.write();
    let dir = other.dir();
    let mut run = manager.call(&other, &["run", "--bundle", dir.to_str().unwrap(), &other.id]);
    assert!(run.wait().unwrap().success());
}

#[test]
fn of_a_flood_of_statuses_a_few_are_passed_on_and_the_last_one() {
    let Some(bundle) = Bundle::sh(
        "trap 'exit 0' TERM; ln -s $NOTIFY_SOCKET /dev/log; say() { logger \"x
$1\"; }; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); say STATUS=$i; [ $i != 1000 ] || say READY=1; done
say RELOADING=1; say READY=1; while :; do say STATUS=flood; done",
    ) else {
        return;
    };
    let manager = Manager::new(&bundle);
    bundle.write();
    let began = Instant::now();
    let dir = bundle.dir();
    let mut run = manager.call(&bundle, &["run", "--bundle", dir.to_str().unwrap(), &bundle.id]);
    let (mut states, mut statuses) = (Vec::new(), 0);
    loop {
        for line in manager.hears().lines() {
            match line.split_once('=') {
                Some(("STATUS", _)) => statuses += 1,
                Some(("MAINPID", _)) => {}
                _ => states.push(line.to_owned()),
            }
        }
        if states.len() == 3 {
            break;
        }
    }
    let took = began.elapsed();
    assert_eq!(states, ["READY=1", "RELOADING=1", "READY=1"]);
    assert!(statuses <= 4 * took.as_secs() + 5, "{statuses} in {took:?}");
    // It goes on, and who is to be stopped is.
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert!(run.wait().unwrap().success());
    bundle.assert_gone();
}

#[test]
fn cgroups_that_were_made_for_the_one_below_go_with_the_last_of_those() {
    struct Theirs(Vec<std::path::PathBuf>);
    impl Drop for Theirs {
        fn drop(&mut self) {
            for path in &self.0 {
                fs::remove_dir(path).unwrap();
            }
        }
    }
    let (Some(one), Some(two), Some(bad)) = (Bundle::sleeper(), Bundle::sleeper(), Bundle::sleeper()) else {
        return;
    };
    let top = format!("oci-test-parents-{}", std::process::id());
    let theirs =
        Theirs(oci_support::hierarchies().iter().map(|root| root.join(format!("{top}-theirs"))).collect());
    for path in &theirs.0 {
        fs::create_dir(path).unwrap();
        // A cpuset of v1 has nothing to begin with.
        for file in
            ["cpuset.cpus", "cpuset.mems"].map(|name| path.join(name)).iter().filter(|file| file.exists())
        {
            let above = path.parent().unwrap().join(file.file_name().unwrap());
            fs::write(file, fs::read(above).unwrap_or_default()).unwrap();
        }
    }
    let exists = |name: &str| oci_support::hierarchies().iter().any(|root| root.join(name).is_dir());
    let one = one.at("/linux/cgroupsPath", json!(format!("/{top}/deep/down/one")));
    let two = two.at("/linux/cgroupsPath", json!(format!("/{top}/deep/two")));
    one.up();
    two.up();
    one.call(&["delete", "--force"]).good();
    assert!(!exists(&format!("{top}/deep/down")));
    assert!(exists(&format!("{top}/deep/two")), "another one is below it still");
    two.call(&["delete", "--force"]).good();
    assert!(!exists(&top));

    let bad = bad
        .at("/linux/cgroupsPath", json!(format!("/{top}-theirs/ours/bad")))
        .at("/process/args", json!(["/none"]));
    bad.create().refused();
    assert!(!exists(&format!("{top}-theirs/ours")), "nothing is left of one that failed");
    let good = bad.at("/process/args", json!(["true"]));
    good.run().good();
    assert!(!exists(&format!("{top}-theirs/ours")));
    assert!(theirs.0.iter().all(|path| path.is_dir()), "what somebody else has made stays");
}
