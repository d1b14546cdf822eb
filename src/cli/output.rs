//! How a result is written: a table for people, or JSON for programs.

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::errors::CliError;
use crate::cli::streams::print;

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

/// `--format`, for commands that have something to show.
#[derive(Debug, Args)]
pub struct FormatFlag {
    /// Form of the output
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    pub format: Format,
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
