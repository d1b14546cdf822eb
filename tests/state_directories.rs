//! What belongs together and has come apart: records that are lost or damaged, and directories of another service. Nothing
//! that is not told of is removed where the telling itself is in doubt.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::{Host, assert_refused, wait_until};
use serde_json::json;

/// A container that runs and has written something, and a volume that holds something.
fn furnished() -> Option<(Host, [PathBuf; 2], i32)> {
    let host = Host::new()?;
    let mounts = json!({"mounts": [{"kind": "volume", "source": "data", "target": "/data"}]});
    let script = "echo precious > /data/file; echo precious > /file; exec sleep 1000";
    let container = host.sh(script).with(mounts).named("web").run();
    let upper = PathBuf::from(container.inspect()["upperDirectory"].as_str().unwrap());
    let volumes = host.state_dir().join("volumes");
    let volume = fs::read_dir(volumes).unwrap().next().unwrap().unwrap().path();
    let files = [upper.join("file"), volume.join("data/file")];
    wait_until("it has written", || files.iter().all(|file| file.exists()));
    let pid = container.pid();
    Some((host, files, pid))
}

fn runs(pid: i32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Waits for the look for left-overs that comes after each wake.
fn until_swept(host: &Host) {
    wait_until("the sweep has been refused", || {
        host.log().contains("cannot look for what interrupted changes left")
    });
}

#[test]
fn without_its_database_nothing_is_removed_and_the_error_says_what_to_do() {
    let Some((mut host, files, pid)) = furnished() else { return };
    host.crash();
    let aside = host.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let parts = ["dormouse.db", "dormouse.db-wal", "dormouse.db-shm"];
    for part in parts {
        let _ = fs::rename(host.state_dir().join(part), aside.join(part));
    }
    host.wake();
    let refusal = assert_refused(host.call("Container.List", json!({})), "Failed");
    for part in ["dormouse.db", "is gone or empty", "bring the database back", "move"] {
        assert!(refusal.reason().contains(part), "{refusal:?}");
    }
    assert_refused(host.call("Volume.Create", json!({})), "Failed");
    until_swept(&host);
    assert!(files.iter().all(|file| file.exists()) && runs(pid));
    host.crash();

    // An empty file is none either, as a power cut may leave it, and no more is one without records.
    let database = host.state_dir().join("dormouse.db");
    for sql in [None, Some("PRAGMA journal_mode = WAL; CREATE TABLE other (x)")] {
        fs::write(&database, "").unwrap();
        if let Some(sql) = sql {
            rusqlite::Connection::open(&database).unwrap().execute_batch(sql).unwrap();
        }
        host.wake();
        assert_refused(host.call("Container.List", json!({})), "Failed");
        host.crash();
    }
    for part in parts {
        let _ = fs::rename(aside.join(part), host.state_dir().join(part));
    }
    host.wake();
    assert_eq!(host.names(), ["web"]);
    assert!(files.iter().all(|file| file.exists()) && runs(pid));
}

#[test]
fn with_a_damaged_database_nothing_is_removed() {
    let Some((mut host, files, pid)) = furnished() else { return };
    host.crash();
    let files_of_it = ["dormouse.db", "dormouse.db-wal"].map(|name| host.state_dir().join(name));
    let whole = files_of_it.each_ref().map(|file| fs::read(file).unwrap());
    for (file, whole) in files_of_it.iter().zip(&whole) {
        let mut damaged = whole.clone();
        damaged.iter_mut().take(100).for_each(|byte| *byte = b'x');
        fs::write(file, damaged).unwrap();
    }
    host.wake();
    let refusal = assert_refused(host.call("Container.List", json!({})), "Failed");
    assert!(refusal.reason().contains("dormouse.db"), "{refusal:?}");
    until_swept(&host);
    assert!(files.iter().all(|file| file.exists()) && runs(pid));
    host.crash();
    for (file, whole) in files_of_it.iter().zip(whole) {
        fs::write(file, whole).unwrap();
    }
    host.wake();
    assert_eq!(host.names(), ["web"]);
}

#[test]
fn a_service_with_another_directory_leaves_what_runs_alone() {
    let Some((host, files, pid)) = furnished() else { return };
    let other = |state: &str| -> Output {
        let address = format!("unix:{}", host.path().join("other").display());
        Command::new(env!("CARGO_BIN_EXE_dormouse"))
            .args(["serve", "--idle-timeout", "1s", "--listen", &address, "--run-dir"])
            .arg(host.run_dir())
            .arg("--state-dir")
            .arg(host.path().join(state))
            .output()
            .unwrap()
    };
    let refused = other("elsewhere");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{said}");
    for part in ["containers that are recorded in", "--run-dir", "remove those containers first"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(files.iter().all(|file| file.exists()) && runs(pid));
    assert_eq!(host.names(), ["web"]);

    // The same directory by another name is the same.
    std::os::unix::fs::symlink(host.state_dir(), host.path().join("link")).unwrap();
    let same = other("link/.");
    assert!(same.status.success(), "{}", String::from_utf8_lossy(&same.stderr));

    // As little may one with another run directory, which would not know what runs.
    let address = format!("unix:{}", host.path().join("other").display());
    let unknowing = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["serve", "--idle-timeout", "1s", "--listen", &address, "--run-dir"])
        .arg(host.path().join("run-elsewhere"))
        .arg("--state-dir")
        .arg(host.state_dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&unknowing.stderr).into_owned();
    assert!(!unknowing.status.success() && said.contains("known only there; use that one"), "{said}");

    // Where nothing runs, another one may have it.
    host.call("Container.Remove", json!({"name": "web", "force": true})).unwrap();
    let taken = other("elsewhere");
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}
