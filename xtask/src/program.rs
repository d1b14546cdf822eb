//! Runs programs, and tells exactly what went wrong with them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// Why a chore can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A program could not be started.
    #[error("cannot run {command}")]
    NotRun {
        command: String,
        #[source]
        source: std::io::Error,
    },
    /// A program has failed; it has told why itself, or in `output`.
    #[error("{command} has failed ({status}){}{output}", if output.is_empty() { "" } else { ":\n" })]
    Failed { command: String, status: ExitStatus, output: String },
    /// A file can't be read or written.
    #[error("cannot {attempted} {path:?}")]
    File {
        attempted: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Packages are missing and can't be installed.
    #[error("cannot install {}: {reason}; install them by hand and call again", packages.join(" "))]
    Install { packages: Vec<String>, reason: String },
    /// A varlink call has failed.
    #[error("{method} has failed: {reason}")]
    Call { method: String, reason: String },
    /// The conversation with a varlink service broke.
    #[error("cannot {attempted} the service at {socket:?}")]
    Transport {
        attempted: &'static str,
        socket: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Something that must hold does not.
    #[error("{claim}: this is not so: {found}")]
    NotSo { claim: String, found: String },
    /// Tests or checks have failed; they have told which themselves.
    #[error("{what}")]
    Unsuccessful { what: String },
    /// The chore needs root.
    #[error("this needs root: {why}")]
    NeedsRoot { why: &'static str },
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Gives the reason for a failed operation on a file its place.
pub fn on_file<'a>(attempted: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Failure + 'a {
    move |source| Failure::File { attempted, path: path.to_owned(), source }
}

/// Runs a program with our own standard streams.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().map_err(|source| Failure::NotRun { command: in_words(command), source })?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Failed { command: in_words(command), status, output: String::new() })
}

/// Runs a program, and shows its output only if it fails.
pub fn run_quietly(command: &mut Command) -> Result<()> {
    read(command).map(drop)
}

/// Runs a program, and gives its standard output. What it says on standard error is shown only if it fails.
pub fn read(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null());
    let output = command.output().map_err(|source| Failure::NotRun { command: in_words(command), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let output_all = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Err(Failure::Failed {
        command: in_words(command),
        status: output.status,
        output: output_all.trim_end().to_owned(),
    })
}

/// Whether a program of this name can be found.
pub fn exists(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(name).is_file())
}

/// Fails for anybody but root.
pub fn need_root(why: &'static str) -> Result<()> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(Failure::NeedsRoot { why }) }
}

/// A failure with all its causes, in one text.
pub fn with_causes(failure: &dyn std::error::Error) -> String {
    let mut text = failure.to_string();
    let mut cause = failure.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn in_words(command: &Command) -> String {
    let mut words = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        words.push(' ');
        words.push_str(&argument.to_string_lossy());
    }
    words
}
