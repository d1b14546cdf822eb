//! From bytes to messages. Pure: no socket, no clock, so that it can be fuzzed.
//!
//! A message is a JSON object that ends with one NUL (varlink.org, "Protocol"). Descriptors belong to the last message
//! that begins in the bytes they came with, or else to the one that these bytes go on with: a sender passes them with
//! the first byte of their message, and the kernel never joins what follows them to it (unix(7)).

use std::collections::VecDeque;

use serde_json::Value;

use super::{DESCRIPTORS_MAX, MESSAGE_MAX_BYTES};

/// Why a connection can't go on: what follows can't be told from what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than a message may have, and no end.
    #[error("a message is longer than {MESSAGE_MAX_BYTES} bytes")]
    TooLong,
    /// More descriptors than a message may bring.
    #[error("a message brings more than {DESCRIPTORS_MAX} descriptors")]
    TooManyDescriptors,
    /// No JSON, no object, or no call.
    #[error("a message is not a varlink call: {0}")]
    NotACall(String),
}

/// One message, with its NUL cut off.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<D> {
    /// What should be a JSON object.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<D>,
}

/// Cuts a stream into messages. `D` is the type of a descriptor.
#[derive(Debug)]
pub struct Decoder<D> {
    buffer: Vec<u8>,
    /// The first byte of the buffer that is not looked at yet.
    scanned: usize,
    /// Where in the stream the buffer begins.
    position: u64,
    /// Descriptors, with the place in the stream that the message they belong to does not begin after.
    descriptors: VecDeque<(u64, Vec<D>)>,
}

impl<D> Default for Decoder<D> {
    fn default() -> Self {
        Self { buffer: Vec::new(), scanned: 0, position: 0, descriptors: VecDeque::new() }
    }
}

impl<D> Decoder<D> {
    /// How many bytes wait.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Takes what one read has brought.
    ///
    /// # Errors
    /// [`DecodeError::TooManyDescriptors`].
    pub fn push(&mut self, bytes: &[u8], descriptors: Vec<D>) -> Result<(), DecodeError> {
        if !descriptors.is_empty() {
            let waiting: usize = self.descriptors.iter().map(|(_, descriptors)| descriptors.len()).sum();
            if waiting + descriptors.len() > DESCRIPTORS_MAX {
                return Err(DecodeError::TooManyDescriptors);
            }
            // The last NUL that has something behind it ends the message before theirs.
            let inside = bytes.len().saturating_sub(1);
            let begin = bytes[..inside].iter().rposition(|byte| *byte == 0).map_or(0, |nul| nul + 1);
            let begin = self.position + (self.buffer.len() + begin) as u64;
            self.descriptors.push_back((begin, descriptors));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole message.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`].
    pub fn next_message(&mut self) -> Result<Option<Message<D>>, DecodeError> {
        let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == 0) else {
            self.scanned = self.buffer.len();
            return if self.buffer.len() > MESSAGE_MAX_BYTES { Err(DecodeError::TooLong) } else { Ok(None) };
        };
        let end = self.scanned + end;
        if end > MESSAGE_MAX_BYTES {
            return Err(DecodeError::TooLong);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut bytes = std::mem::replace(&mut self.buffer, rest);
        bytes.truncate(end);
        self.scanned = 0;
        self.position += end as u64 + 1;
        let mut descriptors = Vec::new();
        while self.descriptors.front().is_some_and(|(begin, _)| *begin < self.position) {
            descriptors
                .extend(self.descriptors.pop_front().into_iter().flat_map(|(_, descriptors)| descriptors));
        }
        Ok(Some(Message { bytes, descriptors }))
    }

    /// What has come behind the last message, for a connection that is upgraded.
    pub fn into_rest(self) -> Vec<u8> {
        self.buffer
    }
}

/// A call as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// With its interface: `org.varlink.service.GetInfo`.
    pub method: String,
    /// An object; empty if none came.
    pub parameters: Value,
    /// Several replies are welcome.
    pub more: bool,
    /// No reply is wanted.
    pub oneway: bool,
    /// The connection is to be handed over after the reply.
    pub upgrade: bool,
}

/// Reads a call.
///
/// # Errors
/// [`DecodeError::NotACall`].
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    let not_a_call = |reason: &str| DecodeError::NotACall(reason.to_owned());
    let request: varlink::Request<'_> =
        serde_json::from_slice(bytes).map_err(|error| DecodeError::NotACall(error.to_string()))?;
    let parameters = match request.parameters {
        None | Some(Value::Null) => Value::Object(serde_json::Map::new()),
        Some(object @ Value::Object(_)) => object,
        Some(_) => return Err(not_a_call("its parameters are no object")),
    };
    let (more, oneway, upgrade) =
        (request.more.unwrap_or(false), request.oneway.unwrap_or(false), request.upgrade.unwrap_or(false));
    if u8::from(more) + u8::from(oneway) + u8::from(upgrade) > 1 {
        return Err(not_a_call("more, oneway and upgrade exclude each other"));
    }
    Ok(Request { method: request.method.into_owned(), parameters, more, oneway, upgrade })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(decoder: &mut Decoder<u32>) -> Vec<(String, Vec<u32>)> {
        std::iter::from_fn(|| decoder.next_message().unwrap())
            .map(|message| (String::from_utf8(message.bytes).unwrap(), message.descriptors))
            .collect()
    }

    #[test]
    fn a_message_may_come_byte_by_byte() {
        let mut decoder = Decoder::default();
        for byte in b"{\"a\":1}" {
            decoder.push(&[*byte], Vec::new()).unwrap();
            assert_eq!(decoder.next_message().unwrap(), None);
        }
        decoder.push(b"\0", Vec::new()).unwrap();
        assert_eq!(messages(&mut decoder), [("{\"a\":1}".to_owned(), vec![])]);
        assert!(decoder.is_empty());
    }

    #[test]
    fn several_messages_may_come_at_once() {
        let mut decoder = Decoder::default();
        decoder.push(b"a\0b\0c", Vec::new()).unwrap();
        assert_eq!(messages(&mut decoder), [("a".to_owned(), vec![]), ("b".to_owned(), vec![])]);
        assert_eq!(decoder.into_rest(), b"c");
    }

    #[test]
    fn descriptors_go_with_the_message_that_they_came_with() {
        let mut decoder = Decoder::default();
        // "a" came before, and the kernel joined it to the bytes that brought the descriptors.
        decoder.push(b"a\0bb", vec![1, 2]).unwrap();
        decoder.push(b"b\0", Vec::new()).unwrap();
        decoder.push(b"c\0", vec![3]).unwrap();
        let expected = [("a".to_owned(), vec![]), ("bbb".to_owned(), vec![1, 2]), ("c".to_owned(), vec![3])];
        assert_eq!(messages(&mut decoder), expected);
    }

    #[test]
    fn too_long_a_message_is_an_error_before_its_end() {
        let mut decoder = Decoder::<u32>::default();
        decoder.push(&vec![b'x'; MESSAGE_MAX_BYTES], Vec::new()).unwrap();
        assert_eq!(decoder.next_message(), Ok(None));
        decoder.push(b"xx", Vec::new()).unwrap();
        assert_eq!(decoder.next_message(), Err(DecodeError::TooLong));
    }

    #[test]
    fn descriptors_are_bounded() {
        let mut decoder = Decoder::default();
        decoder.push(b"x", vec![0; DESCRIPTORS_MAX]).unwrap();
        assert_eq!(decoder.push(b"x", vec![0]), Err(DecodeError::TooManyDescriptors));
    }

    #[track_caller]
    fn refused(text: &str) {
        assert!(matches!(decode_request(text.as_bytes()), Err(DecodeError::NotACall(_))), "{text}");
    }

    #[test]
    fn what_is_no_call_is_refused() {
        refused("");
        refused("garbage");
        refused("[]");
        refused("42");
        refused("{}");
        refused(r#"{"method":1}"#);
        refused(r#"{"method":"a.b","parameters":[]}"#);
        refused(r#"{"method":"a.b","more":true,"oneway":true}"#);
        refused(r#"{"method":"a.b"} trailing"#);
        let call = decode_request(br#"{"method":"a.b.C","parameters":null,"unknown":1}"#).unwrap();
        assert_eq!((call.method.as_str(), call.parameters), ("a.b.C", serde_json::json!({})));
    }
}
