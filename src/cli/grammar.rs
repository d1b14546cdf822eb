//! What can be said on the command line, for who writes command lines: the generator of units.

use std::sync::OnceLock;

use clap::CommandFactory;

use super::Cli;

/// Whether there is a command of this name, as in `["volume", "create"]`.
pub fn has_verb(path: &[&str]) -> bool {
    verb(path).is_some()
}

/// Whether a command has a long flag, as in `--name`, under this name or another.
pub fn has_flag(path: &[&str], flag: &str) -> bool {
    verb(path).is_some_and(|command| argument(command, flag).is_some())
}

/// Whether a flag of a command that takes one of several words takes this one.
pub fn takes(path: &[&str], flag: &str, word: &str) -> bool {
    verb(path)
        .and_then(|command| argument(command, flag))
        .is_some_and(|argument| argument.get_possible_values().iter().any(|value| value.matches(word, false)))
}

fn verb(path: &[&str]) -> Option<&'static clap::Command> {
    static COMMAND: OnceLock<clap::Command> = OnceLock::new();
    let whole = COMMAND.get_or_init(Cli::command);
    path.iter().try_fold(whole, |command, name| command.find_subcommand(name))
}

fn argument<'a>(command: &'a clap::Command, flag: &str) -> Option<&'a clap::Arg> {
    let name = flag.trim_start_matches('-');
    let is_it = |argument: &&clap::Arg| {
        argument.get_long() == Some(name)
            || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
    };
    command.get_arguments().find(is_it)
}
