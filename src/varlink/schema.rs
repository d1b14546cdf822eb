//! An interface's IDL as a table to hold parameters against, before they are dispatched.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use serde_json::{Map, Value};
use varlink_parser::{Argument, IDL, VStruct, VStructOrEnum, VType, VTypeExt};

use super::CallError;

/// How deep parameters may be nested; serde_json reads no deeper either.
const DEPTH_MAX: usize = 128;

/// Why an IDL text can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// It does not parse.
    #[error("cannot parse the interface definition")]
    Parse(#[source] varlink_parser::Error),
    /// It is the definition of another interface.
    #[error("the definition is that of {found:?}, not of {wanted:?}")]
    OtherInterface {
        /// The name in the definition.
        found: String,
        /// The name that the interface gives itself.
        wanted: String,
    },
    /// A field has a type that is not defined.
    #[error("type {name:?} is not defined")]
    UndefinedType {
        /// Its name.
        name: String,
    },
}

/// The methods of an interface, and its types.
#[derive(Debug)]
pub(super) struct Schema {
    interface: String,
    methods: HashMap<String, Method>,
    types: Vec<Shape>,
}

#[derive(Debug)]
struct Method {
    input: Vec<Field>,
    output: Vec<Field>,
}

#[derive(Debug)]
struct Field {
    name: String,
    shape: Shape,
}

#[derive(Debug)]
enum Shape {
    Bool,
    Int,
    Float,
    String,
    Object,
    Enum(Vec<String>),
    Struct(Vec<Field>),
    Array(Box<Shape>),
    Dict(Box<Shape>),
    Nullable(Box<Shape>),
    /// An index into [`Schema::types`].
    Named(usize),
}

impl Schema {
    pub(super) fn parse(description: &str) -> Result<Self, SchemaError> {
        // The grammar tries each kind of member in turn, and reads the comments before it each time: without them a well
        // documented interface parses twice as fast, which the first call of a cold process feels.
        let text = without_comments(description);
        let idl = IDL::try_from(&*text).map_err(SchemaError::Parse)?;
        let indices: BTreeMap<&str, usize> = idl.typedefs.keys().copied().zip(0..).collect();
        let types = idl
            .typedefs
            .values()
            .map(|definition| match &definition.elt {
                VStructOrEnum::VStruct(fields) => Ok(Shape::Struct(fields_of(fields, &indices)?)),
                VStructOrEnum::VEnum(values) => {
                    Ok(Shape::Enum(values.elts.iter().map(|value| (*value).to_owned()).collect()))
                }
            })
            .collect::<Result<_, SchemaError>>()?;
        let methods = idl
            .methods
            .values()
            .map(|method| {
                let input = fields_of(&method.input, &indices)?;
                let output = fields_of(&method.output, &indices)?;
                Ok((method.name.to_owned(), Method { input, output }))
            })
            .collect::<Result<_, SchemaError>>()?;
        Ok(Self { interface: idl.name.to_owned(), methods, types })
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    /// Checks the parameters of a call of `method` (the member's name alone).
    ///
    /// # Errors
    /// [`CallError::MethodNotFound`], and [`CallError::InvalidParameter`] for the first parameter that does not fit.
    pub(super) fn check_call(&self, method: &str, parameters: Option<&Value>) -> Result<(), CallError> {
        let method = self.methods.get(method).ok_or(CallError::MethodNotFound)?;
        self.check(&method.input, parameters).map_err(CallError::invalid_parameter)
    }

    /// Completes the parameters of a call of a lenient interface: what is missing or null is empty, what is unknown is left
    /// out, and names match whatever their case.
    ///
    /// # Errors
    /// [`CallError::MethodNotFound`], and [`CallError::InvalidParameter`] for `parameters` if one has a wrong type, or there
    /// are none for a method that has some.
    pub(super) fn complete_call(&self, method: &str, given: Option<&Value>) -> Result<Value, CallError> {
        let method = self.methods.get(method).ok_or(CallError::MethodNotFound)?;
        let completed = match given {
            _ if method.input.is_empty() => Some(Value::Object(Map::new())),
            Some(Value::Object(given)) => self.complete_fields(&method.input, given, 0),
            _ => None,
        };
        completed.ok_or_else(|| CallError::invalid_parameter("parameters"))
    }

    fn complete_fields(&self, fields: &[Field], given: &Map<String, Value>, depth: usize) -> Option<Value> {
        let mut completed = Map::new();
        for field in fields {
            let value = given.get(&field.name).or_else(|| {
                let same = |(name, _): &(&String, &Value)| name.eq_ignore_ascii_case(&field.name);
                given.iter().find(same).map(|(_, value)| value)
            });
            let value = self.complete_value(&field.shape, value.unwrap_or(&Value::Null), depth + 1)?;
            completed.insert(field.name.clone(), value);
        }
        Some(Value::Object(completed))
    }

    /// `None` for a wrong type.
    fn complete_value(&self, shape: &Shape, value: &Value, depth: usize) -> Option<Value> {
        if depth > DEPTH_MAX {
            return None;
        }
        let value = match (shape, value) {
            (Shape::Nullable(_), Value::Null) => Value::Null,
            (Shape::Nullable(shape), value) => return self.complete_value(shape, value, depth),
            (Shape::Named(index), value) => {
                return self.complete_value(&self.types[*index], value, depth + 1);
            }
            (Shape::Struct(fields), Value::Object(given)) => {
                return self.complete_fields(fields, given, depth);
            }
            (Shape::Struct(fields), Value::Null) => return self.complete_fields(fields, &Map::new(), depth),
            (Shape::Array(shape), Value::Array(values)) => {
                let completed = values.iter().map(|value| self.complete_value(shape, value, depth + 1));
                Value::Array(completed.collect::<Option<_>>()?)
            }
            (Shape::Dict(shape), Value::Object(values)) => {
                let completed = values
                    .iter()
                    .map(|(key, value)| Some((key.clone(), self.complete_value(shape, value, depth + 1)?)));
                Value::Object(completed.collect::<Option<_>>()?)
            }
            (Shape::Bool, Value::Null) => Value::Bool(false),
            (Shape::Int | Shape::Float, Value::Null) => Value::from(0),
            (Shape::String, Value::Null) => Value::from(""),
            (Shape::Array(_), Value::Null) => Value::Array(Vec::new()),
            (Shape::Dict(_) | Shape::Object, Value::Null) => Value::Object(Map::new()),
            (shape, value) => return self.check_value(shape, value, depth).ok().map(|()| value.clone()),
        };
        Some(value)
    }

    /// Checks our own reply to `method`, for debug builds: a mistake of ours, so it panics.
    pub(super) fn assert_reply(&self, method: &str, message: &[u8]) {
        let text = message.strip_suffix(b"\0").unwrap_or(message);
        let Ok(Value::Object(mut reply)) = serde_json::from_slice(text) else { return };
        let Some(known) = self.methods.get(method) else { return };
        if let Err(path) = self.check(&known.output, reply.remove("parameters").as_ref()) {
            panic!("the reply of {}.{method} does not fit its IDL at {path:?}", self.interface);
        }
    }

    /// The error is the path of what does not fit.
    fn check(&self, fields: &[Field], parameters: Option<&Value>) -> Result<(), String> {
        let empty = Map::new();
        let parameters = match parameters {
            None | Some(Value::Null) => &empty,
            Some(Value::Object(parameters)) => parameters,
            Some(_) => return Err("parameters".to_owned()),
        };
        self.check_fields(fields, parameters, 0).map_err(|misfit| misfit.path())
    }

    fn check_fields(
        &self,
        fields: &[Field],
        values: &Map<String, Value>,
        depth: usize,
    ) -> Result<(), Misfit> {
        for field in fields {
            match (values.get(&field.name), &field.shape) {
                (None, Shape::Nullable(_)) => {}
                (None, _) => return Err(Misfit::at(Step::Field(field.name.clone()))),
                (Some(value), shape) => self
                    .check_value(shape, value, depth + 1)
                    .map_err(|misfit| misfit.below(Step::Field(field.name.clone())))?,
            }
        }
        // Only a call with fields that are not in the IDL pays for looking which.
        let known = fields.iter().filter(|field| values.contains_key(&field.name)).count();
        if known < values.len()
            && let Some(name) = values.keys().find(|name| !fields.iter().any(|field| field.name == **name))
        {
            return Err(Misfit::at(Step::Field(name.clone())));
        }
        Ok(())
    }

    fn check_value(&self, shape: &Shape, value: &Value, depth: usize) -> Result<(), Misfit> {
        if depth > DEPTH_MAX {
            return Err(Misfit::default());
        }
        let fits = match (shape, value) {
            (Shape::Nullable(_), Value::Null) => true,
            (Shape::Nullable(shape), value) => return self.check_value(shape, value, depth),
            (Shape::Named(index), value) => return self.check_value(&self.types[*index], value, depth),
            (Shape::Bool, Value::Bool(_))
            | (Shape::String, Value::String(_))
            | (Shape::Object, Value::Object(_)) => true,
            (Shape::Int, Value::Number(number)) => number.is_i64(),
            (Shape::Float, Value::Number(_)) => true,
            (Shape::Enum(known), Value::String(value)) => known.contains(value),
            (Shape::Struct(fields), Value::Object(values)) => {
                return self.check_fields(fields, values, depth);
            }
            (Shape::Array(shape), Value::Array(values)) => {
                for (index, value) in values.iter().enumerate() {
                    self.check_value(shape, value, depth + 1)
                        .map_err(|misfit| misfit.below(Step::Index(index)))?;
                }
                true
            }
            (Shape::Dict(shape), Value::Object(values)) => {
                for (key, value) in values {
                    self.check_value(shape, value, depth + 1)
                        .map_err(|misfit| misfit.below(Step::Key(key.clone())))?;
                }
                true
            }
            _ => false,
        };
        if fits { Ok(()) } else { Err(Misfit::default()) }
    }
}

/// Where something does not fit: the steps from the innermost outwards.
#[derive(Debug, Default)]
struct Misfit(Vec<Step>);

#[derive(Debug)]
enum Step {
    Field(String),
    Key(String),
    Index(usize),
}

impl Misfit {
    fn at(step: Step) -> Self {
        Self(vec![step])
    }

    fn below(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// `spec.mounts[2].target`; map keys are written as they are, `labels.io.example`.
    fn path(&self) -> String {
        let mut path = String::new();
        for step in self.0.iter().rev() {
            match step {
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
                Step::Field(name) | Step::Key(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
            }
        }
        path
    }
}

fn fields_of(fields: &VStruct<'_>, types: &BTreeMap<&str, usize>) -> Result<Vec<Field>, SchemaError> {
    let field = |argument: &Argument<'_>| {
        Ok(Field { name: argument.name.to_owned(), shape: shape_of(&argument.vtype, types)? })
    };
    fields.elts.iter().map(field).collect()
}

fn shape_of(vtype: &VTypeExt<'_>, types: &BTreeMap<&str, usize>) -> Result<Shape, SchemaError> {
    Ok(match vtype {
        VTypeExt::Array(inner) => Shape::Array(Box::new(shape_of(inner, types)?)),
        VTypeExt::Dict(inner) => Shape::Dict(Box::new(shape_of(inner, types)?)),
        VTypeExt::Option(inner) => Shape::Nullable(Box::new(shape_of(inner, types)?)),
        VTypeExt::Plain(plain) => match plain {
            VType::Bool => Shape::Bool,
            VType::Int => Shape::Int,
            VType::Float => Shape::Float,
            VType::String => Shape::String,
            VType::Object => Shape::Object,
            VType::Typename(name) => match types.get(name) {
                Some(index) => Shape::Named(*index),
                None => return Err(SchemaError::UndefinedType { name: (*name).to_owned() }),
            },
            VType::Struct(fields) => Shape::Struct(fields_of(fields, types)?),
            VType::Enum(values) => Shape::Enum(values.elts.iter().map(|value| (*value).to_owned()).collect()),
        },
    })
}

/// The text without its comments; `#` has no other meaning in the language.
fn without_comments(description: &str) -> String {
    let mut text = String::with_capacity(description.len() / 2);
    for line in description.lines() {
        let code = line.split_once('#').map_or(line, |(code, _)| code).trim_end();
        if !code.is_empty() {
            text.push_str(code);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = "# An example.\ninterface org.example.schema # trailing\n
        type Mount (target: string, kind: Kind, options: ?[]string)
        type Kind (bind, tmpfs)
        type Spec (mounts: []Mount, labels: [string]string, nested: ?Spec, inline: ?(a: int, b: (x, y)))
        # A method.
        method Create(spec: Spec, ratio: ?float, raw: ?object) -> (id: string)
        method Ping() -> ()
        error Failed (reason: string)\n";

    fn check(parameters: Value) -> Result<(), String> {
        let schema = Schema::parse(TEXT).unwrap();
        match schema.check_call("Create", Some(&parameters)) {
            Ok(()) => Ok(()),
            Err(CallError::InvalidParameter { parameter }) => Err(parameter),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn parameters_that_fit_pass() {
        for parameters in [
            json!({"spec": {"mounts": [], "labels": {}}}),
            json!({"spec": {"mounts": [], "labels": {}, "nested": null}, "ratio": 1, "raw": {"any": [1]}}),
            json!({"spec": {"mounts": [{"target": "/", "kind": "bind", "options": ["ro"]}], "labels": {"a.b": "c"},
                "nested": {"mounts": [], "labels": {}}, "inline": {"a": -1, "b": "y"}}, "ratio": 0.5}),
        ] {
            assert_eq!(check(parameters.clone()), Ok(()), "{parameters}");
        }
    }

    #[test]
    fn a_misfit_is_named_by_its_exact_path() {
        let mount = json!({"target": "/", "kind": "bind"});
        for (parameters, path) in [
            (json!({}), "spec"),
            (json!({"spec": null}), "spec"),
            (json!({"spec": []}), "spec"),
            (json!({"spec": {"labels": {}}}), "spec.mounts"),
            (json!({"spec": {"mounts": [], "labels": {}}, "extra": 1}), "extra"),
            (json!({"spec": {"mounts": [], "labels": {}, "Labels": {}}}), "spec.Labels"),
            (
                json!({"spec": {"mounts": [mount, mount, {"target": 1, "kind": "bind"}], "labels": {}}}),
                "spec.mounts[2].target",
            ),
            (
                json!({"spec": {"mounts": [{"target": "/", "kind": "Bind"}], "labels": {}}}),
                "spec.mounts[0].kind",
            ),
            (
                json!({"spec": {"mounts": [{"target": "/", "kind": "bind", "options": ["a", 1]}], "labels": {}}}),
                "spec.mounts[0].options[1]",
            ),
            (json!({"spec": {"mounts": [], "labels": {"io.example": null}}}), "spec.labels.io.example"),
            (json!({"spec": {"mounts": [], "labels": {}, "inline": {"a": 1.5, "b": "x"}}}), "spec.inline.a"),
            (
                json!({"spec": {"mounts": [], "labels": {}, "inline": {"a": 9_223_372_036_854_775_808_u64, "b": "x"}}}),
                "spec.inline.a",
            ),
            (
                json!({"spec": {"mounts": [], "labels": {}, "nested": {"mounts": 1, "labels": {}}}}),
                "spec.nested.mounts",
            ),
            (json!({"spec": {"mounts": [], "labels": {}}, "raw": "text"}), "raw"),
            (json!({"spec": {"mounts": [], "labels": {}}, "ratio": "1"}), "ratio"),
        ] {
            assert_eq!(check(parameters.clone()), Err(path.to_owned()), "{parameters}");
        }
    }

    #[test]
    fn what_a_lenient_interface_is_given_is_made_to_fit() {
        let schema = Schema::parse(TEXT).unwrap();
        let complete = |given: Value| match schema.complete_call("Create", Some(&given)) {
            Ok(made) => Ok(made),
            Err(CallError::InvalidParameter { parameter }) => Err(parameter),
            Err(other) => panic!("{other}"),
        };
        let empty = json!({"mounts": [], "labels": {}, "nested": null, "inline": null});
        assert_eq!(complete(json!({})), Ok(json!({"spec": empty, "ratio": null, "raw": null})));
        let given = json!({"SPEC": {"Labels": {"A": null}, "mounts": null, "extra": 1}, "Ratio": 1});
        let spec = json!({"mounts": [], "labels": {"A": ""}, "nested": null, "inline": null});
        assert_eq!(complete(given), Ok(json!({"spec": spec, "ratio": 1, "raw": null})));
        assert_eq!(complete(json!({"spec": {"labels": []}})), Err("parameters".to_owned()));
        assert!(schema.complete_call("Create", None).is_err());
        assert_eq!(schema.complete_call("Ping", None).unwrap(), json!({}));
    }

    #[test]
    fn a_method_that_the_idl_lacks_is_not_found() {
        let schema = Schema::parse(TEXT).unwrap();
        assert!(matches!(schema.check_call("Delete", None), Err(CallError::MethodNotFound)));
        assert!(schema.check_call("Ping", None).is_ok());
    }

    #[test]
    fn an_idl_with_an_undefined_type_is_refused() {
        let parse = |text: &str| Schema::parse(text).unwrap_err().to_string();
        assert_eq!(parse("interface a.b\nmethod M(x: Absent) -> ()\n"), "type \"Absent\" is not defined");
        assert_eq!(parse("interface a.b\nnonsense\n"), "cannot parse the interface definition");
    }

    #[test]
    #[should_panic(expected = "the reply of org.example.schema.Create does not fit its IDL at \"id\"")]
    fn a_reply_of_ours_that_breaks_the_idl_panics_in_debug_builds() {
        Schema::parse(TEXT).unwrap().assert_reply("Create", b"{\"parameters\":{\"id\":1}}\0");
    }
}
