//! How a result is written: a table for people, or JSON for programs.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::format_size;
use crate::cli::streams::print;
use crate::cli::table::printable;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON document.
    Json,
    /// One JSON document in each line.
    Jsonlines,
}

/// `--format`, for commands that have something to show, or to tell of what they did.
#[derive(Debug, Args)]
pub struct FormatFlag {
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    pub format: Format,
}

impl FormatFlag {
    /// Refuses another form than the usual where the output is not ours to shape, as without `flag`.
    ///
    /// # Errors
    /// If such a form was asked for, and `given` is false.
    pub fn only_with(&self, flag: &str, given: bool) -> Result<(), CliError> {
        if given || self.format == Format::Table {
            return Ok(());
        }
        Err(CliError::usage(format!("--format: without {flag}, standard output is for what comes out"))
            .with_hint(format!("use it with {flag}")))
    }
}

/// `--format`, for what is always told as JSON.
#[derive(Debug, Args)]
pub struct DocumentFlag {
    /// json: an array; jsonlines: a line for each
    #[arg(long, value_enum, value_name = "FORM", default_value = "json")]
    format: DocumentFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DocumentFormat {
    // No texts here: they would spread the flag over many lines of the help.
    Json,
    Jsonlines,
}

impl DocumentFlag {
    /// Writes the documents.
    ///
    /// # Errors
    /// If standard output takes no more.
    pub fn print(&self, documents: &[Value]) -> Result<(), CliError> {
        match self.format {
            DocumentFormat::Json => print(&pretty(&Value::Array(documents.to_vec()))),
            DocumentFormat::Jsonlines => documents.iter().try_for_each(print_line),
        }
    }
}

/// Writes what was removed because nobody used it, and how much room that made.
///
/// # Errors
/// If standard output takes no more.
pub fn print_pruned(form: &FormatFlag, removed: &[String], freed_bytes: i64) -> Result<(), CliError> {
    print_one(form.format, &json!({"removed": removed, "freedBytes": freed_bytes}), || {
        let lines = removed.iter().map(|name| format!("removed {}\n", printable(name)));
        Ok(lines.collect::<String>() + &format!("freed {}\n", format_size(freed_bytes)))
    })
}

/// Writes a list: `table` makes the text for people.
///
/// # Errors
/// If standard output takes no more.
pub fn print_list(
    format: Format,
    items: &[Value],
    table: impl FnOnce() -> Result<String, CliError>,
) -> Result<(), CliError> {
    match format {
        Format::Table => print(&table()?),
        Format::Json => print(&pretty(&Value::Array(items.to_vec()))),
        Format::Jsonlines => items.iter().try_for_each(print_line),
    }
}

/// Writes one thing: `text` makes what people read.
///
/// # Errors
/// If standard output takes no more.
pub fn print_one(
    format: Format,
    item: &Value,
    text: impl FnOnce() -> Result<String, CliError>,
) -> Result<(), CliError> {
    match format {
        Format::Table => print(&text()?),
        Format::Json => print(&pretty(item)),
        Format::Jsonlines => print_line(item),
    }
}

/// Writes one JSON document as a line, at once.
///
/// # Errors
/// If standard output takes no more.
pub fn print_line(item: &Value) -> Result<(), CliError> {
    print(&format!("{item}\n"))
}

/// A JSON document over several lines, with a line end.
pub fn pretty(item: &Value) -> String {
    format!("{item:#}\n")
}

/// Reads the items of a list into the type of the interface.
///
/// # Errors
/// If they are not of that type.
pub fn typed<T: serde::de::DeserializeOwned>(attempted: &str, item: &Value) -> Result<T, CliError> {
    serde::Deserialize::deserialize(item)
        .map_err(|error: serde_json::Error| CliError::bad_reply(attempted, error))
}
