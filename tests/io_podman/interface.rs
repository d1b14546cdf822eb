//! The interface's text.

use serde_json::{Value, json};

use crate::common::*;
use crate::podman;

const SIGNATURES: &str = include_str!("signatures.varlink");

/// A definition without comments, each member in one line, whatever its layout was.
fn members(text: &str) -> Vec<String> {
    let idl = varlink_parser::IDL::try_from(text).unwrap();
    let code: String = text.lines().map(|line| line.split('#').next().unwrap()).collect::<Vec<_>>().join(" ");
    let words = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut members: Vec<String> = Vec::new();
    for word in words.split(' ') {
        let begins = ["interface", "type", "method", "error"].contains(&word);
        match members.last_mut() {
            Some(member) if !begins => {
                member.push(' ');
                member.push_str(word);
            }
            _ => members.push(word.to_owned()),
        }
    }
    assert_eq!(members.len(), 1 + idl.methods.len() + idl.typedefs.len() + idl.errors.len());
    members
}

#[test]
fn every_signature_is_that_of_podman() {
    let ours = include_str!("../../interfaces/io.podman.varlink");
    let (ours, theirs) = (members(ours), members(SIGNATURES));
    assert_eq!(theirs.len(), 1 + 97 + 42 + 13);
    assert_eq!(ours, theirs);
}

#[test]
fn the_service_tells_the_interface_and_only_two_methods_are_not_there() {
    let Some(host) = Host::new() else { return };
    let told = host.call("org.varlink.service.GetInterfaceDescription", json!({"interface": "io.podman"}));
    let text = told.unwrap()["description"].as_str().unwrap().to_owned();
    assert_eq!(members(&text), members(SIGNATURES));
    for method in ["AttachControl", "CreateFromCC"] {
        let refusal = podman(&host, method, json!({})).unwrap_err();
        assert_eq!(refusal.error, "org.varlink.service.MethodNotImplemented");
        assert_eq!(refusal.parameters, json!({"method": format!("io.podman.{method}")}));
    }
}

/// Every method is called without anything, with what is not there, and with the wrong type; each answers, and is an error of
/// the interface or a reply.
#[test]
fn every_method_bears_every_input() {
    let Some(host) = Host::new() else { return };
    let idl = varlink_parser::IDL::try_from(SIGNATURES).unwrap();
    let mut methods: Vec<&str> = idl.methods.keys().copied().collect();
    // The last one takes everything away.
    methods.retain(|method| *method != "Reset");
    methods.push("Reset");
    let nobody = json!({"name": "nobody", "id": "nobody", "nameOrID": "nobody", "pod": "nobody", "names": ["nobody"],
        "args": ["nobody"], "tagged": "x", "tag": "nobody", "source": "/nowhere", "inputFile": "/nowhere",
        "path": "/nowhere", "opts": {"name": "nobody", "cmd": ["x"]}, "create": {"args": ["nobody.invalid/x"], "pull": "never"},
        "build": {"contextDir": "/nowhere"}, "options": {"name": "nobody", "volumes": ["nobody"]},
        "runlabel": {"image": "nobody"}, "previousStats": {"id": "nobody"}, "since": "0001-01-01T00:00:00Z"});
    // These make something of nothing, or take away what nobody uses.
    let harmless = ["VolumeCreate", "CreatePod"];
    for method in methods {
        let unimplemented = ["AttachControl", "CreateFromCC"].contains(&method);
        let takes_any = !idl.methods[method].input.elts.is_empty();
        if takes_any {
            let first = idl.methods[method].input.elts[0].name;
            let wrong = json!({first: 7});
            let refusal = podman(&host, method, wrong).unwrap_err();
            assert_eq!(refusal.error, "org.varlink.service.InvalidParameter", "{method}");
            assert_eq!(refusal.parameters, json!({"parameter": "parameters"}), "{method}");
        }
        for given in [json!({}), nobody.clone()] {
            if harmless.contains(&method) && given != json!({}) {
                continue;
            }
            let mut given = given;
            if method == "ListContainerProcesses" {
                // Its own are a list.
                given.as_object_mut().unwrap().remove("opts");
            }
            match podman(&host, method, given) {
                Ok(reply) => assert!(reply.is_object() || reply.is_null(), "{method}: {reply}"),
                Err(refusal) if unimplemented => {
                    assert_eq!(refusal.error, "org.varlink.service.MethodNotImplemented");
                }
                Err(refusal) => {
                    assert!(refusal.error.starts_with("io.podman."), "{method}: {refusal:?}");
                    let reason = refusal.parameters.get("reason").map(Value::to_string);
                    assert!(reason.is_none_or(|reason| reason.len() > 12), "{method}: {refusal:?}");
                }
            }
        }
    }
    assert_eq!(podman(&host, "ListImages", json!({})).unwrap()["images"], json!([]));
}
