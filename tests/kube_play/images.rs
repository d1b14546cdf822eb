//! Images that are not here come from their registry, before anything is made.

use serde_json::json;

use crate::common::{Leaks, busybox_tar, dormouse, said};
use crate::image_registry::{Config, Registry};
use crate::pod;

#[test]
fn images_are_fetched_before_anything_is_made() {
    use std::os::fd::AsFd as _;
    let Some(registry) = Registry::plain() else { return };
    let Some((host, _config)) = Config::insecure(&[&registry.address]).host_kept() else { return };
    let leaks = Leaks::before(&host);
    let image = format!("{}/team/box:1", registry.address);
    let tar = busybox_tar();
    host.call_with_fds("Image.Import", json!({"name": image, "archive": 0}), &[tar.as_fd()]).unwrap();
    said(&dormouse(&host, &["push", &image]));
    said(&dormouse(&host, &["rmi", &image]));

    let yaml = pod("far", "", "").replace("image: busybox", &format!("image: {image}"));
    let given = |yaml: &str| json!({"yaml": yaml, "networks": []});
    let missing = yaml.replace("box:1", "none:1");
    let refusal =
        host.call("Pod.PlayKube", given(&format!("{yaml}---\n{}", missing.replace("far", "further"))));
    let refusal = refusal.unwrap_err();
    assert_eq!(refusal.name(), "NotInRegistry", "{refusal:?}");
    assert!(refusal.reason().starts_with("document 2, spec.containers[0].image: "), "{refusal:?}");
    assert_eq!(host.names(), [""; 0]);
    said(&dormouse(&host, &["rmi", &image]));

    let replies = host.call_more("Pod.PlayKube", given(&yaml)).unwrap();
    assert_eq!(replies.len(), 2, "{replies:?}");
    assert_eq!(replies[0]["pulling"], json!(image));
    assert_eq!((&replies[1]["pods"][0]["name"], &replies[1]["pulling"]), (&json!("far"), &json!(null)));
    // What is here is not asked for again, unless the document wants it.
    let again = |yaml: &str| {
        host.call("Pod.RemoveKube", json!({"yaml": yaml})).unwrap();
        host.call_more("Pod.PlayKube", given(yaml)).unwrap().len()
    };
    assert_eq!(again(&yaml), 1);
    assert_eq!(again(&yaml.replace("    image:", "    imagePullPolicy: Always\n    image:")), 2);
    host.call("Pod.RemoveKube", json!({"yaml": yaml})).unwrap();
    host.call("Image.Remove", json!({"name": image})).unwrap();
    leaks.assert_none_after();
}
