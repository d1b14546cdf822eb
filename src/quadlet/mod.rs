//! The role of a systemd generator: Quadlet files in, units that run `dormouse` out.
//!
//! systemd calls it early at boot and at each `daemon-reload`, and waits: nothing here calls a service, the network or
//! another program. The files are those of podman-systemd.unit(5): what each key becomes is in [`keys`], what each kind of
//! file becomes in [`convert`], where files are looked for in [`places`]. A file with anything that can't be done is
//! reported by file and line, and makes no unit: half of what was asked for is not what was asked for.

mod convert;
mod install;
mod keys;
mod places;
mod report;
mod source;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use report::Report;
use source::Source;

/// Makes units of Quadlet files. systemd calls it as a generator, with three directories.
#[derive(Debug, Parser)]
#[command(name = "dormouse generator", no_binary_name = true)]
struct Arguments {
    /// For a user's service manager
    #[arg(long)]
    user: bool,
    /// Print the units and complaints instead of writing and logging them
    #[arg(long, visible_alias = "dry-run")]
    dryrun: bool,
    /// Print every key, and whether it is supported, as a table
    #[arg(long, conflicts_with = "dryrun")]
    keys: bool,
    /// Complain on standard error, not in the kernel's log
    #[arg(long)]
    no_kmsg_log: bool,
    /// Where units go
    #[arg(required_unless_present_any = ["dryrun", "keys"], value_name = "NORMAL")]
    normal: Option<PathBuf>,
    /// Not used
    #[arg(value_name = "EARLY")]
    early: Option<PathBuf>,
    /// Not used
    #[arg(value_name = "LATE")]
    late: Option<PathBuf>,
}

/// What a file describes, as its extension says. The order is that in which names become known: a container refers to all
/// others, and nothing that others need refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Image,
    Build,
    Volume,
    Network,
    Artifact,
    Kube,
    Container,
    /// Last, because it wants the containers that say to belong to it.
    Pod,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Image,
        Self::Build,
        Self::Volume,
        Self::Network,
        Self::Artifact,
        Self::Kube,
        Self::Container,
        Self::Pod,
    ];

    fn extension(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Build => "build",
            Self::Volume => "volume",
            Self::Network => "network",
            Self::Artifact => "artifact",
            Self::Kube => "kube",
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }

    fn of(name: &str) -> Option<Self> {
        let (stem, extension) = name.rsplit_once('.')?;
        Self::ALL.into_iter().find(|kind| kind.extension() == extension && !stem.is_empty())
    }

    /// The name of its section.
    fn section(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::Build => "Build",
            Self::Volume => "Volume",
            Self::Network => "Network",
            Self::Artifact => "Artifact",
            Self::Kube => "Kube",
            Self::Container => "Container",
            Self::Pod => "Pod",
        }
    }

    /// What the names of its services end in.
    fn suffix(self) -> &'static str {
        match self {
            Self::Image => "-image",
            Self::Build => "-build",
            Self::Volume => "-volume",
            Self::Network => "-network",
            Self::Artifact => "-artifact",
            Self::Pod => "-pod",
            Self::Kube | Self::Container => "",
        }
    }

    /// The command that its keys become flags of.
    fn verb(self) -> &'static [&'static str] {
        match self {
            Self::Image => &["pull"],
            Self::Build => &["build"],
            Self::Volume => &["volume", "create"],
            Self::Network => &["network", "create"],
            Self::Artifact => &["artifact", "pull"],
            Self::Kube => &["kube", "play"],
            Self::Container => &["run"],
            Self::Pod => &["pod", "create"],
        }
    }
}

/// Whether this process was called as a generator: by the name, or the link, that systemd looks for.
pub fn is_called_as_generator(program: &OsStr) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "dormouse-generator")
}

/// Plays the role. `program` is what it was called as.
pub fn main(program: &OsStr, arguments: &[OsString]) -> ExitCode {
    let arguments: Arguments = match crate::role::parsed(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.keys {
        print!("{}", table());
        return ExitCode::SUCCESS;
    }
    let is_user = arguments.user || is_for_user(program);
    let mut report = Report::new(!arguments.dryrun && !arguments.no_kmsg_log);
    let units = generate(is_user, &mut report);
    match arguments.normal {
        Some(dir) if !arguments.dryrun => {
            for unit in &units {
                install::write(&dir, unit, &mut report);
            }
        }
        _ => {
            for unit in &units {
                println!("---{}---\n{}", unit.name, unit.text());
            }
        }
    }
    if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// systemd tells since 251; before, the directory that it found this program in says it.
fn is_for_user(program: &OsStr) -> bool {
    match std::env::var("SYSTEMD_SCOPE") {
        Ok(scope) => scope == "user",
        Err(_) => Path::new(program).parent().is_some_and(|dir| dir.ends_with("user-generators")),
    }
}

/// A unit, ready to be written.
#[derive(Debug)]
struct Unit {
    /// As in `web.service`.
    name: String,
    file: crate::systemd::unit_file::UnitFile,
}

impl Unit {
    fn text(&self) -> String {
        format!("# Automatically generated by dormouse-generator\n\n{}", self.file)
    }
}

fn generate(is_user: bool, report: &mut Report) -> Vec<Unit> {
    let directories = places::directories(is_user);
    let mut sources = Vec::<Source>::new();
    for directory in &directories {
        source::load(directory, &directories, &mut sources, report);
    }
    sources.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    convert::all(&sources, is_user, report)
}

/// Every key and whether it is supported, in Markdown.
fn table() -> String {
    let mut text = String::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Artifact) {
        text.push_str(&format!("\n`[{}]`, in `.{}` files:\n\n", kind.section(), kind.extension()));
        text.push_str("| key | becomes |\n|---|---|\n");
        for (key, meaning) in keys::keys(kind) {
            let becomes = match (keys::unsupported(kind, *meaning), meaning.flag()) {
                (Some(why), _) => format!("not supported: {why}"),
                (None, Some(flag)) => format!("`{flag}`"),
                (None, None) => convert::note(kind, key).to_owned(),
            };
            text.push_str(&format!("| `{key}=` | {becomes} |\n"));
        }
    }
    text
}
