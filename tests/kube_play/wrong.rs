//! What is wrong is told by document and field, and what fails in the middle leaves nothing.

use serde_json::json;

use crate::common::{Host, Leaks};
use crate::{exec, names, pod, refused};

#[test]
fn what_is_wrong_is_told_by_document_and_field() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let good = pod("good", "", "");
    let behind = |bad: &str| format!("{good}---\n{bad}");
    let check = |yaml: String, document: usize, field: &str| {
        let refusal = refused(&host, &yaml);
        assert_eq!(refusal.name(), "InvalidDocument", "{yaml}\n{refusal:?}");
        assert_eq!(refusal.parameters["document"], document, "{yaml}\n{refusal:?}");
        assert_eq!(refusal.parameters["field"], field, "{yaml}\n{refusal:?}");
        assert!(refusal.reason().contains(field), "{refusal:?}");
    };
    check(String::new(), 1, "kind");
    check("kind: Service\nmetadata: {name: a}\n".into(), 1, "kind");
    check("[1, 2]".into(), 1, "");
    check(behind("metadata: {name: a}\n"), 2, "kind");
    check(behind("kind: Pod\n"), 2, "metadata.name");
    check(behind("kind: Pod\nmetadata: {name: a}\n"), 2, "spec");
    check(behind("kind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n"), 2, "spec.containers");
    check(
        behind("kind: Pod\nmetadata: {name: 'a b'}\nspec: {containers: [{name: a, image: busybox}]}\n"),
        2,
        "metadata.name",
    );
    check(behind("kind: Deployment\nmetadata: {name: a}\nspec: {}\n"), 2, "spec.template");
    check(behind(&good), 2, "metadata.name");
    for (of_container, of_pod, field) in [
        ("    env: [{name: A, value: 8080}]", "", "spec.containers[0].env[0].value"),
        (
            "    env: [{name: A, valueFrom: {configMapKeyRef: {name: no, key: k}}}]",
            "",
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.name",
        ),
        (
            "    env: [{name: A, valueFrom: {secretKeyRef: {name: no, key: k}}}]",
            "",
            "spec.containers[0].env[0].valueFrom.secretKeyRef.name",
        ),
        (
            "    env: [{name: A, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]",
            "",
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath",
        ),
        (
            "    env: [{name: A, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}]",
            "",
            "spec.containers[0].env[0].valueFrom.resourceFieldRef",
        ),
        ("    envFrom: [{secretRef: {name: no}}]", "", "spec.containers[0].envFrom[0].secretRef.name"),
        ("    args: text", "", "spec.containers[0].args"),
        ("    ports: [{containerPort: 70000}]", "", "spec.containers[0].ports[0].containerPort"),
        (
            "    ports: [{containerPort: 80, hostPort: 80, protocol: ICMP}]",
            "",
            "spec.containers[0].ports[0].protocol",
        ),
        ("    resources: {limits: {memory: 64MB}}", "", "spec.containers[0].resources.limits.memory"),
        ("    imagePullPolicy: Sometimes", "", "spec.containers[0].imagePullPolicy"),
        // What would weaken the isolation if it were passed over.
        (
            "    securityContext: {seLinuxOptions: {level: s0}}",
            "",
            "spec.containers[0].securityContext.seLinuxOptions",
        ),
        ("    securityContext: {runAsNonRot: true}", "", "spec.containers[0].securityContext.runAsNonRot"),
        ("    securityContext: {runAsNonRoot: true}", "", "spec.containers[0].securityContext.runAsNonRoot"),
        (
            "    securityContext: {runAsNonRoot: true, runAsUser: 0}",
            "",
            "spec.containers[0].securityContext.runAsNonRoot",
        ),
        ("    securityContext: {runAsGroup: 5}", "", "spec.containers[0].securityContext.runAsGroup"),
        (
            "    securityContext: {seccompProfile: {type: Localhost, localhostProfile: a}}",
            "",
            "spec.containers[0].securityContext.seccompProfile.type",
        ),
        (
            "    securityContext: {appArmorProfile: {type: Localhost}}",
            "",
            "spec.containers[0].securityContext.appArmorProfile.type",
        ),
        ("    securityContext: {capabilities: {drop: [NOVEL]}}", "", "spec.containers[0]"),
        ("", "  securityContext: {seLinuxOptions: {level: s0}}", "spec.securityContext.seLinuxOptions"),
        ("", "  securityContext: {sysctls: [{name: kernel.panic, value: '1'}]}", "spec.containers[0]"),
        ("", "  hostUsers: false", "spec.hostUsers"),
        ("", "  restartPolicy: Sometimes", "spec.restartPolicy"),
        ("", "  dnsConfig: {nameservers: [here]}", "spec.dnsConfig.nameservers"),
        ("", "  hostAliases: [{ip: here, hostnames: [a]}]", "spec.hostAliases[0].ip"),
        ("", "  volumes: [{name: v, nfs: {server: a, path: /}}]", "spec.volumes[0].nfs"),
        ("", "  volumes: [{name: v}]", "spec.volumes[0]"),
        (
            "",
            "  volumes: [{name: v, hostPath: {path: /no/such, type: Directory}}]",
            "spec.volumes[0].hostPath.path",
        ),
        ("", "  volumes: [{name: v, hostPath: {path: /etc, type: File}}]", "spec.volumes[0].hostPath.path"),
        ("", "  volumes: [{name: v, hostPath: {path: etc}}]", "spec.volumes[0].hostPath.path"),
        ("", "  volumes: [{name: v, emptyDir: {medium: HugePages}}]", "spec.volumes[0].emptyDir.medium"),
        ("", "  volumes: [{name: v, configMap: {name: no}}]", "spec.volumes[0].configMap.name"),
        ("", "  volumes: [{name: v, secret: {secretName: no}}]", "spec.volumes[0].secret.secretName"),
        ("    volumeMounts: [{name: v, mountPath: /v}]", "", "spec.containers[0].volumeMounts[0].name"),
        (
            "    volumeMounts: [{name: v, mountPath: /v, subPathExpr: a}]",
            "  volumes: [{name: v, emptyDir: {}}]",
            "spec.containers[0].volumeMounts[0].subPathExpr",
        ),
        (
            "    volumeMounts: [{name: v, mountPath: /v, subPath: ../..}]",
            "  volumes: [{name: v, hostPath: {path: /etc}}]",
            "spec.containers[0]",
        ),
        (
            "    volumeMounts: [{name: v, mountPath: v}]",
            "  volumes: [{name: v, emptyDir: {}}]",
            "spec.containers[0]",
        ),
        ("    livenessProbe: {exec: {}}", "", "spec.containers[0].livenessProbe.exec.command"),
        ("    livenessProbe: {httpGet: {port: web}}", "", "spec.containers[0].livenessProbe.httpGet.port"),
    ] {
        check(behind(&pod("bad", of_container, of_pod)), 2, field);
    }
    let secret = "kind: Secret\nmetadata: {name: keys}\n";
    check(format!("{secret}data: {{a: '*'}}\n"), 1, "data.a");
    check(format!("{secret}stringData: {{a/b: c}}\n"), 1, "stringData.a/b");
    let leaky = pod(
        "a",
        "    args: [$(T)]\n    env: [{name: T, valueFrom: {secretKeyRef: {name: keys, key: t}}}]",
        "",
    );
    check(format!("{leaky}---\n{secret}stringData: {{t: hush}}\n"), 1, "spec.containers[0].args");
    let items = pod("a", "", "  volumes: [{name: v, configMap: {name: c, items: [{key: k, path: ../x}]}}]");
    check(
        format!("{items}---\nkind: ConfigMap\nmetadata: {{name: c}}\ndata: {{k: v}}\n"),
        1,
        "spec.volumes[0].configMap.items[0].path",
    );

    // What is no YAML: the line, and nothing of what stands there.
    let torn = refused(&host, "kind: Pod\n---\nkind: Secret\nstringData: {token: hush\nother: [\n");
    assert_eq!((torn.name(), &torn.parameters["document"]), ("InvalidDocument", &json!(2)), "{torn:?}");
    assert!(
        torn.parameters["field"].as_str().unwrap().starts_with("line ") && !torn.reason().contains("hush"),
        "{torn:?}"
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert_eq!(refused(&host, bomb).name(), "InvalidDocument");
    let missing =
        refused(&host, &good.replace("busybox", "no.such.registry.test/a:1\n    imagePullPolicy: Never"));
    assert_eq!(
        (missing.name(), missing.parameters["image"].as_str()),
        ("ImageNotFound", Some("no.such.registry.test/a:1"))
    );
    assert!(missing.reason().starts_with("document 1, spec.containers[0].image: "), "{missing:?}");
    let maps =
        host.call("Pod.PlayKube", json!({"yaml": good, "configMaps": [good], "networks": []})).unwrap_err();
    assert_eq!((maps.name(), &maps.parameters["field"]), ("InvalidSpec", &json!("configMaps[0]")));
    let both =
        host.call("Pod.PlayKube", json!({"yaml": good, "hostNetwork": true, "networks": []})).unwrap_err();
    assert_eq!((both.name(), &both.parameters["field"]), ("InvalidSpec", &json!("hostNetwork")));
    let broken = host.call("Pod.RemoveKube", json!({"yaml": "a: ["})).unwrap_err();
    assert_eq!(broken.name(), "InvalidDocument");
    assert_eq!(host.names(), [""; 0]);
    leaks.assert_none_after();
}

#[test]
fn what_fails_in_the_middle_leaves_nothing() {
    let Some(host) = Host::new() else { return };
    host.call("Secret.Create", json!({"name": "keys_a", "data": "b2xk"})).unwrap();
    let leaks = Leaks::before(&host);
    let made = host.path().join("made");
    let mounts = "    volumeMounts: [{name: v, mountPath: /v}, {name: h, mountPath: /h}]\n    env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: a}}}]";
    let volumes = format!(
        "  volumes: [{{name: v, emptyDir: {{}}}}, {{name: h, hostPath: {{path: {}/deep/file, type: FileOrCreate}}}}]",
        made.display()
    );
    let first = format!(
        "kind: Secret\nmetadata: {{name: keys}}\nstringData: {{a: new}}\n---\nkind: PersistentVolumeClaim\nmetadata: {{name: data}}\n---\n{}",
        pod("first", mounts, &volumes)
    );
    let bad = "kind: Pod\nmetadata: {name: second}\nspec: {containers: [{name: main, image: busybox, command: [/no/such]}]}\n";
    let play = |yaml: &str| {
        host.call("Pod.PlayKube", json!({"yaml": yaml, "networks": [], "replace": true})).unwrap_err()
    };
    let refusal = play(&format!("{first}---\n{bad}"));
    assert_eq!(
        (refusal.name(), refusal.parameters["command"].as_str()),
        ("CommandNotFound", Some("/no/such")),
        "{refusal:?}"
    );
    assert!(refusal.reason().starts_with("document 4, spec.containers[0]: "), "{refusal:?}");
    let init = pod(
        "third",
        "",
        "  initContainers: [{name: prepare, image: busybox, command: [sh, -c, 'echo oh; echo no >&2; exit 3']}]",
    );
    let refusal = play(&format!("{first}---\n{init}"));
    assert_eq!(refusal.name(), "Failed", "{refusal:?}");
    for word in ["document 4, spec.initContainers[0]", "prepare", "exit code 3", "oh / no"] {
        assert!(refusal.reason().contains(word), "{refusal:?}");
    }
    assert_eq!(host.names(), [""; 0]);
    assert_eq!(names(&host, "Pod", "pods"), [""; 0]);
    assert_eq!(names(&host, "Volume", "volumes"), [""; 0]);
    assert!(!made.exists());
    // The secret is again what it was.
    let keep = "    env: [{name: A, valueFrom: {secretKeyRef: {name: keys, key: a}}}]";
    host.call("Pod.PlayKube", json!({"yaml": pod("kept", keep, ""), "networks": []})).unwrap();
    assert_eq!(exec(&host, "kept-main", "echo $A"), "old");
    // Nothing of a text that is no good is carried out, and what runs goes on.
    let kept = pod("kept", "", "");
    let on_none = json!({"yaml": kept, "networks": [{"network": "nonesuch"}], "replace": true});
    assert_eq!(host.call("Pod.PlayKube", on_none).unwrap_err().name(), "NetworkNotFound");
    let sysctl =
        play(&pod("kept", "", "  securityContext: {sysctls: [{name: net.ipv4.ip_forward, value: '1'}]}"));
    assert_eq!(sysctl.parameters["field"], "spec.containers[0]", "{sysctl:?}");
    let claim =
        "kind: PersistentVolumeClaim\nmetadata: {name: c, annotations: {volume.podman.io/device: /x}}\n";
    let claim = play(&format!("{kept}---\n{claim}"));
    assert_eq!(claim.parameters["field"], "metadata.name", "{claim:?}");
    let refusal = play(&pod("kept", "    securityContext: {runAsNonRoot: true}", ""));
    assert_eq!(refusal.name(), "InvalidDocument");
    assert_eq!(exec(&host, "kept-main", "echo on"), "on");
    host.call("Pod.RemoveKube", json!({"yaml": pod("kept", "", "")})).unwrap();
    assert_eq!(names(&host, "Secret", "secrets"), ["keys_a"], "who has made it removes it");
    // Secrets that stay have other files now.
    host.call("Secret.Remove", json!({"name": "keys_a"})).unwrap();
    leaks.assert_none_after();
}
