//! What containers tell of themselves: followed over rotations and restarts, of several at once, and the journal inside.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Container, Host, PATIENCE, answer, assert_refused, messages, systemd_image};
use serde_json::{Value, json};

fn client(host: &Host) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    command.env("DORMOUSE_ADDRESS", host.address()).env_remove("DORMOUSE_CONNECTION").stdin(Stdio::null());
    command
}

fn run(host: &Host, arguments: &[&str]) -> Output {
    client(host).args(arguments).output().unwrap()
}

fn out(host: &Host, arguments: &[&str]) -> String {
    let output = run(host, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn now_usec() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// A container's log, followed by a thread. The channel ends with it.
fn follow(host: &Host, mut parameters: Value) -> Receiver<Value> {
    parameters["follow"] = json!(true);
    let mut connection = host.connect();
    let (sender, entries) = channel();
    std::thread::spawn(move || {
        for reply in connection.call_more("io.dormouse.Container.Logs", parameters, &[]).unwrap() {
            let reply = answer(reply).unwrap();
            for entry in reply["entries"].as_array().unwrap() {
                sender.send(entry.clone()).unwrap();
            }
        }
    });
    entries
}

/// The messages up to this one.
fn until(entries: &Receiver<Value>, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seen: &String| !seen.contains(last)) {
        match entries.recv_timeout(PATIENCE) {
            Ok(entry) => seen.push(entry["message"].as_str().unwrap().to_owned()),
            Err(error) => panic!("{last:?} has not come ({error}): {seen:?}"),
        }
    }
    seen
}

fn rest(entries: &Receiver<Value>) -> Vec<String> {
    let mut seen = Vec::new();
    while let Ok(entry) = entries.recv_timeout(PATIENCE) {
        seen.push(entry["message"].as_str().unwrap().to_owned());
    }
    seen
}

/// Says that it has begun, and what it is told by files, until it is stopped.
fn talker<'a>(host: &'a Host, name: &str) -> Container<'a> {
    host.sh("trap 'echo end; exit 0' TERM; echo begun; while :; do sleep 1000 & wait $!; done")
        .named(name)
        .run()
}

#[test]
fn a_follower_goes_on_over_rotations() {
    let Some(host) = Host::new() else { return };
    let log = json!({"log": {"driver": "k8sFile", "sizeMaxBytes": 100_000, "filesMax": 5}});
    // Slower than its follower, which must not be left behind more files than there are.
    let script = "for i in $(seq 50); do seq $((i * 100)) $((i * 100 + 99)); usleep 20000; done";
    let container = host.sh(&format!("read go; {script}")).with(log).with(json!({"stdinOpen": true})).run();
    let entries = follow(&host, json!({"name": container.name}));
    let (input, mut go) = std::io::pipe().unwrap();
    let mut connection = host.connect();
    let name = container.name.clone();
    let attached = std::thread::spawn(move || {
        use std::os::fd::AsFd as _;
        let parameters = json!({"name": name, "stdin": 0});
        answer(connection.call("io.dormouse.Container.Attach", parameters, &[input.as_fd()])).unwrap()
    });
    go.write_all(b"go\n").unwrap();
    let expected: Vec<String> = (100..5100).map(|number| number.to_string()).collect();
    assert!(rest(&entries) == expected, "every line, once, in order");
    assert_eq!(attached.join().unwrap()["exitCode"], 0);
    let log = container.inspect()["logPath"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&format!("{log}.1")).exists(), "it was rotated");
}

/// The last lines may be more than what should be in memory.
#[test]
fn a_long_tail_of_a_long_log_is_not_held_in_memory() {
    const LINES: usize = 50_000;
    const LINE_BYTES: usize = 4000;
    let Some(host) = Host::new() else { return };
    let log = json!({"log": {"driver": "k8sFile", "sizeMaxBytes": 1 << 30, "filesMax": 3}});
    let container = host.sh("true").with(log).run();
    container.call("Wait", json!({"condition": "exited"})).unwrap();
    let path = container.inspect()["logPath"].as_str().unwrap().to_owned();
    let text = "x".repeat(LINE_BYTES);
    let message = |number: usize| format!("{number} {text}");
    let in_two = LINES / 2 + 7;
    for (file, range) in [(format!("{path}.1"), 0..in_two), (path.clone(), in_two..LINES)] {
        let mut file = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
        for number in range {
            let second = number / 1000;
            let time = format!("2026-01-02T03:{:02}:{:02}.000000000+00:00", second / 60, second % 60);
            let partial = if number % 10 == 3 { "P" } else { "F" };
            writeln!(file, "{time} stdout {partial} {}", message(number)).unwrap();
        }
        // Of which the end is not there.
        write!(file, "2026-01-02T04:00:00.000000000+00:00 stdout F half").unwrap();
    }
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", host.serve_pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak_kib();
    let mut connection = host.connect();
    let mut check = |parameters: Value, first: usize, end: usize| {
        let mut number = first;
        let mut parameters = parameters;
        parameters["name"] = json!(container.name);
        for reply in connection.call_more("io.dormouse.Container.Logs", parameters, &[]).unwrap() {
            for entry in answer(reply).unwrap()["entries"].as_array().unwrap() {
                assert!(entry["message"] == message(number), "line {number}: {:.20}", entry["message"]);
                assert_eq!(entry["partial"], number % 10 == 3);
                number += 1;
            }
        }
        assert_eq!(number, end);
    };
    check(json!({"tail": i64::MAX}), 0, LINES);
    check(json!({"tail": 10_001}), LINES - 10_001, LINES);
    check(json!({"tail": 2}), LINES - 2, LINES);
    check(json!({"tail": 0}), LINES, LINES);
    // 2026-01-02T03:00:40Z and five seconds more.
    let since = 1_767_322_840_000_000_i64;
    check(json!({"tail": 4_999, "sinceUSec": since, "untilUSec": since + 5_000_000}), 40_001, 45_000);
    check(json!({"tail": 1_000_000, "sinceUSec": since}), 40_000, LINES);
    let grown = peak_kib() - before;
    assert!(grown < 24 << 10, "{grown} KiB more for a log of {} MiB", (LINES * LINE_BYTES) >> 20);
}

#[test]
fn a_follower_goes_on_over_a_restart_and_leaves_with_a_stop() {
    let Some(host) = Host::new() else { return };
    let container = talker(&host, "web");
    let entries = follow(&host, json!({"name": "web"}));
    until(&entries, "begun");
    container.until_stoppable();
    container.call("Restart", json!({})).unwrap();
    assert_eq!(until(&entries, "begun"), ["end", "begun"]);
    container.until_stoppable();
    container.stop().unwrap();
    assert_eq!(rest(&entries), ["end"]);

    let policy = json!({"restart": {"mode": "onFailure", "retriesMax": 1}});
    let failing = host.sh("echo try; exit 1").with(policy).named("failing").create();
    let entries = {
        failing.start().unwrap();
        follow(&host, json!({"name": "failing"}))
    };
    assert_eq!(rest(&entries), ["try", "try"]);
}

#[test]
fn a_follower_leaves_at_the_time_that_it_was_given() {
    let Some(host) = Host::new() else { return };
    let container = talker(&host, "web");
    let until = now_usec() + 1_500_000;
    let entries = follow(&host, json!({"name": "web", "untilUSec": until}));
    assert_eq!(rest(&entries), ["begun"]);
    assert!(now_usec() >= until);
    assert_eq!(container.state(), "running");
}

#[test]
fn logs_of_several_containers_are_in_the_order_of_time_with_names_in_front() {
    let Some(host) = Host::new() else { return };
    host.sh("echo one; echo oops >&2").named("a").run_until("exited");
    host.sh("echo two; printf unended").named("long-name").run_until("exited");
    let output = run(&host, &["logs", "a", "long-name"]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "a         | one\nlong-name | two\nlong-name | unended\n"
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "a         | oops\n");

    let entries: Value =
        serde_json::from_str(&out(&host, &["logs", "--format", "json", "long-name", "a"])).unwrap();
    let names: Vec<&str> =
        entries.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "a", "long-name", "long-name"]);

    let some = run(&host, &["logs", "--tail", "1", "a", "nobody", "long-name"]);
    assert_eq!(some.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&some.stderr).contains("no container \"nobody\""));
    assert!(String::from_utf8_lossy(&some.stdout).contains("long-name | unended"));

    let coloured = out(&host, &["--color", "always", "logs", "a", "long-name"]);
    assert!(coloured.contains("\x1b[36ma         | \x1b[0mone"), "{coloured:?}");
    let single = run(&host, &["--color", "always", "logs", "a"]);
    assert_eq!(String::from_utf8(single.stderr).unwrap(), "\x1b[31moops\x1b[0m\n", "errors are told apart");
}

#[test]
fn several_logs_are_followed_at_once_until_all_have_ended() {
    let Some(host) = Host::new() else { return };
    let (first, second) = (talker(&host, "first"), talker(&host, "second"));
    let mut client =
        client(&host).args(["logs", "-f", "first", "second"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut next = || lines.next().map(Result::unwrap);
    let mut begun = [next().unwrap(), next().unwrap()];
    begun.sort();
    assert_eq!(begun, ["first  | begun", "second | begun"]);
    first.until_stoppable();
    first.stop().unwrap();
    assert_eq!(next().unwrap(), "first  | end");
    second.until_stoppable();
    second.stop().unwrap();
    assert_eq!(next().unwrap(), "second | end");
    assert_eq!(next(), None);
    assert!(client.wait().unwrap().success());
}

#[test]
fn only_a_journal_has_units_and_priorities() {
    let Some(host) = Host::new() else { return };
    let container = talker(&host, "web");
    assert_refused(container.call("Logs", json!({"source": "journal"})), "NotSystemd");
    assert_refused(container.call("Logs", json!({"unit": "cron"})), "NotSystemd");
    assert_refused(container.call("Logs", json!({"source": "output", "priority": 3})), "InvalidSpec");
    assert_refused(container.call("Logs", json!({"priority": 8})), "InvalidParameter");
    let output = run(&host, &["logs", "--journal", "web"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(run(&host, &["logs", "--output", "--unit", "cron", "web"]).status.code(), Some(2));
}

#[test]
fn the_log_of_a_systemd_container_is_its_journal_and_is_followed_over_a_restart() {
    let Some(host) = systemd_image("trixie") else { return };
    let container =
        host.image("trixie").named("web").with(json!({"command": ["/sbin/init"]})).run_until("ready");
    let script = "echo first words | systemd-cat --identifier=test --priority=warning; journalctl --sync";
    container.exec_output(script);
    let entries = container.call("Logs", json!({})).unwrap();
    let entries = entries["entries"].as_array().unwrap();
    let told = entries.iter().find(|entry| entry["message"] == "first words").expect("it is in the journal");
    assert_eq!(
        (&told["stream"], &told["identifier"], &told["priority"], &told["partial"]),
        (&json!("journal"), &json!("test"), &json!(4), &json!(false))
    );
    let of_unit = container.call("Logs", json!({"unit": "systemd-journald", "tail": 5})).unwrap();
    assert!(
        of_unit["entries"]
            .as_array()
            .unwrap()
            .iter()
            .all(|entry| entry["unit"] == "systemd-journald.service")
    );
    let urgent = out(&host, &["logs", "--priority", "warning", "web"]);
    assert!(urgent.contains("test") && urgent.contains(": first words\n"), "{urgent}");
    // What it has written itself is there too, for who asks.
    assert!(
        messages(&container.call("Logs", json!({"source": "output"})).unwrap())
            .iter()
            .all(|m| m != "first words")
    );

    let entries = follow(&host, json!({"name": "web", "tail": 1}));
    container.exec_output("echo second words | systemd-cat --identifier=test");
    until(&entries, "second words");
    container.call("Restart", json!({"wait": "ready"})).unwrap();
    container.exec_output("echo third words | systemd-cat --identifier=test");
    until(&entries, "third words");
    container.stop().unwrap();
    rest(&entries);
    // Now that nothing runs inside, its output is what there is.
    container.call("Logs", json!({})).unwrap();
}
