//! All of an image, as JSON documents in strings.

use serde_json::{Value, json};

use crate::api::looked_up;
use crate::engine::{Engine, EngineError, HistoryEntry, Image};

use super::super::errors::failed;
use super::super::text::time;
use super::super::{Call, CallError, PodmanInterface, bare, wire};
use super::list::{digest, find, repository_digests};

/// What an image from somewhere says of itself may be of any form; what is not of the right one is left out.
fn inspect(engine: &Engine, image: &Image) -> Value {
    let raw: Value = serde_json::from_str(&image.row.config).unwrap_or_default();
    let text = |key: &str| raw[key].as_str().unwrap_or_default().to_owned();
    let process = &image.config.config;
    let labels = json!(process.labels);
    let mut config = json!({
        "User": process.user,
        "ExposedPorts": process.exposed_ports,
        "Env": process.env,
        "Entrypoint": process.entrypoint,
        // As Cockpit's page spells it.
        "EntryPoint": process.entrypoint,
        "Cmd": process.cmd,
        "Volumes": process.volumes,
        "WorkingDir": process.working_dir,
        "Labels": labels,
    });
    if let Some(signal) = &process.stop_signal {
        config["StopSignal"] = json!(signal);
    }
    let history: Vec<Value> = image
        .config
        .history
        .iter()
        .map(|step| {
            json!({"created": step.created.clone().unwrap_or_else(|| time(None)),
                   "created_by": step.created_by.clone().unwrap_or_default(),
                   "comment": step.comment.clone().unwrap_or_default(), "empty_layer": step.empty_layer})
        })
        .collect();
    let comment = image.config.history.last().and_then(|step| step.comment.clone()).unwrap_or_default();
    let paths: Vec<String> = image
        .row
        .layers
        .iter()
        .rev()
        .map(|layer| engine.paths().state_dir.join("layers").join(bare(layer)).to_string_lossy().into_owned())
        .collect();
    let kind =
        image.row.manifest.as_ref().map_or("application/vnd.oci.image.manifest.v1+json", |(kind, _)| kind);
    json!({
        "Id": bare(&image.row.id),
        "Digest": digest(image),
        "RepoTags": image.row.names,
        "RepoDigests": repository_digests(image),
        "Parent": "",
        "Comment": comment,
        "Created": time(Some(image.row.created_usec)),
        "Config": config,
        "Version": text("docker_version"),
        "Author": text("author"),
        "Architecture": text("architecture"),
        "Os": text("os"),
        "Size": image.row.size_bytes,
        "VirtualSize": image.row.size_bytes,
        "GraphDriver": {"Name": "overlay", "Data": {"LowerDir": paths.join(":")}},
        "RootFS": {"Type": "layers", "Layers": image.row.layers},
        "Labels": labels,
        "Annotations": {},
        "ManifestType": kind,
        "User": process.user,
        "History": history,
        "Healthcheck": raw["config"]["Healthcheck"].as_object(),
        "NamesHistory": image.row.names,
    })
}

/// An image as the documents about layers have it.
fn info(image: &Image) -> Value {
    json!({"Id": bare(&image.row.id), "Tags": image.row.names, "Created": time(Some(image.row.created_usec)),
           "Size": image.row.size_bytes, "TopLayer": image.row.layers.last().map(|layer| bare(layer)).unwrap_or_default()})
}

/// Every layer with the one below it, those above it, and the images that end in it.
fn layers(images: &[Image]) -> Value {
    let mut map: std::collections::BTreeMap<String, Value> = std::collections::BTreeMap::new();
    for image in images {
        let mut below = String::new();
        for (number, layer) in image.row.layers.iter().enumerate() {
            let id = bare(layer).to_owned();
            let entry = map.entry(id.clone()).or_insert_with(
                || json!({"ID": id, "ParentID": below, "ChildID": [], "RepoTags": [], "Images": [], "Size": 0}),
            );
            if number + 1 == image.row.layers.len() {
                for (key, values) in
                    [("RepoTags", image.row.names.clone()), ("Images", vec![bare(&image.row.id).to_owned()])]
                {
                    if let Some(list) = entry[key].as_array_mut() {
                        list.extend(values.into_iter().map(Value::from));
                    }
                }
            }
            if let Some(children) = map.get_mut(&below).and_then(|parent| parent["ChildID"].as_array_mut())
                && !children.contains(&json!(id))
            {
                children.push(json!(id));
            }
            below = id;
        }
    }
    json!(map)
}

impl PodmanInterface {
    pub(super) async fn inspect_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::InspectImage_Args = call.parameters()?;
        let engine = self.engine.clone();
        let image = looked_up(move || Ok(inspect(&engine, &find(&engine, &given.name)?).to_string()));
        call.reply(wire::InspectImage_Reply { image: image.await.map_err(failed)? }).await
    }

    pub(super) async fn history_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::HistoryImage_Args = call.parameters()?;
        let engine = self.engine.clone();
        let history = looked_up(move || {
            let image = find(&engine, &given.name)?;
            let steps = engine.image_history(&image.row.id)?;
            Ok(steps.iter().enumerate().map(|(number, step)| history(&image, number, step)).collect())
        });
        call.reply(wire::HistoryImage_Reply { history: history.await.map_err(failed)? }).await
    }

    pub(super) async fn layers_map(&self, call: &mut Call) -> Result<(), CallError> {
        let engine = self.engine.clone();
        let map = looked_up(move || Ok(layers(&engine.images()?).to_string()));
        call.reply(wire::GetLayersMapWithImageInfo_Reply { layerMap: map.await.map_err(failed)? }).await
    }

    pub(super) async fn image_hierarchy(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::BuildImageHierarchyMap_Args = call.parameters()?;
        let engine = self.engine.clone();
        let document = looked_up(move || -> Result<String, EngineError> {
            let image = find(&engine, &given.name)?;
            let mut document = info(&image);
            document["Layers"] = json!(image.row.layers.iter().map(|layer| bare(layer)).collect::<Vec<_>>());
            Ok(document.to_string())
        });
        call.reply(wire::BuildImageHierarchyMap_Reply { imageInfo: document.await.map_err(failed)? }).await
    }
}

/// The newest step is the image itself; those before have no ids of their own.
fn history(image: &Image, number: usize, entry: &HistoryEntry) -> wire::ImageHistory {
    let newest = number == 0;
    wire::ImageHistory {
        id: if newest { bare(&image.row.id).to_owned() } else { "<missing>".to_owned() },
        created: time(entry.created_usec().or(Some(image.row.created_usec))),
        createdBy: entry.step.created_by.clone().unwrap_or_default(),
        tags: if newest { image.row.names.clone() } else { Vec::new() },
        size: entry.size_bytes,
        comment: entry.step.comment.clone().unwrap_or_default(),
    }
}
