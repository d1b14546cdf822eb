//! Bytes to messages to calls: pure functions, fuzzed by `fuzz/fuzz_targets/call_decoder.rs`.
//!
//! A message is a JSON object followed by a NUL byte.
//!
//! Source: <https://varlink.org/Method-Call>.

use std::borrow::Cow;

use serde_json::{Map, Value};
pub use varlink::{Reply as WireReply, Request};

/// The most bytes that a message may have, without its NUL: as many as systemd's services accept.
pub const MESSAGE_SIZE_MAX: usize = 16 * 1024 * 1024;

/// The most descriptors that travel with one message: the kernel's own `SCM_MAX_FD`.
pub const MESSAGE_FDS_MAX: usize = 253;

/// Why a connection's bytes are no message; it must be closed, for nothing after this can be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// More bytes than a message may have, and no NUL among them.
    #[error("the message is longer than {MESSAGE_SIZE_MAX} bytes")]
    TooLong,
    /// Not JSON, or not an object.
    #[error("the message is no JSON object")]
    NoObject {
        /// What the parser said; `None` for valid JSON that is something else.
        #[source]
        source: Option<serde_json::Error>,
    },
}

/// Cuts a byte stream at its NULs.
#[derive(Debug, Default)]
pub struct Framer {
    partial: Vec<u8>,
}

impl Framer {
    /// Whether the stream may end here without cutting a message in two.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }

    /// How many of the bytes that come next belong to the current message, its NUL included.
    ///
    /// # Errors
    /// [`WireError::TooLong`] if the message would be too long with them.
    pub fn measure(&self, next: &[u8]) -> Result<usize, WireError> {
        let (taken, text) = match next.iter().position(|byte| *byte == 0) {
            Some(nul) => (nul + 1, nul),
            None => (next.len(), next.len()),
        };
        if text > MESSAGE_SIZE_MAX - self.partial.len() { Err(WireError::TooLong) } else { Ok(taken) }
    }

    /// Takes bytes up to the next NUL: how many were taken, and the message if it is complete.
    ///
    /// # Errors
    /// [`WireError::TooLong`]; nothing was taken then.
    pub fn push(&mut self, next: &[u8]) -> Result<(usize, Option<Vec<u8>>), WireError> {
        let taken = self.measure(next)?;
        let bytes = &next[..taken];
        match bytes.split_last() {
            Some((0, text)) => {
                let mut message = std::mem::take(&mut self.partial);
                message.extend_from_slice(text);
                Ok((taken, Some(message)))
            }
            _ => {
                self.partial.extend_from_slice(bytes);
                Ok((taken, None))
            }
        }
    }
}

/// What a message from a client turned out to be.
#[derive(Debug)]
pub enum Decoded {
    /// A call.
    Call(Request<'static>),
    /// An object that is no proper call: the field that is wrong, for `org.varlink.service.InvalidParameter`.
    Invalid {
        /// `method`, `parameters`, `more`, `oneway` or `upgrade`.
        field: &'static str,
        /// Whether the client asked for no reply.
        oneway: bool,
    },
}

/// Decodes one message, without its NUL.
///
/// # Errors
/// [`WireError::NoObject`]: the connection is of no more use.
pub fn decode_call(message: &[u8]) -> Result<Decoded, WireError> {
    let mut fields = decode_object(message)?;
    let more = take_flag(&mut fields, "more");
    let oneway = take_flag(&mut fields, "oneway");
    let upgrade = take_flag(&mut fields, "upgrade");
    let is_oneway = matches!(oneway, Ok(Some(true)));
    let invalid = |field| Ok(Decoded::Invalid { field, oneway: is_oneway });
    let Some(Value::String(method)) = fields.remove("method") else { return invalid("method") };
    let parameters = match fields.remove("parameters") {
        None | Some(Value::Null) => None,
        Some(Value::Object(parameters)) => Some(Value::Object(parameters)),
        Some(_) => return invalid("parameters"),
    };
    match (more, oneway, upgrade) {
        (Ok(more), Ok(oneway), Ok(upgrade)) => {
            Ok(Decoded::Call(Request { more, oneway, upgrade, method: Cow::Owned(method), parameters }))
        }
        (Err(field), ..) | (_, Err(field), _) | (.., Err(field)) => invalid(field),
    }
}

/// Decodes one reply, without its NUL.
///
/// # Errors
/// [`WireError::NoObject`], also for an object whose fields have the wrong types.
pub fn decode_reply(message: &[u8]) -> Result<WireReply, WireError> {
    let fields = decode_object(message)?;
    serde_json::from_value(Value::Object(fields))
        .map_err(|source| WireError::NoObject { source: Some(source) })
}

fn decode_object(message: &[u8]) -> Result<Map<String, Value>, WireError> {
    match serde_json::from_slice(message) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(WireError::NoObject { source: None }),
        Err(source) => Err(WireError::NoObject { source: Some(source) }),
    }
}

fn take_flag(fields: &mut Map<String, Value>, name: &'static str) -> Result<Option<bool>, &'static str> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(chunks: &[&[u8]]) -> Result<Vec<String>, WireError> {
        let mut framer = Framer::default();
        let mut found = Vec::new();
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let (taken, message) = framer.push(rest)?;
                rest = &rest[taken..];
                found.extend(message.map(|message| String::from_utf8(message).unwrap()));
            }
        }
        Ok(found)
    }

    #[test]
    fn messages_end_at_nul_however_the_bytes_arrive() {
        let check = |chunks: &[&[u8]], expected: &[&str]| assert_eq!(messages(chunks).unwrap(), expected);
        check(&[b"{}\0"], &["{}"]);
        check(&[b"{", b"}", b"\0"], &["{}"]);
        check(&[b"{}\0{1}\0{"], &["{}", "{1}"]);
        check(&[b"{", b"}\0{1", b"}\0"], &["{}", "{1}"]);
        check(&[b"\0\0"], &["", ""]);
        check(&[], &[]);
    }

    #[test]
    fn a_message_of_exactly_the_limit_is_whole_and_one_byte_more_is_refused() {
        let text = vec![b'x'; MESSAGE_SIZE_MAX];
        assert_eq!(messages(&[&text, b"\0"]).unwrap().len(), 1);
        assert!(matches!(messages(&[&text, b"x"]), Err(WireError::TooLong)));
        assert!(matches!(messages(&[&text[..MESSAGE_SIZE_MAX - 1], b"xx\0"]), Err(WireError::TooLong)));
    }

    #[test]
    fn a_call_keeps_its_flags_and_parameters() {
        let Ok(Decoded::Call(request)) =
            decode_call(br#"{"method":"a.b.C","parameters":{"x":1},"more":true,"oneway":null,"other":[]}"#)
        else {
            panic!("a call was refused");
        };
        assert_eq!(request.method, "a.b.C");
        assert_eq!((request.more, request.oneway, request.upgrade), (Some(true), None, None));
        assert_eq!(request.parameters, Some(serde_json::json!({"x": 1})));
    }

    #[test]
    fn an_object_that_is_no_call_names_the_field_that_is_wrong() {
        let check = |message: &str, expected: (&str, bool)| match decode_call(message.as_bytes()) {
            Ok(Decoded::Invalid { field, oneway }) => assert_eq!((field, oneway), expected, "{message}"),
            other => panic!("{message}: {other:?}"),
        };
        check("{}", ("method", false));
        check(r#"{"method":1}"#, ("method", false));
        check(r#"{"method":null,"oneway":true}"#, ("method", true));
        check(r#"{"method":"a.b.C","parameters":[]}"#, ("parameters", false));
        check(r#"{"method":"a.b.C","more":1}"#, ("more", false));
        check(r#"{"method":"a.b.C","oneway":"yes"}"#, ("oneway", false));
        check(r#"{"method":"a.b.C","upgrade":{}}"#, ("upgrade", false));
    }

    #[test]
    fn anything_but_an_object_ends_the_connection() {
        for message in
            [&b""[..], b"[]", b"1", b"null", b"\"x\"", b"{", b"{}{}", b"GET / HTTP/1.1\r\n\r\n", b"\xff"]
        {
            assert!(decode_call(message).is_err(), "{message:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(decode_call(format!("{{\"a\":{deep}").as_bytes()).is_err());
    }
}
