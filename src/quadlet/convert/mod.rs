//! From a Quadlet file to a unit: what all kinds have in common. Each kind has a file of its own beside this one.

mod build;
mod container;
mod image;
mod kube;
mod network;
mod pod;
mod storage;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::keys::{self, Meaning};
use super::report::Report;
use super::source::{Source, is_unit_name};
use super::{Kind, Unit};
use crate::systemd::unit_file::words::{Escapes, command_line, literal};
use crate::systemd::unit_file::{Assignment, Fault, Origin, UnitFile};

/// Sections that a unit may have beside those of its kind.
const SECTIONS: &[&str] = &["Unit", "Service", "Install", "Quadlet"];
/// Keys of `[Unit]` that name other units.
const DEPENDENCIES: &[&str] = &[
    "After",
    "Before",
    "BindsTo",
    "Conflicts",
    "OnFailure",
    "OnSuccess",
    "PartOf",
    "PropagatesReloadTo",
    "PropagatesStopTo",
    "ReloadPropagatedFrom",
    "Requires",
    "Requisite",
    "StopPropagatedFrom",
    "Upholds",
    "Wants",
];
/// The service that commands outside of a container's own process call.
const SOCKET: &str = "dormouse.socket";

/// Why a file makes no unit, with its place.
#[derive(Debug)]
struct Problem(String);

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let at = fault.origin.map_or_else(String::new, |origin| format!("{origin}: "));
        Self(format!("{at}{}= can't be read: {}", fault.key, fault.reason))
    }
}

/// What other files may refer to.
#[derive(Debug)]
struct Known {
    /// As in `web.service`.
    service: String,
    /// The container's, volume's, network's or pod's name, or the image; `None` where only systemd can tell.
    resource: Option<String>,
}

/// What conversions share.
struct Context<'a> {
    known: BTreeMap<&'a str, Known>,
    /// For each pod's file, the services of containers that start with it.
    members: BTreeMap<String, Vec<String>>,
    is_user: bool,
    program: String,
}

/// Converts all files. What can't be is reported, and left out.
pub(super) fn all(sources: &[Source], is_user: bool, report: &mut Report) -> Vec<Unit> {
    let program = std::env::current_exe()
        .map_or_else(|_| "/usr/bin/dormouse".into(), |path| path.display().to_string());
    let known = sources.iter().map(|source| (source.name.as_str(), known(source))).collect();
    let mut context = Context { known, members: BTreeMap::new(), is_user, program };
    let mut units: Vec<Unit> = Vec::new();
    for source in sources {
        if !check(source, report) {
            continue;
        }
        match Conversion::new(&mut context, source, report).and_then(Conversion::convert) {
            Ok(unit) if units.iter().any(|other| other.name == unit.name) => {
                report.error(&format!("{}: another file makes {} already", source.path.display(), unit.name));
            }
            Ok(unit) => units.push(unit),
            Err(Problem(text)) => report.error(&text),
        }
    }
    units.sort_by(|a, b| a.name.cmp(&b.name));
    units
}

fn known(source: &Source) -> Known {
    let section = source.kind.section();
    let name = |key: &str| source.file.text(section, key);
    let (stem, is_template) = source.stem();
    let template = if is_template { "@" } else { "" };
    let service = name("ServiceName")
        .map_or_else(|| format!("{stem}{}{template}", source.kind.suffix()), str::to_owned);
    let resource = match source.kind {
        Kind::Image => name("ImageTag").or_else(|| name("Image")).map(unquoted),
        Kind::Build => source.file.all(section, "ImageTag").first().map(|tag| tag.value.clone()),
        Kind::Volume => Some(resource_name(source, "VolumeName")),
        Kind::Network => Some(resource_name(source, "NetworkName")),
        Kind::Pod => Some(resource_name(source, "PodName")),
        Kind::Container => {
            Some(container::name_of(source).replace("%N", &service)).filter(|name| !name.contains('%'))
        }
        Kind::Artifact => name("Artifact").map(str::to_owned),
        Kind::Kube => None,
    };
    Known { service: format!("{service}.service"), resource }
}

/// What was asked for, or `systemd-` and the file's name. In a template the instance belongs to it.
fn resource_name(source: &Source, key: &str) -> String {
    match (source.file.text(source.kind.section(), key), source.stem()) {
        (Some(name), _) => unquoted(name),
        (None, (stem, true)) => format!("systemd-{stem}-%i"),
        (None, (stem, false)) => format!("systemd-{stem}"),
    }
}

/// Takes away quotes around the whole.
fn unquoted(text: &str) -> String {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned()
}

/// Reports every key that is unknown or can't be done; returns whether there is none.
fn check(source: &Source, report: &mut Report) -> bool {
    let kind = source.kind;
    let path = source.path.display();
    let at = |origin: Option<&Origin>| origin.map_or_else(|| path.to_string(), ToString::to_string);
    if !crate::cli::has_verb(kind.verb()) {
        let own = source.file.sections().iter().find(|section| section.name == kind.section());
        report.error(&format!(
            "{}: .{} files are not supported: there is no `dormouse {}`",
            at(own.and_then(|section| section.origin.as_ref())),
            kind.extension(),
            kind.verb().join(" ")
        ));
        return false;
    }
    let mut complaints = Vec::new();
    for section in source.file.sections() {
        let is_known = section.name == kind.section() || SECTIONS.contains(&section.name.as_str());
        if !is_known && !section.name.starts_with("X-") {
            let at = at(section.origin.as_ref());
            let extension = kind.extension();
            complaints.push(format!("{at}: there is no section [{}] in .{extension} files", section.name));
        }
        for assignment in &section.assignments {
            if let Some(what) = complaint(kind, &section.name, assignment) {
                complaints.push(format!("{}: {}= {what}", at(assignment.origin.as_ref()), assignment.key));
            }
        }
    }
    for complaint in &complaints {
        report.error(complaint);
    }
    complaints.is_empty()
}

/// What is to be said against an assignment.
fn complaint(kind: Kind, section: &str, assignment: &Assignment) -> Option<String> {
    let key = assignment.key.as_str();
    if section == "Quadlet" {
        return (!keys::COMMON.contains(&key)).then(|| "is no key of [Quadlet]".to_owned());
    }
    if section != kind.section() {
        return None;
    }
    let Some((_, meaning)) = keys::keys(kind).iter().find(|(known, _)| *known == key) else {
        return Some(format!("is no key of [{section}]"));
    };
    // Taken back, it asks for nothing.
    if assignment.value.is_empty() {
        return None;
    }
    keys::unsupported(kind, *meaning).map(|why| format!("is not supported: {why}"))
}

/// What a key does that becomes no flag of the same meaning; for the table of keys.
pub(super) fn note(kind: Kind, key: &str) -> &'static str {
    match (kind, key) {
        (_, "ServiceName") => "the name of the unit",
        (_, "GlobalArgs") => "arguments before the command",
        (_, "PodmanArgs") => "arguments of the command",
        (_, "ContainerName" | "VolumeName" | "NetworkName" | "PodName") => "the name",
        (_, "Image" | "ImageTag") => "the image",
        (_, "Exec") => "the command",
        (_, "Group") => "`--user`, after `User=`",
        (_, "CgroupsMode") => "only `split`, which is the case: the container is in the unit's cgroup",
        (_, "ReloadCmd" | "ReloadSignal") => "`ExecReload=`",
        (_, "NetworkDeleteOnStop") => "`ExecStopPost=`",
        (_, "IPAMDriver") => "only `host-local`, which is the case",
        (_, "Options") => "`mtu`, `mode`, `parent` and `isolate`",
        (_, "StopTimeout") => "nothing: its containers stop as their own keys say",
        (_, "TLSVerify") => "only `true`; registries.conf(5) says which registries go without",
        (_, "ForceRM") => "only `true`, which is the case: nothing is left of a step that failed",
        (Kind::Kube, "SetWorkingDirectory") => "`WorkingDirectory=`, of `yaml` or `unit`",
        (Kind::Kube, "AutoUpdate") => "nothing, which is told",
        (Kind::Kube, "KubeDownForce") => "`--force`, at the end too",
        (Kind::Kube, "Yaml") => "the file",
        (_, "SetWorkingDirectory") => "the context",
        _ => "",
    }
}

/// One file on its way to a unit.
struct Conversion<'a, 'c, 'r> {
    context: &'c mut Context<'a>,
    source: &'a Source,
    report: &'r mut Report,
    unit: UnitFile,
    name: String,
    /// The flags that keys have become.
    flags: Vec<String>,
}

impl<'a, 'c, 'r> Conversion<'a, 'c, 'r> {
    fn new(
        context: &'c mut Context<'a>,
        source: &'a Source,
        report: &'r mut Report,
    ) -> Result<Self, Problem> {
        let name =
            context.known.get(source.name.as_str()).map(|known| known.service.clone()).unwrap_or_default();
        if !is_unit_name(&name) {
            return Err(Problem(format!("{}: no unit can be called {name:?}", source.at("ServiceName"))));
        }
        let conversion = Self { context, source, report, unit: source.file.clone(), name, flags: Vec::new() };
        Ok(conversion)
    }

    fn convert(mut self) -> Result<Unit, Problem> {
        self.translate_dependencies()?;
        self.unit.add("Unit", "SourcePath", literal(&self.source.path.display().to_string()));
        if self.truth_in("Quadlet", "DefaultDependencies")?.unwrap_or(true) && !self.context.is_user {
            self.unit.prepend("Unit", "After", "network-online.target");
            self.unit.prepend("Unit", "Wants", "network-online.target");
        }
        self.unit.add("Unit", "Wants", SOCKET);
        self.unit.add("Unit", "After", SOCKET);
        if !self.context.is_user {
            self.unit.add("Unit", "RequiresMountsFor", "%S/dormouse");
        }
        self.unit.add_default("Service", "SyslogIdentifier", "%N");
        for key in ["User", "Group", "DynamicUser"] {
            if let Some(assignment) = self.unit.text("Service", key) {
                let text = format!(
                    "{}: {key}={assignment} in [Service] is for the program that starts the container, and hardly meant; \
                     User= in [Container], or a unit of that user's service manager, may be",
                    self.source.path.display()
                );
                self.report.warning(&text);
            }
        }
        match self.source.kind {
            Kind::Container => self.container()?,
            Kind::Volume => self.volume()?,
            Kind::Network => self.network()?,
            Kind::Pod => self.pod()?,
            Kind::Image => self.image()?,
            Kind::Build => self.build()?,
            Kind::Kube => self.kube()?,
            // There is no such command yet, so that `check` has refused it.
            Kind::Artifact => return Err(self.problem("", "there is no such command")),
        }
        let section = self.source.kind.section();
        self.unit.rename_section(section, &format!("X-{section}"));
        self.unit.rename_section("Quadlet", "X-Quadlet");
        Ok(Unit { name: self.name, file: self.unit })
    }

    /// A complaint about a key.
    fn problem(&self, key: &str, reason: &str) -> Problem {
        let at = self.source.at(key);
        Problem(if key.is_empty() { format!("{at}: {reason}") } else { format!("{at}: {key}= {reason}") })
    }

    /// The last value of a key of the kind's section, without quotes around it; `None` if it is empty.
    fn text(&self, key: &str) -> Option<String> {
        self.source.file.text(self.source.kind.section(), key).map(unquoted)
    }

    fn all(&self, key: &str) -> Vec<&'a Assignment> {
        self.source.file.all(self.source.kind.section(), key)
    }

    fn words(&self, key: &str, escapes: Escapes) -> Result<Vec<String>, Problem> {
        Ok(self.source.file.all_words(self.source.kind.section(), key, escapes)?)
    }

    fn truth(&self, key: &str) -> Result<Option<bool>, Problem> {
        self.truth_in(self.source.kind.section(), key)
    }

    /// As systemd reads truth. Source: systemd.syntax(7).
    fn truth_in(&self, section: &str, key: &str) -> Result<Option<bool>, Problem> {
        let Some(text) = self.source.file.text(section, key) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "1" | "yes" | "y" | "true" | "t" | "on" => Ok(Some(true)),
            "0" | "no" | "n" | "false" | "f" | "off" => Ok(Some(false)),
            _ => Err(self.problem(key, &format!("is {text:?}, which is neither true nor false"))),
        }
    }

    fn flag(&mut self, flag: &str, value: impl Into<String>) {
        self.flags.push(flag.to_owned());
        self.flags.push(value.into());
    }

    /// Turns all keys into flags, in the order of their table; those with code of their own by that of their kind.
    fn all_flags(&mut self, own: fn(&mut Self, &str) -> Result<(), Problem>) -> Result<(), Problem> {
        for (key, meaning) in keys::keys(self.source.kind) {
            if self.source.file.last(self.source.kind.section(), key).is_none() {
                continue;
            }
            match *meaning {
                Meaning::Text(flag) => {
                    if let Some(text) = self.text(key) {
                        self.flag(flag, text);
                    }
                }
                Meaning::Each(flag) => {
                    for assignment in self.all(key) {
                        self.flag(flag, &assignment.value);
                    }
                }
                Meaning::Words(flag) => {
                    for word in self.words(key, Escapes::Kept)? {
                        self.flag(flag, word);
                    }
                }
                Meaning::Arguments(flag) => {
                    for word in self.words(key, Escapes::Resolved)? {
                        self.flag(flag, word);
                    }
                }
                Meaning::Pairs(flag) => {
                    for pair in pairs(self.words(key, Escapes::Resolved)?) {
                        self.flag(flag, pair);
                    }
                }
                Meaning::Truth(flag) => {
                    if self.truth(key)? == Some(true) {
                        self.flags.push(flag.to_owned());
                    }
                }
                Meaning::Special(_) | Meaning::Own => own(self, key)?,
                Meaning::Never(_) => {}
            }
        }
        Ok(())
    }

    /// `dormouse VERB…`, with the arguments that go before every command.
    fn command(&self, verb: &[&str]) -> Result<Vec<String>, Problem> {
        let mut words = vec![self.context.program.clone()];
        words.extend(self.words("GlobalArgs", Escapes::Resolved)?);
        words.extend(verb.iter().map(|&word| word.to_owned()));
        Ok(words)
    }

    fn add_command(&mut self, key: &str, prefix: &str, words: &[String]) {
        self.unit.add("Service", key, format!("{prefix}{}", command_line(words)));
    }

    /// For what is made once: the unit is active as long as it is there.
    fn is_made_once(&mut self, stays: bool) {
        self.unit.add_default("Service", "Type", "oneshot");
        if stays {
            self.unit.add_default("Service", "RemainAfterExit", "yes");
        }
    }

    /// Names of other files in dependencies become those of their units.
    fn translate_dependencies(&mut self) -> Result<(), Problem> {
        for key in DEPENDENCIES {
            let words = self.unit.all_words("Unit", key, Escapes::Kept)?;
            if !words.iter().any(|word| Kind::of(word).is_some()) {
                continue;
            }
            let translated: Result<Vec<String>, Problem> = words
                .iter()
                .map(|word| {
                    if Kind::of(word).is_some() {
                        Ok(self.known(word)?.service.clone())
                    } else {
                        Ok(word.clone())
                    }
                })
                .collect();
            self.unit.set("Unit", key, translated?.join(" "));
        }
        Ok(())
    }

    fn known(&self, name: &str) -> Result<&Known, Problem> {
        self.context.known.get(name).ok_or_else(|| self.problem("", &format!("there is no file {name:?}")))
    }

    /// What another file makes, which is needed.
    fn required(&mut self, name: &str) -> Result<String, Problem> {
        let known = self.known(name)?;
        let service = known.service.clone();
        let resource = known.resource.clone().ok_or_else(|| {
            self.problem("", &format!("what {name:?} is called is only known at its start"))
        })?;
        self.unit.add("Unit", "Requires", service.clone());
        self.unit.add("Unit", "After", service);
        Ok(resource)
    }

    /// The image, or what an `.image` or `.build` file makes.
    fn image_of(&mut self, text: &str) -> Result<String, Problem> {
        match Kind::of(text) {
            Some(Kind::Image | Kind::Build) => self.required(text),
            _ => Ok(text.to_owned()),
        }
    }

    /// Relative paths are so to the file.
    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') || (path.starts_with('%') && !path.starts_with("%%")) {
            return path.to_owned();
        }
        let dir = self.source.path.parent().unwrap_or(Path::new("/"));
        normal(&dir.join(path)).display().to_string()
    }
}

/// Without `.` and `..`, which systemd takes nowhere.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// The last of each key, where the first stood.
fn pairs(words: Vec<String>) -> Vec<String> {
    let key = |word: &str| word.split_once('=').map_or(word, |(key, _)| key).to_owned();
    let mut seen = BTreeSet::new();
    let mut kept: Vec<String> = words.into_iter().rev().filter(|word| seen.insert(key(word))).collect();
    kept.reverse();
    kept
}
