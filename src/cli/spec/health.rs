//! Health checks.

use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::put;
use crate::cli::errors::CliError;
use crate::cli::human::parse_duration;

#[derive(Debug, Args)]
pub(super) struct HealthFlags {
    /// Command that tells by exit code 0 that it works: a text for its shell, or a JSON array; "none" for no check
    #[arg(long, value_name = "COMMAND", conflicts_with = "no_healthcheck", help_heading = "Health")]
    health_cmd: Option<String>,
    /// Check that the systemd inside is running, and that no unit has failed
    #[arg(long, conflicts_with_all = ["health_cmd", "no_healthcheck"], help_heading = "Health")]
    health_systemd: bool,
    /// Don't check, whatever the image says
    #[arg(long, help_heading = "Health")]
    no_healthcheck: bool,
    /// Time from check to check [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Health")]
    health_interval: Option<i64>,
    /// When a check that has not ended has failed [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Health")]
    health_timeout: Option<i64>,
    /// So many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "COUNT", help_heading = "Health")]
    health_retries: Option<i64>,
    /// Time after a start in which failures don't count [default: 0]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Health")]
    health_start_period: Option<i64>,
    /// Time to the first check, and from check to check in the start period [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Health")]
    health_start_interval: Option<i64>,
    /// What happens when it becomes unhealthy [default: none]
    #[arg(long, value_enum, value_name = "ACTION", help_heading = "Health")]
    health_on_failure: Option<OnFailure>,
}

#[derive(Debug, Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum OnFailure {
    None,
    Kill,
    Restart,
    Stop,
}

impl HealthFlags {
    pub(super) fn add_to(&self, spec: &mut Map<String, Value>) -> Result<(), CliError> {
        let mut check = Map::new();
        if self.no_healthcheck {
            put(&mut check, "kind", Some("none"));
        }
        if self.health_systemd {
            put(&mut check, "kind", Some("systemd"));
        }
        if let Some(text) = &self.health_cmd {
            add_command(&mut check, text)?;
        }
        put(&mut check, "intervalUSec", self.health_interval);
        put(&mut check, "timeoutUSec", self.health_timeout);
        put(&mut check, "retries", self.health_retries);
        put(&mut check, "startPeriodUSec", self.health_start_period);
        put(&mut check, "startIntervalUSec", self.health_start_interval);
        put(&mut check, "onFailure", self.health_on_failure);
        put(spec, "healthCheck", (!check.is_empty()).then_some(check));
        Ok(())
    }
}

/// Podman takes Docker's JSON arrays too, which begin with CMD or CMD-SHELL, and plain ones.
fn add_command(check: &mut Map<String, Value>, text: &str) -> Result<(), CliError> {
    if text == "none" {
        put(check, "kind", Some("none"));
        return Ok(());
    }
    if !text.trim_start().starts_with('[') {
        put(check, "kind", Some("shell"));
        put(check, "shell", Some(text));
        return Ok(());
    }
    let words: Vec<String> = serde_json::from_str(text)
        .map_err(|_| CliError::usage(format!("--health-cmd: {text:?} is no JSON array of strings")))?;
    let (kind, value) = match words.split_first() {
        Some((first, [shell])) if first == "CMD-SHELL" => ("shell", json!(shell)),
        Some((first, command)) if first == "CMD" => ("command", json!(command)),
        _ => ("command", json!(words)),
    };
    put(check, "kind", Some(kind));
    check.insert(kind.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_text_for_the_shell_or_an_array() {
        let check = |text: &str, expected: Value| {
            let mut check = Map::new();
            add_command(&mut check, text).unwrap();
            assert_eq!(Value::Object(check), expected, "{text}");
        };
        check(
            "curl -f localhost || exit 1",
            json!({"kind": "shell", "shell": "curl -f localhost || exit 1"}),
        );
        check(r#"["curl", "localhost"]"#, json!({"kind": "command", "command": ["curl", "localhost"]}));
        check(r#"["CMD", "curl"]"#, json!({"kind": "command", "command": ["curl"]}));
        check(r#"["CMD-SHELL", "a b"]"#, json!({"kind": "shell", "shell": "a b"}));
        check("none", json!({"kind": "none"}));
        assert!(add_command(&mut Map::new(), "[x]").is_err());
    }
}
