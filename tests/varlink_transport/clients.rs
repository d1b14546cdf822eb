//! Clients that leave, org.varlink.service and errors, the client.

use crate::toy::*;

#[test]
fn a_call_is_cancelled_when_its_client_leaves() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Hang", json!({})));
    drop(client);
    server.await_count("Cancelled", 1);
}

#[test]
fn a_call_is_cancelled_when_its_client_leaves_although_more_calls_are_queued() {
    let server = Server::start();
    let mut client = server.raw();
    let work = message("Work", json!({ "msec": 1 }));
    client.send(message("Hang", json!({})) + &work + &echo("") + &work + "cut o");
    drop(client);
    server.await_count("Cancelled", 1);
    server.await_count("Finished", 2);
}

#[test]
fn a_blocked_stream_is_cancelled_when_its_client_leaves() {
    let server =
        Server::with(ServeOptions { idle_timeout: Some(Duration::from_millis(100)), ..Default::default() });
    let mut client = server.raw();
    client.send(flagged("Flood", json!({}), "more"));
    client.reply();
    sleep(Duration::from_millis(300));
    assert!(server.running(), "a stream holds the service up");
    drop(client);
    server.ended();
}

#[test]
fn a_client_that_has_only_closed_its_writing_side_gets_its_replies() {
    let server = Server::start();
    let mut client = server.raw();
    client.send(message("Delay", json!({ "msec": 100 })) + &echo("after all"));
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply(), json!({ "parameters": {} }));
    assert_eq!(client.reply()["parameters"]["text"], "after all");
    assert!(client.is_closed());

    let mut client = server.raw();
    client.send(message("Hang", json!({})));
    client.0.shutdown(Shutdown::Write).unwrap();
    sleep(Duration::from_millis(50));
    drop(client);
    server.await_count("Cancelled", 1);
}

#[test]
fn dropping_a_stream_of_the_client_cancels_it_and_spends_the_connection() {
    let server = Server::start();
    let mut client = server.client();
    let mut replies = client.call_more("org.example.toy.Flood", json!({}), &[]).unwrap();
    replies.next().unwrap().unwrap();
    drop(replies);
    let result = client.call("org.example.toy.Echo", json!({ "text": "" }), &[]);
    assert!(matches!(result, Err(ClientError::Spent)), "{result:?}");
}

#[test]
fn connections_are_bounded_in_all_and_per_user() {
    for options in [
        ServeOptions { connections_max: 2, ..ServeOptions::default() },
        ServeOptions { connections_per_uid_max: 2, ..ServeOptions::default() },
    ] {
        let server = Server::with(options);
        let mut clients = [server.raw(), server.raw()];
        for client in &mut clients {
            client.send(echo("in"));
            client.reply();
        }
        assert!(server.raw().is_closed(), "the third is refused");
        clients[0].send(echo("still in"));
        assert_eq!(clients[0].reply()["parameters"]["text"], "still in");
        drop(clients);
        await_true(|| {
            let mut client = server.raw();
            client.0.write_all(echo("in again").as_bytes()).is_ok() && !client.is_closed()
        });
    }
}

#[test]
fn the_service_describes_itself() {
    let server = Server::start();
    let mut client = server.client();
    let info = client.call("org.varlink.service.GetInfo", json!({}), &[]).unwrap().parameters;
    let interfaces = ["org.varlink.service", "org.example.toy"];
    assert_eq!(
        info,
        json!({ "vendor": "Example", "product": "toy", "version": "1", "url": "https://example.org", "interfaces": interfaces })
    );
    let mut description = |interface: &str| {
        client.call("org.varlink.service.GetInterfaceDescription", json!({ "interface": interface }), &[])
    };
    assert_eq!(description("org.example.toy").unwrap().parameters["description"], TOY);
    let own = description("org.varlink.service").unwrap().parameters;
    varlink_parser::IDL::try_from(own["description"].as_str().unwrap()).unwrap();
    let (error, parameters) = error_of(description("org.example.none"));
    assert_eq!(error, "org.varlink.service.InterfaceNotFound");
    assert_eq!(parameters, json!({ "interface": "org.example.none" }));
}

#[test]
fn the_definition_of_an_interface_can_be_checked_beforehand() {
    service().check_definitions().unwrap();
}

#[test]
fn each_standard_error_is_given_for_its_reason() {
    let server = Server::start();
    let mut client = server.client();
    let mut check = |method: &str, parameters: Value, error: &str, details: Value| {
        let name = format!("org.varlink.service.{error}");
        assert_eq!(error_of(client.call(method, parameters, &[])), (name, details), "{method}");
    };
    check(
        "org.example.none.Echo",
        json!({}),
        "InterfaceNotFound",
        json!({ "interface": "org.example.none" }),
    );
    check("org.example.toy.None", json!({}), "MethodNotFound", json!({ "method": "org.example.toy.None" }));
    check(
        "org.varlink.service.None",
        json!({}),
        "MethodNotFound",
        json!({ "method": "org.varlink.service.None" }),
    );
    check(
        "org.example.toy.Lacking",
        json!({}),
        "MethodNotImplemented",
        json!({ "method": "org.example.toy.Lacking" }),
    );
    check("org.example.toy.Forbid", json!({}), "PermissionDenied", json!({}));
    check("org.example.toy.Gate", json!({}), "ExpectedMore", json!({}));
    for (method, parameters, path) in [
        ("Echo", json!({}), "text"),
        ("Echo", json!({ "text": null }), "text"),
        ("Echo", json!({ "text": "a", "size": 1 }), "size"),
        ("Paint", json!({ "points": [{ "x": 1 }, { "x": 1, "y": "2" }] }), "points[1].y"),
        ("Paint", json!({ "points": [{ "x": 1 }], "color": "blue" }), "color"),
        ("Byte", json!({ "outer": { "number": 256 } }), "outer.number"),
    ] {
        let method = format!("org.example.toy.{method}");
        check(&method, parameters, "InvalidParameter", json!({ "parameter": path }));
    }
    let (error, parameters) = error_of(client.call("org.example.toy.Refuse", json!({}), &[]));
    assert_eq!((error.as_str(), parameters), ("org.example.toy.Refused", json!({ "reason": "no mood" })));
    client.call("org.example.toy.Echo", json!({ "text": "the connection is still good" }), &[]).unwrap();
}

#[test]
fn the_client_says_why_it_cannot_connect() {
    let check = |address: &str, expected: &str| {
        assert_eq!(Connection::connect(address).unwrap_err().to_string(), expected);
    };
    check("", "\"\" is no varlink address; write unix:PATH, unix:@NAME, or a path");
    check("unix:", "\"unix:\" is no varlink address; write unix:PATH, unix:@NAME, or a path");
    check("unix:/nowhere/at/all", "cannot connect to \"unix:/nowhere/at/all\"");
    check(
        "ssh-unix:host:/run/x",
        "cannot connect to \"ssh-unix:host:/run/x\": \"ssh-unix\" addresses are not supported by this client",
    );
    check(
        "exec:/bin/true",
        "cannot connect to \"exec:/bin/true\": \"exec\" addresses are not supported by this client",
    );
}

#[test]
fn the_client_takes_a_plain_path_and_options_behind_a_semicolon() {
    let server = Server::start();
    let path = server.path();
    for address in [path.display().to_string(), format!("unix:{};mode=0600", path.display())] {
        let mut client = Connection::connect(&address).unwrap();
        client.call("org.example.toy.Echo", json!({ "text": "" }), &[]).unwrap();
    }
}

#[test]
fn the_client_gives_up_after_its_timeout() {
    let server = Server::start();
    let mut client = server.client();
    client.set_timeout(Some(Duration::from_millis(20))).unwrap();
    let result = client.call("org.example.toy.Hang", json!({}), &[]);
    assert!(matches!(result, Err(ClientError::Transport { .. })), "{result:?}");
}
