//! The role `serve`: the engine behind varlink, until nobody needs it.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::engine::Engine;
use crate::role::{Directories, log_to_stderr, parsed};
use crate::rootless;
use crate::varlink::activation::{SERVE_NAMES, from_environment};
use crate::varlink::listen::ListenAddress;
use crate::varlink::{Listener, ServeOptions};

/// Serves dormouse's varlink interfaces.
///
/// systemd starts it when somebody connects to the socket that it holds (dormouse.socket), and it ends by itself when
/// nobody needs it. Containers go on without it.
#[derive(Debug, Parser)]
#[command(name = "dormouse serve", bin_name = "dormouse serve", version)]
struct Arguments {
    /// Listens here, for use without systemd: unix:PATH, unix:PATH;mode=0660 or unix:@NAME. May be given several times
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,

    /// Ends after this time without work: 10s, 2min, 500ms; 0 is never
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_time)]
    idle_timeout: Duration,

    #[command(flatten)]
    directories: Directories,
}

/// `10s`, `500ms`, `2min`, `1h`, or a plain number of seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; 10s, 500ms, 2min and 0 are");
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "" | "s" => number.checked_mul(1000),
        "ms" => Some(number),
        "min" | "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    millis.map(Duration::from_millis).ok_or_else(wrong)
}

/// Plays the role. Exit code 0 for an end in good order, 1 for a failure, 2 for arguments that can't be used.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    let arguments: Arguments = match parsed(&arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    log_to_stderr();
    // Before there are threads: it changes the environment.
    match passed_sockets().and_then(|listeners| serve(arguments, listeners)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dormouse: {error}");
            ExitCode::FAILURE
        }
    }
}

fn passed_sockets() -> Result<Vec<Listener>, String> {
    let passed = from_environment(SERVE_NAMES).map_err(|error| with_causes(&error))?;
    for other in passed.others {
        tracing::warn!(
            name = other.name,
            "a descriptor of this name was passed at the start and is not used"
        );
    }
    Ok(passed.listeners)
}

fn serve(arguments: Arguments, mut listeners: Vec<Listener>) -> Result<(), String> {
    let idle_timeout = (!arguments.idle_timeout.is_zero()).then_some(arguments.idle_timeout);
    let paths = arguments.directories.paths();
    // Before there are threads.
    rootless::enter(&paths.run_dir).map_err(|error| with_causes(&error))?;
    // Its directories first: the socket usually lies in one of them.
    let engine = Engine::new(paths).map_err(|error| error.full_text())?;
    for address in &arguments.listen {
        let address: ListenAddress = address.parse().map_err(|error| with_causes(&error))?;
        listeners.push(Listener::bind(&address).map_err(|error| with_causes(&error))?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_keep_alive(Duration::from_secs(2))
        // More than all connections together can have calls: those that wait for what a client sends or takes, or for a
        // registry, must not keep the others from their answers. A thread is made only when none is free.
        .max_blocking_threads(512)
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let service = crate::api::service(&engine, idle_timeout, crate::cli::spec_of_flags);
    runtime.block_on(async {
        let sweeper = engine.clone();
        // After the first answers: who woke us waits for those, and what lies about has time.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let sweep = move || {
                let swept = sweeper.sweep();
                // What the start has needed, and this.
                crate::memory::give_back_program();
                swept
            };
            let swept = tokio::task::spawn_blocking(sweep).await;
            if let Ok(Err(error)) = swept {
                tracing::warn!(error = error.full_text(), "cannot look for what interrupted changes left");
            }
        });
        let keeper = engine.clone();
        tokio::spawn(async move { keeper.keep_anchors().await });
        let served = crate::varlink::serve(
            service,
            listeners,
            ServeOptions { idle_timeout, ..ServeOptions::default() },
        )
        .await
        .map_err(|error| with_causes(&error));
        // Nobody is there any more who would do it.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || engine.weigh_all_anchors()).await {
            tracing::warn!(
                error = error.full_text(),
                "cannot take all of a network down, left for the next wake"
            );
        }
        served
    })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(parse_time("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        for wrong in ["", "s", "-1s", "1.5s", "10 s", "99999999999999999999s", "10d"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
