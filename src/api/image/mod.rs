//! io.dormouse.Image.

mod build;
mod transfer;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::{Archive, Engine, EngineError, HistoryEntry, Image, ImportProgress};
use crate::image::Process;
use crate::varlink::stream::Finish;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::{CancelOnDrop, Descriptors, listing, looked_up, ordered};
use crate::wire::image as wire;

const NAME: &str = "io.dormouse.Image";

/// The interface over an engine.
pub(super) struct ImageInterface {
    engine: Engine,
}

impl Interface for ImageInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../../interfaces/io.dormouse.Image.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Import" => self.import(call).await,
                "Build" => self.build(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Remove" => self.remove(call).await,
                "Tag" => self.tag(call).await,
                "Untag" => self.untag(call).await,
                "History" => self.history(call).await,
                "Prune" => self.prune(call).await,
                "Load" => self.load(call).await,
                "Save" => self.save(call).await,
                "Pull" => self.pull(call).await,
                "Push" => self.push(call).await,
                "Search" => self.search(call).await,
                "Login" => self.login(call).await,
                "Logout" => self.logout(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl ImageInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn import(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Import_Args = call.parameters()?;
        let archive = archive_of(call, given.archive, given.path)?;
        let config = given.config.map(config_from_wire).unwrap_or_default();
        call.begin_stream(progress_reply(None, ImportProgress::default()), Finish::AtEnd).await?;
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag, name) = (self.engine.clone(), Arc::clone(&cancelled.0), given.name);
        let comment = given.comment;
        let (tell, mut told) = mpsc::channel::<ImportProgress>(1);
        // Awake until it is done or given up; not to be finished at all costs, as an order would be.
        let mut import = tokio::task::spawn_blocking(move || {
            let mut progress = |now| {
                // If the client reads slowly, it gets fewer of these.
                let _ = tell.try_send(now);
            };
            engine.import(name.as_deref(), archive, config, comment, &flag, &mut progress)
        });
        let result = loop {
            tokio::select! {
                result = &mut import => break super::finished(result),
                Some(now) = told.recv(), if call.wants_more() => {
                    call.reply_continues(progress_reply(None, now)).await?;
                }
            }
        };
        let imported = result.map_err(failed)?;
        call.reply(progress_reply(Some(imported.id), imported.progress)).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let look = |engine: &Engine| Ok(engine.images()?.iter().map(summary).collect::<Vec<_>>());
        let reply = |images, gone| wire::List_Reply { images, gone };
        listing::list(call, &self.engine, NAME, look, |image| &image.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let image = looked_up(move || engine.find_image(&given.name)).await.map_err(failed)?;
        let details = wire::Details {
            summary: summary(&image),
            architecture: image.config.architecture,
            os: image.config.os,
            layers: image.row.layers,
            config: config_to_wire(image.config.config),
        };
        call.reply(wire::Inspect_Reply { image: details }).await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let engine = self.engine.clone();
        let removed =
            ordered(call, looked_up(move || engine.remove_image(&given.name))).await.map_err(failed)?;
        call.reply(wire::Remove_Reply { removed }).await
    }

    async fn tag(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Tag_Args = call.parameters()?;
        let engine = self.engine.clone();
        let full = looked_up(move || engine.tag_image(&given.name, &given.newName)).await.map_err(failed)?;
        call.reply(wire::Tag_Reply { fullName: full }).await
    }

    async fn untag(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Untag_Args = call.parameters()?;
        let engine = self.engine.clone();
        looked_up(move || engine.untag_image(&given.name)).await.map_err(failed)?;
        call.reply(wire::Untag_Reply {}).await
    }

    async fn history(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::History_Args = call.parameters()?;
        let engine = self.engine.clone();
        let steps = looked_up(move || engine.image_history(&given.name)).await.map_err(failed)?;
        call.reply(wire::History_Reply { steps: steps.into_iter().map(step).collect() }).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Prune_Args = call.parameters()?;
        let engine = self.engine.clone();
        let all = given.all.unwrap_or(false);
        let pruned = ordered(call, looked_up(move || engine.prune_images(all))).await.map_err(failed)?;
        call.reply(wire::Prune_Reply { removed: pruned.images, freedBytes: count(pruned.freed_bytes) }).await
    }
}

/// The archive that a call brings.
fn archive_of(call: &mut Call, index: Option<i64>, path: Option<String>) -> Result<Archive, CallError> {
    match (Descriptors::of(call).take("archive", index)?, path) {
        (Some(descriptor), None) => Ok(Archive::Descriptor(descriptor)),
        (None, Some(path)) => Ok(Archive::Path(path.into())),
        _ => Err(failed(transfer::neither())),
    }
}

fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn step(entry: HistoryEntry) -> wire::HistoryEntry {
    wire::HistoryEntry {
        createdUSec: entry.created_usec(),
        createdBy: entry.step.created_by,
        comment: entry.step.comment,
        layer: entry.layer,
        sizeBytes: entry.size_bytes,
    }
}

fn progress_reply(id: Option<String>, progress: ImportProgress) -> wire::Import_Reply {
    wire::Import_Reply { id, bytesRead: count(progress.bytes_read), entries: count(progress.entries) }
}

fn config_from_wire(config: wire::Config) -> Process {
    Process {
        user: config.user.unwrap_or_default(),
        env: sorted_pairs(config.env),
        entrypoint: config.entrypoint.unwrap_or_default(),
        cmd: config.command.unwrap_or_default(),
        working_dir: config.workdir.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        stop_signal: config.stopSignal,
        ..Process::default()
    }
}

/// In the order of their names, so that the same configuration has the same digest.
fn sorted_pairs(env: Option<HashMap<String, String>>) -> Vec<String> {
    let mut pairs: Vec<String> =
        env.unwrap_or_default().iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.sort();
    pairs
}

fn config_to_wire(config: Process) -> wire::Config {
    let list = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
    let text = |text: String| if text.is_empty() { None } else { Some(text) };
    let env: HashMap<String, String> = config
        .env
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    wire::Config {
        entrypoint: list(config.entrypoint),
        command: list(config.cmd),
        env: if env.is_empty() { None } else { Some(env) },
        workdir: text(config.working_dir),
        user: text(config.user),
        stopSignal: config.stop_signal,
        labels: if config.labels.is_empty() { None } else { Some(config.labels.into_iter().collect()) },
    }
}

fn summary(image: &Image) -> wire::Summary {
    wire::Summary {
        id: image.row.id.clone(),
        names: image.row.names.clone(),
        sizeBytes: image.row.size_bytes,
        createdUSec: image.row.created_usec,
        labels: image.config.config.labels.clone().into_iter().collect(),
        containers: image.row.containers,
        digests: image.row.digests.iter().map(|(name, digest)| format!("{name}@{digest}")).collect(),
    }
}
