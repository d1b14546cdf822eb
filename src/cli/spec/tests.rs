//! From flags to the specification that goes over the wire.

use std::io::Write as _;

use clap::Parser;
use serde_json::{Value, json};

use super::{SpecFlags, environment};
use crate::wire::container::Spec;

#[derive(Parser)]
#[command(disable_help_flag = true)]
struct Flags {
    #[command(flatten)]
    spec: SpecFlags,
}

fn spec(arguments: &[&str]) -> Result<Value, String> {
    let flags = Flags::try_parse_from(std::iter::once(&"test").chain(arguments))
        .map_err(|error| error.to_string())?;
    let spec = Value::Object(flags.spec.to_spec().map_err(|error| error.to_string())?);
    // What is sent must be known to the interface, to the last field.
    let read: Spec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(without_nulls(serde_json::to_value(read).unwrap()), spec);
    Ok(spec)
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect::<Vec<_>>().into(),
        other => other,
    }
}

/// The flags before an image make these fields.
fn check(flags: &[&str], expected: Value) {
    let mut arguments = flags.to_vec();
    arguments.push("debian");
    let mut expected = expected;
    expected["image"] = json!("debian");
    assert_eq!(spec(&arguments).unwrap(), expected, "{flags:?}");
}

fn refused(flags: &[&str]) -> String {
    let mut arguments = flags.to_vec();
    arguments.push("debian");
    spec(&arguments).expect_err(&format!("{flags:?}"))
}

#[test]
fn what_is_not_asked_for_is_not_sent() {
    check(&[], json!({}));
}

#[test]
fn everything_after_the_image_is_the_command() {
    assert_eq!(
        spec(&["-i", "debian", "ls", "-l", "--name", "x"]).unwrap(),
        json!({"image": "debian", "stdinOpen": true, "command": ["ls", "-l", "--name", "x"]})
    );
}

#[test]
fn the_process_is_described() {
    check(
        &[
            "-e",
            "A=1",
            "-e",
            "B=x=y",
            "-u",
            "www-data:adm",
            "-w",
            "/srv",
            "--umask",
            "0027",
            "--group-add",
            "video",
            "-t",
        ],
        json!({
            "env": {"A": "1", "B": "x=y"}, "user": "www-data:adm", "workdir": "/srv", "umask": 0o27,
            "groups": ["video"], "terminal": true,
        }),
    );
    check(
        &["--entrypoint", "", "--stop-signal", "SIGINT", "--stop-timeout", "1m30s", "--init", "-h", "box"],
        json!({"entrypoint": [], "stopSignal": "SIGINT", "stopTimeoutUSec": 90_000_000, "init": true, "hostname": "box"}),
    );
    check(&["--entrypoint", "[\"a\", \"b\"]"], json!({"entrypoint": ["a", "b"]}));
    check(&["--entrypoint", "/bin/a b"], json!({"entrypoint": ["/bin/a b"]}));
}

#[test]
fn systemd_mode_has_the_words_of_podman() {
    check(&["--systemd"], json!({"systemd": "auto"}));
    check(&["--systemd=true"], json!({"systemd": "auto"}));
    check(&["--systemd=always"], json!({"systemd": "always"}));
    check(&["--systemd=false"], json!({"systemd": "off"}));
    refused(&["--systemd=maybe"]);
}

#[test]
fn bind_mounts_are_absolute_and_have_options() {
    check(
        &["-v", "/srv:/data:ro,rshared,nosuid,nodev"],
        json!({"mounts": [{"kind": "bind", "source": "/srv", "target": "/data", "readOnly": true, "propagation": "rshared", "flags": ["nosuid", "nodev"]}]}),
    );
    let here = std::env::current_dir().unwrap();
    check(
        &["-v", "./x:/data"],
        json!({"mounts": [{"kind": "bind", "source": here.join("x").to_str().unwrap(), "target": "/data"}]}),
    );
    check(
        &["--mount", "type=bind,src=/a,dst=/b,readonly,bind-propagation=slave,bind-nonrecursive"],
        json!({"mounts": [{"kind": "bind", "source": "/a", "target": "/b", "readOnly": true, "propagation": "slave", "nonRecursive": true}]}),
    );
    refused(&["-v", "data"]);
    refused(&["-v", ":/data"]);
    refused(&["-v", "/a:/b:zap"]);
    refused(&["-v", "/a:/b:nocopy"]);
    refused(&["--mount", "type=bind,target=/b"]);
    refused(&["--mount", "type=glob,source=/a,target=/b"]);
}

#[test]
fn volumes_have_a_name_or_none() {
    check(
        &["-v", "data:/data:ro,z,nocopy,U", "-v", "/cache", "--mount", "src=a,dst=/b,volume-nocopy=true"],
        json!({"mounts": [
            {"kind": "volume", "source": "data", "target": "/data", "readOnly": true, "noCopy": true, "chown": true},
            {"kind": "volume", "target": "/cache"},
            {"kind": "volume", "source": "a", "target": "/b", "noCopy": true},
        ]}),
    );
    check(
        &["--volumes-from", "web", "--volumes-from", "db:ro"],
        json!({"volumesFrom": [{"container": "web"}, {"container": "db", "readOnly": true}]}),
    );
    refused(&["--volumes-from", "web:U"]);
    refused(&["--mount", "type=volume,source=a,target=/b,bind-propagation=slave"]);
}

#[test]
fn images_are_mounted_and_ids_mapped() {
    check(
        &["--mount", "type=image,source=tools,target=/t", "--mount", "type=image,src=tools,dst=/u,rw=true"],
        json!({"mounts": [
            {"kind": "image", "source": "tools", "target": "/t"},
            {"kind": "image", "source": "tools", "target": "/u", "readOnly": false},
        ]}),
    );
    check(
        &["-v", "/a:/b:idmap=uids=0-1000-10#20-5-1;gids=0-1000-10"],
        json!({"mounts": [{"kind": "bind", "source": "/a", "target": "/b", "idMap": {
            "uids": [{"source": 0, "target": 1000, "count": 10}, {"source": 20, "target": 5, "count": 1}],
            "gids": [{"source": 0, "target": 1000, "count": 10}],
        }}]}),
    );
    refused(&["--mount", "type=image,target=/t"]);
    refused(&["-v", "/a:/b:idmap=uids=0-1000"]);
    refused(&["-v", "/a:/b:idmap=users=0-1000-1"]);
}

#[test]
fn secrets_are_files_or_variables() {
    check(
        &[
            "--secret",
            "key",
            "--secret",
            "pw,type=env,target=PW",
            "--secret",
            "k,target=/k,uid=5,gid=6,mode=0400",
        ],
        json!({"secrets": [
            {"secret": "key"},
            {"secret": "pw", "kind": "env", "target": "PW"},
            {"secret": "k", "target": "/k", "uid": 5, "gid": 6, "mode": 0o400},
        ]}),
    );
    refused(&["--secret", "type=env"]);
    refused(&["--secret", "pw,type=paper"]);
    refused(&["--secret", "pw,mode=9"]);
}

#[test]
fn tmpfs_mounts_have_a_size_and_a_mode() {
    let mount = json!({"kind": "tmpfs", "target": "/tmp", "sizeBytes": 64 << 20, "mode": 0o1777, "flags": ["noexec"]});
    check(&["--tmpfs", "/tmp:size=64m,mode=1777,noexec"], json!({"mounts": [mount]}));
    check(
        &["--mount", "type=tmpfs,target=/tmp,tmpfs-size=64m,tmpfs-mode=1777,noexec"],
        json!({"mounts": [mount]}),
    );
    check(&["--tmpfs", "/run"], json!({"mounts": [{"kind": "tmpfs", "target": "/run"}]}));
    check(
        &["--tmpfs", "/run:notmpcopyup,rw"],
        json!({"mounts": [{"kind": "tmpfs", "target": "/run", "noCopy": true, "readOnly": false}]}),
    );
    refused(&["--tmpfs", "/run:rshared"]);
    refused(&["--tmpfs", "/run:U"]);
}

#[test]
fn devices_have_a_path_inside_and_permissions() {
    check(
        &["--device", "/dev/fuse", "--device", "/dev/kvm:r", "--device", "/dev/sda:/dev/disk:rw"],
        json!({"devices": [
            {"path": "/dev/fuse"}, {"path": "/dev/kvm", "permissions": "r"},
            {"path": "/dev/sda", "containerPath": "/dev/disk", "permissions": "rw"},
        ]}),
    );
    refused(&["--device", "/dev/fuse:x"]);
    refused(&["--device", "fuse"]);
}

#[test]
fn security_is_described() {
    check(
        &["--cap-add", "net_admin,SYS_TIME", "--cap-drop", "ALL", "--privileged", "--read-only"],
        json!({"capabilitiesAdd": ["net_admin", "SYS_TIME"], "capabilitiesDrop": ["ALL"], "privileged": true, "readOnlyRoot": true}),
    );
    check(
        &[
            "--security-opt",
            "seccomp=unconfined",
            "--security-opt",
            "no-new-privileges",
            "--security-opt",
            "mask=/a:/b",
            "--security-opt",
            "unmask=all",
        ],
        json!({"seccomp": {"kind": "unconfined"}, "noNewPrivileges": true, "masked": ["/a", "/b"], "unmasked": ["ALL"]}),
    );
    check(&["--security-opt", "label=disable"], json!({}));
    refused(&["--security-opt", "label=type:x"]);
    refused(&["--security-opt", "seccomp=/does/not/exist"]);

    let mut profile = tempfile::NamedTempFile::new().unwrap();
    profile.write_all(b"{\"defaultAction\": \"SCMP_ACT_ERRNO\"}").unwrap();
    check(
        &["--security-opt", &format!("seccomp={}", profile.path().display())],
        json!({"seccomp": {"kind": "profile", "profile": {"defaultAction": "SCMP_ACT_ERRNO"}}}),
    );
}

#[test]
fn namespaces_are_private_the_hosts_or_those_of_a_container() {
    check(
        &["--pid", "host", "--ipc=container:db", "--uts", "private", "--network", "none"],
        json!({
            "pidNamespace": {"kind": "host"}, "ipcNamespace": {"kind": "container", "container": "db"},
            "utsNamespace": {"kind": "private"}, "networkNamespace": {"kind": "private"},
        }),
    );
    refused(&["--pid", "bridge"]);
    refused(&["--pid", "container:"]);
}

#[test]
fn limits_are_in_base_units() {
    check(
        &[
            "-m",
            "512m",
            "--memory-swap",
            "-1",
            "--cpus",
            "1.5",
            "--pids-limit",
            "-1",
            "--cpuset-cpus",
            "0-3",
            "--blkio-weight",
            "100",
        ],
        json!({"resources": {
            "memoryBytes": 512 << 20, "memorySwapBytes": -1, "cpuQuotaUSec": 150_000, "cpuPeriodUSec": 100_000,
            "pidsMax": -1, "cpusetCpus": "0-3", "ioWeight": 100,
        }}),
    );
    check(
        &["--cpu-quota", "50000", "--cpu-shares", "512"],
        json!({"resources": {"cpuQuotaUSec": 50_000, "cpuShares": 512}}),
    );
    check(
        &[
            "--ulimit",
            "nofile=1024:4096",
            "--ulimit",
            "core=-1",
            "--oom-score-adj",
            "-500",
            "--shm-size",
            "1g",
        ],
        json!({
            "resourceLimits": [{"name": "nofile", "soft": 1024, "hard": 4096}, {"name": "core", "soft": -1, "hard": -1}],
            "oomScoreAdjust": -500, "shmSizeBytes": 1 << 30,
        }),
    );
    refused(&["--cpus", "0"]);
    refused(&["--cpus", "1", "--cpu-quota", "5"]);
    refused(&["--memory", "lots"]);
    refused(&["--ulimit", "nofile"]);
}

#[test]
fn the_limits_of_a_device_are_put_together() {
    check(
        &[
            "--device-read-bps",
            "/dev/sda:1m",
            "--device-write-iops",
            "/dev/sda:100",
            "--device-read-bps",
            "/dev/sdb:2m",
        ],
        json!({"resources": {"ioLimits": [
            {"path": "/dev/sda", "readBytesPerSec": 1 << 20, "writeOperationsPerSec": 100},
            {"path": "/dev/sdb", "readBytesPerSec": 2 << 20},
        ]}}),
    );
    refused(&["--device-read-bps", "/dev/sda"]);
}

#[test]
fn the_lifecycle_is_described() {
    check(
        &[
            "--name",
            "web",
            "-l",
            "a=b",
            "-l",
            "bare",
            "--annotation",
            "x=y",
            "--sysctl",
            "net.core.somaxconn=1024",
        ],
        json!({"name": "web", "labels": {"a": "b", "bare": ""}, "annotations": {"x": "y"}, "sysctls": {"net.core.somaxconn": "1024"}}),
    );
    check(&["--restart", "on-failure:3"], json!({"restart": {"mode": "onFailure", "retriesMax": 3}}));
    check(&["--restart", "unless-stopped"], json!({"restart": {"mode": "unlessStopped"}}));
    check(
        &["--log-driver", "k8s-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=3"],
        json!({"log": {"driver": "k8sFile", "sizeMaxBytes": 1 << 20, "filesMax": 3}}),
    );
    check(
        &["--log-driver", "none", "--runtime", "crun", "--rm"],
        json!({"log": {"driver": "none"}, "runtime": "crun", "autoRemove": true}),
    );
    refused(&["--restart", "sometimes"]);
    refused(&["--log-opt", "color=red"]);
    refused(&["--label", "=x"]);
}

#[test]
fn a_root_directory_takes_the_place_of_an_image() {
    assert_eq!(
        spec(&["--rootfs", "/srv/tree", "ls"]).unwrap(),
        json!({"rootfs": "/srv/tree", "command": ["ls"]})
    );
}

#[test]
fn an_environment_file_has_comments_and_yields_to_the_flags() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# comment\n\nA=file\n  B=two words \nDORMOUSE_TEST_UNSET\n").unwrap();
    let env = environment(&["A=flag".to_owned()], &[file.path().to_owned()]).unwrap();
    assert_eq!(json!(env), json!({"A": "flag", "B": "two words "}));
    let mut bad = tempfile::NamedTempFile::new().unwrap();
    bad.write_all(b"A=1\n=x\n").unwrap();
    let error = environment(&[], &[bad.path().to_owned()]).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}
