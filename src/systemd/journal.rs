//! The journal inside a container, as its own journalctl prints it.
//!
//! The engine runs `journalctl` inside with [`journalctl_arguments`] and hands its lines to [`JournalEntry::parse`].
//! The payload may put any program in journalctl's place: a line is only believed to be text of a bounded length.
//!
//! Source: systemd's "Journal Export Formats", "Journal JSON Format".

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use super::inside::normalise_unit_name;

/// A line longer than this is refused; whoever collects lines need not keep more of one.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Which entries to print.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalFilter {
    /// Only of this unit, and systemd's own about it. A name without a type is a service's.
    pub unit: Option<String>,
    /// Only of this priority (0, emergency, to 7, debug) and more urgent ones.
    pub priority: Option<u8>,
    /// Only from this moment on, in microseconds of CLOCK_REALTIME.
    pub since_usec: Option<u64>,
    /// Only up to this moment, in microseconds of CLOCK_REALTIME.
    pub until_usec: Option<u64>,
    /// Only so many of the last ones; `None` for all.
    pub lines: Option<u64>,
    /// Go on with new entries as they come.
    pub follow: bool,
    /// Only since the boot, which for a systemd in a container is its start.
    pub boot: bool,
}

/// Returns the command line, `journalctl` itself first, that prints entries as [`JournalEntry::parse`] reads them.
pub fn journalctl_arguments(filter: &JournalFilter) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["journalctl", "--output=json", "--all", "--no-pager", "--quiet"].map(str::to_owned).to_vec();
    arguments.push(
        "--output-fields=MESSAGE,PRIORITY,UNIT,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER,_COMM,_PID,SYSLOG_PID"
            .to_owned(),
    );
    let mut option = |name: &str, value: String| arguments.push(format!("--{name}={value}"));
    if let Some(unit) = &filter.unit {
        // A pattern is no name, but journalctl takes it.
        option("unit", normalise_unit_name(unit).unwrap_or_else(|_| unit.clone()));
    }
    if let Some(priority) = filter.priority {
        option("priority", priority.min(7).to_string());
    }
    if let Some(since) = filter.since_usec {
        option("since", timestamp(since));
    }
    if let Some(until) = filter.until_usec {
        option("until", timestamp(until));
    }
    match filter.lines {
        Some(lines) => option("lines", lines.to_string()),
        // To follow means the last ten, unless told otherwise.
        None => option("lines", "all".to_owned()),
    }
    if filter.boot {
        arguments.push("--boot".to_owned());
    }
    if filter.follow {
        arguments.push("--follow".to_owned());
    }
    arguments
}

/// systemd.time(7), "Parsing Timestamps": seconds since the epoch behind an `@`.
fn timestamp(usec: u64) -> String {
    format!("@{}.{:06}", usec / 1_000_000, usec % 1_000_000)
}

/// One entry of a journal. All texts are the payload's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// When the journal got it, in microseconds of CLOCK_REALTIME.
    pub time_usec: u64,
    /// 0 (emergency) to 7 (debug).
    pub priority: Option<u8>,
    /// The unit that it comes from; for systemd's own messages the unit that they are about.
    pub unit: Option<String>,
    /// The program, as it calls itself, or as its process is called.
    pub identifier: Option<String>,
    /// The process, as numbered inside.
    pub pid: Option<u32>,
    /// The text; what is not UTF-8 is replaced.
    pub message: String,
    /// Where journalctl can go on from (`--after-cursor=`).
    pub cursor: Option<String>,
}

/// A line that is no entry.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It is too long.
    #[error("a line of the journal has more than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// It is not JSON of the expected form.
    #[error("a line of the journal is not an entry")]
    Malformed {
        /// The parser's error.
        #[source]
        source: serde_json::Error,
    },
    /// It has no time.
    #[error("a line of the journal has no time")]
    NoTime,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "__REALTIME_TIMESTAMP", default)]
    time: Field,
    #[serde(rename = "__CURSOR", default)]
    cursor: Field,
    #[serde(rename = "MESSAGE", default)]
    message: Field,
    #[serde(rename = "PRIORITY", default)]
    priority: Field,
    #[serde(rename = "UNIT", default)]
    about_unit: Field,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    systemd_unit: Field,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: Field,
    #[serde(rename = "_COMM", default)]
    command: Field,
    #[serde(rename = "_PID", default)]
    pid: Field,
    #[serde(rename = "SYSLOG_PID", default)]
    claimed_pid: Field,
}

impl JournalEntry {
    /// Reads one line, with or without the line feed at its end.
    pub fn parse(line: &[u8]) -> Result<Self, JournalError> {
        if line.len() > LINE_BYTES_MAX {
            return Err(JournalError::TooLong);
        }
        let line: Line = serde_json::from_slice(line).map_err(|source| JournalError::Malformed { source })?;
        let pid: Option<u32> = line.pid.parse().or_else(|| line.claimed_pid.parse());
        // Only PID 1 speaks about other units; the field of anybody else is a claim.
        let unit = match line.about_unit.0 {
            Some(unit) if pid == Some(1) => Some(unit),
            _ => line.systemd_unit.0,
        };
        Ok(Self {
            time_usec: line.time.parse().ok_or(JournalError::NoTime)?,
            priority: line.priority.parse().filter(|&priority| priority <= 7),
            unit,
            identifier: line.identifier.0.or(line.command.0),
            pid,
            message: line.message.0.unwrap_or_default(),
            cursor: line.cursor.0,
        })
    }
}

/// A field's value: a string; an array of bytes if it is not printable UTF-8; an array of either if the entry has the
/// field more than once (the first one is taken); null if it was too long to print.
#[derive(Default)]
struct Field(Option<String>);

impl Field {
    fn parse<T: std::str::FromStr>(&self) -> Option<T> {
        self.0.as_ref()?.parse().ok()
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a string, null, or an array of bytes or of these")
    }

    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field(Some(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Field, E> {
        Ok(Field(Some(text)))
    }

    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Field, A::Error> {
        let mut bytes = Vec::new();
        while let Some(item) = items.next_element()? {
            match item {
                Item::Byte(byte) => bytes.push(byte),
                Item::Whole(first) => {
                    while items.next_element::<IgnoredAny>()?.is_some() {}
                    return Ok(first);
                }
            }
        }
        Ok(Field(Some(String::from_utf8_lossy(&bytes).into_owned())))
    }
}

/// An item of an array: a byte of one value, or one of several values.
enum Item {
    Byte(u8),
    Whole(Field),
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte, a string, null or an array of bytes")
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Item, E> {
                u8::try_from(number).map(Item::Byte).map_err(|_| E::custom("a byte is larger than 255"))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Item, E> {
                FieldVisitor.visit_str(text).map(Item::Whole)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Item, E> {
                Ok(Item::Whole(Field(None)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Item, A::Error> {
                FieldVisitor.visit_seq(items).map(Item::Whole)
            }
        }
        from.deserialize_any(ItemVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(json: &str) -> String {
        let line = format!(r#"{{"__REALTIME_TIMESTAMP":"5","MESSAGE":{json}}}"#);
        JournalEntry::parse(line.as_bytes()).unwrap().message
    }

    #[test]
    fn an_entry_of_a_service_is_read() {
        let line = br#"{"__CURSOR":"s=1;i=2","__REALTIME_TIMESTAMP":"1700000000000001","PRIORITY":"6","_PID":"77",
            "MESSAGE":"hello","_SYSTEMD_UNIT":"cron.service","SYSLOG_IDENTIFIER":"CRON","_COMM":"cron","X":{"a":[1]}}"#;
        let entry = JournalEntry::parse(line).unwrap();
        assert_eq!(
            entry,
            JournalEntry {
                time_usec: 1_700_000_000_000_001,
                priority: Some(6),
                unit: Some("cron.service".to_owned()),
                identifier: Some("CRON".to_owned()),
                pid: Some(77),
                message: "hello".to_owned(),
                cursor: Some("s=1;i=2".to_owned()),
            }
        );
    }

    #[test]
    fn a_message_of_pid_1_belongs_to_the_unit_that_it_is_about_and_nobody_else_can_claim_that() {
        let unit = |pid: u32| {
            let line = format!(
                r#"{{"__REALTIME_TIMESTAMP":"5","_PID":"{pid}","UNIT":"a.service","_SYSTEMD_UNIT":"b.service"}}"#
            );
            JournalEntry::parse(line.as_bytes()).unwrap().unit.unwrap()
        };
        assert_eq!(unit(1), "a.service");
        assert_eq!(unit(2), "b.service");
    }

    #[test]
    fn values_of_every_form_are_read() {
        assert_eq!(message(r#""plain""#), "plain");
        assert_eq!(message(r#""q\"\u00e4\n""#), "q\"ä\n");
        assert_eq!(message("[104,105,255]"), "hi\u{fffd}");
        assert_eq!(message("null"), "");
        assert_eq!(message("[]"), "");
        assert_eq!(message(r#"["first","second"]"#), "first");
        assert_eq!(message(r#"[[104,105],"second",null]"#), "hi");
        assert_eq!(message(r#"[null,"second"]"#), "");
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        let deep = "[".repeat(100_000);
        let deep = format!(r#"{{"__REALTIME_TIMESTAMP":"5","MESSAGE":{deep}"#);
        for line in ["", "{", "hello", r#"{"MESSAGE":[256]}"#, r#"{"MESSAGE":{"a":1}}"#, &deep] {
            assert!(
                matches!(JournalEntry::parse(line.as_bytes()), Err(JournalError::Malformed { .. })),
                "{:.20}",
                line
            );
        }
        for line in ["{}", "[]", r#"{"__REALTIME_TIMESTAMP":"-1"}"#, r#"{"__REALTIME_TIMESTAMP":null}"#] {
            assert!(matches!(JournalEntry::parse(line.as_bytes()), Err(JournalError::NoTime)), "{line}");
        }
        let long = vec![b' '; LINE_BYTES_MAX + 1];
        assert!(matches!(JournalEntry::parse(&long), Err(JournalError::TooLong)));
    }

    #[test]
    fn a_filter_becomes_options_that_no_value_can_break_out_of() {
        let filter = JournalFilter {
            unit: Some("cron".to_owned()),
            priority: Some(3),
            since_usec: Some(1_000_001),
            until_usec: Some(2_000_000),
            lines: Some(5),
            follow: true,
            boot: true,
        };
        let arguments = journalctl_arguments(&filter);
        for expected in [
            "--unit=cron.service",
            "--priority=3",
            "--since=@1.000001",
            "--until=@2.000000",
            "--lines=5",
            "--follow",
            "--boot",
            "--output=json",
        ] {
            assert!(arguments.iter().any(|argument| argument == expected), "{expected}");
        }
        let evil = JournalFilter { unit: Some("--vacuum-size=1".to_owned()), ..JournalFilter::default() };
        let arguments = journalctl_arguments(&evil);
        assert!(arguments.iter().all(|argument| !argument.starts_with("--vacuum")), "{arguments:?}");
        assert!(arguments.contains(&"--lines=all".to_owned()));
    }
}
