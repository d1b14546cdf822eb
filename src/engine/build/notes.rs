//! The instructions that only say something of the image: what changes its configuration, and makes no layer.

use serde_json::{Value, json};

use super::stage::{Working, check_variable};
use super::trouble::{StepError, refused};
use crate::engine::signals;
use crate::image::build::{Instruction, Keyword, exec_form, words};

/// What a shell form is run by unless SHELL says otherwise.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

pub(super) fn apply(working: &mut Working<'_>, instruction: &Instruction) -> Result<(), StepError> {
    match instruction.keyword {
        Keyword::Env => {
            for (name, value) in pairs(working, instruction)? {
                check_variable(instruction, &name)?;
                working.draft.set_env(&name, &value);
            }
        }
        Keyword::Label => {
            for (name, value) in pairs(working, instruction)? {
                working.draft.add("Labels", &name, json!(value));
            }
        }
        Keyword::Cmd => {
            let command = command(working, instruction);
            working.draft.config_mut().insert("Cmd".to_owned(), json!(command));
            working.has_own_command = true;
        }
        Keyword::Entrypoint => {
            let command = command(working, instruction);
            working.draft.config_mut().insert("Entrypoint".to_owned(), json!(command));
            // The default arguments of another program.
            if !working.has_own_command {
                working.draft.config_mut().remove("Cmd");
            }
        }
        Keyword::Expose => {
            for word in words(working, instruction)? {
                for port in ports(instruction, &word)? {
                    working.draft.add("ExposedPorts", &port, json!({}));
                }
            }
        }
        Keyword::Volume => {
            let paths = match exec_form(&instruction.rest) {
                Some(paths) => {
                    paths.iter().map(|path| working.word(instruction, path)).collect::<Result<_, _>>()?
                }
                None => words(working, instruction)?,
            };
            for path in paths {
                if path.trim().is_empty() {
                    return Err(refused(instruction, "a path is empty"));
                }
                let path = super::paths::joined(working.draft.workdir(), &path);
                working.draft.add("Volumes", &path, json!({}));
            }
        }
        Keyword::User => {
            let user = working.word(instruction, &instruction.rest)?;
            if user.is_empty() {
                return Err(refused(instruction, "the user's name is empty"));
            }
            working.draft.config_mut().insert("User".to_owned(), json!(user));
        }
        Keyword::Stopsignal => {
            let signal = working.word(instruction, &instruction.rest)?;
            if signals::parse(&signal).is_none() {
                return Err(refused(
                    instruction,
                    format!("{signal:?} is no signal; SIGTERM or SIGRTMIN+3 are"),
                ));
            }
            working.draft.config_mut().insert("StopSignal".to_owned(), json!(signal));
        }
        Keyword::Shell => match exec_form(&instruction.rest) {
            Some(shell) if !shell.is_empty() => {
                working.draft.config_mut().insert("Shell".to_owned(), json!(shell));
            }
            _ => {
                return Err(refused(
                    instruction,
                    "an array of JSON is wanted, as in [\"/bin/bash\", \"-c\"]",
                ));
            }
        },
        Keyword::Onbuild => {
            let mut triggers = working.draft.list("OnBuild");
            let mut text = instruction.rest.clone();
            for heredoc in &instruction.heredocs {
                text.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
            }
            triggers.push(text);
            working.draft.config_mut().insert("OnBuild".to_owned(), json!(triggers));
        }
        Keyword::Healthcheck => {
            let check = healthcheck(working, instruction)?;
            working.draft.config_mut().insert("Healthcheck".to_owned(), check);
        }
        Keyword::Maintainer => working.draft.set_author(&instruction.rest.clone()),
        Keyword::From | Keyword::Run | Keyword::Copy | Keyword::Add | Keyword::Workdir | Keyword::Arg => {
            unreachable!("the stage itself does these")
        }
    }
    Ok(())
}

/// The shell of this stage.
pub(super) fn shell(working: &Working<'_>) -> Vec<String> {
    match working.draft.list("Shell") {
        shell if shell.is_empty() => SHELL.map(str::to_owned).to_vec(),
        shell => shell,
    }
}

fn command(working: &Working<'_>, instruction: &Instruction) -> Vec<String> {
    exec_form(&instruction.rest).unwrap_or_else(|| {
        let mut command = shell(working);
        command.push(instruction.rest.clone());
        command
    })
}

/// Words, of which a variable may make several.
fn words(working: &Working<'_>, instruction: &Instruction) -> Result<Vec<String>, StepError> {
    let mut all = Vec::new();
    for word in words::split(&instruction.rest, working.build.escape) {
        let meant = working.word(instruction, &word)?;
        if word.contains(['"', '\'']) {
            all.push(meant);
        } else {
            all.extend(meant.split_whitespace().map(str::to_owned));
        }
    }
    Ok(all)
}

/// `NAME=value NAME=value`, or the old `NAME the rest of the line`.
fn pairs(working: &Working<'_>, instruction: &Instruction) -> Result<Vec<(String, String)>, StepError> {
    let all = words::split(&instruction.rest, working.build.escape);
    if all.first().is_some_and(|first| !first.contains('=')) {
        let Some((name, value)) = instruction.rest.split_once(char::is_whitespace) else {
            return Err(refused(instruction, "NAME=value is wanted"));
        };
        return Ok(vec![(name.to_owned(), working.word(instruction, value.trim_start())?)]);
    }
    // Later ones do not see the earlier ones of the same instruction.
    all.iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok((working.word(instruction, name)?, working.word(instruction, value)?))
            }
            _ => Err(refused(instruction, format!("{pair:?} is not NAME=value"))),
        })
        .collect()
}

/// `80`, `53/udp`, `8000-8010/tcp`.
fn ports(instruction: &Instruction, text: &str) -> Result<Vec<String>, StepError> {
    let wrong = || refused(instruction, format!("{text:?} is no port; 80, 53/udp and 8000-8010 are"));
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: u16 = first.parse().map_err(|_| wrong())?;
    let last: u16 = last.parse().map_err(|_| wrong())?;
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) || first == 0 || last < first {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn healthcheck(working: &Working<'_>, instruction: &Instruction) -> Result<Value, StepError> {
    let (word, rest) = instruction.rest.split_once(char::is_whitespace).unwrap_or((&instruction.rest, ""));
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "NONE" if rest.is_empty() => return Ok(json!({"Test": ["NONE"]})),
        "CMD" if !rest.is_empty() => {}
        _ => return Err(refused(instruction, "HEALTHCHECK CMD command, or HEALTHCHECK NONE, is wanted")),
    }
    let test = match exec_form(rest) {
        Some(command) => [vec!["CMD".to_owned()], command].concat(),
        None => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
    };
    let mut check = json!({"Test": test});
    for flag in &instruction.flags {
        let value = working.word(instruction, flag.value.as_deref().unwrap_or_default())?;
        let wrong = || refused(instruction, format!("--{}: {value:?} can't be used", flag.name));
        let field = match flag.name.as_str() {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            _ => {
                check["Retries"] = json!(value.parse::<u32>().map_err(|_| wrong())?);
                continue;
            }
        };
        check[field] = json!(nanoseconds(&value).ok_or_else(wrong)?);
    }
    Ok(check)
}

/// As Go writes durations: `1h2m3.5s`, `500ms`.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0_f64;
    if rest == "0" {
        return Some(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let letters =
            after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        total += number
            * match &after[..letters] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &after[letters..];
    }
    // A few centuries fit.
    #[allow(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1m30.5s", Some(90_500_000_000)),
            ("500ms", Some(500_000_000)),
            ("5", None),
            ("", None),
            ("s", None),
            ("5y", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
