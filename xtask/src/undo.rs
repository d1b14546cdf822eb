//! What has to be undone when a chore ends, however it ends: well, by a failure, or by Ctrl-C.

use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};

type Step = Box<dyn FnOnce() + Send>;

static STEPS: Mutex<Vec<Step>> = Mutex::new(Vec::new());

/// Undoes what was registered, last first, when it is dropped or when SIGINT, SIGTERM or SIGHUP comes.
///
/// Make it before there are other threads: they must not be the ones that get the signal.
#[derive(Debug)]
#[must_use]
pub struct Undo;

impl Undo {
    pub fn at_the_end() -> Self {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        // Programs that we run get an empty mask from the standard library, so that they can be interrupted.
        signals.thread_block().expect("the mask is a valid one");
        std::thread::spawn(move || {
            if let Ok(signal) = signals.wait() {
                eprintln!("interrupted by {signal}; cleaning up");
                run_all();
                std::process::exit(128 + signal as i32);
            }
        });
        Self
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        run_all();
    }
}

/// Registers a step.
pub fn later(step: impl FnOnce() + Send + 'static) {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(step));
}

fn run_all() {
    loop {
        let step = STEPS.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match step {
            Some(step) => step(),
            None => return,
        }
    }
}
