//! What the commands of networks, pods, secrets and volumes have in common: the interface of each has the same List, Inspect
//! and verbs.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::{Nothing, for_each};
use crate::cli::done::{Done, each_there};
use crate::cli::errors::CliError;
use crate::cli::output::{DocumentFlag, FormatFlag, print_list, typed};
use crate::cli::service::Service;

/// A kind of objects.
pub(super) struct Noun {
    /// What one is called, and where the reply of Inspect has it.
    pub one: &'static str,
    /// What several are called, and where the reply of List has them.
    pub many: &'static str,
    pub interface: &'static str,
}

impl Noun {
    pub fn call<T: DeserializeOwned>(
        &self,
        service: &Service,
        attempted: &str,
        method: &str,
        parameters: Value,
    ) -> Result<T, CliError> {
        service.call(attempted, &format!("{}.{method}", self.interface), parameters)
    }

    /// Calls a method for each of several. With `ignore`, one that is not there is no failure.
    pub fn act(
        &self,
        service: &Service,
        form: &FormatFlag,
        names: &[String],
        ignore: bool,
        method: &str,
        parameters: Value,
    ) -> Result<(), CliError> {
        each_there(form, names, ignore, |name| {
            let mut parameters = parameters.clone();
            parameters["name"] = json!(name);
            let attempted = format!("{} the {} {name:?}", method.to_ascii_lowercase(), self.one);
            let Nothing {} = self.call(service, &attempted, method, parameters)?;
            Ok(Done::to(name))
        })
    }

    pub fn list(&self, service: &Service, parameters: Value) -> Result<Vec<Value>, CliError> {
        let attempted = format!("list {}", self.many);
        let mut reply: Value = self.call(service, &attempted, "List", parameters)?;
        typed(&attempted, &reply[self.many].take())
    }

    /// Lists what fits; `text` is for people.
    pub fn print_list<T: DeserializeOwned>(
        &self,
        service: &Service,
        form: &FormatFlag,
        parameters: Value,
        text: impl FnOnce(&[T]) -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        let listed = self.list(service, parameters)?;
        print_list(form.format, &listed, || {
            let attempted = format!("list {}", self.many);
            let objects = listed.iter().map(|object| typed(&attempted, object));
            text(&objects.collect::<Result<Vec<T>, _>>()?)
        })
    }

    /// The one of this very name.
    pub fn named(&self, service: &Service, name: &str) -> Result<Option<Value>, CliError> {
        let listed = self.list(service, json!({"names": [name]}))?;
        Ok(listed.into_iter().find(|object| object["name"] == name))
    }

    pub fn inspect(&self, service: &Service, name: &str) -> Result<Value, CliError> {
        let attempted = format!("inspect the {} {name:?}", self.one);
        let mut reply: Value = self.call(service, &attempted, "Inspect", json!({ "name": name }))?;
        Ok(reply[self.one].take())
    }

    /// Tells all of several.
    pub fn print_details(
        &self,
        service: &Service,
        form: &DocumentFlag,
        names: &[String],
    ) -> Result<(), CliError> {
        let mut found = Vec::new();
        let told = for_each(names, |name| {
            found.push(self.inspect(service, name)?);
            Ok(())
        });
        form.print(&found)?;
        told
    }
}

/// One that was made, as the service describes it; people read its name.
pub(super) fn made(object: &Value) -> Done {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    Done::made(text("name"), text("id")).saying(text("name"))
}

/// The parameters of List that `--filter` asks for. What all don't know is for `other`, which says whether it does; `known`
/// names all that there is.
pub(super) fn filters(
    given: &[String],
    known: &str,
    mut other: impl FnMut(&str, &str) -> bool,
) -> Result<Value, CliError> {
    let (mut names, mut labels) = (Vec::new(), Map::new());
    for filter in given {
        match filter.split_once('=') {
            Some(("name" | "id", name)) => names.push(name),
            Some(("label", label)) => add_label(&mut labels, label),
            Some((key, value)) if other(key, value) => {}
            _ => {
                return Err(CliError::usage(format!("--filter: {filter:?} is no filter"))
                    .with_hint(format!("{known} are known")));
            }
        }
    }
    Ok(json!({"names": names, "labels": labels}))
}

/// A label as a filter has it: KEY=VALUE, or KEY.
pub(super) fn add_label(labels: &mut Map<String, Value>, label: &str) {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    labels.insert(key.to_owned(), json!(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_told() {
        let given = ["name=a", "id=b", "label=x", "label=y=1=2", "dangling=true"].map(str::to_owned);
        let read = filters(&given, "all", |key, value| (key, value) == ("dangling", "true")).unwrap();
        assert_eq!(read, json!({"names": ["a", "b"], "labels": {"x": "", "y": "1=2"}}));
        for bad in ["dangling=true", "name", ""] {
            let error = filters(&[bad.to_owned()], "name= and id=", |_, _| false).unwrap_err();
            assert!(error.message.contains("is no filter"), "{}", error.message);
        }
    }
}
