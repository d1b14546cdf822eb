//! What makes pods of a template, and ports.

use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::common::{Leaks, dormouse, said};
use crate::network_support::{ask_until, network_host};
use crate::{pod, write};

#[test]
fn templates_become_pods_and_ports_can_be_others() {
    let Some(host) = network_host() else { return };
    let leaks = Leaks::before(&host);
    let free = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port();
    let (theirs, ours) = (free(), free());
    let template = format!(
        "metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      - name: web\n        image: busybox\n        command: [sh, -c, 'nc -ll -p 80 -e echo played']\n        ports: [{{containerPort: 80, hostPort: {theirs}, hostIP: 127.0.0.1}}, {{containerPort: 81}}]"
    );
    let yaml = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  replicas: 3\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n    {template}\n"
    );
    let file = write(&host, "web.yaml", &yaml);
    let output = dormouse(&host, &["kube", "play", &file]);
    let warnings = String::from_utf8(output.stderr.clone()).unwrap();
    said(&output);
    assert!(warnings.contains("spec.replicas: one pod is made"), "{warnings}");
    assert_eq!(host.names(), ["web-pod-web"]);
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, theirs)), "played");
    said(&dormouse(&host, &["kube", "play", "--replace", "-p", &format!("{ours}:80"), &file]));
    assert_eq!(ask_until((Ipv4Addr::LOCALHOST, ours)), "played");
    let ports =
        host.call("Pod.Inspect", json!({"name": "web-pod"})).unwrap()["pod"]["summary"]["ports"].take();
    assert_eq!(ports.as_array().unwrap().len(), 1, "{ports}");
    // A port that is taken, by document.
    let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let refusal = host.call(
        "Pod.PlayKube",
        json!({"yaml": pod("other", &format!("    ports: [{{containerPort: 80, hostPort: {port}}}]"), "")}),
    );
    let refusal = refusal.unwrap_err();
    assert_eq!((refusal.name(), &refusal.parameters["port"]), ("PortInUse", &json!(port)));
    assert!(refusal.reason().starts_with("document 1, "), "{refusal:?}");
    said(&dormouse(&host, &["kube", "play", "--down", &file]));
    for (kind, word) in [("DaemonSet", "Always"), ("Job", "Never")] {
        let yaml = yaml
            .replace("kind: Deployment", &format!("kind: {kind}"))
            .replace("  replicas: 3\n", "")
            .replace("    spec:\n", &format!("    spec:\n      restartPolicy: {word}\n"));
        let file = write(&host, "other.yaml", &yaml);
        let made = said(&dormouse(
            &host,
            &["kube", "play", "--start=false", "--format", "json", "--network", "host", &file],
        ));
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(
            (&made[0]["name"], &made[0]["containers"][0]["name"]),
            (&json!("web-pod"), &json!("web-pod-web"))
        );
        let container =
            host.call("Container.Inspect", json!({"name": "web-pod-web"})).unwrap()["container"].take();
        assert_eq!(
            (&container["summary"]["state"], &container["spec"]["networkNamespace"]["kind"]),
            (&json!("created"), &json!("host"))
        );
        said(&dormouse(&host, &["kube", "down", &file]));
    }
    leaks.assert_none_after();
}
