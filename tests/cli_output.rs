//! What people see: completions with live names, manual pages, exit codes, colours and tables at a terminal.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use common::Host;
use nix::pty::{Winsize, openpty};
use serde_json::json;

const DORMOUSE: &str = env!("CARGO_BIN_EXE_dormouse");

fn client(host: &Host) -> Command {
    let mut command = Command::new(DORMOUSE);
    command.env("DORMOUSE_ADDRESS", host.address()).env_remove("DORMOUSE_CONNECTION").stdin(Stdio::null());
    command
}

/// What bash offers for the last of these words, by the script that we print.
fn completed(host: &Host, words: &[&str]) -> Vec<String> {
    let script = "eval \"$(dormouse completions bash)\"\n\
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9\n\
        _clap_complete_dormouse dormouse \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD-1]}\"\n\
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let output = client(host)
        .env("PATH", path())
        .args(words)
        .get_envs()
        .fold(Command::new("bash"), |mut bash, (name, value)| {
            if let Some(value) = value {
                bash.env(name, value);
            }
            bash
        })
        .args(["-c", script, "bash"])
        .args(words)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

#[test]
fn bash_completes_commands_flags_and_names_that_exist_now() {
    let Some(host) = Host::new() else { return };
    assert!(completed(&host, &["dormouse", "sto"]).contains(&"stop".to_owned()));
    assert!(completed(&host, &["dormouse", "logs", "--fo"]).contains(&"--follow".to_owned()));
    host.sh("exit").named("web-one").create();
    host.sh("exit").named("web-two").create();
    host.sh("exit").named("db").create();
    let names = completed(&host, &["dormouse", "logs", "web-"]);
    assert_eq!(names, ["web-one", "web-two"]);
    assert_eq!(completed(&host, &["dormouse", "logs", "db", "web-o"]), ["web-one"]);
    assert_eq!(completed(&host, &["dormouse", "run", "busy"]), ["busybox"]);
    assert_eq!(completed(&host, &["dormouse", "exec", "-it", "d"]), ["db"]);
}

/// PATH with the client in front.
fn path() -> String {
    let directory = Path::new(DORMOUSE).parent().unwrap().display();
    format!("{directory}:{}", std::env::var("PATH").unwrap())
}

fn is_installed(shell: &str) -> bool {
    let there = Path::new("/usr/bin").join(shell).exists() || Path::new("/bin").join(shell).exists();
    if !there {
        eprintln!("SKIPPED: {shell} is not installed (cargo xtask install-dependencies)");
    }
    there
}

#[test]
fn fish_completes_names_that_exist_now_and_tells_what_they_are() {
    if !is_installed("fish") {
        return;
    }
    let Some(host) = Host::new() else { return };
    host.sh("exit").named("web-one").create();
    host.sh("exit").named("web-two").create();
    host.sh("exit").named("db").create();
    let completed = |line: &str| -> Vec<String> {
        let script = format!("dormouse completions fish | source; complete --do-complete '{line}'");
        let output = Command::new("fish")
            .args(["--no-config", "-c", &script])
            .env("DORMOUSE_ADDRESS", host.address())
            .env_remove("DORMOUSE_CONNECTION")
            .env("HOME", host.path())
            .env("PATH", path())
            .output()
            .unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    };
    assert_eq!(completed("dormouse logs web-"), ["web-one\tcreated, busybox", "web-two\tcreated, busybox"]);
    assert_eq!(completed("dormouse run busy"), ["busybox"]);
    assert!(completed("dormouse sto").iter().any(|line| line.starts_with("stop\t")));
    host.call("Container.Remove", json!({"name": "web-two"})).unwrap();
    assert_eq!(completed("dormouse logs web-"), ["web-one\tcreated, busybox"]);
}

#[test]
fn zsh_completes_names_that_exist_now_when_tab_is_pressed() {
    if !is_installed("zsh") {
        return;
    }
    let Some(host) = Host::new() else { return };
    host.sh("echo said by the one").named("web-one").run_until("exited");
    host.sh("exit").named("db").create();
    let size = Winsize { ws_row: 24, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = Command::new("zsh");
    command
        .args(["-f", "-i"])
        .env("DORMOUSE_ADDRESS", host.address())
        .env_remove("DORMOUSE_CONNECTION")
        .env("HOME", host.path())
        .env("PATH", path())
        .env("TERM", "dumb");
    let mut shell = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    drop(command);
    drop(pty.slave);
    let mut screen = std::fs::File::from(pty.master.try_clone().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = screen.read(&mut buffer) {
            if length == 0 || sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut keyboard = std::fs::File::from(pty.master);
    let mut shown = String::new();
    let mut until = |text: &str| {
        let deadline = std::time::Instant::now() + common::PATIENCE;
        while !shown.contains(text) {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let bytes = receiver.recv_timeout(left).unwrap_or_else(|_| panic!("no {text:?} in {shown:?}"));
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
        shown.clear();
    };
    let mut type_in = |keys: &str| keyboard.write_all(keys.as_bytes()).unwrap();
    type_in(
        "autoload -Uz compinit && compinit -u -D && source <(dormouse completions zsh); echo ready-$((1 + 1))\n",
    );
    until("ready-2");
    // The line that was completed is what is executed.
    type_in("dormouse logs web-\t\n");
    until("said by the one");
    type_in("exit\n");
    shell.wait().unwrap();
}

#[test]
fn a_service_that_is_not_there_completes_no_names_and_says_nothing() {
    let Some(host) = Host::new() else { return };
    let address = format!("unix:{}/nobody", host.path().display());
    let output = Command::new(DORMOUSE)
        .env("DORMOUSE_ADDRESS", address)
        .env("DORMOUSE_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2")
        .args(["--", "dormouse", "stop", ""])
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn there_are_scripts_for_the_usual_shells() {
    for (shell, word) in [("bash", "complete "), ("zsh", "compdef"), ("fish", "complete ")] {
        let output = Command::new(DORMOUSE).args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains(word) && script.contains("DORMOUSE_COMPLETE"), "{shell}: {script}");
        // Those that are installed here check it.
        if Path::new("/usr/bin").join(shell).exists() || Path::new("/bin").join(shell).exists() {
            let checked = Command::new(shell).args(["-n", "-c", &script]).status().unwrap();
            assert!(checked.success(), "{shell}");
        }
    }
    let output = Command::new(DORMOUSE).args(["completions", "tcsh"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("known are"), "{output:?}");
}

#[test]
fn every_command_has_a_manual_page_that_man_reads() {
    let directory = tempfile::tempdir().unwrap();
    let status = Command::new(DORMOUSE).arg("man").arg(directory.path()).status().unwrap();
    assert!(status.success());
    let page = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
    for name in ["dormouse.1", "dormouse-run.1", "dormouse-network-create.1", "dormouse-logs.1"] {
        assert!(page(name).contains(".SH SYNOPSIS"), "{name}");
    }
    assert!(page("dormouse.1").contains("Exit codes"), "they are documented");
    assert!(!directory.path().join("dormouse-man.1").exists(), "what is hidden has none");
    // A container need not have man; then nothing more can be checked.
    if Path::new("/usr/bin/man").exists() {
        let output = Command::new("man")
            .env("MAN_KEEP_FORMATTING", "")
            .args(["--warnings", "-l"])
            .arg(directory.path().join("dormouse-run.1"))
            .output()
            .unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
}

/// What a command writes to a terminal with so many columns.
fn at_a_terminal(mut command: Command, columns: u16) -> String {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).unwrap();
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    drop(command);
    drop(pty.slave);
    let mut text = Vec::new();
    // The end of a terminal whose last user has left is an error.
    let _ = std::fs::File::from(pty.master).read_to_end(&mut text);
    child.wait().unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn tables_fit_the_terminal_and_colours_are_for_terminals() {
    let Some(host) = Host::new() else { return };
    let long =
        "echo a long command that would not fit into the line of any terminal that is as narrow as this";
    host.sh(long).named("a-container-with-a-rather-long-name").run_until("exited");
    let ps = |arguments: &[&str]| {
        let mut command = client(&host);
        command.env_remove("NO_COLOR").env("TERM", "xterm").args(["ps", "--all"]).args(arguments);
        command
    };
    let shown = at_a_terminal(ps(&[]), 100);
    assert!(shown.contains("\x1b[1m") && shown.contains("\x1b[2mexited (0)"), "{shown:?}");
    let mut plain = ps(&[]);
    plain.env("NO_COLOR", "1");
    let shown = at_a_terminal(plain, 100);
    assert!(!shown.contains('\x1b'), "{shown:?}");
    for line in shown.lines() {
        assert!(line.trim_end().chars().count() <= 100, "{line:?}");
    }
    assert!(shown.contains('…'), "{shown:?}");
    let whole = at_a_terminal(ps(&["--no-trunc", "--color", "never"]), 100);
    assert!(whole.contains(long), "{whole:?}");
    let piped = ps(&[]).output().unwrap().stdout;
    let piped = String::from_utf8(piped).unwrap();
    assert!(!piped.contains('\x1b') && piped.contains("a-container-with-a-rather-long-name"), "{piped:?}");
}
