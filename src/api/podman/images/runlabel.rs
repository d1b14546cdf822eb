//! Commands that an image proposes in its labels, as `RUN=podman run -d --name NAME IMAGE`.
//!
//! What makes a container is done, by the engine and with the flags that the label has. No program of the host is executed for
//! an image: every other command is refused.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::api::convert::spec_from_wire;
use crate::api::{CancelOnDrop, looked_up, ordered};
use crate::engine::{EngineError, PullRequest, PullWhen, Streams};
use crate::image::build::words;

use super::super::errors::{failed, failed_anyhow, occurred};
use super::super::{Call, CallError, PodmanInterface, wire};

/// As whom a label may call us.
const ENGINES: [&str; 3] = ["podman", "docker", "dormouse"];

impl PodmanInterface {
    pub(super) async fn run_label(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::ContainerRunlabel_Args { runlabel } = call.parameters()?;
        let image = match self.image(&runlabel.image).await {
            Err(EngineError::ImageNotFound { .. }) if runlabel.pull => {
                self.pull_for_label(&runlabel.image).await.map_err(failed)?;
                self.image(&runlabel.image).await
            }
            found => found,
        };
        let image = image.map_err(failed)?;
        let Some(command) = image.config.config.labels.get(&runlabel.label) else {
            return Err(occurred(format!("{:?} has no label {:?}", runlabel.image, runlabel.label)));
        };
        let refused = |reason: String| {
            occurred(format!("cannot run the label {:?} of {:?}: {reason}", runlabel.label, runlabel.image))
        };
        let Command { starts, flags } = command_of(command, &runlabel).map_err(refused)?;
        if runlabel.display {
            // There is no field for it to be shown in.
            return call.reply_nothing().await;
        }
        let spec = (self.read_flags)(flags).map_err(refused)?;
        let spec = serde_json::from_value(serde_json::Value::Object(spec))
            .map_err(|error| refused(error.to_string()))?;
        let spec = spec_from_wire(spec).map_err(failed_anyhow)?;
        let engine = self.engine.clone();
        ordered(call, async move {
            let created = engine.create(spec).await?;
            match starts {
                true => engine.start(&created.id, Streams::default()).await.map(drop),
                false => Ok(()),
            }
        })
        .await
        .map_err(failed_anyhow)?;
        call.reply_nothing().await
    }

    async fn pull_for_label(&self, image: &str) -> Result<(), EngineError> {
        let request = PullRequest {
            name: image.to_owned(),
            platform: None,
            credentials: None,
            when: PullWhen::Missing,
        };
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        looked_up(move || engine.pull(&request, &flag, &|_| {})).await.map(drop)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Command {
    /// The container is started too.
    starts: bool,
    /// Of `create`: flags, image, command.
    flags: Vec<String>,
}

/// What a label says, with the words replaced that stand for something.
fn command_of(text: &str, wanted: &wire::Runlabel) -> Result<Command, String> {
    let image = &wanted.image;
    let name = match wanted.name.as_str() {
        "" => base_name(image),
        name => name,
    };
    let mut known: HashMap<String, String> = HashMap::new();
    known.insert("IMAGE".to_owned(), image.clone());
    known.insert("NAME".to_owned(), name.to_owned());
    known.extend(wanted.opts.iter().map(|(key, value)| (key.to_ascii_uppercase(), value.clone())));
    let lookup = |variable: &str| Some(known.get(variable).cloned().unwrap_or_default());
    let mut words = Vec::new();
    for word in words::split(text, '\\') {
        let word = words::expand(&word, '\\', &lookup).map_err(|error| error.to_string())?;
        words.push(match word.as_str() {
            "IMAGE" => image.clone(),
            "NAME" => name.to_owned(),
            "NAME=NAME" => format!("NAME={name}"),
            "IMAGE=IMAGE" => format!("IMAGE={image}"),
            _ => word,
        });
    }
    // An option that was not given leaves nothing.
    words.retain(|word| !word.is_empty());
    words.extend(wanted.extraArgs.iter().cloned());
    let mut words = words.into_iter().peekable();
    let program = words.next().unwrap_or_default();
    let is_ours =
        Path::new(&program).file_name().is_some_and(|name| ENGINES.iter().any(|ours| name == *ours));
    words.next_if(|word| word == "container");
    let starts = match words.next().as_deref() {
        Some("run") if is_ours => true,
        Some("create") if is_ours => false,
        _ => {
            return Err(format!(
                "it is {text:?}, and only `podman run` and `podman create` are done; no program of the host is executed for an image"
            ));
        }
    };
    let mut flags = Vec::new();
    let mut before_image = true;
    for word in words {
        before_image &= word != *image;
        match word.as_str() {
            // It is in the background in any case.
            "-d" | "--detach" | "--detach=true" if before_image => {}
            cluster if before_image && is_cluster(cluster) => flags.push(cluster.replace('d', "")),
            _ => flags.push(word),
        }
    }
    Ok(Command { starts, flags })
}

/// Several flags without values in one word, as -dit.
fn is_cluster(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|letters| {
        letters.len() > 1 && letters.contains('d') && letters.chars().all(|letter| "dit".contains(letter))
    })
}

/// `web` of `registry.example:5000/team/web:1.2`.
fn base_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split(['@', ':']).next().unwrap_or(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str, name: &str) -> Result<Command, String> {
        let wanted = wire::Runlabel {
            image: "registry.example:5000/team/web:1.2".to_owned(),
            authfile: String::new(),
            display: false,
            name: name.to_owned(),
            pull: false,
            label: "RUN".to_owned(),
            extraArgs: vec!["more".to_owned()],
            opts: [("opt1".to_owned(), "--read-only".to_owned())].into(),
        };
        command_of(text, &wanted)
    }

    #[test]
    fn words_that_stand_for_something_are_replaced() {
        let text =
            "/usr/bin/docker run -dit --name NAME -e IMAGE=IMAGE -e 'A=b c' ${OPT1} ${OPT2} IMAGE sh -d";
        let image = "registry.example:5000/team/web:1.2";
        let env = format!("IMAGE={image}");
        let expected =
            ["-it", "--name", "shop", "-e", &env, "-e", "A=b c", "--read-only", image, "sh", "-d", "more"];
        let made = command(text, "shop").unwrap();
        assert!(made.starts);
        assert_eq!(made.flags, expected);
        let made = command("podman container create --name ${NAME} IMAGE", "").unwrap();
        assert!(!made.starts);
        assert_eq!(made.flags, ["--name", "web", image, "more"]);
    }

    #[test]
    fn nothing_else_is_done() {
        for text in [
            "rm -rf /",
            "podman rm -f NAME",
            "podman",
            "",
            "run IMAGE",
            "podman run 'IMAGE",
            "sh -c 'podman run IMAGE'",
        ] {
            assert!(command(text, "x").is_err(), "{text}");
        }
    }
}
