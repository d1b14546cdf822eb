//! The OCI command line for an ordinary user: no service, no engine, no cgroup that is the user's.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

#[path = "common/user.rs"]
#[allow(dead_code)]
mod user;

mod oci_support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Stdio;

use oci_support::{Bundle, Said, output, wait_until};
use serde_json::{Value, json};
use user::TestUser;

/// A bundle that belongs to a user, and that user's specification.
struct Theirs {
    bundle: Bundle,
    user: TestUser,
    home: PathBuf,
}

impl Theirs {
    fn new() -> Option<Self> {
        let user = TestUser::new()?;
        let bundle = Bundle::new()?;
        let home = bundle.path().join("home");
        fs::create_dir(&home).unwrap();
        user.settle_in(&home);
        let all = std::process::Command::new("chown")
            .args(["-R", &user.uid().to_string()])
            .arg(bundle.dir())
            .status();
        assert!(all.unwrap().success());
        fs::create_dir(home.join("xdg")).unwrap();
        chown(home.join("xdg"), Some(user.uid()), None).unwrap();
        let mut theirs = Self { bundle, user, home };
        let dir = theirs.bundle.dir();
        theirs.call(&["spec", "--rootless", "--bundle", dir.to_str().unwrap()]).good();
        let config = fs::read(dir.join("config.json")).unwrap();
        theirs.bundle.config = serde_json::from_slice(&config).unwrap();
        theirs.bundle.config["process"]["terminal"] = json!(false);
        theirs.bundle.config["process"]["env"] = json!(["PATH=/bin"]);
        Some(theirs)
    }

    fn runs(&mut self, script: &str) {
        self.bundle.config["process"]["args"] = json!(["sh", "-c", script]);
    }

    fn call(&self, words: &[&str]) -> Said {
        let mut command = self.user.program(&self.home);
        command.args(["runtime"]).args(words).stdin(Stdio::null());
        output(command)
    }

    fn run(&self) -> Said {
        self.bundle.write();
        let dir = self.bundle.dir();
        self.call(&["run", "--bundle", dir.to_str().unwrap(), &self.bundle.id])
    }

    /// It keeps what it gets open, so it gets nothing.
    fn up(&self) {
        self.bundle.write();
        let dir = self.bundle.dir();
        let mut command = self.user.program(&self.home);
        command.args(["runtime", "run", "--detach", "--bundle", dir.to_str().unwrap(), &self.bundle.id]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.unwrap().success());
    }

    fn is_gone(&self) -> bool {
        let state = self.home.join("xdg/dormouse-runtime").join(&self.bundle.id);
        !state.exists() && oci_support::cgroups_of(&self.bundle.id).is_empty()
    }
}

#[test]
fn an_ordinary_user_runs_what_spec_rootless_writes() {
    let Some(mut theirs) = Theirs::new() else { return };
    theirs.runs("id -u; cat /proc/self/uid_map | tr -s ' '; echo x > /dev/null; touch /tmp/x && stat -c %u /tmp/x; exit 5");
    theirs.bundle.config["root"]["readonly"] = json!(false);
    let said = theirs.run();
    let expected = format!("0\n 0 {} 1\n0\n", theirs.user.uid());
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (5, expected.as_str(), ""), "{said:?}");
    assert!(theirs.is_gone());
    let owner =
        std::os::unix::fs::MetadataExt::uid(&fs::metadata(theirs.bundle.rootfs().join("tmp/x")).unwrap());
    assert_eq!(owner, theirs.user.uid());
}

#[test]
fn an_ordinary_user_looks_after_a_container() {
    let Some(mut theirs) = Theirs::new() else { return };
    theirs.runs("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    let id = theirs.bundle.id.clone();
    theirs.up();
    let state =
        |theirs: &Theirs| -> Value { serde_json::from_str(&theirs.call(&["state", &id]).good()).unwrap() };
    assert_eq!(state(&theirs)["status"], "running");
    assert_eq!(theirs.call(&["exec", &id, "sh", "-c", "id -u; exit 3"]).out, "0\n");
    assert_eq!(theirs.call(&["exec", &id, "sh", "-c", "exit 3"]).code, 3);
    for without_cgroup in [vec!["pause", &id], vec!["ps", &id], vec!["update", "--pids-limit", "5", &id]] {
        let said = theirs.call(&without_cgroup).refused();
        assert!(said.contains("no cgroup"), "{said}");
    }
    theirs.call(&["kill", &id, "TERM"]).good();
    wait_until("it has stopped", || state(&theirs)["status"] == "stopped");
    theirs.call(&["delete", &id]).good();
    assert!(theirs.is_gone());
}

#[test]
fn an_ordinary_user_has_subordinate_ids() {
    let Some(mut theirs) = Theirs::new() else { return };
    let name =
        nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(theirs.user.uid())).unwrap().unwrap().name;
    let first = |file: &str| -> u32 {
        let text = fs::read_to_string(file).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
        line.split(':').next().unwrap().parse().unwrap()
    };
    for (field, file) in [("uidMappings", "/etc/subuid"), ("gidMappings", "/etc/subgid")] {
        let more = json!({"containerID": 1, "hostID": first(file), "size": 1000});
        theirs.bundle.config["linux"][field].as_array_mut().unwrap().push(more);
    }
    theirs.bundle.config["process"]["user"] = json!({"uid": 33, "gid": 33, "additionalGids": [44]});
    theirs.runs("id -u; id -g; grep Groups /proc/self/status | tr -d '\t '");
    assert_eq!(theirs.run().good(), "33\n33\nGroups:44\n");
    assert!(theirs.is_gone());
    // What is somebody else's is not to be had.
    theirs.bundle.config["linux"]["uidMappings"][1]["hostID"] = json!(0);
    let said = theirs.run().refused();
    assert!(said.contains("/etc/subuid"), "{said}");
    assert!(theirs.is_gone());
}

#[test]
fn what_an_ordinary_user_can_not_have_is_told() {
    let Some(mut theirs) = Theirs::new() else { return };
    theirs.runs("true");
    theirs.bundle.config["linux"]["resources"] = json!({"memory": {"limit": 1 << 24}});
    let said = theirs.run().refused();
    assert!(said.contains("memory") && said.contains("drop the limit"), "{said}");
    assert!(theirs.is_gone());
    theirs.bundle.config["linux"]["resources"] = json!({});
    theirs.bundle.config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "user");
    let said = theirs.run().refused();
    assert!(said.contains("spec --rootless"), "{said}");
    assert!(theirs.is_gone());
}
