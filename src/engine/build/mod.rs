//! Builds: from a Containerfile and files to an image.
//!
//! Only the stages that the target needs are built, and those that do not need one another side by side, each in a thread.
//! A step is looked up in the cache by the digest of all that it depends on ([`stage`]); else it is done: RUN in a container
//! ([`run`]), COPY and ADD in an overlay ([`copy`]), and the rest in the configuration alone ([`notes`]). What is made is a
//! layer like every other. The image is recorded at the very end, so that a build that fails, or whose caller has left,
//! leaves nothing but layers that the next one may use; a build whose process was killed is swept ([`workplace`]).

mod context;
mod copy;
mod draft;
mod mounts;
mod notes;
mod paths;
mod plan;
mod request;
mod run;
mod squash;
mod stage;
mod trouble;
mod workplace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;

use self::context::Context;
use self::plan::Plan;
use self::stage::{Finished, Working};
use self::trouble::StepError;
use self::workplace::Workplace;
use super::images::{NewImage, from_image_error};
use super::{Engine, EngineError, now_usec};
use crate::image::build::{Containerfile, Keyword, words};
use crate::image::manifest::{DOCKER_CONFIG, DOCKER_MANIFEST};
use crate::image::{Digest, LayerStore, Reference};
use crate::systemd::mode;

pub use self::request::{BuildEvent, BuildFile, BuildNetwork, BuildRequest, BuildStep, Built, StepState};
pub(super) use self::workplace::is_step;

/// How soon a build ends that was given up.
const TICK: Duration = Duration::from_millis(50);
/// Stages at work at a time; more of them would only be in each other's way.
const AT_ONCE: usize = 4;
/// How often it is recorded that a step was of use.
const USE_NOTED_USEC: i64 = 3600 * 1_000_000;

/// A build at work.
struct Build<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    layers: LayerStore,
    runtime: tokio::runtime::Handle,
    place: Workplace,
    context: Context,
    file_name: String,
    escape: char,
    plan: Plan,
    /// Arguments before the first FROM, and what is known of the machine.
    globals: BTreeMap<String, String>,
    stop: Arc<AtomicBool>,
    tell: &'a (dyn Fn(BuildEvent) + Sync),
    progress: Mutex<Progress>,
    news: Condvar,
    /// Keys of steps that the cache knew.
    used: Mutex<Vec<String>>,
    /// Arguments that were asked for.
    asked: Mutex<BTreeSet<String>>,
}

/// How far the stages are.
struct Progress {
    finished: Vec<Option<Finished>>,
    at_work: usize,
    failure: Option<EngineError>,
}

impl Engine {
    /// Builds an image. Blocks the thread, which must be one of a tokio runtime. `tell` is called from several threads, and
    /// what it does not take holds up the step alone. If it fails, or `cancelled` is set, no image is recorded.
    ///
    /// # Errors
    /// [`EngineError::BuildFailed`] with the place in the Containerfile; [`EngineError::InvalidSpec`],
    /// [`EngineError::InvalidArchive`] for the context, [`EngineError::StorageFull`], [`EngineError::Cancelled`].
    pub fn build(
        &self,
        request: &BuildRequest,
        cancelled: &AtomicBool,
        tell: &(dyn Fn(BuildEvent) + Sync),
    ) -> Result<Built, EngineError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| EngineError::Failed {
            attempted: "build".to_owned(),
            reason: error.to_string(),
        })?;
        let names = names_of(&request.tags)?;
        let stop: Arc<AtomicBool> = Arc::default();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (watched, stop_it) = (&over, Arc::clone(&stop));
            let here = scope.spawn(move || {
                while !watched.load(Ordering::Acquire) {
                    if cancelled.load(Ordering::Relaxed) {
                        stop_it.store(true, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(TICK);
                }
            });
            let built = self.build_until(request, &names, &runtime, &stop, tell);
            over.store(true, Ordering::Release);
            here.thread().unpark();
            if cancelled.load(Ordering::Relaxed) && built.is_err() {
                Err(EngineError::Cancelled)
            } else {
                built
            }
        })
    }

    fn build_until(
        &self,
        request: &BuildRequest,
        names: &[String],
        runtime: &tokio::runtime::Handle,
        stop: &Arc<AtomicBool>,
        tell: &(dyn Fn(BuildEvent) + Sync),
    ) -> Result<Built, EngineError> {
        let place = Workplace::make(self)?;
        let _layers = self.hold_layers(stop)?;
        let (context, file_name, text) = Context::open(request, &place, stop)?;
        let placed = |error: StepError| error.in_file(&file_name, None, String::new());
        let file = Containerfile::parse(&text).map_err(|error| placed(error.into()))?;
        let globals = globals(&file, request).map_err(placed)?;
        let lookup = |name: &str| globals.get(name).cloned();
        let plan = Plan::new(&file, request.target.as_deref(), &lookup).map_err(placed)?;
        let finished = plan.stages.iter().map(|_| None).collect();
        let build = Build {
            engine: self,
            request,
            layers: self.layers()?,
            runtime: runtime.clone(),
            place,
            context,
            file_name,
            escape: file.escape,
            plan,
            globals,
            stop: Arc::clone(stop),
            tell,
            progress: Mutex::new(Progress { finished, at_work: 0, failure: None }),
            news: Condvar::new(),
            used: Mutex::default(),
            asked: Mutex::default(),
        };
        if let Some(platform) = &request.platform {
            build.check_platform(platform)?;
        }
        build.stages()?;
        build.warn_of_arguments();
        build.record(names)
    }

    fn check_tag(tag: &str) -> Result<Reference, EngineError> {
        let invalid = |reason: String| EngineError::InvalidSpec { field: "tags".into(), reason };
        let reference: Reference =
            tag.parse().map_err(|error: crate::image::ImageError| invalid(error.to_string()))?;
        if reference.digest().is_some() {
            return Err(invalid(format!("{tag:?} has a digest, which no name can promise; give a tag")));
        }
        Ok(reference)
    }
}

fn names_of(tags: &[String]) -> Result<Vec<String>, EngineError> {
    tags.iter().map(|tag| Engine::check_tag(tag).map(|reference| reference.to_string())).collect()
}

/// What is known before the first FROM.
fn globals(file: &Containerfile, request: &BuildRequest) -> Result<BTreeMap<String, String>, StepError> {
    let architecture = crate::image::architecture();
    let mut globals = BTreeMap::new();
    for side in ["BUILD", "TARGET"] {
        for (name, value) in [
            ("PLATFORM", format!("linux/{architecture}")),
            ("OS", "linux".to_owned()),
            ("ARCH", architecture.to_owned()),
            ("VARIANT", String::new()),
        ] {
            globals.insert(format!("{side}{name}"), value);
        }
    }
    for instruction in file.instructions.iter().take_while(|each| each.keyword == Keyword::Arg) {
        for word in words::split(&instruction.rest, file.escape) {
            let (name, default) =
                word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            stage::check_variable(instruction, name)?;
            let lookup = |name: &str| globals.get(name).cloned();
            let default = match default {
                None => None,
                Some(value) => Some(
                    words::expand(value, file.escape, &lookup)
                        .map_err(|error| trouble::refused(instruction, error.to_string()))?,
                ),
            };
            if let Some(value) = request.arguments.get(name).cloned().or(default) {
                globals.insert(name.to_owned(), value);
            }
        }
    }
    Ok(globals)
}

impl Build<'_> {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Builds all stages that are wanted.
    fn stages(&self) -> Result<(), EngineError> {
        std::thread::scope(|scope| {
            for index in (0..self.plan.stages.len()).filter(|index| self.plan.wanted[*index]) {
                scope.spawn(move || self.stage(index));
            }
        });
        match self.progress().failure.take() {
            Some(error) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => Err(EngineError::Cancelled),
            None => Ok(()),
        }
    }

    /// Waits for what a stage needs and for its turn, and builds it.
    fn stage(&self, index: usize) {
        let is_ready = |progress: &Progress| {
            let needs = &self.plan.stages[index].needs;
            progress.at_work < AT_ONCE && needs.iter().all(|other| progress.finished[*other].is_some())
        };
        let mut progress = self.progress();
        while !is_ready(&progress) {
            if self.stop.load(Ordering::Relaxed) || progress.failure.is_some() {
                return;
            }
            progress = self.news.wait_timeout(progress, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.at_work += 1;
        drop(progress);
        let result = Working::run(self, index);
        let mut progress = self.progress();
        progress.at_work -= 1;
        match result {
            Ok(finished) => progress.finished[index] = Some(finished),
            Err(error) => {
                // Only the first one is of interest; the others follow from it.
                progress.failure.get_or_insert(error);
                self.stop.store(true, Ordering::Relaxed);
            }
        }
        drop(progress);
        self.news.notify_all();
    }

    /// What a stage has come to that was waited for.
    fn finished(&self, index: usize) -> Result<Finished, StepError> {
        self.progress().finished[index].clone().ok_or_else(|| StepError::Engine(EngineError::Cancelled))
    }

    /// The value that the caller gave an argument.
    fn argument(&self, name: &str) -> Option<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        self.request.arguments.get(name).cloned()
    }

    fn used(&self, key: &str) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).push(key.to_owned());
    }

    fn warn_of_arguments(&self) {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let unused: Vec<&str> = self
            .request
            .arguments
            .keys()
            .filter(|name| !asked.contains(*name) && !self.globals.contains_key(*name))
            .map(String::as_str)
            .collect();
        if !unused.is_empty() {
            (self.tell)(BuildEvent::Warning(format!("no ARG asks for {}", unused.join(", "))));
        }
    }

    fn check_platform(&self, platform: &str) -> Result<(), EngineError> {
        let architecture = crate::image::architecture();
        let ours = format!("linux/{architecture}");
        let same = |text: &str| text == ours || text == std::env::consts::ARCH || text == architecture;
        // arm64's only variant is as good as none.
        if same(platform) || same(platform.trim_end_matches("/v8")) {
            return Ok(());
        }
        Err(EngineError::Unsupported {
            feature: format!("a build for {platform}"),
            reason: format!("this machine is {ours}, and runs nothing else"),
        })
    }

    /// Directories of layers, topmost first, as overlayfs wants them; never none.
    fn directories(&self, layers: &[Digest]) -> Result<Vec<PathBuf>, EngineError> {
        self.engine.directories_of_layers(layers)
    }

    /// Makes the image of the target, and gives it its names.
    fn record(&self, names: &[String]) -> Result<Built, EngineError> {
        let finished = self.progress().finished[self.plan.target].take();
        let Some(Finished { mut draft, base_layers, .. }) = finished else {
            return Err(EngineError::Cancelled);
        };
        let placed = |error: StepError| error.in_file(&self.file_name, None, String::new());
        if self.request.squash {
            self.squash(&mut draft, base_layers).map_err(placed)?;
        }
        for (name, value) in &self.request.labels {
            draft.add("Labels", name, json!(value));
        }
        let command = [draft.list("Entrypoint"), draft.list("Cmd")].concat();
        if mode::is_systemd_command(&command) {
            // The clean way down, also for engines that do not know a systemd when they see one.
            if draft.text("StopSignal").is_empty() {
                draft.config_mut().insert("StopSignal".to_owned(), json!(mode::STOP_SIGNAL));
            }
            if let Some(hint) = mode::selinux_hint() {
                (self.tell)(BuildEvent::Warning(hint));
            }
        }
        let created_usec = match self.request.timestamp_sec {
            Some(seconds) => seconds.saturating_mul(1_000_000),
            None => draft.created_usec,
        };
        let config = draft.finish(created_usec);
        let manifest = if self.request.docker_format {
            Some(self.docker_manifest(&config, &draft.layers)?)
        } else {
            None
        };
        if self.stop.load(Ordering::Relaxed) {
            return Err(EngineError::Cancelled);
        }
        let recorded = self.engine.record_image(
            "build",
            NewImage { names: names.to_vec(), config, layers: draft.layers, manifest, digests: Vec::new() },
        )?;
        let now = now_usec();
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        self.engine.store()?.use_build_steps(&used, now, now - USE_NOTED_USEC)?;
        Ok(Built { id: recorded.id, names: recorded.names })
    }

    /// A manifest of Docker's kind over the layers as they are here: what makes a push one of that kind too.
    fn docker_manifest(&self, config: &[u8], layers: &[Digest]) -> Result<(String, Vec<u8>), EngineError> {
        let mut described = Vec::new();
        for layer in layers {
            let size = self.layers.tar(layer).map_err(from_image_error)?.length();
            described.push(json!({
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar", "size": size, "digest": layer,
            }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG,
                "size": config.len(),
                "digest": Digest::of(config),
            },
            "layers": described,
        });
        Ok((DOCKER_MANIFEST.to_owned(), manifest.to_string().into_bytes()))
    }
}
