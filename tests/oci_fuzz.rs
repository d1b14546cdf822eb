//! Specifications that are broken at random: each gives an error or a container, and never a crash or a leak.
//!
//! `DORMOUSE_FUZZ=10000` says how many; `DORMOUSE_FUZZ_SEED` repeats a run. Most of the time each of them waits for the kernel,
//! which takes namespaces and cgroups down: so there are more at a time than processors.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

mod oci_support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_support::{Bundle, Said, output};
use serde_json::{Value, json};

/// How many at a time.
const CROWD: u64 = 6;

/// Numbers that look random, and come again with the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(count.max(1)).unwrap()).unwrap()
    }

    fn one_of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        let index = self.below(list.len());
        &list[index]
    }
}

/// Much of what a specification can have, so that there is much to break. `kind`: one of [`KINDS`].
fn rich(config: &mut Value, kind: u64, id: &str) {
    config["linux"]["resources"] = json!({"pids": {"limit": 100}, "memory": {"limit": 1 << 28}, "cpu": {"shares": 512},
        "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]});
    config["linux"]["maskedPaths"] = json!(["/proc/kcore", "/proc/keys"]);
    config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    config["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
    config["linux"]["devices"] =
        json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
    config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
            "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]});
    config["linux"]["rootfsPropagation"] = json!("private");
    config["linux"]["personality"] = json!({"domain": "LINUX"});
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 1});
    config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4});
    config["process"]["oomScoreAdj"] = json!(100);
    config["process"]["noNewPrivileges"] = json!(true);
    config["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 18, "additionalGids": [5]});
    config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/true", "timeout": 5}], "poststop": [{"path": "/bin/true"}]});
    config["annotations"] = json!({"a": "b"});
    config["domainname"] = json!("example");
    let more = |config: &mut Value, at: &str, value: Value| {
        config.pointer_mut(at).and_then(Value::as_array_mut).unwrap().push(value);
    };
    let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    match kind {
        0 => {
            config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
            more(
                config,
                "/mounts",
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
            );
        }
        1 => {
            more(config, "/linux/namespaces", json!({"type": "user"}));
            config["linux"]["uidMappings"] = mapping.clone();
            config["linux"]["gidMappings"] = mapping;
            more(
                config,
                "/mounts",
                json!({"destination": "/data", "type": "bind", "source": "rootfs/etc", "options": ["rbind", "ro", "rslave"]}),
            );
        }
        _ => {
            more(config, "/linux/namespaces", json!({"type": "time"}));
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 100, "nanosecs": 1}});
            let mount = json!({"destination": "/data", "type": "bind", "source": "rootfs/etc", "options": ["bind"],
                "uidMappings": mapping, "gidMappings": mapping});
            more(config, "/mounts", mount);
            config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0-1"});
            if std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
                config["linux"]["resources"]["unified"] = json!({"memory.high": "1000000000"});
            }
            config["root"]["readonly"] = json!(true);
        }
    }
}

const KINDS: u64 = 3;

/// The places in a value, as pointers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    if !at.is_empty() {
        found.push(at.to_owned());
    }
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            places(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| places(value, &format!("{at}/{index}"), found));
        }
        _ => {}
    }
}

fn nonsense(dice: &mut Dice) -> Value {
    let long = "x".repeat(5000);
    let all = [
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(1),
        json!(7),
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1.5),
        json!(""),
        json!("."),
        json!(".."),
        json!("/proc"),
        json!("/proc/self/fd/0"),
        json!("/dev/null"),
        json!("../../../x"),
        json!("a\0b"),
        json!("\u{202e}\n"),
        json!(long),
        json!([]),
        json!({}),
        json!([null]),
        json!({"a": null}),
        json!("bind"),
        json!("rbind"),
        json!("time"),
        json!("user"),
        json!("tmpfs"),
        json!("proc"),
        json!("rro"),
        json!("remount"),
        json!("shared"),
        json!("SCMP_ACT_NOTIFY"),
        json!("SCHED_DEADLINE"),
        json!("SCHED_FIFO"),
        json!("RLIMIT_NPROC"),
        json!("b"),
        json!("p"),
        json!("CAP_SYS_ADMIN"),
        json!(["/etc"]),
    ];
    dice.one_of(&all).clone()
}

fn mutate(config: &Value, dice: &mut Dice) -> String {
    let mut config = config.clone();
    for _ in 0..=dice.below(3) {
        let mut found = Vec::new();
        places(&config, "", &mut found);
        let place = dice.one_of(&found).clone();
        let (parent, last) = place.rsplit_once('/').unwrap();
        match dice.below(5) {
            0 => match config.pointer_mut(parent) {
                Some(Value::Object(members)) => drop(members.remove(last)),
                Some(Value::Array(items)) => drop(items.remove(last.parse().unwrap())),
                _ => {}
            },
            1 => {
                let copy = config.pointer(&place).cloned();
                if let (Some(Value::Array(items)), Some(copy)) = (config.pointer_mut(parent), copy) {
                    items.push(copy);
                }
            }
            2 => {
                let other = dice.one_of(&found).clone();
                let copy = config.pointer(&other).cloned().unwrap_or_default();
                if let Some(value) = config.pointer_mut(&place) {
                    *value = copy;
                }
            }
            _ => {
                let value = nonsense(dice);
                if let Some(place) = config.pointer_mut(&place) {
                    *place = value;
                }
            }
        }
    }
    let mut text = config.to_string();
    if dice.below(10) == 0 {
        let mut bytes = text.into_bytes();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len());
            bytes[at] = u8::try_from(dice.below(256)).unwrap();
        }
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    text
}

/// What would make the host's own root a container's, where making its mount points would be no leak but still a mess.
fn spares_the_host(text: &str) -> bool {
    let Ok(config) = serde_json::from_str::<Value>(text) else { return true };
    let root = config["root"]["path"].as_str().unwrap_or_default();
    let own_devices = config["mounts"]
        .as_array()
        .is_some_and(|mounts| mounts.iter().any(|mount| mount["destination"] == "/dev"));
    root == "rootfs" || (!root.starts_with('/') && !root.starts_with("..") && own_devices)
}

/// What has come of them all.
#[derive(Default)]
struct Tally {
    taken: AtomicU64,
    good: AtomicU64,
    refused: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

#[test]
fn broken_specifications_give_an_error_or_a_container() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let count = number("DORMOUSE_FUZZ").unwrap_or(300);
    let seed = number("DORMOUSE_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 | 1);
    eprintln!("seed {seed}, {count} specifications");
    let tally = Tally::default();
    let before = foreign_cgroups();
    std::thread::scope(|scope| {
        for thread in 0..CROWD {
            let tally = &tally;
            scope.spawn(move || fuzz(seed + thread, count, thread % KINDS, tally));
        }
    });
    let (good, refused) = (tally.good.load(Ordering::Relaxed), tally.refused.load(Ordering::Relaxed));
    eprintln!("{good} ran, {refused} were refused");
    let wrong = tally.wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n\n"));
    let left: Vec<_> = foreign_cgroups().into_iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new(), "cgroups are left behind");
    let ran_at_all = tally.taken.load(Ordering::Relaxed) > 0;
    assert!(count < 100 || !ran_at_all || (good + refused == count && good > 0 && refused > 0));
}

/// Cgroups by names that only a broken specification has.
fn foreign_cgroups() -> Vec<std::path::PathBuf> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let hierarchies: Vec<_> = std::fs::read_dir(root).unwrap().flatten().map(|entry| entry.path()).collect();
    let names =
        ["proc", "dev", "x", "bind", "rbind", "rootfs", "bin", "true", "tmpfs", "p", "b", "etc", "shared"];
    let places = hierarchies.iter().map(std::path::PathBuf::as_path).chain([root]);
    let paths = places.flat_map(|place| names.map(|name| place.join(name)));
    paths.filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// What is wrong with an answer.
fn complaint(said: &Said, text: &str, bundle: &Bundle) -> Option<&'static str> {
    // 101 is a panic, and 128 and more a signal; a program that a filter kills is one of the container's.
    let filtered = said.code > 128 && text.contains("SCMP_ACT");
    let violent = said.code < 0 || (said.code >= 128 && !filtered);
    let left = std::fs::read_dir(bundle.state_root()).is_ok_and(|mut entries| entries.next().is_some());
    match said.code {
        _ if violent || said.code == 101 || said.err.contains("panicked") => Some("it crashes"),
        1 if said.err.is_empty() => Some("an error says nothing"),
        _ if left => Some("its state is left"),
        _ => None,
    }
}

fn fuzz(seed: u64, count: u64, kind: u64, tally: &Tally) {
    let Some(mut bundle) = Bundle::new() else { return };
    rich(&mut bundle.config, kind, &bundle.id);
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // In a user namespace nobody could make it.
    std::fs::create_dir(bundle.rootfs().join("data")).unwrap();
    // What is not broken runs.
    bundle.run().good();
    let mut round = 0;
    while tally.taken.fetch_add(1, Ordering::Relaxed) < count {
        round += 1;
        let text = loop {
            let text = mutate(&bundle.config, &mut dice);
            if spares_the_host(&text) {
                break text;
            }
        };
        std::fs::write(bundle.dir().join("config.json"), &text).unwrap();
        let said = output(bundle.command(&["run", "--bundle", bundle.dir().to_str().unwrap(), &bundle.id]));
        let of = if said.code == 0 { &tally.good } else { &tally.refused };
        of.fetch_add(1, Ordering::Relaxed);
        if let Some(wrong) = complaint(&said, &text, &bundle) {
            let told = format!("{wrong}, round {round} of seed {seed}, kind {kind}: {said:?}\n{text}");
            tally.wrong.lock().unwrap().push(told);
            bundle.call(&["delete", "--force"]);
        }
        if round % 50 == 0 {
            bundle.assert_gone();
        }
    }
    bundle.assert_gone();
}
