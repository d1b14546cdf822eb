//! What becomes of a payload's output and input: logs, clients, terminals.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod monitor_support;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use dormouse::monitor::AttachConnection;
use dormouse::monitor::config::LogDriver;
use monitor_support::*;

/// Attaches with stdin from nowhere.
fn attach(container: &Running, stdout: &OwnedFd, stderr: &OwnedFd) -> AttachConnection {
    let connection = AttachConnection::connect(&container.run_dir).unwrap();
    let null = null();
    connection.attach([null.as_fd(), stdout.as_fd(), stderr.as_fd()], false).unwrap();
    connection
}

/// The bytes that log files hold, in order, parts put together.
fn logged(files: &[&Path], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for file in files {
        let text = fs::read(file).unwrap();
        assert!(text.ends_with(b"\n"), "torn: {file:?}");
        for line in text[..text.len() - 1].split(|b| *b == b'\n') {
            // Of the timestamp `2006-01-02T15:04:05.000000000+00:00` the shape is checked.
            let shape: Vec<u8> =
                line[..35].iter().map(|b| if b.is_ascii_digit() { b'0' } else { *b }).collect();
            assert_eq!(shape, b"0000-00-00T00:00:00.000000000+00:00");
            if let Some(rest) = line[35..].strip_prefix(format!(" {stream} ").as_bytes()) {
                bytes.extend_from_slice(&rest[2..]);
                match &rest[..2] {
                    b"F " => bytes.push(b'\n'),
                    b"P " => {}
                    tag => panic!("{tag:?}"),
                }
            }
        }
    }
    bytes
}

#[test]
fn both_streams_are_logged_with_their_names_and_a_part_is_marked() {
    if !can_run() {
        return;
    }
    let container = shell("echo one; sleep .1; echo two >&2; sleep .1; printf three").start();
    container.until_exited();
    assert_eq!(container.log(), "stdout F one\nstderr F two\nstdout P three\n");
}

#[test]
fn the_last_output_is_in_the_log_when_the_exit_is_told() {
    if !can_run() {
        return;
    }
    for _ in 0..10 {
        let container = shell("seq 5000; echo last >&2").start();
        container.until_exited();
        let expected: String = (1..=5000).map(|n| format!("{n}\n")).collect();
        assert!(logged(&[&container.log_path()], "stdout") == expected.as_bytes());
        assert_eq!(logged(&[&container.log_path()], "stderr"), b"last\n");
    }
}

#[test]
fn a_log_is_rotated_under_load_with_nothing_lost() {
    if !can_run() {
        return;
    }
    let container = shell("seq 200000");
    let path = container.directory().join("log");
    let log = LogDriver::K8sFile { path: path.clone(), size_max_bytes: 1 << 20, files_max: 1000 };
    let container = container.logging_to(log).start();
    container.until_exited();
    let mut files: Vec<_> =
        (1..1000).map(|n| path.with_extension(n.to_string())).filter(|path| path.exists()).collect();
    files.reverse();
    files.push(path);
    assert!(files.len() >= 9, "{}", files.len());
    let files: Vec<&Path> = files.iter().map(|file| &**file).collect();
    assert!(files.iter().all(|file| file.metadata().unwrap().len() <= 1 << 20));
    let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    assert!(logged(&files, "stdout") == expected.as_bytes());
}

/// A small file system that is unmounted again.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Self {
        fs::create_dir(path).unwrap();
        let size = Some(c"size=256k");
        rustix::mount::mount(c"tmpfs", path, c"tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_loses_output_is_told_once_and_the_container_goes_on() {
    if !can_run() {
        return;
    }
    let container = shell("seq 50000; echo here; cat; echo after");
    let path = container.directory().join("disk");
    let disk = SmallDisk::mount(&path);
    let log = path.join("log");
    let container = container
        .logging_to(LogDriver::K8sFile { path: log.clone(), size_max_bytes: 0, files_max: 1 })
        .with_stdin();
    let (reader, writer) = pipe();
    let (mut stdin, stdin_writer) = pipe();
    let mut stdin_writer = File::from(stdin_writer);
    let container = container.attached(stdin.try_clone().unwrap().into(), writer, null()).start();
    drop(stdin);
    let mut lines = BufReader::new(reader).lines();
    assert!(lines.any(|line| line.unwrap() == "here"), "clients see everything");
    let state = container.until("the log's failure", |state| state.log_error.is_some());
    let reason = state.log_error.unwrap();
    assert!(reason.contains("No space left") && reason.contains(log.to_str().unwrap()), "{reason}");
    // What could be written is a whole beginning.
    let text = logged(&[&log], "stdout");
    let expected: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    assert!(text.len() > 20_000 && text.len() < expected.len() && expected.as_bytes().starts_with(&text));
    // With space again, logging goes on.
    fs::write(&log, "").unwrap();
    stdin_writer.write_all(b"typed\n").unwrap();
    drop(stdin_writer);
    stdin = File::open("/dev/null").unwrap();
    drop(stdin);
    assert_eq!(container.until_exited().exit_code, Some(0));
    assert_eq!(logged(&[&log], "stdout"), b"typed\nafter\n");
    drop(container);
    drop(disk);
}

#[test]
fn the_first_client_gets_every_byte_and_its_end_of_input_is_the_payloads() {
    if !can_run() {
        return;
    }
    let (stdin, mut input) = std::io::pipe().unwrap();
    let (mut output, stdout) = pipe();
    let (mut errors, stderr) = pipe();
    let mut container =
        shell("cat; echo done >&2; exit 5").with_stdin().attached(stdin.into(), stdout, stderr).start();
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let mut received = Vec::new();
    output.read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == data);
    let mut text = String::new();
    errors.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    assert_eq!(container.until_exited().exit_code, Some(5));
    container.until_monitor_left();
}

#[test]
fn a_slow_client_holds_the_payload_back_and_loses_nothing() {
    if !can_run() {
        return;
    }
    const SIZE: usize = 50 << 20;
    let (mut slow, slow_writer) = pipe();
    let (mut fast, fast_writer) = pipe();
    let script = format!("read go; yes 0123456789abcde | head -c {SIZE}; exit 9");
    let (stdin, mut input) = std::io::pipe().unwrap();
    let container = shell(&script)
        .with_stdin()
        .logging_to(LogDriver::None)
        .attached(stdin.into(), slow_writer, null())
        .start();
    let connection = attach(&container, &fast_writer, &null());
    drop(fast_writer);
    // A second connection's packet is handled before the payload's output.
    connection.resize(1, 1).unwrap();
    input.write_all(b"go\n").unwrap();
    let fast = std::thread::spawn(move || {
        let mut received = Vec::new();
        fast.read_to_end(&mut received).unwrap();
        received
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    let state = container.state();
    assert!(state.exit_code.is_none(), "the payload ran on although nobody took its output");
    let memory = fs::read_to_string(format!("/proc/{}/status", container.monitor.id())).unwrap();
    let rss: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|value| value.trim().split(' ').next())
        .unwrap()
        .parse()
        .unwrap();
    assert!(rss < 4096, "the monitor buffers {rss} KiB");
    let mut received = Vec::new();
    slow.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), SIZE);
    assert!(received.chunks(16).all(|line| line == b"0123456789abcde\n"));
    assert_eq!(connection.wait().unwrap(), Some(9));
    assert!(fast.join().unwrap() == received);
}

#[test]
fn two_clients_see_the_same_and_one_may_leave() {
    if !can_run() {
        return;
    }
    let container = shell("cat").with_stdin().start();
    let (input, typing) = std::io::pipe().unwrap();
    let mut typing = typing;
    let (first, first_writer) = pipe();
    let first_connection = AttachConnection::connect(&container.run_dir).unwrap();
    first_connection.attach([input.as_fd(), first_writer.as_fd(), null().as_fd()], true).unwrap();
    drop((input, first_writer));
    let (mut second, second_writer) = pipe();
    let second_connection = attach(&container, &second_writer, &null());
    drop(second_writer);
    let mut first = BufReader::new(first).lines();
    // Until the second's packet has been handled, it may miss what is said.
    wait_for("both clients", || {
        typing.write_all(b"ping\n").unwrap();
        assert_eq!(first.next().unwrap().unwrap(), "ping");
        let mut poll = [rustix::event::PollFd::new(&second, rustix::event::PollFlags::IN)];
        let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        (rustix::event::poll(&mut poll, Some(&wait)).unwrap() == 1).then_some(())
    });
    second_connection.detach().unwrap();
    let mut seen = String::new();
    second.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "ping\n", "it ends with the detaching");
    typing.write_all(b"still here\n").unwrap();
    assert!(first.any(|line| line.unwrap() == "still here"));
    drop(typing);
    assert_eq!(first_connection.wait().unwrap(), Some(0), "the end of its input was the payload's");
    assert!(container.log().ends_with("stdout F still here\n"));
}

#[test]
fn a_client_that_dies_harms_neither_payload_nor_log() {
    if !can_run() {
        return;
    }
    let container = shell("while :; do echo tick; sleep .01; done").start();
    let (reader, writer) = pipe();
    let connection = attach(&container, &writer, &null());
    drop(writer);
    let mut lines = BufReader::new(reader).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");
    drop((lines, connection));
    let before = container.log().len();
    wait_for("more in the log", || (container.log().len() > before + 200).then_some(()));
    assert!(container.init().is_alive());
}

#[test]
fn a_client_that_talks_nonsense_is_dropped() {
    if !can_run() {
        return;
    }
    let container = shell("sleep 1000").start();
    for _ in 0..3 {
        let connection = AttachConnection::connect(&container.run_dir).unwrap();
        rustix::net::send(connection.as_fd(), b"Aa", rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(connection.wait().unwrap(), None);
    }
    assert!(container.init().is_alive());
}

#[test]
fn a_connection_that_only_waits_gets_the_exit_code() {
    if !can_run() {
        return;
    }
    let container = shell("sleep .2; exit 23").start();
    let connection = AttachConnection::connect(&container.run_dir).unwrap();
    assert_eq!(connection.wait().unwrap(), Some(23));
}

#[test]
fn a_terminal_is_one_with_the_size_that_clients_give_it() {
    if !can_run() {
        return;
    }
    let container =
        shell("tty; read line; stty size; echo got $line; exit 4").with_terminal().with_stdin().start();
    container.until_logged("/dev/pts/0");
    let connection = AttachConnection::connect(&container.run_dir).unwrap();
    let (input, mut typing) = std::io::pipe().unwrap();
    let (mut output, writer) = pipe();
    connection.resize(33, 77).unwrap();
    connection.attach([input.as_fd(), writer.as_fd(), writer.as_fd()], true).unwrap();
    drop(writer);
    typing.write_all(b"hello\n").unwrap();
    assert_eq!(connection.wait().unwrap(), Some(4));
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello\r\n33 77\r\ngot hello\r\n");
    assert!(container.log().ends_with("stdout F 33 77\r\nstdout F got hello\r\n"), "{}", container.log());
}

#[test]
fn a_terminals_last_output_is_not_lost() {
    if !can_run() {
        return;
    }
    for _ in 0..10 {
        let container = shell("seq 3000").with_terminal().start();
        container.until_exited();
        let expected: String = (1..=3000).map(|n| format!("{n}\r\n")).collect();
        assert!(logged(&[&container.log_path()], "stdout") == expected.as_bytes());
    }
}

#[test]
fn a_terminal_that_nobody_has_open_costs_no_processor_time() {
    if !can_run() {
        return;
    }
    let container = shell("exec sleep 1000 </dev/null >/dev/null 2>&1").with_terminal().start();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", container.monitor.id())).unwrap();
        let fields: Vec<u64> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .skip(11)
            .map_while(|f| f.parse().ok())
            .collect();
        fields[0] + fields[1]
    };
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = ticks();
    std::thread::sleep(std::time::Duration::from_millis(1000));
    assert!(ticks() - before <= 2, "{} ticks in a second", ticks() - before);
}

#[test]
fn a_payload_of_another_user_can_open_its_streams_by_name() {
    if !can_run() {
        return;
    }
    for terminal in [false, true] {
        let mut container = shell("echo out >/dev/stdout && echo err >/dev/stderr; id -u");
        container.spec["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
        if terminal {
            container = container.with_terminal();
        }
        let container = container.start();
        assert_eq!(container.until_exited().exit_code, Some(0));
        let log = container.log().replace('\r', "");
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        let error = if terminal { "stdout F err" } else { "stderr F err" };
        let mut expected = ["stdout F 1000", "stdout F out", error];
        expected.sort_unstable();
        assert_eq!(lines, expected, "with a terminal: {terminal}");
    }
}
