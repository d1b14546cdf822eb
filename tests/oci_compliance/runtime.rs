//! runtime.md: "Runtime and Lifecycle".

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::oci_support::{Bundle, output, wait_until};

#[test]
fn state() {
    let Some(bundle) = Bundle::sleeper() else { return };
    let bundle = bundle.at("/annotations", json!({"org.example.key": "value"}));
    bundle.create().good();
    let state = bundle.state();
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["status"], "created");
    assert!(state["pid"].as_i64().unwrap() > 0);
    assert_eq!(state["bundle"], json!(bundle.dir().canonicalize().unwrap()));
    assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
    bundle.call(&["start"]).good();
    let running = bundle.state();
    assert_eq!((&running["status"], &running["pid"]), (&json!("running"), &state["pid"]));
    output(bundle.command(&["kill", &bundle.id, "KILL"])).good();
    bundle.until("stopped");
}

/// The order of hooks and of the program, each with the state that it is told.
#[test]
fn lifecycle() {
    let Some(bundle) = Bundle::sh("echo program >> /shared/order") else { return };
    let shared = bundle.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let order = shared.join("order");
    let note = |name: &str, file: &str| {
        let script = format!(
            "s=$(cat); echo {name} $(echo \"$s\" | grep -o '\"status\":\"[a-z]*\"' | cut -d'\"' -f4) >> {file}"
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let outside = |name: &str| note(name, order.to_str().unwrap());
    let bundle = bundle
        .and("/mounts", json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["bind"]}))
        .at("/hooks", json!({
            "prestart": outside("prestart"), "createRuntime": outside("createRuntime"),
            "createContainer": outside("createContainer"), "startContainer": note("startContainer", "/shared/order"),
            "poststart": outside("poststart"), "poststop": outside("poststop"),
        }));
    bundle.create().good();
    let so_far = fs::read_to_string(&order).unwrap();
    assert_eq!(so_far, "prestart creating\ncreateRuntime creating\ncreateContainer creating\n");
    bundle.call(&["start"]).good();
    bundle.until("stopped");
    bundle.call(&["delete"]).good();
    let all = fs::read_to_string(&order).unwrap();
    let mut lines: Vec<_> = all.lines().skip(3).collect();
    assert_eq!(lines.remove(0), "startContainer created");
    assert_eq!(lines.pop(), Some("poststop stopped"));
    // The program runs on beside the hook that is told of its start.
    lines.sort_unstable();
    assert_eq!(lines, ["poststart running", "program"]);
}

/// Step 2: "Any updates to config.json after this step MUST NOT affect the container."
#[test]
fn lifecycle_updates_of_the_configuration_have_no_effect() {
    let Some(bundle) = Bundle::sh("echo the first") else { return };
    bundle.create().good();
    fs::write(bundle.dir().join("config.json"), "{}").unwrap();
    bundle.call(&["start"]).good();
    bundle.until("stopped");
    assert_eq!(bundle.written(), "the first\n");
    bundle.call(&["delete"]).good();
}

#[test]
fn lifecycle_a_failed_hook_ends_the_container_and_poststop_is_told() {
    for (kind, fails_at) in [
        ("prestart", "create"),
        ("createRuntime", "create"),
        ("createContainer", "create"),
        ("startContainer", "start"),
        ("poststart", "start"),
    ] {
        let Some(bundle) = Bundle::sleeper() else { return };
        let mark = bundle.path().join("stopped");
        let fail = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 3"]}]);
        let stopped =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("/bin/cat > {}", mark.display())]}]);
        let bundle = bundle.at(&format!("/hooks/{kind}"), fail).at("/hooks/poststop", stopped);
        let created = bundle.create();
        let failed = if fails_at == "create" {
            created
        } else {
            created.good();
            bundle.call(&["start"])
        };
        let said = failed.refused();
        assert!(said.contains(kind) && said.contains("because"), "{said}");
        bundle.assert_gone();
        let state: Value = serde_json::from_str(&fs::read_to_string(&mark).unwrap()).unwrap();
        assert_eq!((&state["status"], &state["id"]), (&json!("stopped"), &json!(bundle.id)), "{kind}");
    }
}

/// Step 13: a poststop hook that fails is a warning.
#[test]
fn lifecycle_a_failed_poststop_hook_is_a_warning() {
    let Some(bundle) = Bundle::new() else { return };
    let mark = bundle.path().join("second");
    let hooks = json!([{"path": "/bin/false"}, {"path": "/bin/touch", "args": ["touch", mark]}]);
    let bundle = bundle.at("/hooks/poststop", hooks);
    bundle.up();
    bundle.until("stopped");
    let deleted = bundle.call(&["delete"]);
    assert!(deleted.code == 0 && deleted.err.contains("poststop"), "{deleted:?}");
    assert!(mark.exists(), "the remaining hooks run as if it had not failed");
}

/// "generating an error MUST leave the state of the environment as if the operation were never attempted"
#[test]
fn errors() {
    let Some(bundle) = Bundle::new() else { return };
    let bundle = bundle.and("/mounts", json!({"destination": "/x", "type": "nonsense", "source": "x"}));
    bundle.create().refused();
    bundle.assert_gone();
    bundle.call(&["state"]).refused();
}

#[test]
fn query_state() {
    let Some(bundle) = Bundle::new() else { return };
    output(bundle.command(&["state"])).refused();
    assert!(bundle.call(&["state"]).refused().contains("does not exist"));
}

#[test]
fn create() {
    let Some(bundle) = Bundle::sleeper() else { return };
    output(bundle.command(&["create"])).refused();
    output(bundle.command(&["create", "--bundle", "/nowhere", "some-id"])).refused();
    bundle.create().good();
    let pid = bundle.pid();
    assert!(bundle.create().refused().contains("exists already"));
    assert_eq!(
        (bundle.status().as_str(), bundle.pid()),
        ("created", pid),
        "the one that is there stays as it is"
    );
    assert_eq!(bundle.written(), "", "process.args is not applied before start");
}

#[test]
fn start() {
    let Some(bundle) = Bundle::sleeper() else { return };
    output(bundle.command(&["start"])).refused();
    bundle.call(&["start"]).refused();
    bundle.up();
    assert!(bundle.call(&["start"]).refused().contains("not created"));
    assert_eq!(bundle.status(), "running");
    output(bundle.command(&["kill", &bundle.id, "KILL"])).good();
    bundle.until("stopped");
    bundle.call(&["start"]).refused();
}

/// "This operation MUST generate an error if process was not set."
#[test]
fn start_without_a_process() {
    let Some(mut bundle) = Bundle::new() else { return };
    bundle.config.as_object_mut().unwrap().remove("process");
    bundle.create().good();
    assert!(bundle.call(&["start"]).refused().contains("process"));
    assert_eq!(bundle.status(), "created");
}

#[test]
fn kill() {
    let Some(bundle) = Bundle::sh("trap 'echo usr1' USR1; echo up; while :; do sleep 1000 & wait $!; done")
    else {
        return;
    };
    output(bundle.command(&["kill"])).refused();
    bundle.create().good();
    bundle.call(&["start"]).good();
    wait_until("it listens", || bundle.written().contains("up"));
    output(bundle.command(&["kill", &bundle.id, "USR1"])).good();
    wait_until("the signal has come", || bundle.written().contains("usr1"));
    assert!(output(bundle.command(&["kill", &bundle.id, "NONSENSE"])).refused().contains("no signal"));
    output(bundle.command(&["kill", &bundle.id, "9"])).good();
    bundle.until("stopped");
    assert!(output(bundle.command(&["kill", &bundle.id, "TERM"])).refused().contains("it is stopped"));
    let Some(created) = Bundle::sleeper() else { return };
    created.create().good();
    output(created.command(&["kill", &created.id, "KILL"])).good();
    created.until("stopped");
}

#[test]
fn delete() {
    let Some(bundle) = Bundle::sleeper() else { return };
    output(bundle.command(&["delete"])).refused();
    bundle.create().good();
    assert!(bundle.call(&["delete"]).refused().contains("not stopped"));
    bundle.call(&["start"]).good();
    assert!(bundle.call(&["delete"]).refused().contains("not stopped"));
    assert_eq!(bundle.status(), "running");
    output(bundle.command(&["kill", &bundle.id, "KILL"])).good();
    bundle.until("stopped");
    bundle.call(&["delete"]).good();
    bundle.assert_gone();
    assert!(bundle.call(&["delete"]).refused().contains("does not exist"));
    // The id may be used again.
    bundle.create().good();
}

/// "resources associated with the container, but not created by this container, MUST NOT be deleted"
#[test]
fn delete_leaves_what_was_there() {
    let Some(bundle) = Bundle::new() else { return };
    let path = format!("dormouse-runtime/{}-there", bundle.id);
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies =
        || fs::read_dir(root).unwrap().flatten().map(|entry| entry.path()).chain([root.to_owned()]);
    let made = if root.join("pids").is_dir() { root.join("pids") } else { root.to_owned() }.join(&path);
    fs::create_dir_all(&made).unwrap();
    let bundle = bundle.at("/linux/cgroupsPath", json!(format!("/{path}")));
    bundle.run().good();
    let is_there = made.is_dir();
    for hierarchy in hierarchies() {
        let _ = fs::remove_dir(hierarchy.join(&path));
    }
    assert!(is_there, "it was not this container's");
    assert!(bundle.rootfs().join("bin/busybox").exists());
}
