//! Attach and ExecContainer over upgraded connections, to the byte.

use std::io::Write as _;

use serde_json::json;

use crate::common::*;
use crate::wire::{Raw, frame};
use crate::{SLEEPER, create, podman};

const EOF: &[u8] = b"\x05\0\0\0\0\0\0\x03EOF";

fn quit(code: u8) -> Vec<u8> {
    frame(4, &[0, 0, 0, code])
}

/// Output frames joined, and the exit code; the stream must end after it.
fn to_the_end(raw: &mut Raw) -> (Vec<u8>, i32) {
    let mut output = Vec::new();
    loop {
        match raw.frame() {
            (0, bytes) => output.extend(bytes),
            (4, code) => {
                assert_eq!(raw.rest(), b"", "nothing follows the end");
                return (output, i32::from_be_bytes(code.try_into().unwrap()));
            }
            (kind, bytes) => panic!("a frame of type {kind}: {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
}

#[test]
fn a_run_with_input_is_as_it_was_captured() {
    let Some(host) = Host::new() else { return };
    let id = create(&host, "cat", &["cat"], json!({"interactive": true}));
    let mut raw = Raw::connect(&host);
    // The input comes behind the call, in one write.
    let input = [&frame(1, b"hello\n")[..], EOF].concat();
    raw.call("Attach", &json!({"name": id, "detachKeys": "", "start": true}), &["upgrade"], &input);
    let expected = [b"{}\0", &frame(0, b"hello\n")[..], &quit(0)].concat();
    assert_eq!(raw.rest(), expected);
}

#[test]
fn a_run_loses_nothing_and_tells_its_code() {
    let Some(host) = Host::new() else { return };
    create(&host, "fails", &["sh", "-c", "echo out; echo bad >&2; exit 7"], json!({}));
    let mut raw = Raw::connect(&host);
    raw.call("Attach", &json!({"name": "fails", "start": true}), &["upgrade"], b"");
    assert_eq!(raw.message().unwrap(), b"{}");
    let (output, code) = to_the_end(&mut raw);
    let text = String::from_utf8(output).unwrap();
    assert!(text.contains("out\n") && text.contains("bad\n"), "{text:?}");
    assert_eq!(code, 7);
    // Removed at its end, its code is known nevertheless.
    create(&host, "gone", &["sh", "-c", "exit 9"], json!({"rm": true}));
    let mut raw = Raw::connect(&host);
    raw.call("Attach", &json!({"name": "gone", "start": true}), &["upgrade"], b"");
    raw.message().unwrap();
    assert_eq!(to_the_end(&mut raw), (Vec::new(), 9));
    create(&host, "absent", &["/no/such/program"], json!({}));
    let mut raw = Raw::connect(&host);
    raw.call("Attach", &json!({"name": "absent", "start": true}), &["upgrade"], b"");
    raw.message().unwrap();
    let (kind, said) = raw.frame();
    assert_eq!((kind, String::from_utf8_lossy(&said).contains("/no/such/program")), (2, true));
    assert_eq!(raw.rest(), quit(127));
}

#[test]
fn an_attachment_of_a_terminal_resizes_and_detaches() {
    let Some(host) = Host::new() else { return };
    let script = "trap 'stty size' WINCH; while :; do read line; echo \"got $line\"; done";
    create(&host, "tty", &["sh", "-c", script], json!({"tty": true, "interactive": true}));
    let mut raw = Raw::connect(&host);
    // A size that comes before there is a terminal is kept.
    let size = frame(3, br#"{"Width":99,"Height":33}"#);
    raw.call("Attach", &json!({"name": "tty", "start": true}), &["upgrade"], &size);
    assert_eq!(raw.message().unwrap(), b"{}");
    let mut seen = String::new();
    let mut until = |raw: &mut Raw, text: &str| {
        while !seen.contains(text) {
            let (kind, bytes) = raw.frame();
            assert_eq!(kind, 0);
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    raw.send(&frame(1, b"one\n"));
    until(&mut raw, "got one\r\n");
    wait_until("the terminal has its size", || {
        let mut exec = Raw::connect(&host);
        let command = json!({"name": "tty", "cmd": ["sh", "-c", "stty size < /dev/console"]});
        exec.call("ExecContainer", &json!({"opts": command}), &["upgrade"], EOF);
        exec.message().unwrap();
        to_the_end(&mut exec).0 == b"33 99\n"
    });
    // The keys may come in two frames.
    raw.send(&frame(1, b"two\n\x10"));
    until(&mut raw, "got two\r\n");
    raw.send(&frame(1, b"\x11"));
    let rest = raw.rest();
    assert!(rest.ends_with(&quit(0)), "{rest:?}");
    let running = podman(&host, "GetContainer", json!({"id": "tty"})).unwrap();
    assert_eq!(running["container"]["containerrunning"], true);
    // And again, with keys of one's own.
    let mut raw = Raw::connect(&host);
    raw.call("Attach", &json!({"name": "tty", "detachKeys": "ctrl-a"}), &["upgrade"], b"");
    assert_eq!(raw.message().unwrap(), b"{}");
    raw.send(&frame(1, b"\x01"));
    assert!(raw.rest().ends_with(&quit(0)));
}

#[test]
fn refusals_leave_the_connection_as_it_was() {
    let Some(host) = Host::new() else { return };
    create(&host, "idle", &["true"], json!({}));
    let mut raw = Raw::connect(&host);
    for (method, parameters, flags, error) in [
        ("Attach", json!({"name": "nobody", "start": true}), &["upgrade"][..], "io.podman.ErrorOccurred"),
        ("Attach", json!({"name": "idle", "start": false}), &["upgrade"], "io.podman.ErrorOccurred"),
        ("Attach", json!({"name": "idle", "start": true}), &[], "io.podman.ErrorOccurred"),
        ("Attach", json!({"name": "idle", "detachKeys": "ctrl-"}), &["upgrade"], "io.podman.ErrorOccurred"),
        (
            "ExecContainer",
            json!({"opts": {"name": "nobody", "cmd": ["x"]}}),
            &["upgrade"],
            "io.podman.ContainerNotFound",
        ),
        (
            "ExecContainer",
            json!({"opts": {"name": "idle", "cmd": ["x"]}}),
            &["upgrade"],
            "io.podman.ErrorOccurred",
        ),
        ("ExecContainer", json!({"opts": {"name": "idle", "cmd": ["x"]}}), &[], "io.podman.ErrorOccurred"),
    ] {
        raw.call(method, &parameters, flags, b"");
        assert_eq!(raw.reply()["error"], error, "{method} {parameters}");
    }
    raw.call("GetVersion", &json!({}), &[], b"");
    assert_eq!(raw.reply()["parameters"]["remote_api_version"], 1);
}

#[test]
fn a_command_is_as_it_was_captured() {
    let Some(host) = Host::new() else { return };
    create(&host, "c1", SLEEPER, json!({}));
    podman(&host, "StartContainer", json!({"name": "c1"})).unwrap();
    let mut raw = Raw::connect(&host);
    let opts = |cmd: &[&str]| {
        json!({"opts": {"name": "c1", "tty": false, "privileged": false, "cmd": cmd, "user": "", "workdir": "", "env": [],
                        "detachKeys": ""}})
    };
    let script = "echo foo; read x; echo bar >&2; exit 3";
    raw.call("ExecContainer", &opts(&["sh", "-c", script]), &["upgrade"], b"");
    let first = [b"{}\0", &frame(0, b"foo\n")[..]].concat();
    assert_eq!(raw.bytes(first.len()), first);
    raw.send(&frame(1, b"\n"));
    assert_eq!(raw.rest(), [&frame(0, b"bar\n")[..], &quit(3)].concat());
    // The true code after the end of input.
    let mut raw = Raw::connect(&host);
    let input = [&frame(1, b"hello\n")[..], &frame(9, b"of no meaning"), EOF].concat();
    raw.call("ExecContainer", &opts(&["sh", "-c", "cat; exit 4"]), &["upgrade"], &input);
    assert_eq!(raw.rest(), [b"{}\0", &frame(0, b"hello\n")[..], &quit(4)].concat());
    for (command, code) in [("/no/such", 127), ("/etc/not-executable", 126)] {
        let mut raw = Raw::connect(&host);
        raw.call("ExecContainer", &opts(&[command]), &["upgrade"], b"");
        assert_eq!(raw.message().unwrap(), b"{}");
        assert_eq!(raw.frame().0, 2);
        assert_eq!(raw.rest(), quit(code));
    }
    let mut raw = Raw::connect(&host);
    let given = json!({"opts": {"name": "c1", "cmd": ["sh", "-c", "id -un; pwd; echo $A"], "user": "alice",
                                "workdir": "/tmp", "env": ["A=b", "without"]}});
    raw.call("ExecContainer", &given, &["upgrade"], EOF);
    raw.message().unwrap();
    assert_eq!(to_the_end(&mut raw), (b"alice\n/tmp\nb\n".to_vec(), 0));
}

#[test]
fn a_command_on_a_terminal_is_resized_all_the_time() {
    let Some(host) = Host::new() else { return };
    create(&host, "c1", SLEEPER, json!({}));
    podman(&host, "StartContainer", json!({"name": "c1"})).unwrap();
    let mut raw = Raw::connect(&host);
    let script = "tty >/dev/null && echo terminal; while read x; do stty size; done";
    let opts = json!({"opts": {"name": "c1", "tty": true, "cmd": ["sh", "-c", script]}});
    raw.call("ExecContainer", &opts, &["upgrade"], &frame(3, br#"{"Width":80,"Height":24}"#));
    assert_eq!(raw.message().unwrap(), b"{}");
    let mut seen = String::new();
    let mut until = |raw: &mut Raw, text: &str| {
        while !seen.contains(text) {
            let (kind, bytes) = raw.frame();
            assert_eq!(kind, 0);
            seen.push_str(&String::from_utf8_lossy(&bytes));
        }
    };
    until(&mut raw, "terminal\r\n");
    raw.send(&frame(1, b"\n"));
    until(&mut raw, "24 80\r\n");
    raw.send(&frame(3, br#"{"Width":99,"Height":33}"#));
    raw.send(&frame(1, b"\n"));
    until(&mut raw, "33 99\r\n");
    // The end of input of a terminal is a key.
    raw.send(&frame(1, b"\x04"));
    assert_eq!(to_the_end(&mut raw).1, 0);
}

#[test]
fn sockets_by_path_carry_packets_with_the_number_of_their_stream() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
    use std::os::fd::AsRawFd as _;
    let Some(host) = Host::new() else { return };
    create(
        &host,
        "talks",
        &["sh", "-c", "read x; echo got $x; read x; echo bad $x >&2"],
        json!({"interactive": true}),
    );
    let reply = podman(&host, "GetAttachSockets", json!({"name": "talks"})).unwrap()["sockets"].take();
    let path = reply["io_socket"].as_str().unwrap().to_owned();
    assert!(path.len() <= 107);
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(client.as_raw_fd(), &UnixAddr::new(path.as_str()).unwrap()).unwrap();
    podman(&host, "StartContainer", json!({"name": "talks"})).unwrap();
    let flags = nix::sys::socket::MsgFlags::empty();
    send(client.as_raw_fd(), b"one\n", flags).unwrap();
    let mut packet = [0; 100];
    let count = recv(client.as_raw_fd(), &mut packet, flags).unwrap();
    assert_eq!(&packet[..count], b"\x02got one\n");
    send(client.as_raw_fd(), b"two\n", flags).unwrap();
    let count = recv(client.as_raw_fd(), &mut packet, flags).unwrap();
    assert_eq!(&packet[..count], b"\x03bad two\n");
    assert_eq!(recv(client.as_raw_fd(), &mut packet, flags).unwrap(), 0);
    // The FIFO takes a line without making its writer wait.
    let control = reply["control_socket"].as_str().unwrap();
    std::fs::File::options().write(true).open(control).unwrap().write_all(b"1 24 80\n").unwrap();
}
