//! Unit files for containers and pods that are there: units that start them, or units that make them anew each time.

mod flags;
mod pod;

use super::definition::Definition;
use super::spec::{ContainerSpec, Namespace};
use super::{Container, Engine, EngineError, Pod};
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
    pub pod_prefix: Option<String>,
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
    /// [`EngineError::NotFound`], [`EngineError::PodEmpty`], [`EngineError::InvalidSpec`] for what can't stand in a unit, and
    /// [`EngineError::Unsupported`] for a container that no command line can make.
    pub fn generate_units(&self, request: &UnitRequest) -> Result<GeneratedUnits, EngineError> {
        request.check()?;
        let mut wanted = Vec::new();
        for name in &request.names {
            match self.find(name) {
                Ok(container) => wanted.push(Wanted::Container(Box::new(container))),
                Err(EngineError::NotFound { .. }) => match self.find_pod(name) {
                    Ok(pod) => self.with_members(pod, &mut wanted)?,
                    Err(EngineError::PodNotFound { .. }) => {
                        return Err(EngineError::NotFound { name: name.clone() });
                    }
                    Err(error) => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        let mut generated = GeneratedUnits::default();
        for one in &wanted {
            let unit = match one {
                Wanted::Container(container) => {
                    let row = &container.row;
                    if flags::restarts_itself(&container.definition.spec) && !request.new {
                        generated.warnings.push(format!(
                            "{:?} has a restart policy of its own, beside that of the unit: `dormouse update --restart no {}` takes it away",
                            row.name, row.name
                        ));
                    }
                    self.unit_of(request, container, &wanted)?
                }
                Wanted::Pod(pod, members) => request.unit_of_pod(pod, members)?,
            };
            generated.units.push(unit);
        }
        Ok(generated)
    }

    /// A pod, and behind it its containers.
    fn with_members(&self, pod: Pod, wanted: &mut Vec<Wanted>) -> Result<(), EngineError> {
        let members = self.pod_members(&pod.row.id)?;
        let members = members.iter().map(|member| self.find(&member.id)).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(EngineError::PodEmpty { pod: pod.row.name });
        }
        wanted
            .push(Wanted::Pod(Box::new(pod), members.iter().map(|member| member.row.name.clone()).collect()));
        wanted.extend(members.into_iter().map(|member| Wanted::Container(Box::new(member))));
        Ok(())
    }

    fn unit_of(
        &self,
        request: &UnitRequest,
        container: &Container,
        wanted: &[Wanted],
    ) -> Result<GeneratedUnit, EngineError> {
        let mut bound = None;
        for one in wanted {
            if let Wanted::Pod(pod, _) = one
                && container.definition.pod.as_ref() == Some(&pod.row.id)
            {
                bound = Some(request.name_of_pod(&pod.row.name));
            }
        }
        if request.new && bound.is_none() && container.definition.pod.is_some() {
            return Err(EngineError::Unsupported {
                feature: format!("a unit that makes {:?} alone", container.row.name),
                reason: "it is in a pod; name the pod, for units of all that is in it".to_owned(),
            });
        }
        let mut spec = container.definition.spec.clone();
        let mut needed = Vec::new();
        for other in others(&mut spec) {
            let found = self.find(other)?.row.name;
            let has_unit = |one: &Wanted| matches!(one, Wanted::Container(one) if one.row.name == found);
            if wanted.iter().any(has_unit) {
                needed.push(request.name_of(&found));
            }
            // An id is that of the container that is there; the next one under the name has another.
            *other = found;
        }
        request.unit(container, spec, bound, &needed)
    }
}

/// What gets a unit.
enum Wanted {
    Container(Box<Container>),
    /// With the names of its containers.
    Pod(Box<Pod>, Vec<String>),
}

/// Where a specification names other containers.
fn others(spec: &mut ContainerSpec) -> Vec<&mut String> {
    let network = spec.network_namespace.as_mut();
    let namespaces = [
        Some(&mut spec.pid_namespace),
        Some(&mut spec.ipc_namespace),
        Some(&mut spec.uts_namespace),
        network,
    ];
    let named = namespaces.into_iter().flatten().filter_map(|namespace| match namespace {
        Namespace::Container(name) => Some(name),
        _ => None,
    });
    named.chain(spec.volumes_from.iter_mut().map(|from| &mut from.container)).collect()
}

impl UnitRequest {
    fn check(&self) -> Result<(), EngineError> {
        let lists = [("wants", &self.wants), ("after", &self.after), ("requires", &self.requires)];
        for (field, units) in lists {
            if let Some(unit) = units.iter().find(|unit| !is_of_a_unit_name(unit) || !unit.contains('.')) {
                return Err(invalid(field, format!("{unit:?} is no name of a unit, as in network.target")));
            }
        }
        for (field, part) in
            [("prefix", &self.prefix), ("podPrefix", &self.pod_prefix), ("separator", &self.separator)]
        {
            if let Some(part) = part.as_ref().filter(|part| !is_of_a_unit_name(part)) {
                return Err(invalid(field, format!("{part:?} can't be in the name of a unit")));
            }
        }
        Ok(())
    }

    fn name_of(&self, container: &str) -> String {
        self.unit_name(self.prefix.as_deref().unwrap_or("container"), container)
    }

    fn name_of_pod(&self, pod: &str) -> String {
        self.unit_name(self.pod_prefix.as_deref().unwrap_or("pod"), pod)
    }

    fn unit_name(&self, prefix: &str, name: &str) -> String {
        let separator = if prefix.is_empty() { "" } else { self.separator.as_deref().unwrap_or("-") };
        format!("{prefix}{separator}{name}.service")
    }

    /// A unit with what all have: it comes after the network and the service, and what the caller wants.
    fn begin(&self, description: String) -> UnitFile {
        let mut unit = UnitFile::default();
        unit.add("Unit", "Description", description);
        for (key, given) in [("Wants", &self.wants), ("Requires", &self.requires), ("After", &self.after)] {
            if key != "Requires" {
                unit.add("Unit", key, "network-online.target dormouse.socket");
            }
            if !given.is_empty() {
                unit.add("Unit", key, given.join(" "));
            }
        }
        unit.add("Unit", "RequiresMountsFor", "%S/dormouse");
        unit
    }

    /// `bound` is the pod's unit, `needed` are those of other containers.
    fn unit(
        &self,
        container: &Container,
        mut spec: ContainerSpec,
        bound: Option<String>,
        needed: &[String],
    ) -> Result<GeneratedUnit, EngineError> {
        let Definition { stop_timeout_usec, .. } = &container.definition;
        let stop_usec = self.stop_timeout_usec.unwrap_or(*stop_timeout_usec);
        let mut unit = self.begin(format!("Container {}", literal(&container.row.name)));
        if let Some(pod) = &bound {
            unit.add("Unit", "BindsTo", pod);
            unit.add("Unit", "After", pod);
        }
        if !needed.is_empty() {
            unit.add("Unit", "Requires", needed.join(" "));
            unit.add("Unit", "After", needed.join(" "));
        }

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

        Ok(finished(self.name_of(&container.row.name), &unit))
    }
}

fn finished(name: String, unit: &UnitFile) -> GeneratedUnit {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("# {name}\n# Made by dormouse {version}.\n\n{unit}");
    GeneratedUnit { name, text }
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
