//! Framing, kinds of calls, descriptors and peers.

use crate::toy::*;

#[test]
fn a_call_that_arrives_byte_by_byte_is_answered() {
    let server = Server::start();
    let mut client = server.raw();
    for byte in echo("slow").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.reply(), json!({ "parameters": { "text": "slow" } }));
}

#[test]
fn calls_written_at_once_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Delay", json!({ "msec": 30 })) + &echo("one") + &echo("two")[..10]);
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    assert_eq!(client.reply()["parameters"]["text"], "one");
    client.send(&echo("two")[10..]);
    assert_eq!(client.reply()["parameters"]["text"], "two");
}

#[test]
fn a_thousand_calls_in_flight_are_answered_in_order() {
    let server = Server::start();
    let mut client = server.raw();
    let mut writer = client.0.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        for number in 0..1000 {
            writer.write_all(echo(&number.to_string()).as_bytes()).unwrap();
        }
    });
    for number in 0..1000 {
        assert_eq!(client.reply()["parameters"]["text"], number.to_string());
    }
    writing.join().unwrap();
}

#[test]
fn garbage_closes_its_own_connection_and_no_other() {
    let server = Server::start();
    let mut bystander = server.raw();
    for garbage in
        [&b"nonsense\0"[..], b"[]\0", b"\"text\"\0", b"\0", b"{\"method\":\0", b"\xff\xfe\0", b"{}{}\0"]
    {
        let mut client = server.raw();
        client.send(garbage);
        assert!(client.is_closed(), "{garbage:?}");
        bystander.send(echo("still here"));
        assert_eq!(bystander.reply()["parameters"]["text"], "still here");
    }
}

#[test]
fn calls_before_garbage_are_still_answered() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(echo("good") + "bad\0");
    assert_eq!(client.reply()["parameters"]["text"], "good");
    assert!(client.is_closed());
}

#[test]
fn an_object_that_is_no_call_names_the_field_that_is_wrong() {
    let server = Server::start();
    let mut client = server.raw();
    for (text, field) in [
        ("{}", "method"),
        (r#"{"method":1}"#, "method"),
        (r#"{"method":"Echo"}"#, "method"),
        (r#"{"method":"org.example.toy.Echo","parameters":[]}"#, "parameters"),
        (r#"{"method":"org.example.toy.Echo","more":"yes"}"#, "more"),
    ] {
        client.send(format!("{text}\0"));
        let expected =
            json!({ "error": "org.varlink.service.InvalidParameter", "parameters": { "parameter": field } });
        assert_eq!(client.reply(), expected, "{text}");
    }
}

#[test]
fn a_message_near_the_limit_passes_and_one_beyond_it_closes_its_connection() {
    let server = Server::start();
    let text = "x".repeat(16 * 1024 * 1024 - 100);
    let mut client = server.client();
    let reply = client.call("org.example.toy.Echo", json!({ "text": text }), &[]).unwrap();
    assert_eq!(reply.parameters["text"].as_str().unwrap().len(), text.len());

    let mut client = server.raw();
    let refused = client.0.write_all("x".repeat(16 * 1024 * 1024 + 1).as_bytes());
    assert!(refused.is_err() || client.is_closed());
    assert_eq!(
        server.client().call("org.example.toy.Echo", json!({ "text": "a" }), &[]).unwrap().fds.len(),
        0
    );
}

#[test]
fn a_reply_beyond_the_limit_is_not_sent_but_closes_the_connection() {
    let server = Server::start();
    let result = server.client().call("org.example.toy.Huge", json!({}), &[]);
    assert!(matches!(result, Err(ClientError::Closed)), "{result:?}");
}

#[test]
fn a_streamed_reply_leaves_when_it_is_made() {
    let server = Server::start();
    let mut client = server.client();
    let mut replies = client.call_more("org.example.toy.Gate", json!({}), &[]).unwrap();
    let first = replies.next().unwrap().unwrap();
    assert_eq!((&first.parameters["number"], first.continues), (&json!(1), true));
    // Only now is the second one made.
    server.client().call("org.example.toy.Release", json!({}), &[]).unwrap();
    let second = replies.next().unwrap().unwrap();
    assert_eq!((&second.parameters["number"], second.continues), (&json!(2), false));
    assert!(replies.next().is_none());
    drop(replies);
    client.call("org.example.toy.Paint", json!({ "points": [] }), &[]).unwrap();
}

#[test]
fn a_slow_reader_blocks_its_own_stream_and_nobody_else() {
    let server = Server::start();
    let mut slow = server.raw();
    slow.send(flagged("Flood", json!({}), "more"));
    let mut other = server.client();
    let mut last = 0;
    // The flood comes to a stop, because nobody reads it.
    await_true(|| {
        sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, count(&mut other, "Flooded"));
        last > 0 && before == last
    });
    for _ in 0..100 {
        other.call("org.example.toy.Echo", json!({ "text": "meanwhile" }), &[]).unwrap();
    }
    assert_eq!(count(&mut other, "Flooded"), last);
    // And it goes on, undamaged, as soon as somebody does.
    for _ in 0..last + 10 {
        let reply = slow.reply();
        assert_eq!(reply["continues"], true);
        assert_eq!(reply["parameters"]["data"].as_str().unwrap().len(), 10_000);
    }
}

#[test]
fn a_reply_that_the_service_gave_up_halfway_still_leaves_whole() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(flagged("Dither", json!({}), "more"));
    // Long enough for every reply to have been given up.
    sleep(Duration::from_millis(300));
    for number in 0..=20 {
        assert_eq!(client.reply()["parameters"]["number"], number);
    }
}

#[test]
fn a_stream_that_was_not_asked_for_is_refused() {
    let server = Server::start();
    let (error, _) = error_of(server.client().call("org.example.toy.Flood", json!({}), &[]));
    assert_eq!(error, "org.varlink.service.ExpectedMore");
}

#[test]
fn a_oneway_call_is_carried_out_and_not_answered() {
    let server = Server::start();
    let mut client = server.client();
    client.call_oneway("org.example.toy.Work", json!({ "msec": 1 }), &[]).unwrap();
    client.call_oneway("org.example.toy.Refuse", json!({}), &[]).unwrap();
    client.call_oneway("org.example.toy.Absent", json!({}), &[]).unwrap();
    client.call_oneway("org.example.toy.Flood", json!({}), &[]).unwrap();
    let reply = client.call("org.example.toy.Echo", json!({ "text": "first answer" }), &[]).unwrap();
    assert_eq!(reply.parameters["text"], "first answer");
    assert_eq!(count(&mut client, "Finished"), 1);
}

#[test]
fn oneway_calls_are_carried_out_although_the_client_has_left() {
    let server = Server::start();
    let mut client = server.raw();
    for _ in 0..3 {
        client.send(flagged("Work", json!({ "msec": 20 }), "oneway"));
    }
    drop(client);
    server.await_count("Finished", 3);
}

#[test]
fn an_upgrade_keeps_its_parameters_and_the_bytes_that_came_with_the_call() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(flagged("Shout", json!({ "name": "ann" }), "upgrade") + "early");
    assert_eq!(client.reply()["parameters"]["greeting"], "hello ann");
    client.send(" late\0");
    client.0.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "EARLY LATE\0BYE");
}

#[test]
fn an_upgraded_stream_is_read_to_its_end_although_the_client_has_left() {
    let server = Server::start();
    let (reply, mut stream) =
        server.client().call_upgrade("org.example.toy.Shout", json!({ "name": "bob" }), &[]).unwrap();
    assert_eq!(reply.parameters["greeting"], "hello bob");
    stream.write_all(b"abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"ABCBYE");
}

#[test]
fn an_upgrade_that_was_not_asked_for_is_refused() {
    let server = Server::start();
    let mut client = server.client();
    let (error, parameters) = error_of(client.call("org.example.toy.Shout", json!({ "name": "x" }), &[]));
    assert_eq!(
        (error.as_str(), &parameters["parameter"]),
        ("org.varlink.service.InvalidParameter", &json!("upgrade"))
    );
}

#[test]
fn descriptors_travel_with_a_call_and_with_its_reply() {
    let server = Server::start();
    let (one, two) = (file_with("one "), file_with("two"));
    let mut client = server.client();
    let reply = client.call("org.example.toy.Join", json!({}), &[one.as_fd(), two.as_fd()]).unwrap();
    assert_eq!(reply.parameters["length"], 7);
    let [fd] = <[OwnedFd; 1]>::try_from(reply.fds).unwrap();
    assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
}

#[test]
fn descriptors_belong_to_the_message_that_they_were_sent_with() {
    let server = Server::start();
    let mut client = server.raw();
    let file = file_with("");
    // Nothing of the rest is read before the gate opens, so the kernel has all of it in one queue.
    client.send(flagged("Gate", json!({}), "more"));
    assert_eq!(client.reply()["parameters"]["number"], 1);
    let call = message("CountFds", json!({}));
    client.send(&call);
    client.send_with_fds(call.as_bytes(), &[&file, &file]);
    client.send(&call);
    client.send_with_fds((call.clone() + &call).as_bytes(), &[&file]);
    client.send_with_fds(&call.as_bytes()[..5], &[&file, &file, &file]);
    client.send(&call.as_bytes()[5..]);
    server.client().call("org.example.toy.Release", json!({}), &[]).unwrap();
    assert_eq!(client.reply()["parameters"]["number"], 2);
    for expected in [0, 2, 0, 1, 0, 3] {
        assert_eq!(client.reply()["parameters"]["count"], expected);
    }
}

#[test]
fn descriptors_beyond_the_bound_are_closed() {
    let server = Server::start();
    let mut client = server.raw();
    let file = file_with("");
    let call = message("CountFds", json!({}));
    let half = [&file; 200];
    client.send_with_fds(&call.as_bytes()[..5], &half);
    client.send_with_fds(&call.as_bytes()[5..], &half);
    assert_eq!(client.reply()["parameters"]["count"], 253);
}

#[test]
fn the_peer_is_known_by_uid_gid_pid_and_pidfd() {
    let server = Server::start();
    let who = server.client().call("org.example.toy.Who", json!({}), &[]).unwrap().parameters;
    assert_eq!(who["uid"], rustix::process::getuid().as_raw());
    assert_eq!(who["gid"], rustix::process::getgid().as_raw());
    assert_eq!(who["pid"], std::process::id());
    // SO_PEERPIDFD is Linux 6.5.
    if !who["pidfd"].is_null() {
        assert_eq!(who["pidfd"], std::process::id());
    }
}
