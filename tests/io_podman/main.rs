//! io.podman, as its clients use it: the interface, the rules of its messages, what they read in replies, and the streams to
//! the byte. `objects.py` drives the service with the library that Podman's project wrote for Python.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

#[path = "../common/mod.rs"]
mod common;
#[path = "../image_registry/mod.rs"]
mod image_registry;
#[path = "../image_tools/mod.rs"]
mod image_tools;

mod containers;
mod engine;
mod files;
mod images;
mod interface;
mod python;
mod registry;
mod rules;
mod streams;
mod system;
mod wire;

use common::*;
use serde_json::{Value, json};

/// Calls a method of io.podman, as in `Ps`.
fn podman(host: &Host, method: &str, parameters: Value) -> Answer {
    host.call(&format!("io.podman.{method}"), parameters)
}

/// A container of busybox on no network, by its id.
fn create(host: &Host, name: &str, command: &[&str], more: Value) -> String {
    let mut args = vec!["busybox"];
    args.extend(command);
    let mut options = json!({"args": args, "name": name, "network": "none"});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let reply = podman(host, "CreateContainer", json!({"create": options})).unwrap();
    reply["container"].as_str().unwrap().to_owned()
}

/// Runs until it gets SIGTERM, and hears it at once.
const SLEEPER: &[&str] = &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"];

/// A document in a reply.
fn document(reply: &Value, key: &str) -> Value {
    serde_json::from_str(reply[key].as_str().unwrap()).unwrap()
}

/// Asserts the kinds of fields: `s` string, `n` number, `b` bool, `a` array, `o` object, `?` null or any of them.
#[track_caller]
fn assert_shape(value: &Value, shape: &str) {
    for field in shape.split_whitespace() {
        let (path, kinds) = field.rsplit_once(':').unwrap();
        let pointer = format!("/{}", path.replace('.', "/"));
        let found = value.pointer(&pointer).unwrap_or_else(|| panic!("{path} is missing in {value}"));
        let kind = match found {
            Value::Null => '0',
            Value::Bool(_) => 'b',
            Value::Number(_) => 'n',
            Value::String(_) => 's',
            Value::Array(_) => 'a',
            Value::Object(_) => 'o',
        };
        assert!(kinds.contains(kind), "{path} is {found}, not of {kinds}");
    }
}
