//! Signals as events, for commands in the foreground that must do something before they leave.

use std::io;

use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::cli::streams::complain;

/// Takes the signals of a foreground command (SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH) from now on, and calls
/// `deliver` with each in a thread that ends with the process. To be called before any other thread exists, because a
/// thread that does not block them would still die of them.
///
/// # Errors
/// If there are no descriptors or threads left.
pub fn deliver_to(mut deliver: impl FnMut(Signal) + Send + 'static) -> io::Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH] {
        signals.add(signal);
    }
    signals.thread_block()?;
    let queue = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        loop {
            match queue.read_signal() {
                Ok(Some(info)) => {
                    if let Some(signal) =
                        i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
                    {
                        deliver(signal);
                    }
                }
                Ok(None) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    complain(&format!(
                        "dormouse: cannot read signals: {errno}; ignoring them from now on\r\n"
                    ));
                    return;
                }
            }
        }
    })?;
    Ok(())
}

/// Ends this process as the signal would have done if nobody had taken it.
pub fn die_of(signal: Signal) -> ! {
    let mut signals = SigSet::empty();
    signals.add(signal);
    // If either fails, the exit code says the same.
    let _ = signals.thread_unblock();
    let _ = raise(signal);
    std::process::exit(128 + signal as i32)
}
