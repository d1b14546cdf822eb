//! Images: names, documents, archives, and their end.

use serde_json::json;

use crate::common::*;
use crate::{assert_shape, create, document, podman};

const IMAGE: &str = "id:s digest:s digests:a parentId:s repoTags:a repoDigests:a created:s size:n virtualSize:n containers:n \
    labels:o isParent:b topLayer:s readOnly:b history:a";
const INSPECT: &str = "Id:s Digest:s RepoTags:a RepoDigests:a Parent:s Comment:s Created:s Config.User:s Config.ExposedPorts:o \
    Config.Env:a Config.Entrypoint:a Config.EntryPoint:a Config.Cmd:a Config.Volumes:o Config.WorkingDir:s Config.Labels:o \
    Version:s Author:s Architecture:s Os:s Size:n VirtualSize:n GraphDriver:o RootFS.Type:s RootFS.Layers:a Labels:o \
    Annotations:o ManifestType:s User:s History:a Healthcheck:0o NamesHistory:a";

#[test]
fn what_is_told_of_an_image_has_every_field_and_its_type() {
    let Some(host) = Host::new() else { return };
    let listed = podman(&host, "ListImages", json!({})).unwrap()["images"][0].take();
    assert_shape(&listed, IMAGE);
    let created = listed["created"].as_str().unwrap();
    assert_eq!((created.len(), &created[19..]), (20, "Z"), "seconds are the finest: {created}");
    let got = podman(&host, "GetImage", json!({"id": "busybox"})).unwrap();
    assert_eq!(got["image"]["id"], listed["id"]);
    let inspected = document(&podman(&host, "InspectImage", json!({"name": "busybox"})).unwrap(), "image");
    assert_shape(&inspected, INSPECT);
    assert_eq!(inspected["Id"], listed["id"]);
    assert_eq!(listed["id"].as_str().unwrap().len(), 64);
    let history = podman(&host, "HistoryImage", json!({"name": "busybox"})).unwrap();
    assert_shape(&history["history"][0], "id:s created:s createdBy:s tags:a size:n comment:s");
    let tree = podman(&host, "ImageTree", json!({"name": "busybox", "whatRequires": true})).unwrap();
    assert!(tree["tree"].as_str().unwrap().contains("Top Layer of: [localhost/busybox:latest]"), "{tree}");
    let layers = document(&podman(&host, "GetLayersMapWithImageInfo", json!({})).unwrap(), "layerMap");
    assert_eq!(layers.as_object().unwrap().len(), 1);
    let map = podman(&host, "BuildImageHierarchyMap", json!({"name": "busybox"})).unwrap();
    assert_eq!(document(&map, "imageInfo")["Id"], listed["id"]);
    assert_eq!(podman(&host, "ImageExists", json!({"name": "busybox"})).unwrap()["exists"], 0);
    assert_eq!(podman(&host, "ImageExists", json!({"name": "nobody"})).unwrap()["exists"], 1);
    assert_refused(podman(&host, "GetImage", json!({"id": "nobody"})), "ImageNotFound");
    assert_refused(podman(&host, "ImageTree", json!({"name": "nobody"})), "ErrorOccurred");
    let filtered = |filter: &str| {
        let reply = podman(&host, "ListImagesWithFilters", json!({"filters": [filter]})).unwrap();
        reply["images"].as_array().unwrap().len()
    };
    assert_eq!(
        (filtered("reference=busybox"), filtered("dangling=true"), filtered("reference=x")),
        (1, 0, 0)
    );
    assert_refused(
        podman(&host, "ListImagesWithFilters", json!({"filters": ["color=red"]})),
        "ErrorOccurred",
    );
}

#[test]
fn names_come_and_go_and_an_image_in_use_stays() {
    let Some(host) = Host::new() else { return };
    let id = podman(&host, "GetImage", json!({"id": "busybox"})).unwrap()["image"]["id"].take();
    let tagged = podman(&host, "TagImage", json!({"name": "busybox", "tagged": "alpine:fubar"})).unwrap();
    assert_eq!(tagged["image"], id);
    let tags = podman(&host, "GetImage", json!({"id": id})).unwrap()["image"]["repoTags"].take();
    assert!(tags.as_array().unwrap().contains(&json!("localhost/alpine:fubar")), "{tags}");
    assert_refused(podman(&host, "UntagImage", json!({"name": "busybox", "tag": "nobody"})), "ImageNotFound");
    podman(&host, "UntagImage", json!({"name": "busybox", "tag": "alpine:fubar"})).unwrap();
    create(&host, "user", &["true"], json!({}));
    assert_refused(podman(&host, "RemoveImage", json!({"name": "busybox"})), "ErrorOccurred");
    let removed =
        podman(&host, "RemoveImageWithResponse", json!({"name": "busybox", "force": true})).unwrap();
    assert_eq!(removed["response"], json!({"untagged": ["localhost/busybox:latest"], "deleted": id}));
    assert_eq!(podman(&host, "ListContainers", json!({})).unwrap()["containers"], json!([]));
}

#[test]
fn unused_images_are_pruned() {
    let Some(host) = Host::new() else { return };
    podman(&host, "UntagImage", json!({"name": "busybox", "tag": "busybox"})).unwrap();
    let pruned = podman(&host, "ImagesPrune", json!({"all": false})).unwrap();
    assert_eq!(pruned["pruned"].as_array().unwrap().len(), 1);
    host.import_busybox();
    assert_eq!(podman(&host, "ImagesPrune", json!({})).unwrap()["pruned"], json!([]));
    let unused = podman(&host, "DeleteUnusedImages", json!({})).unwrap();
    assert_eq!(unused["images"].as_array().unwrap().len(), 1);
}

#[test]
fn what_can_not_be_had_from_a_registry_is_an_error_with_its_lines_before_it() {
    let Some(host) = Host::new() else { return };
    let absent = json!({"name": "localhost:1/absent"});
    let refusal = assert_refused(podman(&host, "PullImage", absent.clone()), "ErrorOccurred");
    assert!(refusal.reason().contains("localhost:1"), "{refusal:?}");
    let mut connection = host.connect();
    let replies: Vec<Answer> =
        connection.call_more("io.podman.PullImage", absent, &[]).unwrap().map(answer).collect();
    assert_eq!(
        replies[0].clone().unwrap()["reply"]["logs"],
        json!(["Trying to pull localhost:1/absent...\n"])
    );
    assert!(replies.last().unwrap().is_err());
    let push = json!({"name": "busybox", "tag": "localhost:1/busybox"});
    assert_refused(podman(&host, "PushImage", push), "ErrorOccurred");
    assert_refused(podman(&host, "PushImage", json!({"name": "nobody"})), "ImageNotFound");
    assert_refused(podman(&host, "PullImage", json!({})), "ErrorOccurred");
}
