//! The client commands against another host: through a real ssh and a real sshd on loopback, with its own port, keys and
//! configuration, to a service that only `dormouse bridge` there reaches.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;
mod remote_support;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::{Host, Leaks, PATIENCE, wait_until};
use nix::pty::{Winsize, openpty};
use remote_support::Remote;
use serde_json::{Value, json};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_kind_of_command_works_on_another_host() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let leaks = Leaks::before(&host);
    assert!(there.out(&["version"]).contains(env!("CARGO_PKG_VERSION")));

    // In the foreground: the three streams, and the exit code.
    let script = "tr a-z A-Z; echo oops >&2; exit 7";
    let run = there.fed(&["run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", script], b"hello");
    assert_eq!(
        (run.status.code(), run.stdout.as_slice(), stderr(&run).as_str()),
        (Some(7), &b"HELLO"[..], "oops\n")
    );
    let missing = there.run(&["run", "--network", "none", "busybox", "missing"]);
    assert_eq!(missing.status.code(), Some(127), "{}", stderr(&missing));
    assert_eq!(there.out(&["ps", "--all", "--quiet"]), "", "what could not be started is removed again");

    there.out(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo begun; while :; do sleep 1000 & wait $!; done",
    ]);
    let listed: Value = serde_json::from_str(&there.out(&["ps", "--format", "json"])).unwrap();
    assert_eq!(listed[0]["name"], "web");
    assert!(there.out(&["inspect", "web"]).contains("\"upperDirectory\""));
    wait_until("it has begun", || there.out(&["logs", "web"]) == "begun\n");

    let exec = there.fed(&["exec", "-i", "web", "sh", "-c", "cat; exit 3"], b"typed");
    assert_eq!((exec.status.code(), exec.stdout.as_slice()), (Some(3), &b"typed"[..]));
    let exec = there.run(&["exec", "web", "missing"]);
    assert_eq!(exec.status.code(), Some(127), "{}", stderr(&exec));
    let terminal = there.out(&["exec", "-t", "web", "tty"]);
    assert_eq!(terminal, "/dev/pts/0\r\n");
    let id = there.out(&["exec", "-d", "web", "sleep", "1000"]);
    assert_eq!(there.out(&["execs", "web", "--quiet", "--no-trunc"]), id);
    there.out(&["execs", "web", "--kill", id.trim()]);

    // Files and archives.
    let file = there.directory.join("file");
    std::fs::write(&file, "content").unwrap();
    let back = there.directory.join("back");
    there.out(&["cp", file.to_str().unwrap(), "web:/tmp/copied"]);
    assert_eq!(there.out(&["exec", "web", "cat", "/tmp/copied"]), "content");
    there.out(&["cp", "web:/tmp/copied", back.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&back).unwrap(), "content");
    there.out(&["cp", "web:/tmp/copied", "web:/tmp/again"]);
    let refused = there.run(&["cp", file.to_str().unwrap(), "web:/nowhere/file"]);
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let exported = there.run(&["export", "web"]).stdout;
    let imported = there.fed(&["import", "-", "flat"], &exported);
    assert!(imported.status.success(), "{}", stderr(&imported));
    let saved = there.directory.join("saved.tar");
    there.out(&["save", "-o", saved.to_str().unwrap(), "flat"]);
    there.out(&["rmi", "flat"]);
    assert!(there.out(&["load", saved.to_str().unwrap()]).contains("flat"));
    assert_eq!(there.out(&["run", "--rm", "--network", "none", "flat", "cat", "/tmp/again"]), "content");
    there.out(&["rmi", "flat"]);
    let layout = there.directory.join("layout");
    let here = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address(), "save", "--format", "oci-dir", "-o"])
        .args([layout.as_os_str(), "busybox".as_ref()])
        .env_remove("DORMOUSE_CONNECTION")
        .status();
    assert!(here.unwrap().success());
    assert!(there.out(&["load", layout.to_str().unwrap(), "laid-out"]).contains("busybox"));
    there.out(&["untag", "laid-out"]);
    // A directory comes from there as an archive, and is the same as one that was made there.
    let carried = there.directory.join("carried");
    there.out(&["save", "--format", "oci-dir", "-o", carried.to_str().unwrap(), "busybox"]);
    let index = |directory: &Path| std::fs::read_to_string(directory.join("index.json")).unwrap();
    assert_eq!(index(&carried), index(&layout));
    assert!(there.out(&["load", carried.to_str().unwrap(), "carried"]).contains("busybox"));
    there.out(&["untag", "carried"]);
    for (image, to) in [("nothing", "nowhere"), ("busybox", "file/below"), ("busybox", "carried")] {
        let to = there.directory.join(to);
        let refused = there.run(&["save", "--format", "oci-dir", "-o", to.to_str().unwrap(), image]);
        assert_eq!(refused.status.code(), Some(1), "{to:?}: {}", stderr(&refused));
    }
    let mut names = std::fs::read_dir(&there.directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.any(|name| name.to_string_lossy().contains("unfinished")), "nothing half-made is left");

    there.out(&["stop", "web"]);
    there.out(&["rm", "--force", "web"]);
    leaks.assert_none_after();
}

#[test]
fn a_service_that_sleeps_on_another_host_is_woken_through_the_bridge() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let socket = there.directory.join("held");
    let own = |name: &str| there.directory.join(name);
    // As systemd does: it listens, and becomes the service at the first connection.
    let hold = || {
        let _ = std::fs::remove_file(&socket);
        let binary = env!("CARGO_BIN_EXE_dormouse");
        let mut command = Command::new("systemd-socket-activate");
        command.arg(format!("--listen={}", socket.display())).args(["--fdname=varlink", binary, "serve"]);
        command
            .args(["--idle-timeout", "200ms", "--state-dir"])
            .arg(own("state"))
            .arg("--run-dir")
            .arg(own("run"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("it listens", || socket.exists());
        child
    };
    if !Path::new("/usr/bin/systemd-socket-activate").exists() {
        eprintln!("SKIPPED: systemd-socket-activate is missing (apt install systemd)");
        return;
    }
    let address = format!("ssh://there{}", socket.display());
    for round in 0..2 {
        let mut held = hold();
        let name = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        assert_eq!(name(held.id()).trim(), "systemd-socket-", "it sleeps");
        let output = there
            .client()
            .env("DORMOUSE_CONNECTION", &address)
            .args(["volume", "create", &format!("made-{round}")])
            .output()
            .unwrap();
        assert_eq!(output.stdout, format!("made-{round}\n").as_bytes(), "{}", stderr(&output));
        // The bridge has left, so it goes to sleep.
        let mut ended = None;
        wait_until("the service has ended", || {
            ended = held.try_wait().unwrap();
            ended.is_some()
        });
        assert!(ended.unwrap().success(), "{ended:?}");
    }
    let mut held = hold();
    let output =
        there.client().env("DORMOUSE_CONNECTION", &address).args(["volume", "ls", "-q"]).output().unwrap();
    assert_eq!(output.stdout, b"made-0\nmade-1\n", "{}", stderr(&output));
    wait_until("the service has ended", || held.try_wait().unwrap().is_some());
}

#[test]
fn an_image_is_built_there_of_files_that_are_here() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let context = there.directory.join("context");
    std::fs::create_dir_all(context.join("sub")).unwrap();
    let file = "FROM busybox\nCOPY . /all\nRUN --mount=type=secret,id=t cp /run/secrets/t /token && chmod 4755 /all/sub/tool\n";
    for (name, text) in [
        ("Containerfile", file),
        (".containerignore", "left\n"),
        ("left", "out"),
        ("sub/tool", "run me"),
        ("t", "hush"),
    ] {
        std::fs::write(context.join(name), text).unwrap();
    }
    std::os::unix::fs::symlink("sub/tool", context.join("link")).unwrap();
    let path = context.to_str().unwrap();
    let secret = format!("id=t,src={path}/t");
    let build = ["build", "-t", "there", "--network", "none", "--secret", &secret, path];
    let built = there.run(&build);
    let steps = stderr(&built);
    assert!(built.status.success() && steps.contains("COPY . /all"), "{steps}");
    let again = there.run(&build);
    assert_eq!(again.stdout, built.stdout, "the tar of the same directory is the same");
    let run = ["run", "--rm", "--network", "none", "there", "sh", "-c"];
    let script = "cat /all/link /token; ls /all; stat -c %a /all/sub/tool";
    assert_eq!(
        there.out(&[&run[..], &[script]].concat()),
        "run mehushContainerfile\nlink\nsub\nt\n4755\n",
        "what the ignore file names has not been taken"
    );

    // By standard input, and what goes wrong there is told here.
    let text = b"FROM busybox\nRUN echo alone > /alone\n";
    let alone = there.fed(&["build", "-q", "-t", "alone", "--network", "none", "-"], text);
    assert!(alone.status.success(), "{}", stderr(&alone));
    let failed = there.fed(&["build", "--network", "none", "-"], b"FROM busybox\nRUN exit 3\n");
    assert!(!failed.status.success() && stderr(&failed).contains("RUN exit 3"), "{}", stderr(&failed));
    there.out(&["rmi", "there", "alone"]);
    assert_eq!(there.out(&["ps", "--all", "--quiet"]), "", "no step is left");
}

#[test]
fn a_key_can_open_the_service_and_nothing_else() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let key = std::fs::read_to_string(there.directory.join("user_key.pub")).unwrap();
    let line = format!("restrict,command=\"dormouse bridge --address {}\" {key}", host.address());
    std::fs::write(there.directory.join("authorized_keys"), line).unwrap();
    assert!(there.out(&["version"]).contains(env!("CARGO_PKG_VERSION")));
    // Whatever it is asked to execute, it is the service that answers, to any client of varlink.
    let made = there.directory.join("made");
    let mut ssh = Command::new("ssh")
        .arg("-F")
        .args([
            there.directory.join("config").as_os_str(),
            "there".as_ref(),
            "touch".as_ref(),
            made.as_os_str(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    stdin.write_all(b"{\"method\": \"io.dormouse.Manager.Version\"}\0").unwrap();
    let mut reply = Vec::new();
    let mut stdout = std::io::BufReader::new(ssh.stdout.take().unwrap());
    std::io::BufRead::read_until(&mut stdout, 0, &mut reply).unwrap();
    assert_eq!(reply.pop(), Some(0));
    let reply: Value = serde_json::from_slice(&reply).unwrap();
    assert_eq!(reply["parameters"]["version"], env!("CARGO_PKG_VERSION"));
    drop(stdin);
    ssh.wait().unwrap();
    assert!(!made.exists());
}

#[test]
fn a_log_is_followed_until_the_client_leaves_and_nothing_stays_there() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let leaks = Leaks::before(&host);
    let container =
        host.sh("trap 'exit 0' TERM; echo first; while :; do sleep 1000 & wait $!; done").named("web").run();
    let mut client = there.client().args(["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = client.stdout.take().unwrap();
    let mut first = [0; 6];
    output.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    // The hardest way to leave: nobody says anything to ssh.
    client.kill().unwrap();
    client.wait().unwrap();
    container.remove_by_force().unwrap();
    leaks.assert_none_after();
}

/// A command at a terminal of this test's.
struct Terminal {
    screen: std::fs::File,
    child: Child,
    seen: String,
}

impl Terminal {
    fn start(command: &mut Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let slave = || Stdio::from(pty.slave.try_clone().unwrap());
        // In a session whose terminal this is, as a login has it.
        let program = command.get_program().to_owned();
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(program).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        Self { screen: pty.master.into(), child, seen: String::new() }
    }

    fn until(&mut self, wanted: &str) -> &mut Self {
        let mut buffer = [0; 4096];
        while !self.seen.contains(wanted) {
            let mut wait = [rustix::event::PollFd::new(&self.screen, rustix::event::PollFlags::IN)];
            let patience = rustix::event::Timespec::try_from(PATIENCE).unwrap();
            let came = rustix::event::poll(&mut wait, Some(&patience)).unwrap();
            assert!(came > 0, "{wanted:?} has not come: {:?}", self.seen);
            match self.screen.read(&mut buffer) {
                Ok(length) if length > 0 => self.seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
                _ => panic!("{wanted:?} never came: {:?}", self.seen),
            }
        }
        self.seen = self.seen.split_once(wanted).unwrap().1.to_owned();
        self
    }

    fn types(&mut self, keys: &[u8]) -> &mut Self {
        self.screen.write_all(keys).unwrap();
        self
    }

    fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.screen, size).unwrap();
    }

    fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.screen).unwrap();
        !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    fn end(mut self) -> Option<i32> {
        // What is still written must not wait for a reader.
        let mut screen = self.screen.try_clone().unwrap();
        let reader = std::thread::spawn(move || drop(screen.read_to_end(&mut Vec::new())));
        let mut code = None;
        wait_until("the command ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        let code = code.unwrap().code();
        assert!(!self.is_raw(), "the terminal is as before");
        drop(self.screen);
        drop(reader);
        code
    }
}

/// A session at a terminal: sizes, keys, interrupts, detaching and coming back, the end.
fn check_a_terminal(client: impl Fn() -> Command) {
    let command = |arguments: &[&str]| {
        let mut command = client();
        command.args(arguments);
        command
    };
    let mut shell = Terminal::start(&mut command(&[
        "run",
        "-it",
        "--name",
        "shell",
        "--network",
        "none",
        "busybox",
        "sh",
    ]));
    shell.until("# ").types(b"stty size\r").until("24 80").until("# ");
    assert!(shell.is_raw());
    shell.resize(31, 97);
    // The new size is on its way; the shell is asked until it has come.
    shell
        .types(b"while test \"$(stty size)\" != '31 97'; do :; done; echo resi''zed\r")
        .until("resized")
        .until("# ");
    // Not before the shell has handed the terminal over: until then it edits lines.
    for last in [b"\x03", b"\x04"] {
        shell.types(b"echo copy''ing; cat\r").until("copying\r\n").types(b"some words\r");
        shell.until("some words\r\nsome words\r\n").types(last).until("# ");
    }
    shell.types(b"kept=value\r").until("# ").types(b"\x10\x11");
    assert_eq!(shell.end(), Some(0), "detached");

    let mut again = Terminal::start(&mut command(&["attach", "shell"]));
    again.types(b"echo is $kept\r").until("is value").until("# ").types(b"exit 5\r");
    assert_eq!(again.end(), Some(5));

    let mut other =
        Terminal::start(&mut command(&["start", "-a", "-i", "--detach-keys", "ctrl-a,x", "shell"]));
    other.until("# ").types(b"\x10\x11echo re''ached\r").until("reached").until("# ").types(b"\x01x");
    assert_eq!(other.end(), Some(0), "detached by other keys");

    let mut exec = Terminal::start(&mut command(&["exec", "-it", "shell", "sh"]));
    exec.until("# ").types(b"stty size; exit 6\r").until("24 80");
    assert_eq!(exec.end(), Some(6));
    let mut exec = Terminal::start(&mut command(&["exec", "-it", "shell", "sh"]));
    exec.until("# ").types(b"exec sleep 4321\r").types(b"\x10\x11");
    assert_eq!(exec.end(), Some(0), "detached");
    let listed: Value =
        serde_json::from_slice(&command(&["execs", "shell", "--format", "json"]).output().unwrap().stdout)
            .unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "it goes on: {listed}");

    // A signal from elsewhere is passed on, and ends a session in good order.
    let mut sleeper = Terminal::start(&mut command(&[
        "exec",
        "-t",
        "shell",
        "sh",
        "-c",
        "trap 'exit 9' INT; echo ready; while :; do sleep 1; done",
    ]));
    sleeper.until("ready").types(b"\x03").until("sent SIGINT");
    assert_eq!(sleeper.end(), Some(9));

    // A burst at the end of a slow screen: all of it comes.
    let mut burst = Terminal::start(&mut command(&[
        "run",
        "--rm",
        "-it",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "seq 200000; echo the e''nd",
    ]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    burst.until("199999\r\n200000\r\nthe end");
    assert_eq!(burst.end(), Some(0));
}

#[test]
fn a_terminal_feels_local_on_another_host() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    check_a_terminal(|| there.client());
}

#[test]
fn a_terminal_feels_local_here() {
    let Some(host) = Host::new() else { return };
    check_a_terminal(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
        command
            .env("DORMOUSE_ADDRESS", host.address())
            .env_remove("DORMOUSE_CONNECTION")
            .stdin(Stdio::null());
        command
    });
}

#[test]
fn an_interrupt_at_the_keyboard_reaches_the_container_and_not_the_ssh_between() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let script = "trap 'echo told; exit 4' INT; echo ready; while :; do sleep 1; done";
    let mut run = Terminal::start(there.client().args([
        "run",
        "--rm",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ]));
    run.until("ready").types(b"\x03").until("told");
    assert_eq!(run.end(), Some(4));
}

#[test]
fn what_does_not_lead_anywhere_says_why() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let check = |connection: &str, expected: &str| {
        let output = there.client().args(["--connection", connection, "ps"]).output().unwrap();
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(expected), "{connection}: {said}");
        said
    };
    let said = check("ssh://there/nowhere/sock", "cannot reach the service at unix:/nowhere/sock");
    assert!(said.contains("`dormouse bridge` on ssh://there/nowhere/sock has ended with 1"), "{said}");
    check("ssh://127.0.0.1:1", "there is no connection to ssh://127.0.0.1:1");
    check("ssh://-oProxyCommand=true", "the host is missing");
    check("elsewhere", "there is no connection \"elsewhere\"");
    let config = std::fs::read_to_string(there.directory.join("sshd_config")).unwrap();
    assert!(config.contains(&there.port.to_string()));
    // A shell there that finds no dormouse.
    let script = there.directory.join("no-dormouse");
    std::fs::write(&script, "#!/bin/sh\nexit 127\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = there.client().env("DORMOUSE_SSH", &script).args(["ps"]).output().unwrap();
    assert!(stderr(&output).contains("dormouse is not found on"), "{}", stderr(&output));
}

#[test]
fn connections_have_names() {
    let Some(host) = Host::new() else { return };
    let Some(there) = Remote::new(&host) else { return };
    let client = |arguments: &[&str]| {
        let output = there.client().env_remove("DORMOUSE_CONNECTION").args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output))
    };
    let address = there.address();
    assert!(client(&["connection", "add", "there", &address]).0);
    assert!(client(&["connection", "add", "here", "unix:/run/x"]).0);
    let (_, listed, _) = client(&["connection", "ls", "--format", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(
        listed,
        json!([{"name": "here", "address": "unix:/run/x"}, {"name": "there", "address": address}])
    );
    let (good, version, said) = client(&["--connection", "there", "version"]);
    assert!(good && version.contains(env!("CARGO_PKG_VERSION")), "{said}");
    assert!(!client(&["connection", "add", "a/b", "ssh://x"]).0);
    assert!(!client(&["connection", "add", "bad", "http://x"]).0);
    assert!(client(&["connection", "rm", "there", "here"]).0);
    assert!(!client(&["connection", "rm", "there"]).0);
    let lost = there.client().env("DORMOUSE_CONNECTION", "gone").args(["connection", "ls"]).output().unwrap();
    assert!(lost.status.success(), "a name that is gone keeps nobody from the list: {}", stderr(&lost));
}
