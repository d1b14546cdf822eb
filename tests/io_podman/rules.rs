//! The rules of messages that hold for every method.

use serde_json::json;

use crate::common::*;
use crate::wire::Raw;
use crate::{create, podman};

#[test]
fn parameters_are_taken_as_clients_send_them() {
    let Some(host) = Host::new() else { return };
    let id = create(&host, "web", &["true"], json!({}));
    for given in
        [json!({"id": "web"}), json!({"ID": "web"}), json!({"id": &id[..8], "format": "oci", "Extra": null})]
    {
        assert_eq!(podman(&host, "GetContainer", given).unwrap()["container"]["id"], json!(id));
    }
    // What is null is empty, what is missing too.
    let all = json!({"all": true, "latest": null, "args": null});
    assert_eq!(podman(&host, "GetContainersByContext", all).unwrap()["containers"], json!([id]));
    assert_eq!(podman(&host, "Ps", json!({"opts": null})).unwrap()["containers"], json!([]));
}

#[test]
fn messages_are_answered_byte_by_byte() {
    let Some(host) = Host::new() else { return };
    let mut raw = Raw::connect(&host);
    let mut check = |message: &str, reply: &str| {
        raw.send(message.as_bytes());
        raw.send(b"\0");
        let told = String::from_utf8(raw.message().unwrap()).unwrap();
        assert_eq!(told, reply, "{message}");
    };
    check(r#"{"method":"io.podman.ListContainers"}"#, r#"{"parameters":{"containers":[]}}"#);
    check(
        r#"{"method":"io.podman.GetContainer"}"#,
        r#"{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"parameters"}}"#,
    );
    check(
        r#"{"method":"io.podman.Nothing","parameters":{}}"#,
        r#"{"error":"org.varlink.service.MethodNotFound","parameters":{"method":"Nothing"}}"#,
    );
    check(
        r#"{"method":"io.nobody.Ping","parameters":{}}"#,
        r#"{"error":"org.varlink.service.InterfaceNotFound","parameters":{"interface":"io.nobody"}}"#,
    );
    check(
        r#"{"method":"Ping"}"#,
        r#"{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"method"}}"#,
    );
    // `more` of a method with one reply is one reply.
    check(r#"{"method":"io.podman.ListContainers","more":true}"#, r#"{"parameters":{"containers":[]}}"#);
    // No reply to this, not even an error.
    raw.send(b"{\"method\":\"io.podman.GetContainer\",\"oneway\":true}\0");
    let mut check = |message: &str, reply: &str| {
        raw.send(message.as_bytes());
        raw.send(b"\0");
        assert_eq!(String::from_utf8(raw.message().unwrap()).unwrap(), reply, "{message}");
    };
    check(
        r#"{"method":"io.podman.StopContainer","parameters":{"name":"x"}}"#,
        "{\"error\":\"io.podman.ContainerNotFound\",\"parameters\":{\"id\":\"x\",\"reason\":\"there is no container \\\"x\\\"; `dormouse ps --all` lists them\"}}",
    );
    // A reply without fields has no parameters at all.
    check(r#"{"method":"io.podman.Reset"}"#, "{}");
    raw.send(b"no JSON\0");
    assert_eq!(raw.message(), None);
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let Some(host) = Host::new() else { return };
    for _ in 0..20 {
        let mut raw = Raw::connect(&host);
        raw.call("GetEvents", &json!({"since": "2000-01-01T00:00:00Z"}), &["more"], b"");
        raw.reply();
        drop(raw);
    }
    podman(&host, "GetVersion", json!({})).unwrap();
}
