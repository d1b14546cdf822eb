//! All that a file asks for, and the way there and back.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Host, Leaks, dormouse, messages, said, wait_until};
use crate::{exec, names, play, pod, spec, without_nulls, write};

const EVERYTHING: &str = include_str!("everything.yaml");

const SETTINGS: &str =
    "kind: ConfigMap\nmetadata: {name: settings}\ndata: {colour: red}\nbinaryData: {blob: AAEC}\n";

#[test]
fn a_pod_gets_all_that_its_file_asks_for_and_nothing_of_it_outlasts_it() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let settings = write(&host, "settings.yaml", SETTINGS);
    // Bytes are no variables.
    let yaml = EVERYTHING.replace("HOST", host.path().to_str().unwrap());
    let refusal = host.call("Pod.PlayKube", json!({"yaml": yaml, "configMaps": [SETTINGS], "networks": []}));
    let refusal = refusal.unwrap_err();
    assert_eq!(
        (refusal.name(), &refusal.parameters["field"]),
        ("InvalidDocument", &json!("spec.containers[0].envFrom[0].configMapRef"))
    );
    fs::write(
        host.path().join(&settings),
        SETTINGS.replace("binaryData: {blob: AAEC}", "binaryData: {blob: YmxvYg==}"),
    )
    .unwrap();

    let (ids, warnings) = play(&host, &yaml, &["--configmap", &settings]);
    assert_eq!(ids.lines().count(), 1, "{ids}");
    let told: Vec<&str> = warnings.lines().collect();
    assert_eq!(told.len(), 2, "{warnings}");
    assert!(
        warnings.contains("document 1, spec.containers[0].readinessProbe: it is not carried out"),
        "{warnings}"
    );
    assert!(warnings.contains("document 4, kind: a Service makes nothing here"), "{warnings}");
    assert_eq!(host.names(), ["shop-web", "shop-side"], "the init container is gone");

    let log = || messages(&host.call("Container.Logs", json!({"name": "shop-web"})).unwrap());
    wait_until("it has said something", || !log().is_empty());
    assert_eq!(log(), ["hello, $(NOBODY) $(GREETING)"]);
    let check =
        |script: &str, expected: &str| assert_eq!(exec(&host, "shop-web", script), expected, "{script}");
    check(
        "echo $GREETING/$TWICE/$COLOUR/$NONE/$TOKEN/$POD/$SPACE/$TIER",
        "hello/hello hello/red//hush/shop/market/front",
    );
    check("echo $SET_colour $SET_blob $user $token", "red blob me hush");
    check("hostname; pwd; id -u; id -g; id -G", "counter\n/tmp\n7\n8\n8 9");
    check(
        "cat /scratch/state; echo more > /scratch/more; echo x > /part/x; cat /scratch/a/b/x",
        "prepared\nx",
    );
    assert_eq!(exec(&host, "shop-side", "cat /scratch/more"), "more", "both have the same");
    check(
        "stat -c %a /settings/blob /settings/deep/colour; cat /etc/one 2>&1 | tail -n 1",
        "444\n440\ncat: can't open '/etc/one': Permission denied",
    );
    check("cat /keys/token /keys/user", "hushme");
    check("touch /settings/new /keys/new /host/new /new 2>&1 | grep -c Read-only", "4");
    check(
        "touch /data/x && stat -f -c %T /fast && df -k /fast | tail -n 1 | awk '{print $2}'",
        "tmpfs\n1024",
    );
    check("df -k /dev/shm | tail -n 1 | awk '{print $2}'", "2048");
    check(
        "grep -c database /etc/hosts; grep -E 'nameserver|search|ndots' /etc/resolv.conf | sort",
        "1\nnameserver 10.0.0.1\noptions ndots:2\nsearch shop.test",
    );
    check("grep NoNewPrivs /proc/self/status | cut -f 2", "1");
    let web = without_nulls(spec(&host, "shop-web"));
    assert_eq!(
        web["resources"],
        json!({"memoryBytes": 64 << 20, "memoryReservationBytes": 32 << 20, "cpuQuotaUSec": 150_000,
                                        "cpuPeriodUSec": 100_000, "cpuShares": 512})
    );
    assert_eq!((&web["restart"]["mode"], &web["stopTimeoutUSec"]), (&json!("onFailure"), &json!(7_000_000)));
    assert_eq!(
        (&web["capabilitiesAdd"], &web["capabilitiesDrop"]),
        (&json!(["NET_ADMIN"]), &json!(["MKNOD"]))
    );
    assert_eq!(
        (&web["labels"], &web["annotations"]),
        (&json!({"tier": "front"}), &json!({"note": "two words"}))
    );
    let health = &web["healthCheck"];
    assert_eq!(
        (&health["command"], &health["intervalUSec"], &health["retries"]),
        (&json!(["true"]), &json!(20_000_000), &json!(4))
    );
    assert_eq!(names(&host, "Secret", "secrets"), ["keys_token", "keys_user"]);
    assert!(names(&host, "Volume", "volumes").contains(&"data".to_owned()));
    assert!(
        !serde_json::to_string(&host.call("Container.Inspect", json!({"name": "shop-web"})).unwrap())
            .unwrap()
            .contains("hush")
    );

    // What is there is not made again, unless it is wanted.
    let again = dormouse(&host, &["kube", "play", "--configmap", &settings, "play.yaml"]);
    let told = String::from_utf8(again.stderr).unwrap();
    assert!(told.contains("document 1, metadata.name: a pod named \"shop\" exists"), "{told}");
    exec(&host, "shop-web", "echo kept > /data/kept");
    play(&host, &yaml, &["--replace", "--configmap", &settings]);
    assert_eq!(exec(&host, "shop-web", "cat /data/kept; ls /scratch"), "kept\na\nstate");

    let removed = said(&dormouse(&host, &["kube", "down", "play.yaml"]));
    assert_eq!(removed, "shop\nkeys_token\nkeys_user\n");
    assert_eq!(names(&host, "Volume", "volumes"), ["data"], "what is in a claim stays");
    assert_eq!(said(&dormouse(&host, &["kube", "down", "--force", "play.yaml"])), "data\n");
    assert_eq!(said(&dormouse(&host, &["kube", "down", "play.yaml"])), "", "what is gone is gone");
    leaks.assert_none_after();
}

#[test]
fn what_was_described_is_made_again() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    for arguments in [
        &[
            "pod",
            "create",
            "--name",
            "shop",
            "--network",
            "none",
            "--hostname",
            "counter",
            "--label",
            "tier=front",
        ][..],
        &["secret", "create", "my_token", "token"],
        &[
            "create",
            "--pod",
            "shop",
            "--name",
            "shop-web",
            "-v",
            "data:/srv",
            "--tmpfs",
            "/scratch:size=1m",
            "--env",
            "A=$(B)$$",
            "--env",
            "B=b",
            "--secret",
            "my_token",
            "--secret",
            "my_token,type=env,target=TOKEN",
            "--user",
            "7:8",
            "--memory",
            "64m",
            "--cpus",
            "1.5",
            "--cap-drop",
            "MKNOD",
            "--security-opt",
            "no-new-privileges",
            "--read-only",
            "--restart",
            "always",
            "--health-cmd",
            "true",
            "--stop-timeout",
            "25",
            "--entrypoint",
            "[\"/bin/sh\", \"-c\"]",
            "busybox",
            "echo '$(B)'; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done",
        ],
        &[
            "create",
            "--pod",
            "shop",
            "--name",
            "shop-side",
            "-v",
            "data:/data:ro",
            "--restart",
            "always",
            "--stop-timeout",
            "25",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done",
        ],
        &["pod", "start", "shop"],
    ] {
        fs::write(host.path().join("token"), "hush").unwrap();
        said(&dormouse(&host, arguments));
    }
    let describe = || {
        let mut containers = Vec::new();
        for name in ["shop-web", "shop-side"] {
            let mut spec = spec(&host, name);
            // That of a probe decides there too.
            spec["healthCheck"]["onFailure"] = Value::Null;
            containers.push(spec);
        }
        let output = dormouse(&host, &["generate", "kube", "shop"]);
        (containers, said(&output))
    };
    let (before, yaml) = describe();
    assert!(yaml.contains("name: web\n") && yaml.contains("name: side\n"), "{yaml}");
    fs::write(host.path().join("shop.yaml"), &yaml).unwrap();
    assert_eq!(said(&dormouse(&host, &["kube", "down", "shop.yaml"])), "shop\n");
    assert_eq!(host.names(), [""; 0]);
    let from_stdin = Command::new(env!("CARGO_BIN_EXE_dormouse"))
        .args(["--address", &host.address(), "kube", "play", "--network", "none", "-"])
        .stdin(fs::File::open(host.path().join("shop.yaml")).unwrap())
        .output()
        .unwrap();
    said(&from_stdin);
    let (after, again) = describe();
    assert_eq!(again, yaml, "the same is described");
    for (before, after) in before.iter().zip(&after) {
        for field in [
            "env",
            "user",
            "resources",
            "capabilitiesDrop",
            "noNewPrivileges",
            "readOnlyRoot",
            "restart",
            "stopTimeoutUSec",
            "entrypoint",
            "command",
            "secrets",
        ] {
            if field == "secrets" {
                assert_eq!(before[field].as_array().map(Vec::len), after[field].as_array().map(Vec::len));
            } else {
                assert_eq!(before[field], after[field], "{field}");
            }
        }
    }
    let log = || messages(&host.call("Container.Logs", json!({"name": "shop-web"})).unwrap());
    wait_until("it has said something", || !log().is_empty());
    assert_eq!(log(), ["$(B)"]);
    assert_eq!(
        exec(&host, "shop-web", "hostname; echo $TOKEN; cat /run/secrets/my_token; echo; echo \"$A\""),
        "counter\nhush\nhush\n$(B)$$"
    );
    said(&dormouse(&host, &["kube", "down", "shop.yaml"]));
    said(&dormouse(&host, &["volume", "rm", "data"]));
    said(&dormouse(&host, &["secret", "rm", "my_token"]));
    leaks.assert_none_after();
}

#[test]
fn probes_are_health_checks_and_parts_of_claims_are_made() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let of_container = "    livenessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1, timeoutSeconds: 10}
    startupProbe: {tcpSocket: {port: 8000}, periodSeconds: 2, failureThreshold: 30, timeoutSeconds: 10}
    volumeMounts: [{name: data, mountPath: /data, subPath: a/b}]";
    let server = "  - name: server
    image: busybox
    command: [sh, -c, 'mkdir /www; echo ok > /www/alive; exec httpd -f -p 8000 -h /www']
    livenessProbe: {httpGet: {path: alive, port: 8000}, periodSeconds: 1, timeoutSeconds: 10}
    lifecycle: {stopSignal: SIGKILL}
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]";
    let yaml = pod("web", of_container, server);
    let (_, warnings) = play(&host, &yaml, &[]);
    assert_eq!(warnings, "");
    let health = |name: &str| {
        let container = host.call("Container.Inspect", json!({"name": name})).unwrap()["container"].take();
        container["summary"]["health"].clone()
    };
    for name in ["web-main", "web-server"] {
        wait_until("it is healthy", || health(name) == "healthy");
    }
    let check = without_nulls(spec(&host, "web-main")["healthCheck"].take());
    assert_eq!(
        (&check["intervalUSec"], &check["timeoutUSec"], &check["startPeriodUSec"], &check["onFailure"]),
        (&json!(1_000_000), &json!(10_000_000), &json!(60_000_000), &json!("kill"))
    );
    assert_eq!(spec(&host, "web-server")["stopSignal"], "SIGKILL");
    exec(&host, "web-main", "echo kept > /data/file");
    // A container may have put a link where a part was, which leads nowhere else.
    let details = host.call("Volume.Inspect", json!({"name": "data"})).unwrap()["volume"].take();
    let data = std::path::Path::new(details["mountPoint"].as_str().unwrap()).to_owned();
    assert_eq!(fs::read_to_string(data.join("a/b/file")).unwrap(), "kept\n");
    host.call("Pod.RemoveKube", json!({"yaml": yaml})).unwrap();
    fs::rename(data.join("a"), data.join("real")).unwrap();
    std::os::unix::fs::symlink("/etc", data.join("a")).unwrap();
    let refusal = host.call("Pod.PlayKube", json!({"yaml": yaml, "networks": []})).unwrap_err();
    assert!(refusal.reason().contains("document 1, spec.containers[0].volumeMounts: "), "{refusal:?}");
    assert!(!std::path::Path::new("/etc/b").exists());
    assert_eq!(names(&host, "Pod", "pods"), [""; 0]);
    host.call("Volume.Remove", json!({"name": "data"})).unwrap();
    leaks.assert_none_after();
}
