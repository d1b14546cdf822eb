//! The OCI command line: the runtime for other engines, as `dormouse runtime` or under the name `dormouse-runtime`.
//!
//! ```text
//!   create ──► a first process that waits at its gate ──start──► the program ──► delete
//!   run     =  all of it, in one process
//! ```
//!
//! Each call is a process of its own, and what they share lies in the state directory (`--root`):
//!
//! ```text
//! ROOT/ID/config.json   the specification as it was at the creation
//! ROOT/ID/state.json    what is true of the container, replaced by rename(2)
//! ROOT/ID/start.sock    the gate, as long as the program has not been started
//! ROOT/ID/notify/       where a program tells that it is ready, if a service manager wants to know
//! ```
//!
//! Whoever changes a container holds a lock (flock(2)) on its directory. Nothing here knows of images, of the store, or of
//! the service: it is [`crate::runtime`] and a place to keep what it made.

mod adjust;
mod arguments;
mod bundle;
mod cgroups;
mod clock;
mod console;
mod create;
mod delete;
mod error;
mod events;
mod exec;
mod features;
mod foreground;
mod kill;
mod list;
mod log;
mod notify;
mod process;
mod ps;
mod scope;
mod seal;
mod start;
mod state;
mod template;
mod update;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use self::arguments::{Arguments, Verb};
use self::error::OciError;
use self::log::Log;
use self::state::Root;

/// The name under which the binary is this role without being told so.
pub const NAME: &str = "dormouse-runtime";

/// What all verbs know.
#[derive(Debug)]
struct Context {
    root: Root,
    log: Log,
    systemd_cgroup: bool,
}

/// Whether the binary was called by this role's name.
pub fn is_called_as_runtime(program: &std::ffi::OsStr) -> bool {
    std::path::Path::new(program).file_name() == Some(NAME.as_ref())
}

/// The role. The arguments are those after its name.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    if let Some("hold") = arguments.first().and_then(|verb| verb.to_str()) {
        return scope::hold();
    }
    if let Err(error) = seal::ensure(&arguments) {
        eprintln!("{NAME}: {}", error::with_causes(&error));
        return ExitCode::FAILURE;
    }
    let name = OsString::from(NAME);
    let parsed = Arguments::parse_from(std::iter::once(name).chain(arguments));
    if parsed.version {
        println!(
            "{NAME} version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            crate::runtime::hooks::SPEC_VERSION
        );
        return ExitCode::SUCCESS;
    }
    let log = match Log::open(parsed.log.as_deref(), parsed.log_format) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{NAME}: {}", error::with_causes(&error));
            return ExitCode::FAILURE;
        }
    };
    let context = Context { root: Root::new(parsed.root), log, systemd_cgroup: parsed.systemd_cgroup };
    match parsed.verb.map_or(Err(OciError::NoVerb), |verb| run(&context, verb)) {
        Ok(code) => code,
        Err(error) => {
            context.log.error(&error::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(context: &Context, verb: Verb) -> Result<ExitCode, OciError> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Create(arguments) => create::create(context, &arguments).map(done),
        Verb::Run(arguments) => create::run(context, &arguments),
        Verb::Start { id } => start::start(context, &id).map(done),
        Verb::State { id } => list::state(context, &id).map(done),
        Verb::Kill(arguments) => kill::kill(context, &arguments).map(done),
        Verb::Delete { force, id } => delete::delete(context, &id, force).map(done),
        Verb::Exec(arguments) => exec::exec(context, arguments),
        Verb::List { format, quiet } => list::list(context, format, quiet).map(done),
        Verb::Ps { format, id, options } => ps::ps(context, &id, format, &options).map(done),
        Verb::Pause { id } => kill::pause(context, &id).map(done),
        Verb::Resume { id } => kill::resume(context, &id).map(done),
        Verb::Update(arguments) => update::update(context, &arguments).map(done),
        Verb::Events { stats, interval, id } => events::events(context, &id, stats, &interval).map(done),
        Verb::Features => features::features().map(done),
        Verb::Spec { bundle, rootless } => template::write(&bundle, rootless).map(done),
        Verb::Checkpoint { id } | Verb::Restore { id } => Err(OciError::NoCheckpoints { id }),
    }
}
