//! Unit files for containers that are there: units that start the container, or units that make it anew each time.

mod flags;

use super::definition::Definition;
use super::{Container, Engine, EngineError};
use crate::systemd::unit_file::UnitFile;
use crate::systemd::unit_file::words::{command_line, literal};

/// Where a package puts the program.
const PROGRAM: &str = "/usr/bin/dormouse";
/// What the service manager grants beyond the time that the container has for its end.
const STOP_GRACE_USEC: u64 = 15_000_000;

/// What units are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the IDL
pub struct UnitRequest {
    pub names: Vec<String>,
    pub new: bool,
    pub restart_policy: Option<String>,
    pub restart_usec: Option<u64>,
    pub start_timeout_usec: Option<u64>,
    pub stop_timeout_usec: Option<u64>,
    pub wants: Vec<String>,
    pub after: Vec<String>,
    pub requires: Vec<String>,
    pub prefix: Option<String>,
    pub separator: Option<String>,
}

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GeneratedUnit {
    /// As in `container-web.service`.
    pub name: String,
    /// What the file holds.
    pub text: String,
}

/// Units, and what is to be said about them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeneratedUnits {
    /// In the order of the names that were given.
    pub units: Vec<GeneratedUnit>,
    /// For a person.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Makes unit files. Nothing is written, and nothing is changed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`EngineError::InvalidSpec`] for what can't stand in a unit, and
    /// [`EngineError::Unsupported`] for a container that no command line can make.
    pub fn generate_units(&self, request: &UnitRequest) -> Result<GeneratedUnits, EngineError> {
        request.check()?;
        let mut generated = GeneratedUnits::default();
        for name in &request.names {
            let container = self.find(name)?;
            if flags::restarts_itself(&container.definition.spec) && !request.new {
                generated.warnings.push(format!(
                    "{:?} has a restart policy of its own, beside that of the unit: `dormouse update --restart no {}` takes it away",
                    container.row.name, container.row.name
                ));
            }
            generated.units.push(request.unit(&container)?);
        }
        Ok(generated)
    }
}

impl UnitRequest {
    fn check(&self) -> Result<(), EngineError> {
        let lists = [("wants", &self.wants), ("after", &self.after), ("requires", &self.requires)];
        for (field, units) in lists {
            if let Some(unit) = units.iter().find(|unit| !is_of_a_unit_name(unit) || !unit.contains('.')) {
                return Err(invalid(field, format!("{unit:?} is no name of a unit, as in network.target")));
            }
        }
        for (field, part) in [("prefix", &self.prefix), ("separator", &self.separator)] {
            if let Some(part) = part.as_ref().filter(|part| !is_of_a_unit_name(part)) {
                return Err(invalid(field, format!("{part:?} can't be in the name of a unit")));
            }
        }
        Ok(())
    }

    fn unit(&self, container: &Container) -> Result<GeneratedUnit, EngineError> {
        let Definition { spec, .. } = &container.definition;
        let stop_usec = self.stop_timeout_usec.unwrap_or(container.definition.stop_timeout_usec);
        let mut unit = UnitFile::default();
        unit.add("Unit", "Description", format!("Container {}", literal(&container.row.name)));
        for (key, given) in [("Wants", &self.wants), ("Requires", &self.requires), ("After", &self.after)] {
            if key != "Requires" {
                unit.add("Unit", key, "network-online.target dormouse.socket");
            }
            if !given.is_empty() {
                unit.add("Unit", key, given.join(" "));
            }
        }
        unit.add("Unit", "RequiresMountsFor", "%S/dormouse");

        unit.add("Service", "Type", "notify");
        unit.add("Service", "Delegate", "yes");
        unit.add("Service", "KillMode", "mixed");
        unit.add("Service", "Restart", self.restart_policy.as_deref().unwrap_or("on-failure"));
        if let Some(usec) = self.restart_usec {
            unit.add("Service", "RestartSec", span(usec));
        }
        if let Some(usec) = self.start_timeout_usec {
            unit.add("Service", "TimeoutStartSec", span(usec));
        }
        unit.add("Service", "TimeoutStopSec", span(stop_usec.saturating_add(STOP_GRACE_USEC)));
        if self.new {
            let mut spec = spec.clone();
            spec.stop_timeout_usec = self.stop_timeout_usec.or(spec.stop_timeout_usec);
            let mut run = [PROGRAM, "run", "--rm", "--replace", "--name", &container.row.name]
                .map(str::to_owned)
                .to_vec();
            run.extend(flags::flags(&spec)?);
            unit.add("Service", "ExecStart", command(&run));
            let remove = [PROGRAM, "rm", "--force", "--ignore", &container.row.name].map(str::to_owned);
            // If the main process was killed, nobody has removed it.
            unit.add("Service", "ExecStopPost", format!("-{}", command(&remove)));
        } else {
            let start = [PROGRAM, "start", "--attach", &container.row.name].map(str::to_owned);
            unit.add("Service", "ExecStart", command(&start));
        }
        unit.add("Install", "WantedBy", "default.target");

        let prefix = self.prefix.as_deref().unwrap_or("container");
        let separator = if prefix.is_empty() { "" } else { self.separator.as_deref().unwrap_or("-") };
        let name = format!("{prefix}{separator}{}.service", container.row.name);
        let version = env!("CARGO_PKG_VERSION");
        let text = format!("# {name}\n# Made by dormouse {version}.\n\n{unit}");
        Ok(GeneratedUnit { name, text })
    }
}

fn invalid(field: &str, reason: String) -> EngineError {
    EngineError::InvalidSpec { field: field.to_owned(), reason }
}

fn is_of_a_unit_name(text: &str) -> bool {
    text.len() <= 200
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'\\' | b'@')
        })
}

/// A command line that says just this, whatever systemd would read into it.
fn command(words: &[String]) -> String {
    command_line(words.iter().map(|word| literal(word)))
}

/// A time span as systemd has them.
fn span(usec: u64) -> String {
    flags::duration(usec)
}
