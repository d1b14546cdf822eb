//! The documents of a text, and which of them make what.

use serde_json::Value;

use super::fields::{Fields, Place, Warnings};
use crate::engine::EngineError;

/// A document whose kind is known here.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub kind: Kind,
    pub name: String,
    pub fields: Fields<'a>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pod,
    /// What makes pods by a template.
    Deployment,
    DaemonSet,
    Job,
    ConfigMap,
    Secret,
    Claim,
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "Pod" => Self::Pod,
            "Deployment" => Self::Deployment,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            "ConfigMap" => Self::ConfigMap,
            "Secret" => Self::Secret,
            "PersistentVolumeClaim" => Self::Claim,
            _ => return None,
        })
    }

    pub fn has_template(self) -> bool {
        matches!(self, Self::Deployment | Self::DaemonSet | Self::Job)
    }
}

impl Document<'_> {
    /// What its pod is called; that of a template as podman has it.
    pub fn pod_name(&self) -> Option<String> {
        match self.kind {
            Kind::Pod => Some(self.name.clone()),
            kind if kind.has_template() => Some(format!("{}-pod", self.name)),
            _ => None,
        }
    }
}

/// Reads YAML. Documents of other kinds are told, and passed over.
pub(super) fn read<'a>(text: &str, warnings: &'a Warnings) -> Result<Vec<Document<'a>>, EngineError> {
    let values: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        // Its text shows the lines around, which may be those of a secret.
        let reason = error.without_snippet().to_string();
        let lines = text.lines().take(usize::try_from(line).unwrap_or(usize::MAX));
        let mut documents = 0;
        let mut is_begun = false;
        for line in lines {
            let is_mark = line.trim_end() == "---" || line.starts_with("--- ");
            if is_mark {
                is_begun = false;
            } else if !is_begun && !line.trim().is_empty() && !line.starts_with(['#', '%']) {
                is_begun = true;
                documents += 1;
            }
        }
        EngineError::InvalidDocument {
            document: documents.max(1),
            field: format!("line {line}"),
            reason: format!("it is no YAML: {reason}"),
        }
    })?;
    let mut documents = Vec::new();
    for (index, value) in values.into_iter().enumerate() {
        let place = Place { document: index + 1, field: String::new() };
        let mut fields = Fields::of(place, value, warnings)?;
        if fields.has("items") && is_list(&fields) {
            for mut item in fields.objects("items")? {
                item.place.field.push('.');
                documents.extend(document(item)?);
            }
            continue;
        }
        documents.extend(document(fields)?);
    }
    Ok(documents)
}

fn is_list(fields: &Fields<'_>) -> bool {
    fields.look("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"))
}

fn document(mut fields: Fields<'_>) -> Result<Option<Document<'_>>, EngineError> {
    let word = fields.needed("kind")?;
    let Some(kind) = Kind::of(&word) else {
        fields.warn("kind", &format!("a {word} makes nothing here, and is passed over"));
        return Ok(None);
    };
    fields.pass_over(&["apiVersion", "status"]);
    let Some(mut metadata) = fields.object("metadata")? else {
        return Err(fields.invalid("metadata.name", "it is missing"));
    };
    let name = metadata.needed("name")?;
    // Its other fields are for those who make pods of it.
    let mut rest = serde_json::Map::new();
    for field in metadata.names() {
        rest.extend(metadata.take(&field).map(|value| (field, value)));
    }
    fields.put("metadata", rest.into());
    Ok(Some(Document { kind, name, fields }))
}
