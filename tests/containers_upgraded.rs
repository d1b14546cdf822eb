//! Descriptors over an upgraded stream, as a client on another host has them: the same behaviour as by descriptors.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use common::{Answer, Container, Host, Leaks, answer, assert_refused, messages, wait_until};
use dormouse::varlink::client::{ClientError, Reply};
use dormouse::varlink::stream::{ClientStream, Controller};
use serde_json::{Value, json};

const GIBIBYTE: u64 = 1 << 30;

/// Calls a method of `io.dormouse` with channels for these descriptors.
fn call(
    host: &Host,
    method: &str,
    parameters: Value,
    descriptors: Vec<OwnedFd>,
) -> Result<ClientStream, ClientError> {
    host.connect().call_stream(&common::full_name(method), parameters, descriptors)
}

/// The last reply; `Err` for an error, whether it came before the stream or in it.
fn last(stream: Result<ClientStream, ClientError>) -> Answer {
    match stream {
        Ok(stream) => end_of(stream).expect("a last reply comes"),
        Err(error) => answer(Err(error)),
    }
}

/// The last reply of a stream; `None` if the service closes it without one.
fn end_of(mut stream: ClientStream) -> Option<Answer> {
    let mut last = None;
    while let Some(reply) = stream.next_reply() {
        match reply {
            Err(ClientError::Closed | ClientError::Transport { .. }) => return None,
            reply => last = Some(answer(reply)),
        }
    }
    last
}

/// A stream that is carried by a thread.
struct Carried {
    first: Value,
    controller: Controller,
    end: JoinHandle<Option<Answer>>,
}

fn carry(stream: Result<ClientStream, ClientError>) -> Carried {
    let mut stream = stream.unwrap();
    let first = stream.next_reply().unwrap().unwrap().parameters;
    let controller = stream.controller();
    let end = std::thread::spawn(move || end_of(stream));
    Carried { first, controller, end }
}

impl Carried {
    fn exit_code(self) -> i64 {
        self.end.join().unwrap().expect("a last reply comes").unwrap()["exitCode"].as_i64().unwrap()
    }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = std::io::pipe().unwrap();
    (File::from(OwnedFd::from(read)), write.into())
}

fn input_of(bytes: &[u8]) -> OwnedFd {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file.into()
}

fn text(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Reads until this has come.
fn read_until(screen: &mut File, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let length = screen.read(&mut buffer).unwrap();
        assert!(length > 0, "{wanted:?} never came: {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn exec(
    container: &Container<'_>,
    script: &str,
    descriptors: Vec<OwnedFd>,
) -> Result<ClientStream, ClientError> {
    let names = ["stdin", "stdout", "stderr"];
    let mut parameters = json!({"name": container.name, "command": ["sh", "-c", script]});
    for (index, name) in names.iter().take(descriptors.len()).enumerate() {
        parameters[name] = json!(index);
    }
    call(container.host, "Container.Exec", parameters, descriptors)
}

#[test]
fn a_command_has_its_three_streams_and_its_exit_code_comes_last() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (stdout, out) = pipe();
    let (stderr, err) = pipe();
    let script = "tr a-z A-Z; echo oops >&2; exit 4";
    let reply = last(exec(&container, script, vec![input_of(b"hello"), out, err])).unwrap();
    assert_eq!(reply["exitCode"], 4);
    assert_eq!((text(stdout), text(stderr)), ("HELLO".to_owned(), "oops\n".to_owned()));
}

#[test]
fn nothing_is_lost_at_the_end_of_a_burst() {
    let Some(host) = Host::new() else { return };
    let script = format!("yes 0123456789abcde | head -c {GIBIBYTE}; printf end");
    let count = |mut screen: File| {
        std::thread::spawn(move || {
            let (mut count, mut buffer, mut end) = (0, vec![0; 1 << 16], Vec::new());
            loop {
                let length = screen.read(&mut buffer).unwrap();
                if length == 0 {
                    return (count, String::from_utf8(end).unwrap());
                }
                count += length as u64;
                end.extend_from_slice(&buffer[..length]);
                end.drain(..end.len().saturating_sub(10));
            }
        })
    };
    let expected = (GIBIBYTE + 3, "9abcde\nend".to_owned());

    let (stdout, out) = pipe();
    let counted = count(stdout);
    let spec = host.sh(&script).with(json!({"log": {"driver": "none"}})).spec;
    let reply = last(call(&host, "Container.Run", json!({"spec": spec, "stdout": 0}), vec![out])).unwrap();
    assert_eq!(reply["exitCode"], 0);
    assert_eq!(counted.join().unwrap(), expected, "of a container");

    let container = host.sleeper().run();
    let (stdout, out) = pipe();
    let counted = count(stdout);
    let parameters = json!({"name": container.name, "command": ["sh", "-c", script], "stdout": 0});
    let reply = last(call(&host, "Container.Exec", parameters, vec![out])).unwrap();
    assert_eq!(reply["exitCode"], 0);
    assert_eq!(counted.join().unwrap(), expected, "of a command");
}

#[test]
fn a_terminal_follows_the_size_of_the_clients_and_takes_its_keys() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (mut screen, out) = pipe();
    let (keys, mut keyboard) = std::io::pipe().unwrap();
    let script = "stty size; trap 'stty size' WINCH; echo ready; while ! read line; do :; done; echo got $line; exit 6";
    let parameters = json!({"name": container.name, "command": ["sh", "-c", script], "terminal": true,
        "rows": 12, "columns": 34, "stdin": 0, "stdout": 1});
    let exec = carry(call(&host, "Container.Exec", parameters, vec![keys.into(), out]));
    assert!(exec.first["pid"].as_i64().unwrap() > 1 && exec.first["exec"].is_string(), "{}", exec.first);
    assert!(read_until(&mut screen, "ready").contains("12 34"));
    exec.controller.resize(31, 97).unwrap();
    read_until(&mut screen, "31 97");
    keyboard.write_all(b"a word\n").unwrap();
    read_until(&mut screen, "got a word");
    assert_eq!(exec.exit_code(), 6);
}

#[test]
fn signals_reach_a_command_that_reads_nothing_of_what_is_typed() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (mut screen, out) = pipe();
    let script = "trap 'echo told; exit 3' INT; echo ready; while :; do sleep 1000 & wait $!; done";
    // More than fits in pipes and in what may be on its way.
    let much = input_of(&vec![b'x'; 4 << 20]);
    let exec = carry(exec(&container, script, vec![much, out]));
    read_until(&mut screen, "ready");
    exec.controller.signal("SIGINT").unwrap();
    read_until(&mut screen, "told");
    assert_eq!(exec.exit_code(), 3);
}

#[test]
fn a_reader_that_leaves_is_a_broken_pipe_for_the_writer_on_both_sides() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (mut screen, out) = pipe();
    let parameters = json!({"name": container.name, "command": ["yes"], "stdout": 0});
    let exec_yes = carry(call(&host, "Container.Exec", parameters, vec![out]));
    read_until(&mut screen, "y\ny\n");
    drop(screen);
    assert_eq!(exec_yes.exit_code(), 141, "SIGPIPE");

    let (keys, mut keyboard) = std::io::pipe().unwrap();
    let reader = carry(exec(&container, "exec <&-; sleep 1000", vec![keys.into()]));
    let typed = std::thread::spawn(move || while keyboard.write_all(&[0; 4096]).is_ok() {});
    typed.join().unwrap();
    reader.controller.signal("KILL").unwrap();
    assert_eq!(reader.exit_code(), 137);
}

#[test]
fn a_background_process_of_a_command_does_not_hold_its_reply_up() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let (stdout, out) = pipe();
    let parameters =
        json!({"name": container.name, "command": ["sh", "-c", "sleep 1000 & echo done"], "stdout": 0});
    assert_eq!(last(call(&host, "Container.Exec", parameters, vec![out])).unwrap()["exitCode"], 0);
    assert_eq!(text(stdout), "done\n");
}

#[test]
fn several_clients_are_attached_at_once_and_one_that_has_left_comes_back() {
    let Some(host) = Host::new() else { return };
    let script = "while read line; do echo heard $line; test $line = end && exit 8; done";
    let container = host.sh(script).with(json!({"stdinOpen": true})).run();
    let attach = |input: Option<OwnedFd>| {
        let (screen, out) = pipe();
        let mut parameters = json!({"name": container.name, "stdout": 0});
        let mut descriptors = vec![out];
        if let Some(input) = input {
            parameters["stdin"] = json!(1);
            descriptors.push(input);
        }
        (carry(call(&host, "Container.Attach", parameters, descriptors)), screen)
    };
    let (keys, mut keyboard) = std::io::pipe().unwrap();
    let (typing, mut first) = attach(Some(keys.into()));
    let (watching, mut second) = attach(None);
    keyboard.write_all(b"one\n").unwrap();
    read_until(&mut first, "heard one");
    read_until(&mut second, "heard one");
    typing.controller.leave().unwrap();
    assert_eq!(typing.end.join().unwrap(), None, "the service closes the connection of who has said so");
    assert_eq!(container.state(), "running");
    drop(keyboard);
    let (keys, mut keyboard) = std::io::pipe().unwrap();
    let (typing, mut third) = attach(Some(keys.into()));
    keyboard.write_all(b"two\nend\n").unwrap();
    read_until(&mut third, "heard end");
    assert!(read_until(&mut second, "heard end").contains("heard two"));
    assert_eq!((typing.exit_code(), watching.exit_code()), (8, 8));
}

#[test]
fn run_tells_its_container_first_and_its_exit_code_last() {
    let Some(host) = Host::new() else { return };
    let (stdout, out) = pipe();
    let spec = host.sh("cat; echo -out; exit 2").with(json!({"stdinOpen": true})).spec;
    let parameters = json!({"spec": spec, "stdin": 0, "stdout": 1});
    let run = carry(call(&host, "Container.Run", parameters, vec![input_of(b"in"), out]));
    let id = run.first["id"].as_str().unwrap().to_owned();
    assert_eq!(run.first["exitCode"], Value::Null);
    assert_eq!(run.exit_code(), 2);
    assert_eq!(text(stdout), "in-out\n");
    let log = host.call("Container.Logs", json!({"name": id})).unwrap();
    assert_eq!(messages(&log).concat(), "in-out");
}

#[test]
fn a_terminal_of_a_container_is_resized_and_signalled_over_the_stream() {
    let Some(host) = Host::new() else { return };
    let script =
        "trap 'stty size' WINCH; trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait $!; done";
    let spec = host.sh(script).with(json!({"terminal": true})).spec;
    let (mut screen, out) = pipe();
    let run = carry(call(&host, "Container.Run", json!({"spec": spec, "stdout": 0}), vec![out]));
    read_until(&mut screen, "ready");
    run.controller.resize(31, 97).unwrap();
    read_until(&mut screen, "31 97");
    run.controller.signal("TERM").unwrap();
    assert_eq!(run.exit_code(), 9);
}

#[test]
fn a_command_whose_client_is_lost_is_hung_up() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let leaks = Leaks::before(&host);
    let script =
        "trap 'echo > /tmp/hup; exit' HUP; echo > /tmp/ready; while :; do sleep 1000 & wait $!; done";
    let (_screen, out) = pipe();
    let parameters = json!({"name": container.name, "command": ["sh", "-c", script], "stdout": 0});
    let stream = call(&host, "Container.Exec", parameters, vec![out]).unwrap();
    wait_until("the command handles SIGHUP", || container.exec("test -e /tmp/ready")["exitCode"] == 0);
    drop(stream);
    wait_until("the command is hung up", || container.exec("test -e /tmp/hup")["exitCode"] == 0);
    wait_until("no command is left", || {
        host.call("Container.ListExecs", json!({})).unwrap()["execs"] == json!([])
    });
    leaks.assert_none_after();
}

#[test]
fn archives_go_in_and_out() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let file = || tempfile::tempfile().unwrap();
    let passed = |file: &File| OwnedFd::from(file.try_clone().unwrap());
    let rewound = |file: &mut File| file.rewind().unwrap();

    let mut saved = file();
    let reply =
        last(call(&host, "Image.Save", json!({"names": ["busybox"], "archive": 0}), vec![passed(&saved)]));
    assert!(reply.unwrap()["bytesWritten"].as_u64().unwrap() > 1 << 20);
    rewound(&mut saved);
    let loaded =
        last(call(&host, "Image.Load", json!({"archive": 0, "name": "again"}), vec![saved.into()])).unwrap();
    assert!(loaded["images"][0]["names"].to_string().contains("again"), "{loaded}");

    let container = host.sh("echo kept > /tmp/file").with(json!({"image": "again"})).run_until("exited");
    let mut exported = file();
    let parameters = json!({"name": container.name, "archive": 0});
    let reply = last(call(&host, "Container.Export", parameters, vec![passed(&exported)])).unwrap();
    assert!(reply["bytesWritten"].as_u64().unwrap() > 1 << 20, "{reply}");
    rewound(&mut exported);
    let imported =
        last(call(&host, "Image.Import", json!({"archive": 0, "name": "flat"}), vec![exported.into()]));
    assert!(imported.unwrap()["id"].is_string());
    let flat = host.command(&["cat", "/tmp/file"]).with(json!({"image": "flat"}));
    assert_eq!(flat.output(), "kept\n");

    let mut copied = file();
    let parameters = json!({"name": container.name, "path": "/tmp/file", "archive": 0});
    last(call(&host, "Container.CopyOut", parameters, vec![passed(&copied)])).unwrap();
    rewound(&mut copied);
    let parameters = json!({"name": container.name, "path": "/etc", "archive": 0});
    let reply = last(call(&host, "Container.CopyIn", parameters, vec![copied.into()])).unwrap();
    assert!(reply["bytesRead"].as_u64().unwrap() > 512, "{reply}");
    let info = container.call("StatPath", json!({"path": "/etc/file"})).unwrap();
    assert_eq!(info["info"]["sizeBytes"], 5);

    container.remove().unwrap();
    for image in ["flat", "again"] {
        host.call("Image.Untag", json!({"name": image})).unwrap();
    }
    host.call("Image.Prune", json!({})).unwrap();
    leaks.assert_none_after();
}

#[test]
fn an_error_comes_before_the_stream_or_as_its_last_reply() {
    let Some(host) = Host::new() else { return };
    let (_screen, out) = pipe();
    let mut connection = host.connect();
    let parameters = json!({"name": "nobody", "command": ["id"], "stdout": 0});
    let refused = connection.call_stream("io.dormouse.Container.Exec", parameters, vec![out]);
    assert_refused(
        answer(refused.map(|_| Reply { parameters: json!({}), fds: vec![], continues: false })),
        "NotFound",
    );

    let (_screen, out) = pipe();
    let stream = call(&host, "Container.Export", json!({"name": "nobody", "archive": 0}), vec![out]);
    assert_refused(last(stream), "NotFound");
    let broken = call(&host, "Image.Import", json!({"archive": 0}), vec![input_of(b"no archive at all")]);
    assert_refused(last(broken), "InvalidArchive");
    let (_screen, out) = pipe();
    let twice = json!({"spec": host.sh("exit").spec, "stdout": 0, "stderr": 0});
    assert_refused(last(call(&host, "Container.Run", twice, vec![out])), "InvalidParameter");
    assert!(host.names().is_empty());
}

#[test]
fn bytes_that_are_no_frames_end_their_stream_and_nothing_else() {
    let Some(host) = Host::new() else { return };
    let container = host.sleeper().run();
    let leaks = Leaks::before(&host);
    let parameters = json!({"name": container.name, "command": ["sleep", "1000"], "stdin": 0});
    let overrun = [b"D\0\0\x01\0\0".to_vec(), vec![0; 65536]].concat().repeat(17);
    for bytes in [&b"Z\0\0\0\0\0"[..], b"R\0\0\0\0\0", b"D\0\xff\xff\xff\xff", &overrun] {
        let (_, mut stream): (Reply, UnixStream) =
            host.connect().call_upgrade("io.dormouse.Container.Exec", &parameters, &[]).unwrap();
        // The service may close while it is still being written to.
        let _ = stream.write_all(bytes);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.starts_with(b"C\0\0\0\0\x04"), "credit comes first: {rest:?}");
    }
    wait_until("the commands are hung up", || {
        host.call("Container.ListExecs", json!({})).unwrap()["execs"] == json!([])
    });
    leaks.assert_none_after();
}
