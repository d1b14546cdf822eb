//! The methods of io.dormouse.Image that move layers, and tell how far they are.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

use super::{ImageInterface, archive_of, count, failed, wire};
use crate::api::{CancelOnDrop, Descriptors, PROGRESS_INTERVAL, finished, looked_up, with_bytes};
use crate::engine::{
    EngineError, LayerProgress, LayerState, Loaded, PullRequest, PullWhen, SaveFormat, SaveTo,
};
use crate::image::manifest::Platform;
use crate::image::registry::Credentials;
use crate::varlink::stream::Finish;
use crate::varlink::{Call, CallError};

const SEARCH_LIMIT: usize = 25;

/// What has changed since it was last told. A client that reads slowly gets the newest, not all.
#[derive(Default)]
struct Board {
    changed: Mutex<Vec<LayerProgress>>,
    news: Notify,
}

impl Board {
    fn put(&self, layer: LayerProgress) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        match changed.iter_mut().find(|known| known.digest == layer.digest) {
            Some(known) => *known = layer,
            None => changed.push(layer),
        }
        drop(changed);
        self.news.notify_one();
    }

    fn take(&self) -> Vec<wire::LayerProgress> {
        let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        changed.into_iter().map(layer_to_wire).collect()
    }
}

/// Does work that tells of layers, in a thread; given up if the client leaves. Returns what came out, and what of the
/// layers was not told yet.
async fn with_layers<T: Send + 'static, R: Serialize>(
    call: &mut Call,
    work: impl FnOnce(&Arc<AtomicBool>, &(dyn Fn(LayerProgress) + Sync)) -> Result<T, EngineError>
    + Send
    + 'static,
    reply: impl Fn(Vec<wire::LayerProgress>) -> R,
) -> Result<(T, Vec<wire::LayerProgress>), CallError> {
    call.begin_stream(reply(Vec::new()), Finish::AtEnd).await?;
    let cancelled = CancelOnDrop(Arc::default());
    let board = Arc::new(Board::default());
    let (flag, put) = (Arc::clone(&cancelled.0), Arc::clone(&board));
    let mut task = tokio::task::spawn_blocking(move || work(&flag, &|layer| put.put(layer)));
    let result = loop {
        tokio::select! {
            result = &mut task => break finished(result),
            () = board.news.notified(), if call.wants_more() => {
                call.reply_continues(reply(board.take())).await?;
                tokio::select! {
                    result = &mut task => break finished(result),
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                }
            }
        }
    };
    Ok((result.map_err(failed)?, board.take()))
}

impl ImageInterface {
    pub(super) async fn load(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Load_Args = call.parameters()?;
        let archive = archive_of(call, given.archive, given.path)?;
        let (engine, name) = (self.engine.clone(), given.name);
        let (images, layers) = with_layers(
            call,
            move |cancelled, progress| engine.load(archive, name.as_deref(), cancelled, progress),
            |layers| wire::Load_Reply { images: Vec::new(), layers },
        )
        .await?;
        let images = images.into_iter().map(|Loaded { id, names }| wire::Loaded { id, names }).collect();
        call.reply(wire::Load_Reply { images, layers }).await
    }

    pub(super) async fn pull(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Pull_Args = call.parameters()?;
        let request = PullRequest {
            name: given.name,
            platform: given.platform.map(|platform| Platform {
                os: platform.os,
                architecture: platform.architecture,
                variant: platform.variant,
            }),
            credentials: given.credentials.map(credentials),
            when: match given.policy {
                None | Some(wire::Pull_Args_policy::always) => PullWhen::Always,
                Some(wire::Pull_Args_policy::missing) => PullWhen::Missing,
                Some(wire::Pull_Args_policy::newer) => PullWhen::Newer,
                Some(wire::Pull_Args_policy::never) => PullWhen::Never,
            },
        };
        let engine = self.engine.clone();
        let (pulled, layers) = with_layers(
            call,
            move |cancelled, progress| engine.pull(&request, cancelled, progress),
            |layers| wire::Pull_Reply { id: None, fullName: None, digest: None, layers },
        )
        .await?;
        let (id, full) = (Some(pulled.id), Some(pulled.name));
        call.reply(wire::Pull_Reply { id, fullName: full, digest: pulled.digest, layers }).await
    }

    pub(super) async fn push(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Push_Args = call.parameters()?;
        let engine = self.engine.clone();
        let (pushed, layers) = with_layers(
            call,
            move |cancelled, progress| {
                let credentials = given.credentials.map(credentials);
                engine.push(&given.name, given.destination.as_deref(), credentials, cancelled, progress)
            },
            |layers| wire::Push_Reply { fullName: None, digest: None, layers },
        )
        .await?;
        call.reply(wire::Push_Reply { fullName: Some(pushed.name), digest: Some(pushed.digest), layers })
            .await
    }

    pub(super) async fn search(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Search_Args = call.parameters()?;
        let limit = match given.limit.map(usize::try_from) {
            None => SEARCH_LIMIT,
            Some(Ok(limit)) if limit > 0 => limit,
            Some(_) => return Err(CallError::invalid_parameter("limit")),
        };
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag) = (self.engine.clone(), Arc::clone(&cancelled.0));
        let found =
            looked_up(move || engine.search(&given.term, given.registry.as_deref(), limit, &flag)).await;
        let images = found.map_err(failed)?.into_iter().map(|found| wire::Found {
            name: found.name,
            description: found.description,
            stars: found.stars,
            official: found.official,
        });
        call.reply(wire::Search_Reply { images: images.collect() }).await
    }

    pub(super) async fn login(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Login_Args = call.parameters()?;
        let engine = self.engine.clone();
        let (registry, user) = (given.registry, given.credentials);
        let file = looked_up(move || engine.login(&registry, &user.username, &user.password)).await;
        let file = file.map_err(failed)?.to_string_lossy().into_owned();
        call.reply(wire::Login_Reply { file }).await
    }

    pub(super) async fn logout(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Logout_Args = call.parameters()?;
        let engine = self.engine.clone();
        let forgotten = looked_up(move || engine.logout(&given.registry)).await.map_err(failed)?;
        call.reply(wire::Logout_Reply { forgotten }).await
    }

    pub(super) async fn save(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Save_Args = call.parameters()?;
        let descriptor = Descriptors::of(call).take_output("archive", given.archive)?;
        let to = match (descriptor, given.path) {
            (Some(descriptor), None) => SaveTo::Descriptor(descriptor),
            (None, Some(path)) => SaveTo::Path(path.into()),
            _ => return Err(failed(neither())),
        };
        let format = match given.format {
            None | Some(wire::Save_Args_format::dockerArchive) => SaveFormat::DockerArchive,
            Some(wire::Save_Args_format::ociArchive) => SaveFormat::OciArchive,
            Some(wire::Save_Args_format::ociDirectory) => SaveFormat::OciDirectory,
        };
        let (engine, names) = (self.engine.clone(), given.names);
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            engine.save(&names, format, to, cancelled, progress)
        };
        with_bytes(call, work, failed, |written| wire::Save_Reply { bytesWritten: written }).await
    }
}

fn credentials(given: wire::Credentials) -> Credentials {
    Credentials::Password { username: given.username, password: given.password }
}

pub(super) fn neither() -> EngineError {
    let reason = "either a descriptor or a path is wanted".to_owned();
    EngineError::InvalidSpec { field: "archive".into(), reason }
}

pub(super) fn layer_to_wire(layer: LayerProgress) -> wire::LayerProgress {
    wire::LayerProgress {
        digest: layer.digest,
        state: match layer.state {
            LayerState::Waiting => wire::LayerProgress_state::waiting,
            LayerState::Present => wire::LayerProgress_state::present,
            LayerState::Transferring => wire::LayerProgress_state::transferring,
            LayerState::Done => wire::LayerProgress_state::done,
        },
        bytesDone: count(layer.bytes_done),
        bytesTotal: count(layer.bytes_total),
    }
}
