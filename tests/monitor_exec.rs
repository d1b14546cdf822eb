//! One more process in a running container, through the role `exec-session`.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod monitor_support;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use monitor_support::*;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::json;

struct Session {
    process: Child,
    results: OwnedFd,
}

#[derive(Debug)]
enum Packet {
    Terminal(OwnedFd),
    Running(i32),
    Exited(i32),
    Failed(String),
    End,
}

/// Executes a command in the container.
fn exec(container: &Running, args: &[&str], terminal: bool, stdio: [OwnedFd; 3]) -> Session {
    let init = container.init();
    let request = json!({
        "leader": init.pid,
        "leader_start_time": init.start_time,
        "cgroup": container.config.cgroup,
        "process": {
            "terminal": terminal,
            "consoleSize": {"height": 40, "width": 100},
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/"
        }
    });
    exec_request(&request, stdio)
}

fn exec_request(request: &serde_json::Value, [stdin, stdout, stderr]: [OwnedFd; 3]) -> Session {
    let (request_reader, mut request_writer) = std::io::pipe().unwrap();
    request_writer.write_all(request.to_string().as_bytes()).unwrap();
    drop(request_writer);
    let (results, theirs) = sync_sockets();
    send_packet(&results, b"Q", &[request_reader.into(), stdin, stdout, stderr]);
    let process =
        Command::new(env!("CARGO_BIN_EXE_dormouse")).arg("exec-session").stdin(theirs).spawn().unwrap();
    Session { process, results }
}

impl Session {
    fn next(&self) -> Packet {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = [0; 2000];
        let received = rustix::net::recvmsg(
            &self.results,
            &mut [std::io::IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let number = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().unwrap());
        match &buffer[..received.bytes] {
            [] => Packet::End,
            b"T" => Packet::Terminal(fd.unwrap()),
            [b'P', pid @ ..] => Packet::Running(number(pid)),
            [b'X', code @ ..] => Packet::Exited(number(code)),
            [b'E', text @ ..] => Packet::Failed(String::from_utf8(text.to_vec()).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn running(&self) -> i32 {
        match self.next() {
            Packet::Running(pid) => pid,
            other => panic!("{other:?}"),
        }
    }

    fn exited(mut self) -> i32 {
        let code = match self.next() {
            Packet::Exited(code) => code,
            other => panic!("{other:?}"),
        };
        assert!(matches!(self.next(), Packet::End));
        self.process.wait().unwrap();
        code
    }
}

/// The role calls this project's own runtime, also in a container that another one has made.
fn container() -> Running {
    shell("sleep 1000").start()
}

#[test]
fn an_executed_process_has_the_clients_own_streams_and_its_code_comes_back() {
    if !can_run() {
        return;
    }
    let container = container();
    let (stdin, mut input) = std::io::pipe().unwrap();
    let (mut output, stdout) = pipe();
    let (mut errors, stderr) = pipe();
    let session = exec(
        &container,
        &["/bin/sh", "-c", "cat; echo err >&2; exit 33"],
        false,
        [stdin.into(), stdout, stderr],
    );
    let pid = session.running();
    let mount_namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    assert_eq!(mount_namespace(pid), mount_namespace(container.init().pid));
    input.write_all(b"through").unwrap();
    drop(input);
    // The end comes with the process: neither the session nor a stranger holds the streams.
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through");
    text.clear();
    errors.read_to_string(&mut text).unwrap();
    assert_eq!(text, "err\n");
    assert_eq!(session.exited(), 33);
}

#[test]
fn a_signal_is_128_and_its_number() {
    if !can_run() {
        return;
    }
    let container = container();
    let session = exec(&container, &["/bin/sleep", "1000"], false, [null(), null(), null()]);
    kill(session.running(), libc::SIGRTMIN() + 1);
    assert_eq!(session.exited(), 128 + libc::SIGRTMIN() + 1);
}

#[test]
fn a_terminals_master_is_handed_to_the_client() {
    if !can_run() {
        return;
    }
    let container = container();
    let script = "stty size; read line; echo got $line; stty size";
    let session = exec(&container, &["/bin/sh", "-c", script], true, [null(), null(), null()]);
    let Packet::Terminal(master) = session.next() else { panic!("no terminal") };
    session.running();
    let mut master = File::from(master);
    let mut text = Vec::new();
    let mut buffer = [0; 100];
    while !text.ends_with(b"40 100\r\n") {
        let length = master.read(&mut buffer).unwrap();
        text.extend_from_slice(&buffer[..length]);
    }
    let size = rustix::termios::Winsize { ws_row: 41, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).unwrap();
    master.write_all(b"hello\n").unwrap();
    text.clear();
    // At the end, a master's read fails.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    assert_eq!(String::from_utf8(text).unwrap(), "hello\r\ngot hello\r\n41 101\r\n");
    assert_eq!(session.exited(), 0);
}

#[test]
fn a_command_that_is_missing_is_told_with_its_step() {
    if !can_run() {
        return;
    }
    let container = container();
    let session = exec(&container, &["/bin/missing"], false, [null(), null(), null()]);
    let Packet::Failed(text) = session.next() else { panic!("it ran") };
    assert!(text.starts_with("exec\t2\t") && text.contains("/bin/missing"), "{text}");
    assert!(matches!(session.next(), Packet::End));
}

#[test]
fn an_executed_process_ends_with_its_container() {
    if !can_run() {
        return;
    }
    let container = container();
    let session = exec(&container, &["/bin/sleep", "1000"], false, [null(), null(), null()]);
    session.running();
    container.kill(libc::SIGKILL);
    assert_eq!(session.exited(), 137);
}

#[test]
fn an_executed_process_outlives_its_killed_session() {
    if !can_run() {
        return;
    }
    let container = container();
    let mut session = exec(&container, &["/bin/sleep", "1000"], false, [null(), null(), null()]);
    let pid = session.running();
    session.process.kill().unwrap();
    session.process.wait().unwrap();
    assert!(dormouse::monitor::state::ProcessRef::of(pid).unwrap().is_alive());
}

#[test]
fn a_container_that_has_ended_takes_no_more_processes() {
    if !can_run() {
        return;
    }
    let container = container();
    let init = container.init();
    container.kill(libc::SIGKILL);
    container.until_exited();
    let request = json!({
        "leader": init.pid, "leader_start_time": init.start_time, "cgroup": container.config.cgroup,
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/true"], "cwd": "/"}
    });
    let session = exec_request(&request, [null(), null(), null()]);
    let Packet::Failed(text) = session.next() else { panic!("it ran") };
    assert!(text.contains("has ended"), "{text}");
}
