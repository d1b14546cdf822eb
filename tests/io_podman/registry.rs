//! Images to and from a real registry on loopback, as the clients of the interface send, get and find them.

use serde_json::{Value, json};

use crate::common::*;
use crate::image_registry::{Config, PASSWORD, Registry, USER};
use crate::podman;

/// A service that looks for unqualified names in this registry alone.
fn host_of(registry: &Registry) -> Option<(Host, Config)> {
    let text = format!(
        "unqualified-search-registries = [\"{0}\"]\n[[registry]]\nlocation = \"{0}\"\ninsecure = true\n\
         [[registry]]\nlocation = \"forbidden.example\"\nblocked = true\n",
        registry.address
    );
    Config::new(&text).host_kept()
}

/// All lines of a stream, and the id of its last reply.
fn lines(host: &Host, method: &str, parameters: Value) -> (Vec<String>, String) {
    let replies = host.call_more(&format!("io.podman.{method}"), parameters).unwrap();
    let id = replies.last().unwrap()["reply"]["id"].as_str().unwrap().to_owned();
    let logs = replies.iter().flat_map(|reply| reply["reply"]["logs"].as_array().unwrap());
    (logs.map(|line| line.as_str().unwrap().to_owned()).collect(), id)
}

#[test]
fn an_image_goes_to_a_registry_is_found_there_and_comes_back() {
    let Some(registry) = Registry::plain() else { return };
    let Some((host, _config)) = host_of(&registry) else { return };
    let leaks = Leaks::before(&host);
    host.import_busybox();
    let id = podman(&host, "GetImage", json!({"id": "busybox"})).unwrap()["image"]["id"].take();
    let name = format!("{}/team/box:1", registry.address);
    let (pushed, told) =
        lines(&host, "PushImage", json!({"name": "busybox", "tag": format!("docker://{name}")}));
    assert_eq!(json!(told), id);
    assert!(pushed[0].starts_with("Pushing ") && pushed.last().unwrap().ends_with(" done\n"), "{pushed:?}");

    let names = |query: &str, filter: Value| -> Vec<String> {
        let found =
            podman(&host, "SearchImages", json!({"query": query, "limit": 5, "filter": filter})).unwrap();
        let results = found["results"].as_array().unwrap().iter();
        results.map(|result| result["name"].as_str().unwrap().to_owned()).collect()
    };
    let bare = format!("{}/team/box", registry.address);
    assert_eq!(names("box", json!({})), [bare.as_str()]);
    assert_eq!(names(&bare, json!({})), [bare.as_str()], "the query may name the registry");
    assert_eq!(names("nothing", json!({})), [] as [&str; 0]);
    assert_eq!(names("box", json!({"star_count": 1})), [] as [&str; 0], "nobody counts them there");

    podman(&host, "RemoveImage", json!({"name": "busybox", "force": true})).unwrap();
    assert_eq!(podman(&host, "ListImages", json!({})).unwrap()["images"], json!([]));
    let (pulled, told) = lines(&host, "PullImage", json!({"name": name}));
    assert_eq!(json!(told), id);
    assert_eq!(pulled[0], format!("Trying to pull {name}...\n"));
    assert!(
        pulled.iter().any(|line| line.starts_with("Copying blob ") && line.ends_with(" done\n")),
        "{pulled:?}"
    );
    // Without a stream, all of it is in one reply; what is here is not copied again.
    let again = podman(&host, "PullImage", json!({"name": "team/box:1"})).unwrap();
    assert_eq!(again["reply"]["id"], id);
    assert!(again["reply"]["logs"].to_string().contains("skipped: already exists"), "{again}");
    let image = podman(&host, "GetImage", json!({"id": id})).unwrap()["image"].take();
    assert_eq!(image["repoTags"], json!([name]));
    assert!(image["repoDigests"][0].as_str().unwrap().starts_with(&format!("{bare}@sha256:")), "{image}");

    // A container of an image that is only there.
    podman(&host, "RemoveImage", json!({"name": name, "force": true})).unwrap();
    let create = json!({"create": {"args": [name, "true"], "network": "none"}});
    let made = podman(&host, "CreateContainer", create).unwrap()["container"].take();
    podman(&host, "RemoveContainer", json!({"name": made})).unwrap();
    podman(&host, "RemoveImage", json!({"name": name})).unwrap();

    let info = podman(&host, "GetInfo", json!({})).unwrap()["info"]["registries"].take();
    let expected = json!({"search": [registry.address], "insecure": [registry.address], "blocked": ["forbidden.example"]});
    assert_eq!(info, expected);
    let absent = json!({"name": format!("{}/team/absent", registry.address)});
    assert!(assert_refused(podman(&host, "PullImage", absent), "ErrorOccurred").reason().contains("absent"));
    let blocked = json!({"name": "forbidden.example/box"});
    assert!(
        assert_refused(podman(&host, "PullImage", blocked), "ErrorOccurred").reason().contains("blocked")
    );
    leaks.assert_none_after();
}

#[test]
fn credentials_of_a_call_open_a_registry_that_asks_who_is_there() {
    let Some(registry) = Registry::with_users() else { return };
    let Some((host, _config)) = host_of(&registry) else { return };
    host.import_busybox();
    let name = format!("{}/box", registry.address);
    let creds = |password: &str| json!({"username": USER, "password": password});
    let push = json!({"name": "busybox", "tag": name});
    assert_refused(podman(&host, "PushImage", push.clone()), "ErrorOccurred");
    // A push has no credentials of its own; those of the service's host count.
    let login = json!({"registry": registry.address, "credentials": creds(PASSWORD)});
    host.call("Image.Login", login).unwrap();
    podman(&host, "PushImage", push).unwrap();
    host.call("Image.Logout", json!({"registry": registry.address})).unwrap();
    assert_refused(podman(&host, "PullImage", json!({"name": name})), "ErrorOccurred");
    assert_refused(
        podman(&host, "PullImage", json!({"name": name, "creds": creds("wrong")})),
        "ErrorOccurred",
    );
    podman(&host, "PullImage", json!({"name": name, "creds": creds(PASSWORD)})).unwrap();
}
