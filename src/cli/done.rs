//! What commands tell of what they have done: a name or an id in a line for people, an object for each thing for programs.
//!
//! The shape is the same for all verbs: `name` is what it was called in the arguments, or is called now that it is made; `id`
//! is there where one was made; `error` says in words why nothing was done to this one. What else a verb knows stands beside.

use serde_json::{Map, Value, json};

use crate::cli::errors::{CliError, FailureKind};
use crate::cli::output::{Format, FormatFlag, pretty, print_line};
use crate::cli::streams::{complain, print};
use crate::cli::table::printable;

/// One thing to which something was done.
#[derive(Debug)]
pub struct Done {
    fields: Map<String, Value>,
    text: Option<String>,
}

impl Done {
    /// To what is called so; people read the name.
    pub fn to(name: &str) -> Self {
        Self { fields: Map::new(), text: Some(printable(name)) }.with("name", json!(name))
    }

    /// It was made, and has this id; people read the id.
    pub fn made(name: &str, id: &str) -> Self {
        Self::to(name).with("id", json!(id)).saying(id)
    }

    /// Tells programs one thing more.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(field.to_owned(), value.into());
        self
    }

    /// People read this line.
    #[must_use]
    pub fn saying(mut self, text: &str) -> Self {
        self.text = Some(printable(text));
        self
    }

    /// People read nothing.
    #[must_use]
    pub fn silently(mut self) -> Self {
        self.text = None;
        self
    }

    fn failed(name: &str, error: &CliError) -> Self {
        Self::to(name).silently().with("error", error.message.as_str())
    }

    fn line(&self) -> Result<(), CliError> {
        self.text.as_ref().map_or(Ok(()), |text| print(&format!("{text}\n")))
    }
}

/// Tells of one thing.
///
/// # Errors
/// If standard output takes no more.
pub fn tell(form: &FormatFlag, done: Done) -> Result<(), CliError> {
    tell_all(form, vec![done])
}

/// Tells of several things at once.
///
/// # Errors
/// If standard output takes no more.
pub fn tell_all(form: &FormatFlag, all: Vec<Done>) -> Result<(), CliError> {
    match form.format {
        Format::Table => all.iter().try_for_each(Done::line),
        Format::Json => {
            print(&pretty(&Value::Array(all.into_iter().map(|done| Value::Object(done.fields)).collect())))
        }
        Format::Jsonlines => all.into_iter().try_for_each(|done| print_line(&Value::Object(done.fields))),
    }
}

/// As [`each`]; with `ignore`, one that is not there is no failure, and people read nothing of it.
///
/// # Errors
/// As [`each`].
pub fn each_there(
    form: &FormatFlag,
    names: &[String],
    ignore: bool,
    mut act: impl FnMut(&str) -> Result<Done, CliError>,
) -> Result<(), CliError> {
    each(form, names, |name| match act(name) {
        Err(error) if ignore && error.kind == FailureKind::NotFound => {
            Ok(Done::to(name).silently().with("ignored", true))
        }
        done => done,
    })
}

/// Does the same to several things, and tells of each. A failure is told, and does not keep the others from being done.
///
/// # Errors
/// The failure of a single one; else that it was told. And if standard output takes no more.
pub fn each(
    form: &FormatFlag,
    names: &[String],
    mut act: impl FnMut(&str) -> Result<Done, CliError>,
) -> Result<(), CliError> {
    let mut all = Vec::new();
    let mut told = Ok(());
    for name in names {
        let done = act(name).unwrap_or_else(|error| {
            let done = Done::failed(name, &error);
            told = Err(if names.len() == 1 {
                error
            } else {
                complain(&error.render());
                CliError::told()
            });
            done
        });
        match form.format {
            // One document, when all is done.
            Format::Json => all.push(done),
            _ => tell(form, done)?,
        }
    }
    if form.format == Format::Json {
        tell_all(form, all)?;
    }
    told
}
