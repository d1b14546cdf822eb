//! Documents of Kubernetes, read field by field: each complaint names the document and the path, and what nobody has asked
//! for does not get lost.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::engine::EngineError;

/// Where something stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1 on.
    pub document: usize,
    /// As in `spec.containers[0].image`.
    pub field: String,
}

impl Place {
    pub fn invalid(&self, reason: impl Into<String>) -> EngineError {
        EngineError::InvalidDocument {
            document: self.document,
            field: self.field.clone(),
            reason: reason.into(),
        }
    }

    /// What came of what stands here.
    pub fn of(&self, error: EngineError) -> EngineError {
        match error {
            EngineError::InvalidSpec { field, reason } => self.invalid(format!("{field}: {reason}")),
            EngineError::InvalidDocument { .. } | EngineError::InDocument { .. } => error,
            error => EngineError::InDocument {
                document: self.document,
                field: self.field.clone(),
                error: Box::new(error),
            },
        }
    }

    pub fn below(&self, name: &str) -> Self {
        let field = if self.field.is_empty() || self.field.ends_with('.') {
            format!("{}{name}", self.field)
        } else {
            format!("{}.{name}", self.field)
        };
        Self { document: self.document, field }
    }

    fn item(&self, index: usize) -> Self {
        Self { document: self.document, field: format!("{}[{index}]", self.field) }
    }
}

/// What is to be said about fields that nobody has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Told: the container runs without it, as with podman.
    Told,
    /// Refused: without it the container could do more than its author wants.
    Refused,
}

/// What a person is to be told.
pub(super) type Warnings = RefCell<Vec<String>>;

/// An object that is read.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub place: Place,
    fields: Map<String, Value>,
    warnings: &'a Warnings,
}

impl<'a> Fields<'a> {
    pub fn of(place: Place, value: Value, warnings: &'a Warnings) -> Result<Self, EngineError> {
        match value {
            Value::Object(fields) => Ok(Self { place, fields, warnings }),
            other => Err(place.invalid(format!("{} stands where an object is wanted", kind(&other)))),
        }
    }

    pub fn place(&self, name: &str) -> Place {
        self.place.below(name)
    }

    pub fn invalid(&self, name: &str, reason: impl Into<String>) -> EngineError {
        self.place(name).invalid(reason)
    }

    pub fn warn(&self, name: &str, what: &str) {
        let Place { document, field } = self.place(name);
        self.warnings.borrow_mut().push(format!("document {document}, {field}: {what}"));
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    pub fn look(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    pub fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    pub fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !is_empty(value))
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.invalid(name, no_text(&other))),
        }
    }

    pub fn needed(&mut self, name: &str) -> Result<String, EngineError> {
        match self.text(name)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.invalid(name, "it is missing")),
        }
    }

    /// A number or a text, as quantities and ports may be.
    pub fn scalar(&mut self, name: &str) -> Result<Option<String>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(self.invalid(name, no_text(&other))),
        }
    }

    pub fn truth(&mut self, name: &str) -> Result<Option<bool>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(other) => Err(self.invalid(name, format!("{} is neither true nor false", kind(&other)))),
        }
    }

    pub fn is(&mut self, name: &str) -> Result<bool, EngineError> {
        Ok(self.truth(name)?.unwrap_or(false))
    }

    /// A number that is not negative.
    pub fn number<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, EngineError> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|number| T::try_from(number).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(self.invalid(name, format!("{value} is no number that is possible here"))),
            },
        }
    }

    pub fn list(&mut self, name: &str) -> Result<Vec<(Place, Value)>, EngineError> {
        let place = self.place(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => {
                Ok(values.into_iter().enumerate().map(|(index, value)| (place.item(index), value)).collect())
            }
            Some(other) => Err(place.invalid(format!("{} stands where a list is wanted", kind(&other)))),
        }
    }

    pub fn objects(&mut self, name: &str) -> Result<Vec<Self>, EngineError> {
        let warnings = self.warnings;
        self.list(name)?.into_iter().map(|(place, value)| Self::of(place, value, warnings)).collect()
    }

    /// A list of texts; `None` if there is none.
    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, EngineError> {
        if self.fields.get(name).is_none_or(Value::is_null) {
            return Ok(None);
        }
        let text = |(place, value): (Place, Value)| match value {
            Value::String(text) => Ok(text),
            other => Err(place.invalid(no_text(&other))),
        };
        self.list(name)?.into_iter().map(text).collect::<Result<_, _>>().map(Some)
    }

    pub fn object(&mut self, name: &str) -> Result<Option<Self>, EngineError> {
        let place = self.place(name);
        self.take(name).map(|value| Self::of(place, value, self.warnings)).transpose()
    }

    /// Also if it says nothing.
    pub fn take_even_if_null(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name)
    }

    /// What stands, or could stand, in a field.
    pub fn inner(&self, name: &str, value: Value) -> Result<Self, EngineError> {
        Self::of(self.place(name), value, self.warnings)
    }

    /// An object of texts.
    pub fn map(&mut self, name: &str) -> Result<BTreeMap<String, String>, EngineError> {
        let Some(inner) = self.object(name)? else { return Ok(BTreeMap::new()) };
        let place = inner.place.clone();
        let pair = |(key, value): (String, Value)| match value {
            Value::String(text) => Ok((key, text)),
            Value::Null => Ok((key, String::new())),
            other => Err(place.below(&key).invalid(no_text(&other))),
        };
        inner.fields.into_iter().map(pair).collect()
    }

    /// The names of fields that were not asked for yet.
    pub fn names(&self) -> Vec<String> {
        self.fields.keys().cloned().collect()
    }

    /// What says nothing to a single host.
    pub fn pass_over(&mut self, names: &[&str]) {
        for name in names {
            self.fields.remove(*name);
        }
    }

    /// The end: what is left was not carried out.
    pub fn finish(self, rest: Rest) -> Result<(), EngineError> {
        for (name, value) in &self.fields {
            if is_empty(value) {
                continue;
            }
            if rest == Rest::Refused {
                return Err(self.invalid(
                    name,
                    "it can't be carried out here, and without it the container could do more than it should; take it out",
                ));
            }
            self.warn(name, "it is not carried out");
        }
        Ok(())
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn no_text(value: &Value) -> String {
    match value {
        Value::Bool(_) | Value::Number(_) => format!("{value} is no text; write it in quotation marks"),
        other => format!("{} stands where a text is wanted", kind(other)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
