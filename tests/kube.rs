//! What is described for Kubernetes is what was asked for here, and what has no word there is told.

#![allow(clippy::unwrap_used)] // what fails here fails the test

mod common;

use common::{Host, dormouse, said};
use serde_json::{Value, json};

/// The documents, and what was said about them.
fn generated(host: &Host, arguments: &[&str]) -> (Vec<Value>, String) {
    let output = dormouse(host, &[&["generate", "kube"], arguments].concat());
    (documents(&said(&output)), String::from_utf8(output.stderr).unwrap())
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml.split("---\n").skip(1).map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

#[test]
fn a_container_becomes_a_pod_that_asks_for_the_same() {
    let Some(host) = Host::new() else { return };
    std::fs::write(host.path().join("token"), "hush").unwrap();
    said(&dormouse(&host, &["secret", "create", "token", "token"]));
    said(&dormouse(
        &host,
        &[
            "create",
            "--name",
            "Web_1",
            "--restart",
            "always",
            "--publish",
            "127.0.0.1:18080:80",
            "--publish",
            "5000-5001:53-54/udp",
            "--env",
            "COUNT=12",
            "--env",
            "ON=yes",
            "--volume",
            "/etc:/there:ro,rslave",
            "--volume",
            "data:/data",
            "--tmpfs",
            "/scratch:size=1m",
            "--shm-size",
            "2m",
            "--secret",
            "token",
            "--secret",
            "token,type=env,target=TOKEN",
            "--memory",
            "64m",
            "--memory-reservation",
            "32m",
            "--cpus",
            "1.5",
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "MKNOD",
            "--security-opt",
            "no-new-privileges",
            "--security-opt",
            "seccomp=unconfined",
            "--user",
            "7:8",
            "--group-add",
            "9",
            "--read-only",
            "--workdir",
            "/srv",
            "--tty",
            "--sysctl",
            "net.ipv4.ip_forward=1",
            "--dns",
            "10.0.0.1",
            "--dns-option",
            "ndots:2",
            "--add-host",
            "db:10.0.0.2",
            "--hostname",
            "box",
            "--label",
            "tier=front",
            "--label",
            "note=two words",
            "--health-cmd",
            "true",
            "--health-interval",
            "1m30s",
            "--stop-timeout",
            "25",
            "--entrypoint",
            "[\"/bin/sh\", \"-c\"]",
            "busybox",
            "echo $COUNT: done",
        ],
    ));
    let (documents, warnings) = generated(&host, &["--service", "Web_1"]);
    let [pod, service] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!((&pod["apiVersion"], &pod["kind"]), (&json!("v1"), &json!("Pod")));
    assert_eq!(
        pod["metadata"],
        json!({"name": "web-1-pod", "labels": {"app": "web-1-pod", "tier": "front"}, "annotations": {"note": "two words"}})
    );
    let spec = &pod["spec"];
    assert_eq!(
        (&spec["restartPolicy"], &spec["terminationGracePeriodSeconds"]),
        (&json!("Always"), &json!(25))
    );
    assert_eq!((&spec["hostname"], &spec["dnsPolicy"]), (&json!("box"), &json!("None")));
    assert_eq!(
        spec["dnsConfig"],
        json!({"nameservers": ["10.0.0.1"], "options": [{"name": "ndots", "value": "2"}]})
    );
    assert_eq!(spec["hostAliases"], json!([{"ip": "10.0.0.2", "hostnames": ["db"]}]));
    assert_eq!(
        spec["securityContext"],
        json!({"supplementalGroups": [9], "sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]})
    );
    let container = &spec["containers"][0];
    assert_eq!((&container["name"], &container["image"]), (&json!("web-1"), &json!("busybox")));
    assert_eq!(container["command"], json!(["/bin/sh", "-c"]));
    assert_eq!(container["args"], json!(["echo $COUNT: done"]));
    assert_eq!((&container["workingDir"], &container["tty"]), (&json!("/srv"), &json!(true)));
    let key = json!({"secretKeyRef": {"name": "token", "key": "token"}});
    assert_eq!(
        container["env"],
        json!([{"name": "COUNT", "value": "12"}, {"name": "ON", "value": "yes"}, {"name": "TOKEN", "valueFrom": key}]),
        "what looks like a number is a text"
    );
    assert_eq!(
        container["ports"],
        json!([{"containerPort": 80, "hostPort": 18080, "hostIP": "127.0.0.1", "protocol": "TCP"},
               {"containerPort": 53, "hostPort": 5000, "protocol": "UDP"}, {"containerPort": 54, "hostPort": 5001, "protocol": "UDP"}])
    );
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "1500m", "memory": "67108864"}, "requests": {"memory": "33554432"}})
    );
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["MKNOD"]},
               "readOnlyRootFilesystem": true, "runAsGroup": 8, "runAsUser": 7, "seccompProfile": {"type": "Unconfined"}})
    );
    let probe = &container["livenessProbe"];
    assert_eq!(
        (&probe["exec"]["command"], &probe["periodSeconds"]),
        (&json!(["/bin/sh", "-c", "true"]), &json!(90))
    );
    // Each mount has its volume.
    let volume = |path: &str| {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount =
            mounts.iter().find(|mount| mount["mountPath"] == path).unwrap_or_else(|| panic!("{mounts:?}"));
        let volume = spec["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        (mount.clone(), volume.clone())
    };
    let (mount, there) = volume("/there");
    assert_eq!((&mount["readOnly"], &mount["mountPropagation"]), (&json!(true), &json!("HostToContainer")));
    assert_eq!(there["hostPath"], json!({"path": "/etc"}));
    assert_eq!(volume("/data").1["persistentVolumeClaim"], json!({"claimName": "data"}));
    assert_eq!(volume("/scratch").1["emptyDir"], json!({"medium": "Memory", "sizeLimit": "1048576"}));
    assert_eq!(volume("/dev/shm").1["emptyDir"], json!({"medium": "Memory", "sizeLimit": "2097152"}));
    let (mount, secret) = volume("/run/secrets/token");
    assert_eq!((&mount["subPath"], &secret["secret"]["secretName"]), (&json!("token"), &json!("token")));
    assert!(warnings.contains("kubectl create secret generic token --from-file=token=FILE"), "{warnings}");

    assert_eq!(service["spec"]["selector"], json!({"app": "web-1-pod"}));
    let ports: Vec<&Value> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| &port["port"]).collect();
    assert_eq!(ports, [80, 53, 54]);
    assert_eq!(generated(&host, &["Web_1"]).0.len(), 1, "a service is there if it was asked for");
}

#[test]
fn what_kubernetes_has_no_word_for_is_told() {
    let Some(host) = Host::new() else { return };
    let create = |name: &str, arguments: &[&str]| {
        let all =
            [&["create", "--name", name, "--network", "none"], arguments, &["busybox", "true"]].concat();
        said(&dormouse(&host, &all));
    };
    create("odd", &["--ulimit", "nofile=64:128", "--umask", "0027", "--pids-limit", "9", "--user", "daemon"]);
    let (documents, warnings) = generated(&host, &["odd"]);
    for word in ["resource limits", "umask", "some limits", "user", "network namespace"] {
        assert!(warnings.contains(word), "{word} is not in {warnings}");
    }
    assert!(documents[0]["spec"]["containers"][0].get("resources").is_none());
    create("plain", &[]);
    let (documents, _) = generated(&host, &["plain"]);
    let expected = json!([{"name": "plain", "image": "busybox", "args": ["true"]}]);
    assert_eq!(documents[0]["spec"]["containers"], expected, "what was not asked for is not there");
    assert_eq!(documents[0]["spec"]["restartPolicy"], "Never");
}

#[test]
fn a_pod_is_one_there_too_and_what_makes_pods_has_it_inside() {
    let Some(host) = Host::new() else { return };
    for arguments in [
        &[
            "pod",
            "create",
            "--name",
            "shop",
            "-p",
            "18081:80",
            "--share",
            "net,ipc,uts,pid",
            "--hostname",
            "counter",
        ][..],
        &["create", "--pod", "shop", "--name", "front", "-v", "data:/srv", "busybox", "one"],
        &["create", "--pod", "shop", "--name", "back", "-v", "data:/var", "busybox", "two"],
        &["volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "fast"],
    ] {
        said(&dormouse(&host, arguments));
    }
    let (documents, warnings) = generated(&host, &["shop", "fast"]);
    assert_eq!(warnings, "", "nothing of it is lost");
    let [claim, pod] = documents.as_slice() else { panic!("{documents:?}") };
    assert_eq!(
        (&claim["kind"], &claim["metadata"]["name"]),
        (&json!("PersistentVolumeClaim"), &json!("fast"))
    );
    assert_eq!(claim["metadata"]["annotations"]["volume.podman.io/type"], "tmpfs");
    assert_eq!((&pod["metadata"]["name"], &pod["spec"]["hostname"]), (&json!("shop"), &json!("counter")));
    assert_eq!(pod["spec"]["shareProcessNamespace"], true);
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let names: Vec<&Value> = containers.iter().map(|container| &container["name"]).collect();
    assert_eq!(names, ["front", "back"]);
    assert_eq!(containers[0]["ports"][0]["hostPort"], 18081, "ports of the pod are at its first container");
    assert!(containers[1].get("ports").is_none());
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1, "both have the same volume");

    let file = host.path().join("shop.yaml");
    let path = file.to_str().unwrap();
    let arguments = ["--type", "deployment", "--replicas", "3", "-f", path, "front", "back"];
    let (none, _) = generated(&host, &arguments);
    assert!(none.is_empty());
    let deployment = documents_of(&file);
    assert_eq!((&deployment["apiVersion"], &deployment["kind"]), (&json!("apps/v1"), &json!("Deployment")));
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], json!({"app": "front-pod"}));
    let template = &deployment["spec"]["template"];
    assert_eq!(
        (&template["metadata"]["labels"]["app"], &template["spec"]["restartPolicy"]),
        (&json!("front-pod"), &json!("Always"))
    );
    let refused = dormouse(&host, &["generate", "kube", "-f", path, "shop"]);
    assert_eq!(refused.status.code(), Some(1), "a file that is there stays");
    let (daemons, _) = generated(&host, &["--type", "daemonset", "shop"]);
    assert_eq!(daemons[0]["kind"], "DaemonSet");
    assert!(daemons[0]["spec"].get("replicas").is_none());
}

fn documents_of(file: &std::path::Path) -> Value {
    documents(&std::fs::read_to_string(file).unwrap()).remove(0)
}

#[test]
fn what_can_not_be_described_is_refused() {
    let Some(host) = Host::new() else { return };
    let refused = |parameters: Value| host.call("Manager.GenerateKube", parameters).unwrap_err();
    assert_eq!(refused(json!({"names": ["nobody"]})).name(), "NotFound");
    assert_eq!(refused(json!({"names": []})).name(), "InvalidSpec");
    host.call("Pod.Create", json!({"spec": {"name": "empty", "networks": []}})).unwrap();
    assert_eq!(refused(json!({"names": ["empty"]})).name(), "Empty");
    let spec = json!({"name": "tree", "rootfs": "/", "command": ["true"], "networks": []});
    host.call("Container.Create", json!({"spec": spec})).unwrap();
    assert_eq!(refused(json!({"names": ["tree"]})).name(), "Unsupported");
    for wrong in [
        json!({"names": ["tree"], "replicas": 2}),
        json!({"names": ["tree"], "kind": "deployment", "replicas": -1}),
    ] {
        assert_eq!(refused(wrong.clone()).name(), "InvalidSpec", "{wrong}");
    }
}
