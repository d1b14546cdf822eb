//! Files for Kubernetes become pods that do what they say, and go again without a trace.

#![allow(clippy::unwrap_used)] // what fails here fails the test

#[path = "../common/mod.rs"]
mod common;
#[path = "../image_registry/mod.rs"]
mod image_registry;
#[path = "../image_tools/mod.rs"]
mod image_tools;
#[path = "../network_support/mod.rs"]
mod network_support;

mod images;
mod peers;
mod templates;
mod unit;
mod whole;
mod wrong;

use common::{Host, Refusal, dormouse, said};
use serde_json::{Value, json};

const SLEEP: &str = "[sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 1000 & wait $!; done']";

fn write(host: &Host, name: &str, text: &str) -> String {
    std::fs::write(host.path().join(name), text).unwrap();
    name.to_owned()
}

/// Plays a text on no network; what was said besides.
fn play(host: &Host, yaml: &str, arguments: &[&str]) -> (String, String) {
    let file = write(host, "play.yaml", yaml);
    let output =
        dormouse(host, &[&["kube", "play", "--network", "none"], arguments, &[file.as_str()]].concat());
    (said(&output), String::from_utf8(output.stderr).unwrap())
}

fn exec(host: &Host, name: &str, script: &str) -> String {
    let reply = host.call("Container.Exec", json!({"name": name, "command": ["sh", "-c", script]})).unwrap();
    assert_eq!(reply["exitCode"], 0, "{script}: {reply}");
    reply["stdout"].as_str().unwrap().trim_end().to_owned()
}

fn spec(host: &Host, name: &str) -> Value {
    host.call("Container.Inspect", json!({"name": name})).unwrap()["container"]["spec"].take()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            fields.map(|(name, value)| (name, without_nulls(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other,
    }
}

fn names(host: &Host, noun: &str, field: &str) -> Vec<String> {
    let reply = host.call(&format!("{noun}.List"), json!({})).unwrap();
    let name = |one: &Value| one["name"].as_str().unwrap().to_owned();
    reply[field].as_array().unwrap().iter().map(name).collect()
}

fn refused(host: &Host, yaml: &str) -> Refusal {
    host.call("Pod.PlayKube", json!({"yaml": yaml, "networks": []})).unwrap_err()
}

/// A pod of one container, with more fields of both.
fn pod(name: &str, of_container: &str, of_pod: &str) -> String {
    format!(
        "kind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: main\n    image: busybox\n    command: {SLEEP}\n{of_container}\n{of_pod}\n"
    )
}
