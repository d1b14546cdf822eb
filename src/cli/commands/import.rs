//! `dormouse import`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::done::{Done, tell};
use crate::cli::errors::CliError;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;

/// Make an image of a tar archive of a root file system
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse import debian.tar.zst debian:12
  tar -C /srv/tree -c . | dormouse import - tree
  dormouse import --change 'CMD [\"/sbin/init\"]' --change 'ENV LANG=C.UTF-8' debian.tar debian

The archive may be plain, or compressed by gzip or zstd. Prints the id.")]
pub struct Import {
    /// Archive; - is standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Name of the image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Default of its containers: CMD, ENTRYPOINT, ENV, LABEL, STOPSIGNAL, USER or WORKDIR, as in a Containerfile
    #[arg(short, long = "change", value_name = "INSTRUCTION")]
    changes: Vec<String>,
    /// What to say of it in the history
    #[arg(short, long, visible_alias = "comment", value_name = "TEXT")]
    message: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    id: Option<String>,
    bytes_read: u64,
    entries: u64,
}

impl Import {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("import {:?}", self.file);
        let config = config(&self.changes)?;
        let (archive, size) = self.open(&attempted)?;
        let parameters = json!({
            "name": self.name, "archive": 0, "config": config, "comment": self.message,
        });
        let bar = self.progress_bar(size);
        let mut id = None;
        let result = service.stream_with_fds(
            &attempted,
            "io.dormouse.Image.Import",
            parameters,
            vec![archive],
            |progress: Progress, _| {
                bar.set_position(progress.bytes_read);
                bar.set_message(format!("{} files", progress.entries));
                id = progress.id.or(id.take());
                Ok(())
            },
        );
        bar.finish_and_clear();
        result?;
        let id = id.ok_or_else(|| CliError::bad_reply(&attempted, "the last reply has no id"))?;
        tell(&self.form, Done::made(self.name.as_deref().unwrap_or(&id), &id))
    }

    /// The archive, and its size if that is known.
    fn open(&self, attempted: &str) -> Result<(OwnedFd, Option<u64>), CliError> {
        let failed = |error: io::Error| CliError::io(attempted, &error);
        let file = if self.file == "-" {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
                    .with_hint("pipe an archive in, as in `tar -C DIR -c . | dormouse import - NAME`"));
            }
            File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?)
        } else {
            File::open(&self.file).map_err(failed)?
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(CliError::new(format!("cannot {attempted}: it is a directory"))
                .with_hint("`tar -C DIR -c . | dormouse import - NAME` imports one, `dormouse run --rootfs DIR` uses it as it is"));
        }
        let size = metadata.is_file().then_some(metadata.len());
        Ok((file.into(), size))
    }

    fn progress_bar(&self, size: Option<u64>) -> ProgressBar {
        if self.quiet || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match size {
            Some(size) => (ProgressBar::new(size), "{bar:30} {bytes}/{total_bytes}  {bytes_per_sec}  {msg}"),
            None => (ProgressBar::new_spinner(), "{spinner} {bytes}  {bytes_per_sec}  {msg}"),
        };
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }
}

/// The defaults of the containers; `None` if nothing was asked for.
pub(super) fn config(changes: &[String]) -> Result<Option<Value>, CliError> {
    let mut config = Map::new();
    for change in changes {
        let error = || {
            CliError::usage(format!("--change: {change:?} is no instruction that is known here"))
                .with_hint("as in 'CMD [\"/sbin/init\"]', 'ENV KEY=VALUE', 'WORKDIR /srv'")
        };
        let (instruction, value) = change.trim().split_once([' ', '=']).ok_or_else(error)?;
        let value = value.trim();
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => insert(&mut config, "command", json!(words(value))),
            "ENTRYPOINT" => insert(&mut config, "entrypoint", json!(words(value))),
            "WORKDIR" => insert(&mut config, "workdir", json!(value)),
            "USER" => insert(&mut config, "user", json!(value)),
            "STOPSIGNAL" => insert(&mut config, "stopSignal", json!(value)),
            kind @ ("ENV" | "LABEL") => {
                let (key, value) = value.split_once('=').ok_or_else(error)?;
                let value =
                    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                let field = if kind == "ENV" { "env" } else { "labels" };
                let map = config.entry(field).or_insert_with(|| json!({}));
                map[key] = json!(value);
            }
            _ => return Err(error()),
        }
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}

fn insert(config: &mut Map<String, Value>, field: &str, value: Value) {
    config.insert(field.to_owned(), value);
}

/// A JSON array is a program and its arguments; anything else is for a shell, as in a Containerfile.
fn words(text: &str) -> Vec<String> {
    serde_json::from_str(text)
        .unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_the_instructions_of_a_containerfile() {
        let changes = [
            "CMD [\"/sbin/init\"]",
            "ENV A=b=c",
            "ENV D=\"e f\"",
            "LABEL x=y",
            "STOPSIGNAL SIGINT",
            "workdir /srv",
        ];
        let changes: Vec<String> = changes.map(str::to_owned).into();
        assert_eq!(
            config(&changes).unwrap(),
            Some(json!({
                "command": ["/sbin/init"], "env": {"A": "b=c", "D": "e f"}, "labels": {"x": "y"},
                "stopSignal": "SIGINT", "workdir": "/srv",
            }))
        );
        assert_eq!(
            config(&["CMD echo hi".to_owned()]).unwrap().unwrap()["command"],
            json!(["/bin/sh", "-c", "echo hi"])
        );
        assert_eq!(config(&[]).unwrap(), None);
        assert!(config(&["EXPOSE 80".to_owned()]).is_err());
        assert!(config(&["ENV A".to_owned()]).is_err());
    }
}
