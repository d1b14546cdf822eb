//! The methods of io.dormouse.Image that move layers, and tell how far they are.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, mpsc};

use super::{CancelOnDrop, ImageInterface, archive_of, count, failed, wire};
use crate::api::{Descriptors, finished};
use crate::engine::{EngineError, LayerProgress, LayerState, Loaded, SaveFormat, SaveTo};
use crate::varlink::{Call, CallError};

/// No client needs to know more often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

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
    work: impl FnOnce(&AtomicBool, &(dyn Fn(LayerProgress) + Sync)) -> Result<T, EngineError> + Send + 'static,
    reply: impl Fn(Vec<wire::LayerProgress>) -> R,
) -> Result<(T, Vec<wire::LayerProgress>), CallError> {
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

    pub(super) async fn save(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Save_Args = call.parameters()?;
        let descriptor = Descriptors::of(call).take("archive", given.archive)?;
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
        let cancelled = CancelOnDrop(Arc::default());
        let (engine, flag, names) = (self.engine.clone(), Arc::clone(&cancelled.0), given.names);
        let (tell, mut told) = mpsc::channel::<u64>(1);
        let mut task = tokio::task::spawn_blocking(move || {
            engine.save(&names, format, to, &flag, &mut |written| {
                // If the client reads slowly, it gets fewer of these.
                let _ = tell.try_send(written);
            })
        });
        let result = loop {
            tokio::select! {
                result = &mut task => break finished(result),
                Some(written) = told.recv(), if call.wants_more() => {
                    call.reply_continues(wire::Save_Reply { bytesWritten: count(written) }).await?;
                    tokio::select! {
                        result = &mut task => break finished(result),
                        () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                    }
                }
            }
        };
        let written = result.map_err(failed)?;
        call.reply(wire::Save_Reply { bytesWritten: count(written) }).await
    }
}

pub(super) fn neither() -> EngineError {
    let reason = "either a descriptor or a path is wanted".to_owned();
    EngineError::InvalidSpec { field: "archive".into(), reason }
}

fn layer_to_wire(layer: LayerProgress) -> wire::LayerProgress {
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
