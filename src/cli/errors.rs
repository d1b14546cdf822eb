//! What a user sees when something fails. This is the one place that turns an error reply of the service into a text,
//! a hint and an exit code; commands only say what they attempted.

use std::fmt::Display;
use std::io;

use serde_json::Value;

use crate::cli::table::printable;

/// A command that failed, in the words that its user gets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// What was attempted, on what, and why it failed; empty if the user knows already.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which exit code it deserves.
    pub kind: FailureKind,
}

/// How a failure shows in the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Nothing special: 125 for commands that pass on the exit code of another program, 1 for others.
    General,
    /// The arguments make no sense: 2.
    Usage,
    /// The program is not in the container: 127 as in shells, where exit codes are passed on.
    CommandNotFound,
    /// The program can't be executed: 126 as in shells, where exit codes are passed on.
    CommandNotExecutable,
    /// The service refused to start the container: nothing of it has run.
    NotLaunched,
    /// There is nothing of this name.
    NotFound,
    /// There is no image of this name.
    ImageNotFound,
    /// The reader of our output has left; nothing is said, and the code is that of a death by SIGPIPE.
    ReaderLeft,
    /// All was said before, as for one of several names.
    Told,
}

impl CliError {
    /// A failure without a hint.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, kind: FailureKind::General }
    }

    /// Arguments that make no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Usage, ..Self::new(message) }
    }

    /// A failure that was printed already, and only has to show in the exit code.
    pub fn told() -> Self {
        Self { kind: FailureKind::Told, ..Self::new("") }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed operation on a file or stream of ours.
    pub fn io(attempted: impl Display, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { kind: FailureKind::ReaderLeft, ..Self::new("") };
        }
        Self::new(format!("cannot {attempted}: {}", why(error)))
    }

    /// The service's reply is not what its interface promises.
    pub fn bad_reply(attempted: impl Display, why: impl Display) -> Self {
        Self::new(format!("cannot {attempted}: the service's answer makes no sense ({why})"))
            .with_hint("the service and this client may be of different versions; see `dormouse version`")
    }

    /// An error reply of the service to the attempt to `attempted` (as in `start "web"`).
    pub fn from_reply(attempted: &str, error: &str, parameters: &Value) -> Self {
        let text = |field: &str| parameters.get(field).and_then(Value::as_str);
        let (interface, member) = error.rsplit_once('.').unwrap_or(("", error));
        if interface == "org.varlink.service" {
            return Self::from_transport_reply(attempted, member, parameters);
        }
        let why = text("reason").filter(|reason| !reason.is_empty()).unwrap_or(member);
        let mut message = attempted_because(attempted, why);
        if member == "InvalidSpec"
            && let Some(field) = text("field")
            && !why.contains(field)
        {
            message = attempted_because(attempted, &format!("{field}: {why}"));
        }
        Self {
            message: printable(&message),
            hint: hint(interface, member, why, parameters),
            kind: kind(member),
        }
    }

    fn from_transport_reply(attempted: &str, member: &str, parameters: &Value) -> Self {
        let text = |field: &str| parameters.get(field).and_then(Value::as_str).unwrap_or("?");
        let older = "the service may be older than this client; see `dormouse version`";
        let (why, hint) = match member {
            "InterfaceNotFound" => {
                (format!("the service has no interface {}", text("interface")), Some(older))
            }
            "MethodNotFound" => (format!("the service has no method {}", text("method")), Some(older)),
            "MethodNotImplemented" => {
                (format!("the service does not implement {}", text("method")), Some(older))
            }
            "InvalidParameter" => (format!("the service does not accept {}", text("parameter")), None),
            "PermissionDenied" => ("the service does not permit it".to_owned(), None),
            other => (format!("the service says {other}"), None),
        };
        let error = Self::new(printable(&format!("cannot {attempted}: {why}")));
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// The exit code; `passes_codes` tells that the command passes on the exit code of a program.
    pub fn exit_code(&self, passes_codes: bool) -> u8 {
        match (self.kind, passes_codes) {
            (FailureKind::Usage, _) => 2,
            (FailureKind::ReaderLeft, _) => 141,
            (FailureKind::CommandNotFound, true) => 127,
            (FailureKind::CommandNotExecutable, true) => 126,
            (
                FailureKind::General
                | FailureKind::NotLaunched
                | FailureKind::NotFound
                | FailureKind::ImageNotFound
                | FailureKind::Told,
                true,
            ) => 125,
            (
                FailureKind::General
                | FailureKind::NotLaunched
                | FailureKind::NotFound
                | FailureKind::ImageNotFound
                | FailureKind::Told
                | FailureKind::CommandNotFound
                | FailureKind::CommandNotExecutable,
                false,
            ) => 1,
        }
    }

    /// The lines for standard error, empty if there is nothing to say.
    pub fn render(&self) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let mut text = format!("dormouse: {}\n", self.message);
        if let Some(hint) = &self.hint {
            text.push_str("  hint: ");
            text.push_str(hint);
            text.push('\n');
        }
        text
    }
}

/// Most reasons of the service are whole sentences already; the others get what was attempted in front.
fn attempted_because(attempted: &str, why: &str) -> String {
    if why.starts_with("cannot ") { why.to_owned() } else { format!("cannot {attempted}: {why}") }
}

/// The text of a failed system call, without the number that the standard library puts behind it.
pub fn why(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_lowercase(),
        None => text,
    }
}

fn kind(member: &str) -> FailureKind {
    match member {
        "CommandNotFound" => FailureKind::CommandNotFound,
        "CommandNotExecutable" => FailureKind::CommandNotExecutable,
        "LaunchFailed" | "InvalidSpec" | "Unsupported" | "NetworkNotFound" | "PodNotFound" | "PortInUse"
        | "AddressInUse" => FailureKind::NotLaunched,
        "NotFound" => FailureKind::NotFound,
        "ImageNotFound" => FailureKind::ImageNotFound,
        _ => FailureKind::General,
    }
}

/// What to do about it; none where the reason says so itself.
fn hint(interface: &str, member: &str, why: &str, parameters: &Value) -> Option<String> {
    if why.contains("; ") || why.contains('`') {
        return None;
    }
    let text = |field: &str| parameters.get(field).and_then(Value::as_str);
    let of_images = interface.ends_with(".Image");
    match member {
        "NotFound" if interface.ends_with(".Pod") => Some("see `dormouse pod ls`".to_owned()),
        "NotFound" if of_images => Some("see `dormouse images`".to_owned()),
        "NotFound" => Some("see `dormouse ps --all`".to_owned()),
        "ImageNotFound" => Some("see `dormouse images`, or make one with `dormouse import`".to_owned()),
        "AlreadyExists" => {
            Some(format!("choose another name, or remove it with `dormouse rm {}`", printable(text("name")?)))
        }
        "WrongState" => match (text("state")?, interface.ends_with(".Unit")) {
            ("created" | "exited" | "failed", true) => Some("start the container first".to_owned()),
            ("running" | "paused" | "starting" | "stopping", false) if why.contains("remove") => {
                Some("stop it first, or use --force".to_owned())
            }
            _ => None,
        },
        "InUse" => Some("remove its containers first; see `dormouse ps --all`".to_owned()),
        "Timeout" => Some("it goes on; `dormouse wait` waits for it again".to_owned()),
        "NotSystemd" => Some("containers with a systemd inside show up as such in `dormouse ps`".to_owned()),
        "NoSuchUnit" => Some(format!("see `dormouse units list {}`", printable(text("name")?))),
        "JobFailed" => Some(format!(
            "see `dormouse journal --unit {} {}`",
            printable(text("unit")?),
            printable(text("name")?)
        )),
        "StorageFull" => Some("free some space with `dormouse rm` or `dormouse rmi`".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(attempted: &str, error: &str, parameters: Value, expected: &str) {
        assert_eq!(CliError::from_reply(attempted, error, &parameters).render(), expected);
    }

    #[test]
    fn an_error_says_what_was_attempted_on_what_and_why_once() {
        check(
            "start \"web\"",
            "io.dormouse.Container.NotFound",
            json!({"name": "web", "reason": "there is no container \"web\""}),
            "dormouse: cannot start \"web\": there is no container \"web\"\n  hint: see `dormouse ps --all`\n",
        );
        check(
            "pause \"web\"",
            "io.dormouse.Container.WrongState",
            json!({"name": "web", "state": "exited", "wanted": "running", "reason": "cannot pause \"web\": it is exited, not running"}),
            "dormouse: cannot pause \"web\": it is exited, not running\n",
        );
    }

    #[test]
    fn a_reason_that_says_what_to_do_gets_no_second_hint() {
        check(
            "run \"web\"",
            "io.dormouse.Container.AlreadyExists",
            json!({"name": "web", "reason": "a container named \"web\" exists; choose another name"}),
            "dormouse: cannot run \"web\": a container named \"web\" exists; choose another name\n",
        );
    }

    #[test]
    fn a_refused_value_is_named() {
        check(
            "create a container",
            "io.dormouse.Container.InvalidSpec",
            json!({"field": "spec.mounts[2].target", "reason": "must be absolute"}),
            "dormouse: cannot create a container: spec.mounts[2].target: must be absolute\n",
        );
    }

    #[test]
    fn an_older_service_is_recognised() {
        check(
            "list units of \"web\"",
            "org.varlink.service.MethodNotFound",
            json!({"method": "io.dormouse.Unit.List"}),
            "dormouse: cannot list units of \"web\": the service has no method io.dormouse.Unit.List\n  \
             hint: the service may be older than this client; see `dormouse version`\n",
        );
    }

    #[test]
    fn an_unknown_error_still_says_something() {
        check("stop \"web\"", "io.dormouse.Container.Odd", json!({}), "dormouse: cannot stop \"web\": Odd\n");
    }

    #[test]
    fn a_reason_cannot_steer_the_terminal() {
        let error =
            CliError::from_reply("start \"x\"", "a.b.Failed", &json!({"reason": "\u{1b}]0;owned\u{7}"}));
        assert!(!error.render().contains('\u{1b}'));
    }

    #[test]
    fn exit_codes_are_those_of_shells_where_codes_are_passed_on() {
        let code = |member: &str, passes| {
            CliError::from_reply("run", &format!("io.dormouse.Container.{member}"), &json!({}))
                .exit_code(passes)
        };
        assert_eq!(code("CommandNotFound", true), 127);
        assert_eq!(code("CommandNotExecutable", true), 126);
        assert_eq!(code("LaunchFailed", true), 125);
        assert_eq!(code("CommandNotFound", false), 1);
        assert_eq!(CliError::usage("x").exit_code(true), 2);
        assert_eq!(CliError::io("write", &io::Error::from(io::ErrorKind::BrokenPipe)).exit_code(false), 141);
    }
}
