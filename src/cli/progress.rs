//! Bars for the layers of an image, one a line, on standard error while that is a terminal.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::table::printable;
use crate::wire::image::{LayerProgress, LayerProgress_state as State};

const DIGITS: usize = 12;

/// The bars; gone from the screen when dropped.
#[derive(Debug)]
pub struct LayerBars {
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
}

impl LayerBars {
    /// No bar yet. Never any if `quiet`, or if standard error is no terminal.
    pub fn new(quiet: bool) -> Self {
        let hidden = quiet || !io::stderr().is_terminal();
        let target = if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self { all: MultiProgress::with_draw_target(target), bars: BTreeMap::new() }
    }

    /// Shows what has changed.
    pub fn update(&mut self, layers: &[LayerProgress]) {
        for layer in layers {
            let bar = self.bars.entry(layer.digest.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(0));
                if let Ok(style) =
                    ProgressStyle::with_template("{prefix}  {bar:25} {bytes:>11}/{total_bytes:<11} {msg}")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(short(&layer.digest));
                bar
            });
            bar.set_length(u64::try_from(layer.bytesTotal).unwrap_or(0));
            bar.set_position(u64::try_from(layer.bytesDone).unwrap_or(0));
            bar.set_message(match layer.state {
                State::waiting => "waiting",
                State::present => "here already",
                State::transferring => "",
                State::done => "done",
            });
        }
    }
}

impl Drop for LayerBars {
    fn drop(&mut self) {
        let _ = self.all.clear();
    }
}

/// A bar for a number of bytes that is not known beforehand.
pub fn byte_counter(quiet: bool) -> ProgressBar {
    if quiet || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes}  {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    printable(&hex.chars().take(DIGITS).collect::<String>())
}
