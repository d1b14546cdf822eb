//! The configuration of an image to be, as JSON: what nobody here knows of a base image's is kept.

use serde_json::{Map, Value, json};

use crate::image::{Digest, rfc3339};

/// An image to be: layers, and what containers made from it get.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// Lowest first.
    pub layers: Vec<Digest>,
    whole: Value,
    /// When the last step was done; microseconds of CLOCK_REALTIME.
    pub created_usec: i64,
}

impl Draft {
    /// Nothing.
    pub fn scratch(architecture: &str) -> Self {
        let whole = json!({"architecture": architecture, "os": "linux", "config": {}, "history": []});
        Self { layers: Vec::new(), whole, created_usec: 0 }
    }

    /// What an image is.
    pub fn of_image(config: &str, layers: Vec<Digest>, created_usec: i64) -> Result<Self, serde_json::Error> {
        let mut whole: Value = serde_json::from_str(config)?;
        if !whole["config"].is_object() {
            whole["config"] = json!({});
        }
        if !whole["history"].is_array() {
            whole["history"] = json!([]);
        }
        // Of the machine and the container that a base image was made on and in, which this image was not.
        if let Some(whole) = whole.as_object_mut() {
            for key in [
                "container",
                "container_config",
                "docker_version",
                "moby.buildkit.buildinfo.v1",
                "id",
                "parent",
            ] {
                whole.remove(key);
            }
        }
        // History without the steps of layers makes others take the wrong layer for a step.
        let mut draft = Self { layers, whole, created_usec };
        let missing = draft.layers.len().saturating_sub(draft.steps_with_layers());
        if let Some(history) = draft.whole["history"].as_array_mut() {
            history.extend((0..missing).map(|_| json!({"comment": "not told"})));
        }
        Ok(draft)
    }

    fn steps_with_layers(&self) -> usize {
        let history = self.whole["history"].as_array();
        history.into_iter().flatten().filter(|step| step["empty_layer"] != json!(true)).count()
    }

    /// The object `config`.
    pub fn config(&self) -> &Value {
        &self.whole["config"]
    }

    /// The object `config`, to be changed.
    pub fn config_mut(&mut self) -> &mut Map<String, Value> {
        if !self.whole["config"].is_object() {
            self.whole["config"] = json!({});
        }
        self.whole["config"].as_object_mut().expect("it was made an object just now")
    }

    pub fn set_author(&mut self, author: &str) {
        self.whole["author"] = json!(author);
    }

    pub fn text(&self, key: &str) -> &str {
        self.config()[key].as_str().unwrap_or_default()
    }

    pub fn list(&self, key: &str) -> Vec<String> {
        let list = self.config()[key].as_array();
        list.into_iter().flatten().filter_map(|each| each.as_str().map(str::to_owned)).collect()
    }

    /// The environment, in its order.
    pub fn env(&self) -> Vec<(String, String)> {
        let pair = |pair: String| {
            pair.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .unwrap_or((pair, String::new()))
        };
        self.list("Env").into_iter().map(pair).collect()
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(known) => value.clone_into(&mut known.1),
            None => env.push((name.to_owned(), value.to_owned())),
        }
        let pairs: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.config_mut().insert("Env".to_owned(), json!(pairs));
    }

    /// Adds to an object of objects or texts: labels, ports, volumes.
    pub fn add(&mut self, key: &str, name: &str, value: Value) {
        let set = self.config_mut().entry(key).or_insert_with(|| json!({}));
        if !set.is_object() {
            *set = json!({});
        }
        set[name] = value;
    }

    /// Where commands run; never empty.
    pub fn workdir(&self) -> &str {
        match self.text("WorkingDir") {
            "" => "/",
            dir => dir,
        }
    }

    /// Adds a step to the history, and its layer if it has one.
    pub fn done(&mut self, created_by: &str, layer: Option<Digest>, created_usec: i64) {
        let mut step = json!({"created": time(created_usec), "created_by": created_by});
        if layer.is_none() {
            step["empty_layer"] = json!(true);
        }
        if let Some(history) = self.whole["history"].as_array_mut() {
            history.push(step);
        }
        self.layers.extend(layer);
        self.created_usec = self.created_usec.max(created_usec);
    }

    /// Puts one layer in place of all above the first `kept`.
    pub fn squash(&mut self, kept: usize, layer: Digest) {
        self.layers.truncate(kept);
        self.layers.push(layer);
        let mut seen = 0;
        let last = self.steps_with_layers();
        if let Some(history) = self.whole["history"].as_array_mut() {
            for step in history.iter_mut().filter(|step| step["empty_layer"] != json!(true)) {
                seen += 1;
                if seen > kept && seen < last {
                    step["empty_layer"] = json!(true);
                }
            }
        }
    }

    /// The bytes of the configuration.
    pub fn finish(&self, created_usec: i64) -> Vec<u8> {
        let mut whole = self.whole.clone();
        whole["created"] = json!(time(created_usec));
        whole["rootfs"] = json!({"type": "layers", "diff_ids": self.layers});
        whole.to_string().into_bytes()
    }
}

fn time(usec: i64) -> String {
    rfc3339(u64::try_from(usec).unwrap_or_default())
}
