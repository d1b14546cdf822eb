//! The steps of a build on standard error: as lines, and on a terminal with what is at work at the bottom.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::errors::CliError;
use crate::cli::progress::LayerBars;
use crate::cli::streams::complain;
use crate::cli::table::{printable, truncated};
use crate::cli::terminal;
use crate::wire::image::{Build_Reply, BuildOutput, BuildStep, BuildStep_state as State};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
const WIDTH: usize = 100;

/// What is known of a step that has begun.
#[derive(Debug)]
struct Running {
    stage: String,
    since: Instant,
    bar: ProgressBar,
    /// Of a line whose end has not come yet.
    begun: Vec<u8>,
}

/// The screen of a build.
#[derive(Debug)]
pub struct Steps {
    quiet: bool,
    is_terminal: bool,
    all: MultiProgress,
    running: BTreeMap<i64, Running>,
    layers: Option<LayerBars>,
}

impl Steps {
    /// Shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target =
            if quiet || !is_terminal { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let all = MultiProgress::with_draw_target(target);
        Self { quiet, is_terminal, all, running: BTreeMap::new(), layers: None }
    }

    /// Shows what is new.
    ///
    /// # Errors
    /// For what is no base64.
    pub fn show(&mut self, reply: Build_Reply) -> Result<(), CliError> {
        for warning in &reply.warnings {
            self.line(&format!("warning: {}", printable(warning)));
        }
        if !reply.layers.is_empty() {
            self.layers.get_or_insert_with(|| LayerBars::new(self.quiet)).update(&reply.layers);
        }
        if let Some(step) = &reply.step {
            self.step(step);
        }
        if let Some(output) = &reply.output {
            self.output(output)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &BuildStep) {
        self.layers = None;
        let text = format!("[{}/{}] {}", step.number, step.total, printable(&step.instruction));
        match step.state {
            State::running => {
                self.line(&self.styled(BOLD, &text));
                let bar = self.all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                    bar.set_style(style);
                }
                let width =
                    terminal::size().map_or(WIDTH, |size| usize::from(size.columns)).saturating_sub(12);
                bar.set_message(truncated(&text, width));
                if self.is_terminal && !self.quiet {
                    bar.enable_steady_tick(Duration::from_millis(200));
                }
                let running =
                    Running { stage: printable(&step.stage), since: Instant::now(), bar, begun: Vec::new() };
                if let Some(before) = self.running.insert(step.number, running) {
                    before.bar.finish_and_clear();
                }
            }
            State::cached => {
                self.end(step.number);
                self.line(&self.styled(DIM, &format!("{text} (cached)")));
            }
            State::done => match self.end(step.number) {
                Some(took) if took >= Duration::from_secs(1) => {
                    self.line(&self.styled(
                        DIM,
                        &format!("[{}/{}] took {:.1} s", step.number, step.total, took.as_secs_f64()),
                    ));
                }
                Some(_) => {}
                None => self.line(&self.styled(BOLD, &text)),
            },
        }
    }

    /// A step is over; how long it has taken.
    fn end(&mut self, number: i64) -> Option<Duration> {
        let running = self.running.remove(&number)?;
        running.bar.finish_and_clear();
        self.all.remove(&running.bar);
        if !running.begun.is_empty() {
            let prefix = self.prefix(&running.stage);
            self.write(&[prefix.as_bytes(), &running.begun, b"\n"].concat());
        }
        Some(running.since.elapsed())
    }

    fn output(&mut self, output: &BuildOutput) -> Result<(), CliError> {
        let bytes = BASE64
            .decode(&output.data)
            .map_err(|error| CliError::bad_reply("show what a step writes", error))?;
        // Several stages at once are told apart by their names.
        let Some(running) = self.running.get_mut(&output.number) else {
            self.write(&bytes);
            return Ok(());
        };
        running.begun.extend_from_slice(&bytes);
        let Some(end) = running.begun.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let lines: Vec<u8> = running.begun.drain(..=end).collect();
        let stage = running.stage.clone();
        let prefix = self.prefix(&stage);
        let mut text = Vec::new();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            text.extend_from_slice(prefix.as_bytes());
            text.extend_from_slice(line);
        }
        self.write(&text);
        Ok(())
    }

    fn prefix(&self, stage: &str) -> String {
        let several = self.running.values().any(|other| other.stage != stage);
        if several { format!("{stage}: ") } else { String::new() }
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.is_terminal { format!("{style}{text}{PLAIN}") } else { text.to_owned() }
    }

    fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }

    fn write(&self, bytes: &[u8]) {
        if !self.quiet {
            self.all.suspend(|| complain(&String::from_utf8_lossy(bytes)));
        }
    }

    /// Nothing is at work any more.
    pub fn finish(&mut self) {
        self.layers = None;
        for number in self.running.keys().copied().collect::<Vec<_>>() {
            self.end(number);
        }
    }
}
