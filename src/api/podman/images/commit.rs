//! Images of containers, and what is changed of their configuration on the way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{CancelOnDrop, looked_up};
use crate::engine::CommitRequest;
use crate::image::{Empty, Process};

use super::super::errors::{failed, occurred};
use super::super::{Call, CallError, PodmanInterface, bare, wire};

impl PodmanInterface {
    pub(super) async fn commit(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Commit_Args = call.parameters()?;
        if !["", "oci", "docker"].contains(&given.manifestType.as_str()) && !given.manifestType.contains('/')
        {
            return Err(occurred(format!(
                "{:?} is no format of an image; oci and docker are",
                given.manifestType
            )));
        }
        let config = changes(&given.changes).map_err(occurred)?;
        let one = self.one(given.name).await.map_err(failed)?;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let request = CommitRequest {
            image: some(given.image_name),
            config,
            author: some(given.author),
            comment: some(given.message),
        };
        let id = one.id().to_owned();
        // What it writes meanwhile would be in the image or not.
        let pauses = given.pause && one.phase() == crate::engine::Phase::Running;
        if pauses {
            self.engine.pause(&id).await.map_err(failed)?;
        }
        let guard = pauses.then(|| Resume { engine: self.engine.clone(), id: id.clone() });
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let made = looked_up(move || engine.commit(&id, request, &flag)).await;
        drop(guard);
        let id = bare(&made.map_err(failed)?).to_owned();
        call.reply(wire::Commit_Reply { reply: wire::MoreResponse { logs: Vec::new(), id } }).await
    }
}

/// Lets a container go on, whatever happens.
struct Resume {
    engine: crate::engine::Engine,
    id: String,
}

impl Drop for Resume {
    fn drop(&mut self) {
        let (engine, id) = (self.engine.clone(), std::mem::take(&mut self.id));
        tokio::spawn(async move {
            if let Err(error) = engine.resume(&id).await {
                tracing::warn!(id, error = error.full_text(), "cannot let a container go on after a commit");
            }
        });
    }
}

/// Reads lines of a Dockerfile, as in `CMD ["sh"]` or `CMD=sh`.
pub(super) fn changes(lines: &[String]) -> Result<Process, String> {
    let mut config = Process::default();
    for line in lines {
        let line = line.trim();
        let end = line.find([' ', '=', '\t']).unwrap_or(line.len());
        let (word, rest) = line.split_at(end);
        let rest = rest.get(1..).unwrap_or_default().trim();
        let need = || match rest {
            "" => Err(format!("{line:?} says nothing")),
            rest => Ok(rest.to_owned()),
        };
        match word.to_ascii_uppercase().as_str() {
            "CMD" => config.cmd = command(rest),
            "ENTRYPOINT" => config.entrypoint = command(rest),
            "ENV" => {
                let pairs = pairs(&need()?)?;
                config.env.extend(pairs.into_iter().map(|(name, value)| format!("{name}={value}")));
            }
            "LABEL" => config.labels.extend(pairs(&need()?)?),
            "EXPOSE" => config
                .exposed_ports
                .extend(need()?.split_whitespace().map(|port| (with_protocol(port), Empty::default()))),
            "VOLUME" => {
                config.volumes.extend(list(&need()?).into_iter().map(|path| (path, Empty::default())));
            }
            "USER" => config.user = need()?,
            "WORKDIR" => config.working_dir = need()?,
            "STOPSIGNAL" => config.stop_signal = Some(need()?),
            other => {
                return Err(format!(
                    "cannot change {other:?}: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR can be"
                ));
            }
        }
    }
    Ok(config)
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

/// A JSON array, or a line for a shell.
fn command(text: &str) -> Vec<String> {
    match serde_json::from_str(text) {
        Ok(words) => words,
        Err(_) if text.is_empty() => Vec::new(),
        Err(_) => vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()],
    }
}

/// A JSON array, or words.
fn list(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| text.split_whitespace().map(str::to_owned).collect())
}

/// `KEY=VALUE …` with quotes, or `KEY VALUE`.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) =
            text.split_once(char::is_whitespace).ok_or_else(|| format!("{text:?} has no value"))?;
        return Ok(BTreeMap::from([(key.to_owned(), value.trim().to_owned())]));
    }
    let (mut words, mut word, mut quote, mut escaped) = (Vec::new(), String::new(), None, false);
    for letter in text.chars() {
        match (letter, quote) {
            (letter, _) if std::mem::take(&mut escaped) => word.push(letter),
            ('\\', _) => escaped = true,
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => quote = Some(letter),
            (letter, None) if letter.is_whitespace() => words.push(std::mem::take(&mut word)),
            (letter, _) => word.push(letter),
        }
    }
    words.push(word);
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{word:?} is not KEY=VALUE")),
    };
    words.iter().filter(|word| !word.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn changes_are_read_as_all_clients_write_them() {
        let lines = [
            "CMD [\"a\", \"b\"]",
            "ENV=A=1 B='2 3'",
            "LABEL x y",
            "EXPOSE 80 53/udp",
            "USER=web",
            "ENTRYPOINT run it",
        ];
        let config = changes(&lines.map(str::to_owned)).unwrap();
        assert_eq!(config.cmd, ["a", "b"]);
        assert_eq!(config.env, ["A=1", "B=2 3"]);
        assert_eq!(config.labels["x"], "y");
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((config.user.as_str(), config.entrypoint.len()), ("web", 3));
        for wrong in ["ONBUILD RUN x", "USER", "LABEL =x", "nonsense"] {
            assert!(changes(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
