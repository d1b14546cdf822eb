//! Images from registries, archives and trees, and into them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::api::{CancelOnDrop, finished, looked_up};
use crate::engine::{
    Archive, EngineError, LayerProgress, LayerState, Loaded, PullRequest, PullWhen, SaveFormat, SaveTo,
};
use crate::image::registry::Credentials;

use super::super::errors::{failed, failed_anyhow, occurred};
use super::super::{Call, CallError, PodmanInterface, absolute, bare, wire};
use super::commit::changes;

const SEARCH_LIMIT: usize = 25;

/// Lines about layers that nobody was told yet, each layer once for each state.
#[derive(Default)]
struct Lines {
    told: Mutex<HashMap<String, LayerState>>,
    waiting: Mutex<Vec<String>>,
    news: Notify,
}

impl Lines {
    fn put(&self, layer: &LayerProgress) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(layer.digest.clone(), layer.state) == Some(layer.state) {
            return;
        }
        let blob: String = bare(&layer.digest).chars().take(12).collect();
        let line = match layer.state {
            LayerState::Waiting => return,
            LayerState::Present => format!("Copying blob {blob} skipped: already exists\n"),
            LayerState::Transferring => format!("Copying blob {blob}\n"),
            LayerState::Done => format!("Copying blob {blob} done\n"),
        };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Does work that tells of layers, in a thread; given up if the client leaves. With `more` the lines go out as they come, else
/// they are returned with the result.
async fn with_lines<T: Send + 'static, R: serde::Serialize>(
    call: &mut Call,
    first: String,
    work: impl FnOnce(&Arc<AtomicBool>, &(dyn Fn(LayerProgress) + Sync)) -> Result<T, EngineError>
    + Send
    + 'static,
    reply: impl Fn(wire::MoreResponse) -> R,
) -> Result<(T, Vec<String>), CallError> {
    let more = |logs| reply(wire::MoreResponse { logs, id: String::new() });
    let cancelled = CancelOnDrop(Arc::default());
    let lines = Arc::new(Lines::default());
    let mut all = Vec::new();
    if call.wants_more() {
        call.reply_continues(more(vec![first])).await?;
    } else {
        all.push(first);
    }
    let (flag, put) = (Arc::clone(&cancelled.0), Arc::clone(&lines));
    let mut task = tokio::task::spawn_blocking(move || work(&flag, &|layer| put.put(&layer)));
    let result = loop {
        tokio::select! {
            result = &mut task => break finished(result),
            () = lines.news.notified(), if call.wants_more() => {
                let logs = lines.take();
                if !logs.is_empty() {
                    call.reply_continues(more(logs)).await?;
                }
            }
        }
    };
    let value = result.map_err(failed)?;
    all.extend(lines.take());
    Ok((value, all))
}

impl PodmanInterface {
    pub(super) async fn pull_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::PullImage_Args = call.parameters()?;
        // Podman's name of the usual transport.
        let name = given.name.strip_prefix("docker://").unwrap_or(&given.name).to_owned();
        if name.is_empty() {
            return Err(occurred("cannot pull an image: its name is empty"));
        }
        let first = format!("Trying to pull {name}...\n");
        let request = PullRequest {
            name,
            platform: None,
            credentials: credentials(given.creds),
            when: PullWhen::Always,
        };
        let engine = self.engine.clone();
        let (pulled, logs) = with_lines(
            call,
            first,
            move |cancelled, progress| engine.pull(&request, cancelled, progress),
            |reply| wire::PullImage_Reply { reply },
        )
        .await?;
        let id = bare(&pulled.id).to_owned();
        call.reply(wire::PullImage_Reply { reply: wire::MoreResponse { logs, id } }).await
    }

    pub(super) async fn push_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::PushImage_Args = call.parameters()?;
        let image = self.image(&given.name).await.map_err(failed)?;
        if !given.signBy.is_empty() {
            return Err(occurred("cannot push the image with a signature: this program makes none"));
        }
        let destination = given.tag.strip_prefix("docker://").unwrap_or(&given.tag).to_owned();
        let destination = Some(destination).filter(|name| !name.is_empty());
        let first = format!("Pushing {}\n", destination.as_deref().unwrap_or(&given.name));
        let (engine, name) = (self.engine.clone(), given.name);
        let (_, logs) = with_lines(
            call,
            first,
            move |cancelled, progress| engine.push(&name, destination.as_deref(), None, cancelled, progress),
            |reply| wire::PushImage_Reply { reply },
        )
        .await?;
        let id = bare(&image.row.id).to_owned();
        call.reply(wire::PushImage_Reply { reply: wire::MoreResponse { logs, id } }).await
    }

    pub(super) async fn search_images(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::SearchImages_Args = call.parameters()?;
        let limit = given.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let query = given.query;
        if query.is_empty() {
            return Err(occurred("cannot search for an image: the query is empty"));
        }
        let found = looked_up(move || {
            // As in a name: a first part that can be a host is one.
            let (registry, term) = match query.split_once('/') {
                Some((host, term)) if host == "localhost" || host.contains(['.', ':']) => (Some(host), term),
                _ => (None, query.as_str()),
            };
            engine.search(term, registry, limit.unwrap_or(SEARCH_LIMIT), &flag)
        })
        .await;
        let found = match found {
            // Nobody answers: nothing is found.
            Err(EngineError::RegistryUnavailable { .. }) => Vec::new(),
            found => found.map_err(failed_anyhow)?,
        };
        let filter = given.filter;
        let results = found
            .into_iter()
            .filter(|found| filter.is_official.is_none_or(|wanted| found.official == wanted))
            .filter(|found| {
                filter.is_automated != Some(true) && found.stars.unwrap_or_default() >= filter.star_count
            })
            .map(|found| wire::ImageSearchResult {
                description: found.description,
                is_official: found.official,
                is_automated: false,
                registry: found.name.split('/').next().unwrap_or_default().to_owned(),
                name: found.name,
                star_count: found.stars.unwrap_or_default(),
            });
        call.reply(wire::SearchImages_Reply { results: results.collect() }).await
    }

    pub(super) async fn save_image(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::ImageSave_Args { options } = call.parameters()?;
        let format = match options.format.as_str() {
            "" | "docker-archive" => SaveFormat::DockerArchive,
            // A directory comes as a tar of it, which is what this is.
            "oci-archive" | "oci-dir" => SaveFormat::OciArchive,
            "docker-dir" => SaveFormat::DockerArchive,
            other => {
                return Err(occurred(format!(
                    "{other:?} is no format of an archive; docker-archive and oci-archive are"
                )));
            }
        };
        self.image(&options.name).await.map_err(failed)?;
        let mut names = vec![options.name];
        names.extend(options.moreTags);
        let target = self.handles.reserve()?;
        let (engine, path) = (self.engine.clone(), target.clone());
        self.write_file(call, target, move |to, cancelled| {
            engine.save(&names, format, to, cancelled, &mut |_| {})
        })
        .await?;
        let id = path.to_string_lossy().into_owned();
        call.reply(wire::ImageSave_Reply { reply: wire::MoreResponse { logs: Vec::new(), id } }).await
    }

    pub(super) async fn export_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ExportImage_Args = call.parameters()?;
        let image = self.image(&given.name).await.map_err(failed)?;
        let (transport, path) = given.destination.split_once(':').unwrap_or(("", &given.destination));
        let format = match transport {
            "docker-archive" | "" => SaveFormat::DockerArchive,
            "oci-archive" => SaveFormat::OciArchive,
            "oci" => SaveFormat::OciDirectory,
            other => {
                return Err(occurred(format!(
                    "cannot export to {other:?}: docker-archive:PATH, oci-archive:PATH and oci:PATH are known"
                )));
            }
        };
        let target = absolute("the place of an image", path)?;
        let mut names = vec![given.name];
        names.extend(given.tags);
        let engine = self.engine.clone();
        if format == SaveFormat::OciDirectory {
            let cancelled = CancelOnDrop(Arc::default());
            let flag = Arc::clone(&cancelled.0);
            looked_up(move || engine.save(&names, format, SaveTo::Path(target), &flag, &mut |_| {}))
                .await
                .map_err(failed)?;
        } else {
            self.write_file(call, target, move |to, cancelled| {
                engine.save(&names, format, to, cancelled, &mut |_| {})
            })
            .await?;
        }
        call.reply(wire::ExportImage_Reply { image: bare(&image.row.id).to_owned() }).await
    }

    pub(super) async fn load_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::LoadImage_Args = call.parameters()?;
        let path = absolute("an archive", &given.inputFile)?;
        // Goes with this call, unless it is a file of the host.
        let sent = self.handles.take(&path, given.deleteFile);
        let (engine, name) = (self.engine.clone(), Some(given.name).filter(|name| !name.is_empty()));
        let first = String::new();
        let (loaded, _) = with_lines(
            call,
            first,
            move |cancelled, progress| engine.load(Archive::Path(path), name.as_deref(), cancelled, progress),
            |mut reply| {
                reply.logs.retain(|line| !line.is_empty());
                wire::LoadImage_Reply { reply }
            },
        )
        .await?;
        drop(sent);
        let id = loaded.iter().map(names_of).collect::<Vec<_>>().join(",");
        call.reply(wire::LoadImage_Reply { reply: wire::MoreResponse { logs: Vec::new(), id } }).await
    }

    pub(super) async fn import_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ImportImage_Args = call.parameters()?;
        if given.source.contains("://") {
            return Err(occurred(format!(
                "cannot import {:?}: the service fetches nothing by itself; give a file",
                given.source
            )));
        }
        let path = absolute("an archive", &given.source)?;
        let config = changes(&given.changes).map_err(occurred)?;
        let sent = self.handles.take(&path, given.delete);
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let text = |text: String| Some(text).filter(|text| !text.is_empty());
        let (name, comment) = (text(given.reference), text(given.message));
        let imported = looked_up(move || {
            engine.import(name.as_deref(), Archive::Path(path), config, comment, &flag, &mut |_| {})
        });
        let image = bare(&imported.await.map_err(failed)?.id).to_owned();
        drop(sent);
        call.reply(wire::ImportImage_Reply { image }).await
    }

    /// Has something written to a file, which is not left half written; given up if the client leaves.
    pub(in super::super) async fn write_file(
        &self,
        _call: &mut Call,
        target: PathBuf,
        work: impl FnOnce(SaveTo, &AtomicBool) -> Result<u64, EngineError> + Send + 'static,
    ) -> Result<(), CallError> {
        let cancelled = CancelOnDrop(Arc::default());
        let flag = Arc::clone(&cancelled.0);
        looked_up(move || {
            let file = overwritten(&target)?;
            let written = work(SaveTo::Descriptor(file.into()), &flag);
            if written.is_err()
                && let Err(error) = std::fs::remove_file(&target)
            {
                tracing::warn!(?target, %error, "cannot remove the unfinished file, ignoring");
            }
            written
        })
        .await
        .map(drop)
        .map_err(failed)
    }
}

/// A new file, also where there is one.
fn overwritten(path: &Path) -> Result<std::fs::File, EngineError> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| EngineError::InvalidSpec {
            field: "path".to_owned(),
            reason: format!("cannot make {path:?}: {error}"),
        })
}

fn names_of(loaded: &Loaded) -> String {
    if loaded.names.is_empty() { format!("@{}", bare(&loaded.id)) } else { loaded.names.join(",") }
}

fn credentials(given: wire::AuthConfig) -> Option<Credentials> {
    (!given.username.is_empty())
        .then_some(Credentials::Password { username: given.username, password: given.password })
}
