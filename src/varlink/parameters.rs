//! Whether the parameters of a call fit the interface's own description: every field known, none missing, every type and
//! every enum value right. A caller's slip is told by the path of the field, whatever the method would have made of it.

use serde_json::Value;
use varlink_parser::{IDL, VEnum, VStruct, VStructOrEnum, VType, VTypeExt};

use super::call::CallError;

/// A parsed description.
pub(super) struct Definition {
    idl: IDL<'static>,
}

impl Definition {
    /// Parses one of our own descriptions.
    pub(super) fn parse(description: &'static str) -> Self {
        let idl = IDL::try_from(description).expect("our own interface descriptions are checked by a test");
        Self { idl }
    }

    /// Checks the parameters of `method`.
    ///
    /// # Errors
    /// [`CallError::MethodNotFound`]; [`CallError::InvalidParameter`] with the path.
    pub(super) fn check(&self, method: &str, full_method: &str, parameters: &Value) -> Result<(), CallError> {
        let Some(method) = self.idl.methods.get(method) else {
            return Err(CallError::MethodNotFound { method: full_method.to_owned() });
        };
        self.check_struct("", &method.input, parameters)
            .map_err(|parameter| CallError::InvalidParameter { parameter })
    }

    fn check_struct(&self, path: &str, fields: &VStruct<'_>, value: &Value) -> Result<(), String> {
        let Value::Object(object) = value else { return Err(path.to_owned()) };
        if let Some(unknown) =
            object.keys().find(|key| !fields.elts.iter().any(|field| field.name == key.as_str()))
        {
            return Err(join(path, unknown));
        }
        for field in &fields.elts {
            let path = join(path, field.name);
            match object.get(field.name) {
                None | Some(Value::Null) if matches!(field.vtype, VTypeExt::Option(_)) => {}
                None => return Err(path),
                Some(value) => self.check_extended(&path, &field.vtype, value)?,
            }
        }
        Ok(())
    }

    fn check_extended(&self, path: &str, expected: &VTypeExt<'_>, value: &Value) -> Result<(), String> {
        match (expected, value) {
            (VTypeExt::Option(_), Value::Null) => Ok(()),
            (VTypeExt::Option(inner), value) => self.check_extended(path, inner, value),
            (VTypeExt::Array(inner), Value::Array(values)) => {
                values.iter().enumerate().try_for_each(|(index, value)| {
                    self.check_extended(&format!("{path}[{index}]"), inner, value)
                })
            }
            (VTypeExt::Dict(inner), Value::Object(values)) => {
                values.iter().try_for_each(|(key, value)| self.check_extended(&join(path, key), inner, value))
            }
            (VTypeExt::Plain(plain), value) => self.check_plain(path, plain, value),
            _ => Err(path.to_owned()),
        }
    }

    fn check_plain(&self, path: &str, expected: &VType<'_>, value: &Value) -> Result<(), String> {
        let fits = match expected {
            VType::Bool => value.is_boolean(),
            VType::Int => value.is_i64(),
            VType::Float => value.is_number(),
            VType::String => value.is_string(),
            VType::Object => true,
            VType::Struct(fields) => return self.check_struct(path, fields, value),
            VType::Enum(words) => is_word(words, value),
            VType::Typename(name) => match self.idl.typedefs.get(name).map(|typedef| &typedef.elt) {
                Some(VStructOrEnum::VStruct(fields)) => return self.check_struct(path, fields, value),
                Some(VStructOrEnum::VEnum(words)) => is_word(words, value),
                None => false,
            },
        };
        if fits { Ok(()) } else { Err(path.to_owned()) }
    }
}

fn is_word(words: &VEnum<'_>, value: &Value) -> bool {
    value.as_str().is_some_and(|value| words.elts.contains(&value))
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const IDL: &str = "interface a.b
type Kind (one, two)
type Inner (number: int, kind: ?Kind)
method M(text: string, maybe: ?bool, list: ?[]Inner, map: ?[string]string, any: ?object, word: ?(x, y)) -> ()
";

    #[track_caller]
    fn check(parameters: Value, expected: Option<&str>) {
        let found = Definition::parse(IDL).check("M", "a.b.M", &parameters);
        match (found, expected) {
            (Ok(()), None) => {}
            (Err(CallError::InvalidParameter { parameter }), Some(expected)) => {
                assert_eq!(parameter, expected)
            }
            (found, _) => panic!("{parameters}: {found:?}"),
        }
    }

    #[test]
    fn a_slip_is_told_by_its_path() {
        check(json!({"text": "x"}), None);
        check(json!({"text": "x", "maybe": null, "list": [], "map": {}, "any": [1], "word": "y"}), None);
        check(json!({"text": "x", "list": [{"number": 1, "kind": "two"}]}), None);
        check(json!({}), Some("text"));
        check(json!({"text": null}), Some("text"));
        check(json!({"text": 1}), Some("text"));
        check(json!({"text": "x", "Maybe": true}), Some("Maybe"));
        check(json!({"text": "x", "maybe": "true"}), Some("maybe"));
        check(json!({"text": "x", "list": {}}), Some("list"));
        check(json!({"text": "x", "list": [{"number": 1}, {"number": 1.5}]}), Some("list[1].number"));
        check(json!({"text": "x", "list": [{"number": 1, "kind": "three"}]}), Some("list[0].kind"));
        check(json!({"text": "x", "list": [{"number": 1, "extra": 1}]}), Some("list[0].extra"));
        check(json!({"text": "x", "map": {"a": 1}}), Some("map.a"));
        check(json!({"text": "x", "word": "z"}), Some("word"));
    }

    #[test]
    fn an_unknown_method_is_named_in_full() {
        let found = Definition::parse(IDL).check("N", "a.b.N", &json!({}));
        assert_eq!(found, Err(CallError::MethodNotFound { method: "a.b.N".into() }));
    }
}
