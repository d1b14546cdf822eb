//! The service, its host, and events.

use serde_json::json;

use crate::common::*;
use crate::wire::Raw;
use crate::{assert_shape, create, podman};

#[test]
fn the_service_tells_of_itself() {
    let Some(host) = Host::new() else { return };
    let version = podman(&host, "GetVersion", json!({})).unwrap();
    assert_shape(&version, "version:s go_version:s git_commit:s built:s os_arch:s remote_api_version:n");
    assert_eq!(version.as_object().unwrap().len(), 6);
    assert!(version["version"].as_str().unwrap().split('.').all(|part| part.parse::<u32>().is_ok()));
    let info = podman(&host, "GetInfo", json!({})).unwrap()["info"].take();
    assert_shape(
        &info,
        "host.mem_total:n host.mem_free:n host.swap_total:n host.swap_free:n host.cpus:n host.uptime:s \
         host.distribution.distribution:s host.arch:s host.hostname:s host.kernel:s host.os:s host.eventlogger:s \
         host.buildah_version:s registries.search:a registries.insecure:a registries.blocked:a store.containers:n \
         store.images:n store.graph_driver_name:s store.graph_root:s store.run_root:s \
         store.graph_status.backing_filesystem:s podman.compiler:s podman.go_version:s podman.podman_version:s \
         podman.git_commit:s",
    );
    assert_eq!(info["store"]["images"], 1);
}

#[test]
fn events_come_in_their_order_and_in_words_that_clients_know() {
    let Some(host) = Host::new() else { return };
    let mut raw = Raw::connect(&host);
    raw.call("GetEvents", &json!({"filter": ["container=watched"]}), &["more"], b"");
    // The stream has begun when an event after the call is in it.
    let mut seen = Vec::new();
    wait_until("the stream has begun", || {
        podman(&host, "ContainerExists", json!({"name": "x"})).unwrap();
        true
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    let id = create(&host, "watched", &["sh", "-c", "exit 5"], json!({}));
    podman(&host, "StartContainer", json!({"name": "watched"})).unwrap();
    podman(&host, "WaitContainer", json!({"name": "watched"})).unwrap();
    podman(&host, "RemoveContainer", json!({"name": "watched"})).unwrap();
    while seen.last().map(String::as_str) != Some("remove") {
        let reply = raw.reply();
        assert_eq!(reply["continues"], true);
        let event = &reply["parameters"]["events"];
        assert_shape(event, "id:s image:s name:s status:s time:s type:s");
        assert_eq!((&event["id"], &event["type"]), (&json!(id), &json!("container")));
        if event["status"] == "remove" {
            // By then it is gone from lists.
            assert_eq!(podman(&host, "ListContainers", json!({})).unwrap()["containers"], json!([]));
        }
        seen.push(event["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, ["create", "start", "died", "remove"]);
    let oldest = podman(&host, "GetEvents", json!({})).unwrap();
    assert_eq!((&oldest["events"]["type"], &oldest["events"]["status"]), (&json!("image"), &json!("import")));
    let nothing = podman(&host, "GetEvents", json!({"filter": ["event=checkpoint"]})).unwrap();
    assert_eq!(nothing["events"]["time"], "");
    let since = json!({"filter": ["type=container"], "since": "2000-01-01T00:00:00Z", "until": "2000-01-02T00:00:00Z"});
    assert_eq!(host.call_more("io.podman.GetEvents", since).unwrap().len(), 1);
    assert_refused(podman(&host, "GetEvents", json!({"filter": ["color=red"]})), "ErrorOccurred");
}

#[test]
fn volumes_are_made_told_and_removed() {
    let Some(host) = Host::new() else { return };
    let leaks = Leaks::before(&host);
    let options = json!({"volumeName": "data", "driver": "local", "labels": {"a": "b"}, "options": {}});
    assert_eq!(podman(&host, "VolumeCreate", json!({"options": options})).unwrap()["volumeName"], "data");
    assert_refused(podman(&host, "VolumeCreate", json!({"options": options})), "ErrorOccurred");
    let volume = podman(&host, "GetVolumes", json!({"all": true})).unwrap()["volumes"][0].take();
    assert_shape(&volume, "name:s labels:o mountPoint:s driver:s options:o");
    let told = podman(&host, "InspectVolume", json!({"name": "data"})).unwrap();
    let told = crate::document(&told, "volume");
    assert_shape(&told, "Name:s Driver:s Mountpoint:s CreatedAt:s Labels:o Scope:s Options:o");
    create(&host, "user", &["true"], json!({"volume": ["data:/data"]}));
    let removed = podman(&host, "VolumeRemove", json!({"options": {"volumes": ["data", "nobody"]}})).unwrap();
    assert_eq!(removed["successes"], json!([]));
    assert_eq!(removed["failures"].as_object().unwrap().len(), 2);
    podman(&host, "RemoveContainer", json!({"name": "user"})).unwrap();
    assert_eq!(podman(&host, "VolumesPrune", json!({})).unwrap()["prunedNames"], json!(["data"]));
    assert_refused(podman(&host, "GetVolumes", json!({"args": ["data"]})), "VolumeNotFound");
    assert_refused(podman(&host, "InspectVolume", json!({"name": "data"})), "ErrorOccurred");
    leaks.assert_none_after();
}
