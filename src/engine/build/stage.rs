//! The steps of one stage, one after the other.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::draft::Draft;
use super::plan::Base;
use super::trouble::{StepError, refused};
use super::{Build, BuildEvent, BuildStep, StepState, notes};
use crate::engine::definition::DEFAULT_PATH;
use crate::engine::{EngineError, PullRequest, PullWhen, now_usec};
use crate::image::Digest;
use crate::image::build::{Flag, Instruction, Keyword, words};
use crate::store::BuildStepRow;

/// A part of every key: another one makes the steps of older versions unknown.
const KEY_VERSION: &str = "dormouse-step-1";
/// Arguments that need not be declared, and change nothing that is made.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What a finished stage leaves to those that stand on it.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub draft: Draft,
    /// How many of its layers were there before the build.
    pub base_layers: usize,
    arguments: BTreeMap<String, Option<String>>,
}

/// A stage at work.
pub(super) struct Working<'a> {
    pub build: &'a Build<'a>,
    pub index: usize,
    pub draft: Draft,
    base_layers: usize,
    /// Declared by ARG; `None` has no value.
    arguments: BTreeMap<String, Option<String>>,
    /// The step at work.
    pub number: usize,
    /// ENTRYPOINT leaves a CMD of this stage alone.
    pub has_own_command: bool,
    /// What the cache does not know yet.
    unrecorded: Vec<BuildStepRow>,
    /// The end of what the step has written.
    pub output: Vec<u8>,
}

impl<'a> Working<'a> {
    /// Builds a whole stage, whose needs are finished.
    pub fn run(build: &'a Build<'a>, index: usize) -> Result<Finished, EngineError> {
        let stage = &build.plan.stages[index];
        let mut working = Self {
            build,
            index,
            draft: Draft::scratch(crate::image::architecture()),
            base_layers: 0,
            arguments: BTreeMap::new(),
            number: stage.first_step,
            has_own_command: false,
            unrecorded: Vec::new(),
            output: Vec::new(),
        };
        working.tell(&stage.from, StepState::Running);
        let triggers = working.begin(stage).map_err(|error| working.placed(error, &stage.from))?;
        working.tell(&stage.from, StepState::Done);
        for trigger in &triggers {
            working.step(trigger).map_err(|error| working.placed(error, trigger))?;
        }
        for instruction in &stage.instructions {
            if build.stop.load(Ordering::Relaxed) {
                return Err(EngineError::Cancelled);
            }
            working.number += 1;
            let state = working.step(instruction).map_err(|error| working.placed(error, instruction))?;
            working.tell(instruction, state);
        }
        working.record_steps()?;
        Ok(Finished { draft: working.draft, base_layers: working.base_layers, arguments: working.arguments })
    }

    fn placed(&self, error: StepError, at: &Instruction) -> EngineError {
        error.in_file(&self.build.file_name, Some(at), String::from_utf8_lossy(&self.output).into_owned())
    }

    /// Tells of the step at work; that it runs only if there is something to be waited for.
    pub fn tell(&self, instruction: &Instruction, state: StepState) {
        (self.build.tell)(BuildEvent::Step(BuildStep {
            number: self.number,
            total: self.build.plan.steps,
            stage: self.build.plan.stages[self.index].shown(self.index),
            line: instruction.line,
            instruction: instruction.to_string(),
            state,
        }));
    }

    /// What the stage begins with. Returns what the base image wants to be done first.
    fn begin(&mut self, stage: &super::plan::Stage) -> Result<Vec<Instruction>, StepError> {
        if let Some(Flag { value: Some(platform), .. }) = stage.from.flag("platform") {
            let globals = |name: &str| self.build.globals.get(name).cloned();
            let platform = self.expanded(&stage.from, platform, &globals)?;
            self.build.check_platform(&platform)?;
        }
        match &stage.base {
            Base::Scratch => {}
            Base::Stage(other) => {
                let finished = self.build.finished(*other)?;
                self.draft = finished.draft.clone();
                self.base_layers = finished.base_layers;
                self.arguments = finished.arguments.clone();
            }
            Base::Image(name) => {
                self.draft = self.build.image(name)?;
                self.base_layers = self.draft.layers.len();
            }
        }
        let triggers = self.draft.list("OnBuild");
        self.draft.config_mut().remove("OnBuild");
        let line = stage.from.line;
        triggers.iter().map(|text| Ok(Instruction::parse(text, line, self.build.escape)?)).collect()
    }

    /// Does one step.
    fn step(&mut self, instruction: &Instruction) -> Result<StepState, StepError> {
        self.output.clear();
        match instruction.keyword {
            Keyword::Run => self.run_command(instruction),
            Keyword::Copy | Keyword::Add => self.copy(instruction),
            Keyword::Workdir => self.change_directory(instruction),
            Keyword::Arg => {
                let text = instruction.to_string();
                for word in words::split(&instruction.rest, self.build.escape) {
                    self.declare(instruction, &word)?;
                }
                self.noted(&text)
            }
            _ => {
                notes::apply(self, instruction)?;
                self.noted(&instruction.to_string())
            }
        }
    }

    fn declare(&mut self, instruction: &Instruction, word: &str) -> Result<(), StepError> {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(self.word(instruction, default)?)),
            None => (word, None),
        };
        check_variable(instruction, name)?;
        let value = self.build.argument(name).or(default).or_else(|| self.build.globals.get(name).cloned());
        self.arguments.insert(name.to_owned(), value);
        Ok(())
    }

    /// What a variable is now.
    pub fn variable(&self, name: &str) -> Option<String> {
        let env = self.draft.env().into_iter().find(|(known, _)| known == name).map(|(_, value)| value);
        // What every container gets whose image says nothing of it.
        let default = || (name == "PATH").then(|| DEFAULT_PATH.to_owned());
        env.or_else(|| self.arguments.get(name).cloned().flatten()).or_else(default)
    }

    /// What a word means.
    pub fn word(&self, instruction: &Instruction, word: &str) -> Result<String, StepError> {
        self.expanded(instruction, word, &|name| self.variable(name))
    }

    fn expanded(
        &self,
        instruction: &Instruction,
        word: &str,
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, StepError> {
        words::expand(word, self.build.escape, lookup)
            .map_err(|error| refused(instruction, error.to_string()))
    }

    /// The declared arguments that have a value and that no ENV hides, as RUN sees them.
    pub fn declared(&self) -> Vec<(String, String)> {
        let env = self.draft.env();
        self.arguments
            .iter()
            .filter(|(name, _)| !env.iter().any(|(known, _)| known == *name))
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
            .collect()
    }

    /// The proxies that the caller gave, as far as nothing else of their names is there.
    pub fn proxies(&self) -> Vec<(String, String)> {
        let given = PROXIES.iter().filter(|name| self.variable(name).is_none());
        given.filter_map(|name| Some(((*name).to_owned(), self.build.argument(name)?))).collect()
    }

    /// The digest of all that a step depends on: what the stage is so far, and its own parts.
    pub fn key(&self, parts: &Value) -> String {
        let all = json!([
            KEY_VERSION,
            self.draft.layers,
            self.draft.config(),
            self.build.request.timestamp_sec,
            parts
        ]);
        Digest::of(all.to_string().as_bytes()).to_string()
    }

    /// What the cache knows of a step, if its layer is still there.
    pub fn cached(&self, key: &str) -> Result<Option<(Option<Digest>, i64)>, StepError> {
        if self.build.request.no_cache {
            return Ok(None);
        }
        let Some(row) = self.build.engine.store()?.build_step(key)? else { return Ok(None) };
        let layer = match &row.diff_id {
            Some(digest) => Some(digest.parse::<Digest>()?),
            None => None,
        };
        if layer.as_ref().is_some_and(|layer| !self.build.layers.contains(layer)) {
            return Ok(None);
        }
        self.build.used(key);
        Ok(Some((layer, row.created_usec)))
    }

    /// When a step was done that is done now.
    fn now(&self) -> i64 {
        self.build.request.timestamp_sec.map_or_else(now_usec, |seconds| seconds.saturating_mul(1_000_000))
    }

    /// A step without a layer is done.
    pub fn noted(&mut self, created_by: &str) -> Result<StepState, StepError> {
        // The configuration as it is now tells it from others; the text from those that come to the same.
        let key = self.key(&json!(["note", created_by]));
        let (state, created) = match self.cached(&key)? {
            Some((_, created)) => (StepState::Cached, created),
            None => {
                let now = self.now();
                self.unrecorded.push(BuildStepRow { key, diff_id: None, created_usec: now });
                (StepState::Done, now)
            }
        };
        self.draft.done(created_by, None, created);
        Ok(state)
    }

    /// A step is done that an earlier build has made the layer of.
    pub fn done_before(&mut self, created_by: &str, (layer, created): (Option<Digest>, i64)) -> StepState {
        self.draft.done(created_by, layer, created);
        StepState::Cached
    }

    /// A step has made a layer, which the cache will know by these keys.
    pub fn made(
        &mut self,
        created_by: &str,
        keys: Vec<String>,
        layer: Digest,
    ) -> Result<StepState, StepError> {
        let now = self.now();
        let diff_id = Some(layer.to_string());
        self.unrecorded.extend(keys.into_iter().map(|key| BuildStepRow {
            key,
            diff_id: diff_id.clone(),
            created_usec: now,
        }));
        self.draft.done(created_by, Some(layer), now);
        self.record_steps()?;
        Ok(StepState::Done)
    }

    fn record_steps(&mut self) -> Result<(), EngineError> {
        if !self.unrecorded.is_empty() {
            let steps = std::mem::take(&mut self.unrecorded);
            self.build.engine.store()?.record_build_steps(&steps, now_usec())?;
        }
        Ok(())
    }
}

/// `NAME` of ARG and ENV.
pub(super) fn check_variable(instruction: &Instruction, name: &str) -> Result<(), StepError> {
    if name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || letter == '=') {
        return Err(refused(instruction, format!("{name:?} is no name of a variable")));
    }
    Ok(())
}

impl Build<'_> {
    /// An image of this machine, or of a registry.
    pub(super) fn image(&self, name: &str) -> Result<Draft, StepError> {
        let when = self.request.pull;
        if matches!(when, PullWhen::Missing | PullWhen::Never) {
            match self.engine.find_image(name) {
                Err(EngineError::ImageNotFound { .. }) if when == PullWhen::Missing => {}
                found => return self.draft_of(found?),
            }
        }
        let request = PullRequest { name: name.to_owned(), when, ..PullRequest::default() };
        let pulled =
            self.engine.pull(&request, &self.stop, &|layer| (self.tell)(BuildEvent::Layer(layer)))?;
        self.draft_of(self.engine.find_image(&pulled.id)?)
    }

    fn draft_of(&self, image: crate::engine::Image) -> Result<Draft, StepError> {
        let layers =
            image.row.layers.iter().map(|layer| layer.parse()).collect::<Result<Vec<Digest>, _>>()?;
        let created = image.config.created.as_deref().and_then(crate::image::parse_rfc3339);
        Draft::of_image(&image.row.config, layers, created.unwrap_or(image.row.created_usec)).map_err(
            |error| {
                StepError::Engine(EngineError::Failed {
                    attempted: format!("read the configuration of image {}", image.row.id),
                    reason: error.to_string(),
                })
            },
        )
    }
}
