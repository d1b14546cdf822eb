//! `dormouse login`

use std::io::{self, BufRead, IsTerminal, Write};
use std::os::fd::AsFd;

use clap::Args;
use nix::sys::signal::Signal;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::signals;

/// Give the service credentials for a registry
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse login registry.example:5000
  pass show registry | dormouse login --username me --password-stdin registry.example:5000

The service finds out whether the registry takes them, and keeps them for its user, where podman and skopeo look too.")]
pub struct Login {
    /// Host name, with a port if it is not 443
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    /// User; asked for if not given
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input, without asking
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    form: FormatFlag,
}

/// Credentials for one call.
#[derive(Debug, Args)]
pub struct UserFlags {
    /// Credentials instead of those of the service's user; the password is asked for, or $DORMOUSE_REGISTRY_PASSWORD
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
}

#[derive(Debug, Deserialize)]
struct LoggedIn {
    file: String,
}

impl Login {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("log in to {:?}", self.registry);
        let failed = |error: io::Error| CliError::io(&attempted, &error);
        let username = match self.username {
            Some(username) => username,
            None if self.password_stdin => {
                return Err(CliError::usage("--password-stdin needs --username"));
            }
            None => ask("Username: ", false).map_err(failed)?,
        };
        let password = if self.password_stdin {
            line().map_err(failed)?
        } else {
            ask("Password: ", true).map_err(failed)?
        };
        let credentials = json!({"username": username, "password": password});
        let parameters = json!({"registry": self.registry, "credentials": credentials});
        let done: LoggedIn = service.call(&attempted, "io.dormouse.Image.Login", parameters)?;
        let text = format!("the credentials are kept in {}", done.file);
        tell(&self.form, Done::to(&self.registry).with("file", done.file).saying(&text))
    }
}

impl UserFlags {
    /// As the interface takes them; null for none.
    pub fn credentials(&self) -> Result<Value, CliError> {
        let Some(username) = &self.username else { return Ok(Value::Null) };
        let password = match std::env::var("DORMOUSE_REGISTRY_PASSWORD") {
            Ok(password) => password,
            Err(_) => ask("Password: ", true).map_err(|error| CliError::io("read the password", &error))?,
        };
        Ok(json!({"username": username, "password": password}))
    }
}

/// Asks on the terminal; a secret is not shown.
fn ask(prompt: &str, secret: bool) -> io::Result<String> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(io::Error::other("standard input is no terminal; use --username and --password-stdin"));
    }
    eprint!("{prompt}");
    io::stderr().flush()?;
    if !secret {
        return line();
    }
    let before = tcgetattr(stdin.as_fd())?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let shown = before.clone();
    signals::deliver_to(move |signal| {
        if signal != Signal::SIGWINCH {
            // A shell after us that shows nothing of what is typed would look dead.
            let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &shown);
            signals::die_of(signal);
        }
    })?;
    tcsetattr(stdin.as_fd(), OptionalActions::Flush, &silent)?;
    let line = line();
    tcsetattr(stdin.as_fd(), OptionalActions::Flush, &before)?;
    eprintln!();
    line
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// `linux/arm64/v8` as the interface takes it.
pub fn platform(text: &str) -> Result<Value, String> {
    let mut parts = text.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(os), Some(architecture), variant, None) if !os.is_empty() && !architecture.is_empty() => {
            let mut platform = json!({"os": os, "architecture": architecture});
            if let Some(variant) = variant {
                platform["variant"] = json!(variant);
            }
            Ok(platform)
        }
        _ => Err("expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as in linux/arm64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
        assert_eq!(platform("linux/arm64").unwrap(), json!({"os": "linux", "architecture": "arm64"}));
        assert_eq!(platform("linux/arm/v7").unwrap()["variant"], "v7");
        for wrong in ["", "linux", "linux/", "a/b/c/d"] {
            assert!(platform(wrong).is_err(), "{wrong}");
        }
    }
}
