//! Layers on their way in, and their end.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::{Engine, EngineError, from_image_error};
use crate::engine::now_usec;
use crate::image::{Digest, ImageError, Limits};
use crate::store::{BlobRow, try_lock_object};

/// How long a whole layer is kept that no image has: the next attempt at its image finds it.
const KEPT_USEC: i64 = 24 * 3600 * 1_000_000;
/// How long a step of a build is remembered that is of no use.
const STEPS_KEPT_USEC: i64 = 7 * KEPT_USEC;
/// How soon a wait ends after it was given up.
const TICK: Duration = Duration::from_millis(50);
/// Downloading, decompressing and writing of different layers overlap; more of it would only cost memory.
const AT_ONCE: usize = 3;

/// How far a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerProgress {
    /// As the manifest or the archive calls it.
    pub digest: String,
    /// What happens to it.
    pub state: LayerState,
    /// Of the layer as it comes (compressed, if it is).
    pub bytes_done: u64,
    /// All that there are.
    pub bytes_total: u64,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Its turn has not come, or another call is at it.
    Waiting,
    /// It was here before, there or here: nothing is to be done.
    Present,
    /// Its bytes are on the way.
    Transferring,
    /// It is whole.
    Done,
}

/// A layer that an image needs.
pub(super) struct WantedLayer<'a> {
    /// What it must be in the end.
    pub diff_id: Digest,
    /// As it is called where it comes from.
    pub digest: String,
    /// Bytes as it comes.
    pub size_bytes: u64,
    /// As what it is kept in a repository.
    pub blob: Option<BlobRow>,
    /// Begins to read it; the reader checks the digest of what it reads.
    pub open: Box<dyn Fn() -> Result<Box<dyn Read + Send>, EngineError> + Send + Sync + 'a>,
}

/// What those who work at layers have in common.
struct Work<'a> {
    layers: &'a [WantedLayer<'a>],
    next: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<EngineError>>,
    progress: &'a (dyn Fn(LayerProgress) + Sync),
}

impl Engine {
    /// Gets layers, those that are here already excepted; several at a time. The caller holds the layers
    /// ([`Self::hold_layers`]) until its record refers to them. `interrupt` is called once if it is given up, to end
    /// reads that wait.
    pub(super) fn obtain_layers(
        &self,
        layers: &[WantedLayer<'_>],
        cancelled: &AtomicBool,
        interrupt: &(dyn Fn() + Sync),
        progress: &(dyn Fn(LayerProgress) + Sync),
    ) -> Result<(), EngineError> {
        let (next, stop, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
        let work = Work { layers, next, stop, failure, progress };
        for layer in layers {
            progress(layer.progress(LayerState::Waiting, 0));
        }
        let running = AtomicUsize::new(AT_ONCE.min(layers.len()));
        std::thread::scope(|scope| {
            let here = std::thread::current();
            for _ in 0..AT_ONCE.min(layers.len()) {
                let (work, running, here) = (&work, &running, here.clone());
                scope.spawn(move || {
                    self.work_at_layers(work);
                    running.fetch_sub(1, Ordering::AcqRel);
                    here.unpark();
                });
            }
            while running.load(Ordering::Acquire) > 0 {
                if cancelled.load(Ordering::Relaxed) {
                    work.stop.store(true, Ordering::Relaxed);
                }
                if work.stop.load(Ordering::Relaxed) {
                    interrupt();
                }
                std::thread::park_timeout(TICK);
            }
        });
        if cancelled.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let failure = work.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        failure.map_or(Ok(()), Err)
    }

    fn work_at_layers(&self, work: &Work<'_>) {
        while !work.stop.load(Ordering::Relaxed) {
            let Some(layer) = work.layers.get(work.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.obtain_layer(layer, work) {
                // Only the first one is of interest; the others follow from it.
                work.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                work.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn obtain_layer(&self, layer: &WantedLayer<'_>, work: &Work<'_>) -> Result<(), EngineError> {
        let store = self.layers()?;
        // Whoever comes second waits for the first, and finds the layer there.
        let _lock = self.lock_layer(&layer.diff_id, &work.stop)?;
        if store.contains(&layer.diff_id) {
            self.record_layer(layer, None)?;
            (work.progress)(layer.progress(LayerState::Present, layer.size_bytes));
            return Ok(());
        }
        let reader = (layer.open)()?;
        // The digest is known beforehand, so that the marker at the end says nothing.
        let limits = Limits { end_marker_required: false, ..Limits::default() };
        let made = store
            .import_expected(
                Some(&layer.diff_id),
                reader,
                &limits,
                &mut |now| (work.progress)(layer.progress(LayerState::Transferring, now.bytes_read)),
                &work.stop,
            )
            .map_err(|source| from_layer_error(&layer.digest, source))?;
        self.record_layer(layer, Some(made.size_bytes))?;
        (work.progress)(layer.progress(LayerState::Done, layer.size_bytes));
        Ok(())
    }

    fn record_layer(&self, layer: &WantedLayer<'_>, size_bytes: Option<u64>) -> Result<(), EngineError> {
        let store = self.store()?;
        let size_bytes = match size_bytes {
            Some(size_bytes) => i64::try_from(size_bytes).unwrap_or(i64::MAX),
            None => store.layer_size(layer.diff_id.as_str())?.unwrap_or(0),
        };
        store.record_layer(layer.diff_id.as_str(), size_bytes, now_usec())?;
        if let Some(blob) = &layer.blob {
            store.record_blob(layer.diff_id.as_str(), blob)?;
        }
        Ok(())
    }

    fn lock_layer(
        &self,
        diff_id: &Digest,
        stop: &AtomicBool,
    ) -> Result<crate::store::ObjectLock, EngineError> {
        let name = format!("layer-{}", diff_id.hex());
        loop {
            if let Some(lock) = try_lock_object(&self.paths().locks(), &name)? {
                return Ok(lock);
            }
            if stop.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            std::thread::sleep(TICK);
        }
    }

    /// The bytes of the files of some layers, as recorded.
    pub(super) fn size_of_layers(&self, diff_ids: &[Digest]) -> Result<i64, EngineError> {
        let store = self.store()?;
        diff_ids.iter().try_fold(0_i64, |sum, diff_id| {
            Ok(sum.saturating_add(store.layer_size(diff_id.as_str())?.unwrap_or(0)))
        })
    }

    /// Removes layers that no image has, and that were not finished just now for one to come. Left for another time while
    /// an import is under way.
    pub(in crate::engine) fn sweep_layers(&self) -> Result<(), EngineError> {
        match self.lock_layers(FlockOperation::NonBlockingLockExclusive) {
            Ok(_layers) => self.sweep_locked_layers(now_usec() - KEPT_USEC),
            // What is half made and not locked can go at any time; of the whole ones nothing is certain now.
            Err(_) => self.sweep_layers_unless(&|_| true),
        }
    }

    /// As [`Self::sweep_layers`], but waits, and takes also what was finished just now.
    pub(super) fn sweep_all_layers(&self) -> Result<(), EngineError> {
        let begun = Instant::now();
        let _layers = loop {
            match self.lock_layers(FlockOperation::NonBlockingLockExclusive) {
                Ok(lock) => break lock,
                // Whoever is at work there keeps what it makes; the rest goes another time.
                Err(_) if begun.elapsed() > Duration::from_secs(1) => return self.sweep_layers(),
                Err(_) => std::thread::sleep(TICK),
            }
        };
        self.sweep_locked_layers(i64::MAX)
    }

    fn sweep_locked_layers(&self, finished_until_usec: i64) -> Result<(), EngineError> {
        let store = self.store()?;
        store.forget_build_steps(now_usec() - STEPS_KEPT_USEC)?;
        store.forget_unused_layers(finished_until_usec)?;
        // What can't be looked up counts as known: nothing goes by mistake.
        self.sweep_layers_unless(&|digest| {
            store.is_layer_wanted(digest.as_str(), finished_until_usec).unwrap_or(true)
        })
    }

    fn sweep_layers_unless(&self, is_known: &dyn Fn(&Digest) -> bool) -> Result<(), EngineError> {
        match self.layers()?.sweep(is_known) {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed layers that no image has"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove a layer that no image has, left for the next wake")
            }
        }
        Ok(())
    }

    /// Keeps layers from being swept as long as the result lives.
    pub(in crate::engine) fn hold_layers(&self, cancelled: &AtomicBool) -> Result<File, EngineError> {
        loop {
            match self.lock_layers(FlockOperation::NonBlockingLockShared) {
                Err(EngineError::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if cancelled.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            std::thread::sleep(TICK);
        }
    }

    fn lock_layers(&self, operation: FlockOperation) -> Result<File, EngineError> {
        // Not in the run directory's locks: that one is per boot and object, this one per store.
        let path = self.paths().state_dir.join("layers.lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| EngineError::io("open", &path, source))?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation))
            .map_err(|errno| EngineError::io("lock", &path, errno.into()))?;
        Ok(file)
    }
}

impl WantedLayer<'_> {
    fn progress(&self, state: LayerState, bytes_done: u64) -> LayerProgress {
        LayerProgress {
            digest: self.digest.clone(),
            state,
            bytes_done: bytes_done.min(self.size_bytes),
            bytes_total: self.size_bytes,
        }
    }
}

/// Names the layer, unless the trouble is not its own. A reader may have its own error in store.
fn from_layer_error(digest: &str, error: ImageError) -> EngineError {
    match error {
        ImageError::Read { source } => match source.downcast::<EngineError>() {
            Ok(error) => error,
            Err(source) => from_image_error(ImageError::Layer {
                digest: digest.to_owned(),
                source: Box::new(ImageError::Read { source }),
            }),
        },
        other => from_image_error(ImageError::Layer { digest: digest.to_owned(), source: Box::new(other) }),
    }
}
