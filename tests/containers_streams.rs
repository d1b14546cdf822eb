//! What goes in and out of a container: its log, commands run in it, and clients attached to it.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use common::{Host, answer, assert_refused, messages, wait_until};
use dormouse::varlink::client::Reply;
use serde_json::{Value, json};

/// A pipe's two ends: to read, to write.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe().unwrap();
    (File::from(read), write)
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_log_tells_lines_of_both_streams_with_their_time() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("echo out; echo err >&2; printf unended").run_until("exited");
    let reply = container.call("Logs", json!({})).unwrap();
    let entries = reply["entries"].as_array().unwrap();
    let lines = |stream: &str| -> Vec<&str> {
        let of_stream = entries.iter().filter(|entry| entry["stream"] == stream);
        of_stream.map(|entry| entry["message"].as_str().unwrap()).collect()
    };
    assert_eq!(lines("stdout"), ["out", "unended"]);
    assert_eq!(lines("stderr"), ["err"]);
    let summary = container.summary();
    for entry in entries {
        assert!(entry["timeUSec"].as_i64() >= summary["createdUSec"].as_i64(), "{entry}");
        assert!(entry["timeUSec"].as_i64() <= summary["finishedUSec"].as_i64(), "{entry}");
    }
}

#[test]
fn the_tail_of_the_log_is_its_last_lines() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("seq 1000").run_until("exited");
    assert_eq!(container.log().len(), 1000);
    let tail = |lines: u32| messages(&container.call("Logs", json!({"tail": lines})).unwrap());
    assert_eq!(tail(3), ["998", "999", "1000"]);
    assert_eq!(tail(0), [""; 0]);
    assert_eq!(tail(5000).len(), 1000);
}

#[test]
fn the_log_can_be_cut_by_time() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("echo one; usleep 20000; echo two").run_until("exited");
    let entries = container.call("Logs", json!({})).unwrap();
    let second = entries["entries"][1]["timeUSec"].clone();
    let since = container.call("Logs", json!({"sinceUSec": second})).unwrap();
    assert_eq!(messages(&since), ["two"]);
    let until = container.call("Logs", json!({"untilUSec": second})).unwrap();
    assert_eq!(messages(&until), ["one"]);
}

#[test]
fn a_followed_log_comes_as_it_is_written_and_ends_with_the_container() {
    let Some(host) = Host::new() else { return };
    let container =
        host.sh("echo first; read line; echo $line; exit 3").with(json!({"stdinOpen": true})).run();
    let mut connection = host.connect();
    let parameters = json!({"name": container.name, "follow": true});
    let mut replies = connection.call_more("io.dormouse.Container.Logs", parameters, &[]).unwrap();
    let mut lines = Vec::new();
    while lines.is_empty() {
        lines.extend(messages(&answer(replies.next().unwrap()).unwrap()));
    }
    assert_eq!(lines, ["first"], "the second line is not written before it is asked for");
    let (stdin, mut keyboard) = {
        let (read, write) = nix::unistd::pipe().unwrap();
        (read, File::from(write))
    };
    let attached = std::thread::spawn({
        let (mut connection, name) = (host.connect(), container.name.clone());
        move || {
            answer(connection.call(
                "io.dormouse.Container.Attach",
                json!({"name": name, "stdin": 0}),
                &[stdin.as_fd()],
            ))
        }
    });
    keyboard.write_all(b"second\n").unwrap();
    for reply in replies {
        lines.extend(messages(&answer(reply).unwrap()));
    }
    assert_eq!(lines, ["first", "second"]);
    assert_eq!(attached.join().unwrap().unwrap()["exitCode"], 3);
}

#[test]
fn a_plain_call_cannot_follow_a_log() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("exit").run_until("exited");
    assert_refused(container.call("Logs", json!({"follow": true})), "ExpectedMore");
}

#[test]
fn a_log_that_is_kept_nowhere_cannot_be_read() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("echo lost").with(json!({"log": {"driver": "none"}})).run_until("exited");
    assert_refused(container.call("Logs", json!({})), "Unsupported");
}

#[test]
fn a_long_line_comes_whole_out_of_the_log() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("head -c 100000 /dev/zero | tr '\\0' x; echo; echo end").run_until("exited");
    let reply = container.call("Logs", json!({})).unwrap();
    let entries = reply["entries"].as_array().unwrap();
    let (mut lines, mut line) = (Vec::new(), String::new());
    for entry in entries {
        line.push_str(entry["message"].as_str().unwrap());
        if entry["partial"] == false {
            lines.push(std::mem::take(&mut line));
        }
    }
    assert_eq!(lines, ["x".repeat(100_000), "end".into()]);
}

#[test]
fn a_log_is_rotated_at_its_size() {
    let Some(host) = Host::new() else { return };
    let log = json!({"log": {"driver": "k8sFile", "sizeMaxBytes": 65536, "filesMax": 1}});
    let container = host.sh("seq 20000").with(log).run_until("exited");
    let lines = container.log();
    assert_eq!(lines.last().unwrap(), "20000");
    assert!(lines.len() < 20000, "old lines are gone");
    assert!(lines.is_sorted_by_key(|line| line.parse::<u32>().unwrap()), "the rotated file comes first");
    let path = container.inspect()["logPath"].as_str().unwrap().to_owned();
    let files = std::fs::read_dir(std::path::Path::new(&path).parent().unwrap()).unwrap();
    let sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
    assert!(sizes.len() <= 2 && sizes.iter().all(|size| *size <= 66000), "{sizes:?}");
}

#[test]
fn exec_collects_both_streams_and_the_exit_code() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let reply = container.exec("echo out; echo err >&2; exit 5");
    assert_eq!(
        (&reply["stdout"], &reply["stderr"], &reply["exitCode"]),
        (&json!("out\n"), &json!("err\n"), &json!(5))
    );
    assert_ne!(reply["truncated"], true);
}

#[test]
fn exec_collects_at_most_a_mebibyte_and_says_so() {
    let Some(host) = Host::new() else { return };
    let reply = host.sleeper().run().exec("head -c 3000000 /dev/zero | tr '\\0' x");
    assert_eq!(reply["exitCode"], 0);
    assert_eq!(reply["stdout"].as_str().unwrap().len(), 1 << 20);
    assert_eq!(reply["truncated"], true);
}

#[test]
fn exec_tells_a_signal_as_128_and_its_number() {
    let Some(host) = Host::new() else { return };
    assert_eq!(host.sleeper().run().exec("kill -9 $$")["exitCode"], 137);
}

#[test]
fn exec_reads_and_writes_descriptors_of_the_caller() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(b"hello").unwrap();
    stdin.rewind().unwrap();
    let (stdout, writer) = pipe();
    let (stderr, error_writer) = pipe();
    let command = json!({"name": container.name, "command": ["sh", "-c", "tr a-z A-Z; echo oops >&2; exit 4"],
        "stdin": 0, "stdout": 1, "stderr": 2});
    let fds = [stdin.as_fd(), writer.as_fd(), error_writer.as_fd()];
    let reply = host.call_with_fds("Container.Exec", command, &fds).unwrap();
    drop((writer, error_writer));
    assert_eq!(reply["exitCode"], 4);
    assert_eq!(reply["stdout"], Value::Null);
    assert_eq!((text(stdout), text(stderr)), ("HELLO".to_owned(), "oops\n".to_owned()));
}

#[test]
fn exec_has_the_environment_user_and_directory_that_it_is_given() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().with(json!({"env": {"A": "1", "B": "1"}})).run();
    let request = json!({"command": ["sh", "-c", "echo $A $B $(id -un) $(pwd)"], "env": {"B": "2"}, "user": "alice",
        "workdir": "/tmp"});
    let reply = container.call("Exec", request).unwrap();
    assert_eq!(reply["stdout"], "1 2 alice /tmp\n");
}

#[test]
fn exec_refuses_what_cannot_be_run() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let exec = |command: &str| container.call("Exec", json!({"command": [command]}));
    assert_refused(exec("missing"), "CommandNotFound");
    assert_refused(exec("/etc/not-executable"), "CommandNotExecutable");
    assert_refused(container.call("Exec", json!({"command": []})), "InvalidSpec");
    assert_refused(container.call("Exec", json!({"command": ["id"], "terminal": true})), "ExpectedMore");
    assert_refused(container.call("Exec", json!({"command": ["id"], "user": "nobody-knows"})), "InvalidSpec");
}

#[test]
fn a_command_has_no_more_privileges_than_its_container() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let of_leader = container.exec_output("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/1/status");
    assert_eq!(container.exec_output(status), of_leader);
    let same = "for kind in cgroup ipc mnt net pid uts; do \
        test $(readlink /proc/self/ns/$kind) = $(readlink /proc/1/ns/$kind) || echo $kind; done";
    assert_eq!(container.exec_output(same), "");
}

#[test]
fn a_command_is_in_the_cgroup_of_its_container() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let cgroups = |path: String| std::fs::read_to_string(path).unwrap();
    let mut connection = host.connect();
    let parameters = json!({"name": container.name, "command": ["sleep", "1000"], "terminal": true});
    let mut replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[]).unwrap();
    // The master is kept open: without it the command is hung up.
    let Reply { parameters: first, fds: _master, .. } = replies.next().unwrap().unwrap();
    let leader = cgroups(format!("/proc/{}/cgroup", container.pid()));
    assert_eq!(cgroups(format!("/proc/{}/cgroup", first["pid"])), leader);
}

#[test]
fn exec_with_a_terminal_hands_out_its_master_and_then_the_exit_code() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let mut connection = host.connect();
    let parameters = json!({"name": container.name, "command": ["sh", "-c", "tty; stty size; read x; echo got $x; exit 6"],
        "terminal": true, "rows": 12, "columns": 34});
    let mut replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[]).unwrap();
    let mut first = replies.next().unwrap().unwrap();
    assert_eq!(first.parameters["exitCode"], Value::Null);
    let mut terminal = File::from(first.fds.remove(0));
    terminal.write_all(b"line\n").unwrap();
    let last = replies.next().unwrap().unwrap();
    assert_eq!(last.parameters["exitCode"], 6);
    let mut output = Vec::new();
    // The master of a terminal that nobody has open any more ends with EIO.
    let _ = terminal.read_to_end(&mut output);
    let output = String::from_utf8(output).unwrap();
    assert!(
        output.contains("/dev/pts/") && output.contains("12 34") && output.contains("got line"),
        "{output:?}"
    );
}

#[test]
fn a_command_whose_client_leaves_is_hung_up() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let mut connection = host.connect();
    let script = "trap 'echo hup > /tmp/hup; exit' HUP; echo ready > /tmp/ready; while :; do sleep 1000 & wait $!; done";
    let parameters = json!({"name": container.name, "command": ["sh", "-c", script]});
    let replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[]).unwrap();
    wait_until("the command runs", || container.exec("test -e /tmp/ready")["exitCode"] == 0);
    drop(replies);
    drop(connection);
    wait_until("the command is hung up", || container.exec("test -e /tmp/hup")["exitCode"] == 0);
}

#[test]
fn commands_end_with_their_container() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let mut connection = host.connect();
    let parameters =
        json!({"name": container.name, "command": ["sh", "-c", "echo > /tmp/ready; sleep 1000"]});
    let replies = connection.call_more("io.dormouse.Container.Exec", parameters, &[]).unwrap();
    wait_until("the command runs", || container.exec("test -e /tmp/ready")["exitCode"] == 0);
    container.kill("KILL").unwrap();
    let last = answer(replies.last().unwrap()).unwrap();
    assert_eq!(last["exitCode"], 137);
}

#[test]
fn run_connects_the_streams_that_it_is_given() {
    let Some(host) = Host::new() else { return };
    let mut stdin = tempfile::tempfile().unwrap();
    stdin.write_all(b"in").unwrap();
    stdin.rewind().unwrap();
    let (stdout, writer) = pipe();
    let plan = host.sh("cat; echo -out; exit 2").named("cat");
    let parameters = json!({"spec": plan.spec, "wait": "exited", "stdin": 0, "stdout": 1});
    let reply = host.call_with_fds("Container.Run", parameters, &[stdin.as_fd(), writer.as_fd()]).unwrap();
    drop(writer);
    assert_eq!(reply["exitCode"], 2);
    assert_eq!(text(stdout), "in-out\n");
    let log = host.call("Container.Logs", json!({"name": "cat"})).unwrap();
    assert_eq!(messages(&log).concat(), "in-out", "the log has it too");
}

#[test]
fn no_output_is_lost_on_a_slow_reader() {
    let Some(host) = Host::new() else { return };
    let (mut stdout, writer) = pipe();
    let plan = host.sh("seq 200000").with(json!({"log": {"driver": "none"}}));
    let caller = std::thread::spawn({
        let (mut connection, spec) = (host.connect(), plan.spec);
        move || {
            let parameters = json!({"spec": spec, "wait": "exited", "stdout": 0});
            answer(connection.call("io.dormouse.Container.Run", parameters, &[writer.as_fd()])).unwrap()
        }
    });
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let read = stdout.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..read]);
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
    assert_eq!(caller.join().unwrap()["exitCode"], 0);
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(String::from_utf8(text).unwrap() == expected, "the output differs");
}

#[test]
fn an_attached_client_talks_to_the_container_and_hears_of_its_end() {
    let Some(host) = Host::new() else { return };
    let container = host.sh("read line; echo heard $line; exit 8").with(json!({"stdinOpen": true})).run();
    let (stdin, keyboard) = nix::unistd::pipe().unwrap();
    let (screen, stdout) = pipe();
    File::from(keyboard).write_all(b"a word\n").unwrap();
    let parameters = json!({"name": container.name, "stdin": 0, "stdout": 1});
    let reply = host.call_with_fds("Container.Attach", parameters, &[stdin.as_fd(), stdout.as_fd()]).unwrap();
    drop(stdout);
    assert_eq!(reply["exitCode"], 8);
    assert_eq!(text(screen), "heard a word\n");
}

#[test]
fn attach_wants_a_descriptor_and_a_running_container() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    assert_refused(container.call("Attach", json!({})), "InvalidSpec");
    let ended = host.sh("exit").run_until("exited");
    let (_screen, stdout) = pipe();
    let parameters = json!({"name": ended.name, "stdout": 0});
    assert_refused(host.call_with_fds("Container.Attach", parameters, &[stdout.as_fd()]), "WrongState");
}

#[test]
fn a_terminal_has_the_size_that_it_is_given() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().with(json!({"terminal": true})).run();
    container.call("Resize", json!({"rows": 31, "columns": 97})).unwrap();
    wait_until("it has the size", || container.exec("stty -F /dev/pts/0 size")["stdout"] == "31 97\n");
    let plain = host.sleeper().run();
    let refusal = plain.call("Resize", json!({"rows": 31, "columns": 97})).unwrap_err();
    assert!(["InvalidSpec", "WrongState"].contains(&refusal.name()), "{refusal:?}");
}
