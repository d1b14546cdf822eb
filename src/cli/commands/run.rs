//! `dormouse run`

use clap::{ArgAction, Args};
use serde_json::{Map, Value, json};

use super::create::{Created, with_pod};
use super::pull::PullFlag;
use super::{Condition, Nothing, tell_warnings};
use crate::cli::done::tell;
use crate::cli::errors::{CliError, FailureKind};
use crate::cli::human::parse_duration;
use crate::cli::output::FormatFlag;
use crate::cli::service::Service;
use crate::cli::session::{Outcome, Session};
use crate::cli::spec::SpecFlags;
use crate::cli::streams::complain;
use crate::cli::terminal::DetachKeys;

/// Make a container and start it
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  dormouse run --rm debian cat /etc/os-release
  dormouse run --rm -it -v .:/work -w /work debian bash
  dormouse run -d --name web --wait ready --timeout 90 -m 512m debian /sbin/init
  tar c . | dormouse run --rm -i debian tar tv

In a unit file: Type=notify, Delegate=yes, KillMode=mixed, ExecStart=dormouse run --rm --replace --name NAME IMAGE. The \
unit is ready when the container is, its sockets are the payload's, its stop is the container's.

The console of a systemd inside is this terminal. Ctrl-C as the first key stops it cleanly; once anything else was typed, \
as by somebody who logs in there, it is a key like others.

In the foreground the exit code is that of the command; 125 tells of a failure of dormouse itself, 126 that the \
command can't be executed, 127 that there is none. SIGINT and SIGTERM are passed on; a second one leaves."
)]
pub struct Run {
    /// Leave it running in the background, and print its id
    #[arg(short, long)]
    detach: bool,
    /// What to wait for in the background: the start, a ready systemd, the end [default: started]
    #[arg(long, value_enum, value_name = "CONDITION", requires = "detach")]
    wait: Option<Condition>,
    /// How long to wait at most, in seconds or as in 1m30s; the container goes on
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "detach")]
    timeout: Option<i64>,
    /// Remove a container that has the name already, whether it runs or not
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pull: PullFlag,
    /// Keys that leave it running; "" for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    spec: SpecFlags,
    #[command(flatten)]
    form: FormatFlag,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl Run {
    pub fn run(self, service: &Service) -> Result<u8, CliError> {
        let spec = self.prepare(service)?;
        self.form.only_with("--detach", self.detach)?;
        if self.detach { self.in_background(service, spec) } else { self.in_foreground(service, spec, false) }
    }

    pub fn is_in_foreground(&self) -> bool {
        !self.detach
    }

    /// As the main process of a unit.
    pub fn run_as_unit(self, service: &Service) -> Result<u8, CliError> {
        let spec = self.prepare(service)?;
        self.in_foreground(service, spec, true)
    }

    /// The specification; its image is there, and its name is free, if that was asked for.
    fn prepare(&self, service: &Service) -> Result<Map<String, Value>, CliError> {
        let spec = self.spec.to_spec()?;
        if self.replace {
            // What is to be replaced stays if there is no image for the other.
            self.pull.see_to_image(service, &self.spec)?;
            remove_predecessor(service, &spec)?;
        } else {
            self.pull.ask_first(service, &self.spec)?;
        }
        Ok(spec)
    }

    fn in_background(&self, service: &Service, spec: Map<String, Value>) -> Result<u8, CliError> {
        let run: Created = with_pod(service, spec, |spec| {
            self.pull.with_image(service, &self.spec, || {
                service.call(
                    format!("run {:?}", self.spec.subject()),
                    "io.dormouse.Container.Run",
                    json!({"spec": spec, "wait": self.wait, "timeoutUSec": self.timeout}),
                )
            })
        })?;
        tell_warnings(&run.warnings);
        tell(&self.form, run.done().with("exitCode", run.exit_code))?;
        Ok(run.exit_code.map_or(0, |code| u8::try_from(code).unwrap_or(125)))
    }

    /// Creates and starts in two calls: while the second lasts, signals and sizes need the id that the first tells.
    fn in_foreground(
        &self,
        service: &Service,
        spec: Map<String, Value>,
        as_unit: bool,
    ) -> Result<u8, CliError> {
        let created: Created = with_pod(service, spec, |spec| {
            self.pull.with_image(service, &self.spec, || {
                service.call(
                    format!("run {:?}", self.spec.subject()),
                    "io.dormouse.Container.Create",
                    json!({ "spec": spec }),
                )
            })
        })?;
        tell_warnings(&created.warnings);
        let session = Session {
            service,
            id: &created.id,
            name: &created.name,
            terminal: self.spec.tty,
            interactive: self.spec.interactive,
            interrupt_stops: self.spec.tty && self.spec.interactive && is_systemd(service, &created),
            detach_keys: &self.detach_keys,
            as_unit,
        };

        let mut parameters = Map::new();
        parameters.insert("name".to_owned(), json!(created.id));
        parameters.insert("wait".to_owned(), json!(Condition::Exited));
        match session.run(&format!("start {:?}", created.name), "io.dormouse.Container.Start", parameters) {
            Ok(outcome) => {
                // Who is told the end with --rm finds nothing left: its monitor removes it too, and may not be done yet.
                if self.spec.rm && matches!(outcome, Outcome::Exited(_)) {
                    remove_own(service, &created);
                }
                Ok(outcome.exit_code())
            }
            Err(error) => {
                if matches!(
                    error.kind,
                    FailureKind::CommandNotFound
                        | FailureKind::CommandNotExecutable
                        | FailureKind::NotLaunched
                ) {
                    remove_own(service, &created);
                }
                Err(error)
            }
        }
    }
}

/// Whether a systemd is to be the container's first process.
fn is_systemd(service: &Service, created: &Created) -> bool {
    let details: Result<Value, CliError> = service.call(
        format!("inspect {:?}", created.name),
        "io.dormouse.Container.Inspect",
        json!({"name": created.id}),
    );
    // Only a convenience hangs on it, and the container is made: it is started whatever the answer.
    details.is_ok_and(|details| details["container"]["summary"]["systemd"] == json!(true))
}

/// A run that was killed may have left its container.
fn remove_predecessor(service: &Service, spec: &Map<String, Value>) -> Result<(), CliError> {
    let Some(name) = spec.get("name") else {
        return Err(CliError::usage("--replace needs a --name"));
    };
    let removed: Result<Nothing, CliError> = service.call(
        format!("replace {name}"),
        "io.dormouse.Container.Remove",
        json!({"name": name, "force": true}),
    );
    match removed {
        Err(error) if error.kind != FailureKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What was made for this run alone goes again.
fn remove_own(service: &Service, created: &Created) {
    let attempted = format!("remove {:?}", created.name);
    let removed: Result<Nothing, CliError> =
        service.call(attempted, "io.dormouse.Container.Remove", json!({"name": created.id, "volumes": true}));
    match removed {
        Ok(Nothing {}) => {}
        // Removed by --rm.
        Err(error) if error.kind == FailureKind::NotFound => {}
        Err(error) => complain(&error.render()),
    }
}
