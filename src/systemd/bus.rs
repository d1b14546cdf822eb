//! D-Bus, peer to peer, with a stranger.
//!
//! zbus knows the wire format; its connection cannot be used here: it refuses messages whose sender is not a unique
//! name, and systemd's private socket signs with `org.freedesktop.systemd1`. Besides, here one place bounds what is
//! kept in memory, and no task in the background reads on.
//!
//! Source: D-Bus specification, "Authentication Protocol" and "Message Protocol".

use std::{fmt::Display, io};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use zbus::{
    DynamicType, Message, OwnedVariant, Type,
    export::serde::{Serialize, de::DeserializeOwned},
    wire::{
        Endian,
        serialized::{Context, Data},
    },
};

/// Bound for one message: systemd's own list of 10,000 units takes a few MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bound for the fields of a message's header, which are a few names.
const FIELDS_BYTES_MAX: usize = 16 << 10;
/// Bound for what may hold anything ([`OwnedVariant`]): each element of an array becomes a value of its own, which takes a
/// hundred times what it takes in the message.
const ANYTHING_BYTES_MAX: usize = 512 << 10;
/// Bound for everything that is read over one connection.
const TOTAL_BYTES_MAX: usize = 256 << 20;
const GREETING_BYTES_MAX: usize = 512;
/// The part of the header before its fields: endianness, type, flags, version, lengths and serial.
const FIXED_HEADER_BYTES: usize = 16;

const FIELD_MEMBER: u8 = 3;
const FIELD_ERROR_NAME: u8 = 4;
const FIELD_REPLY_SERIAL: u8 = 5;
const FIELD_SIGNATURE: u8 = 8;
const TYPE_METHOD_CALL: u8 = 1;
const TYPE_ERROR: u8 = 3;
const TYPE_SIGNAL: u8 = 4;

/// What goes wrong on the way.
#[derive(Debug)]
pub(super) enum BusError {
    /// The socket.
    Broken(io::Error),
    /// The stranger.
    Nonsense(String),
}

/// One message that has come.
#[derive(Debug)]
pub(super) struct Incoming {
    kind: u8,
    reply_serial: u32,
    member: String,
    error_name: String,
    signature: String,
    body: Data<'static, 'static>,
}

/// The connection. Its receiving side loses nothing if a future is dropped; after a dropped [`Bus::send`] it is
/// closed for sending.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    received: Vec<u8>,
    total: usize,
    sending: bool,
}

impl Bus {
    /// Takes a connected socket through the authentication, as the user that the other side sees.
    pub(super) async fn greet(stream: UnixStream, user: u32) -> Result<Self, BusError> {
        let mut bus = Self { stream, received: Vec::new(), total: 0, sending: false };
        let uid: String = user.to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        // BEGIN goes out before the answer: systemd (seen with 252) leaves a message lying that it reads together with
        // BEGIN, until more comes; with the answer here it has read BEGIN already.
        bus.write(format!("\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n").as_bytes()).await?;
        let end = loop {
            if let Some(end) = bus.received.windows(2).position(|window| window == b"\r\n") {
                break end;
            }
            if bus.received.len() > GREETING_BYTES_MAX {
                return Err(BusError::Nonsense("its greeting is too long".to_owned()));
            }
            bus.read().await?;
        };
        if !bus.received.starts_with(b"OK ") {
            let answer = String::from_utf8_lossy(&bus.received[..end]).into_owned();
            return Err(BusError::Nonsense(format!("it refuses the greeting: {answer}")));
        }
        bus.received.drain(..end + 2);
        Ok(bus)
    }

    /// Sends a call; the answer is the message for which [`Incoming::answers`] says so.
    pub(super) async fn send<B>(
        &mut self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> Result<u32, BusError>
    where
        B: Serialize + DynamicType,
    {
        // A peer to peer connection has no bus to route by destination.
        let message = Message::method_call(path, method)
            .interface(interface)
            .build(body)
            .map_err(|error| BusError::Nonsense(error.to_string()))?;
        self.write(message.data().bytes()).await?;
        Ok(message.primary_header().serial_num().get())
    }

    /// Waits for the next message. Calls, of which systemd makes none, are passed over.
    pub(super) async fn next(&mut self) -> Result<Incoming, BusError> {
        loop {
            if let Some(length) = message_length(&self.received)?
                && self.received.len() >= length
            {
                let rest = self.received.split_off(length);
                let message = std::mem::replace(&mut self.received, rest);
                let message = parse(message)?;
                if message.kind != TYPE_METHOD_CALL {
                    return Ok(message);
                }
            } else {
                self.read().await?;
            }
        }
    }

    /// Reads once. Descriptors that come along are dropped by the kernel: this is read(2), not recvmsg(2).
    async fn read(&mut self) -> Result<(), BusError> {
        if self.total > TOTAL_BYTES_MAX {
            return Err(BusError::Nonsense("it does not stop talking".to_owned()));
        }
        self.received.reserve(64 << 10);
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(BusError::Broken(io::ErrorKind::ConnectionReset.into())),
            Ok(count) => {
                self.total += count;
                Ok(())
            }
            Err(error) => Err(BusError::Broken(error)),
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        if std::mem::replace(&mut self.sending, true) {
            // Part of an earlier message may be out.
            return Err(BusError::Broken(io::ErrorKind::BrokenPipe.into()));
        }
        self.stream.write_all(bytes).await.map_err(BusError::Broken)?;
        self.sending = false;
        Ok(())
    }
}

impl Incoming {
    /// Says whether this is the answer, good or bad, to the call with that serial number.
    pub(super) fn answers(&self, serial: u32) -> bool {
        self.kind != TYPE_SIGNAL && self.reply_serial == serial
    }

    /// Says whether this is a signal of that name.
    pub(super) fn is_signal(&self, member: &str) -> bool {
        self.kind == TYPE_SIGNAL && self.member == member
    }

    /// The name and the text of an error; `None` for a good answer.
    pub(super) fn error(&self) -> Option<(&str, String)> {
        let text = || self.body::<(String,)>().map(|(text,)| text).unwrap_or_default();
        (self.kind == TYPE_ERROR).then(|| (self.error_name.as_str(), text()))
    }

    /// Reads the content, which must be of exactly the type `T`: a tuple of the arguments.
    pub(super) fn body<T: DeserializeOwned + Type>(&self) -> Result<T, BusError> {
        let expected = T::SIGNATURE.to_string_no_parens();
        if self.signature != expected {
            return Err(nonsense(format!("{expected} was expected, not {}", self.signature)));
        }
        if expected.contains('v') && self.body.bytes().len() > ANYTHING_BYTES_MAX {
            return Err(nonsense("an answer is too large"));
        }
        self.body.deserialize().map(|(value, _)| value).map_err(nonsense)
    }
}

fn nonsense(error: impl Display) -> BusError {
    BusError::Nonsense(error.to_string())
}

fn endian(message: &[u8]) -> Result<Endian, BusError> {
    match message.first() {
        Some(b'l') => Ok(Endian::Little),
        Some(b'B') => Ok(Endian::Big),
        _ => Err(nonsense("a message begins with neither l nor B")),
    }
}

/// The lengths of the header, with its padding, and of the body; `None` if too little has come to tell.
fn lengths(received: &[u8]) -> Result<Option<(usize, usize)>, BusError> {
    let Some((fixed, _)) = received.split_first_chunk::<FIXED_HEADER_BYTES>() else { return Ok(None) };
    let little = endian(fixed)? == Endian::Little;
    let number = |at: usize| {
        let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
        let number = if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) };
        usize::try_from(number).unwrap_or(usize::MAX)
    };
    let (body, fields) = (number(4), number(12));
    if body > MESSAGE_BYTES_MAX || fields > FIELDS_BYTES_MAX {
        return Err(nonsense("it sends a message that is too large"));
    }
    Ok(Some(((FIXED_HEADER_BYTES + fields).next_multiple_of(8), body)))
}

fn message_length(received: &[u8]) -> Result<Option<usize>, BusError> {
    Ok(lengths(received)?.map(|(header, body)| header + body))
}

/// Endianness, type, flags, version, length of the body, serial, fields.
type Header = (u8, u8, u8, u8, u32, u32, Vec<(u8, OwnedVariant)>);

/// Reads one whole message.
fn parse(message: Vec<u8>) -> Result<Incoming, BusError> {
    let endian = endian(&message)?;
    let Some((header_length, body_length)) = lengths(&message)? else {
        return Err(nonsense("a message has no header"));
    };
    let data = Data::new(message, Context::new(endian, 0));
    let ((_, kind, _, version, _, _, fields), _): (Header, usize) = data.deserialize().map_err(nonsense)?;
    if version != 1 {
        return Err(nonsense("a message is of another version of the protocol"));
    }
    let mut incoming = Incoming {
        kind,
        reply_serial: 0,
        member: String::new(),
        error_name: String::new(),
        signature: String::new(),
        body: data.slice(header_length..header_length + body_length),
    };
    for (code, value) in fields {
        match code {
            FIELD_MEMBER => incoming.member = String::try_from(value).map_err(nonsense)?,
            FIELD_ERROR_NAME => incoming.error_name = String::try_from(value).map_err(nonsense)?,
            FIELD_REPLY_SERIAL => incoming.reply_serial = u32::try_from(value).map_err(nonsense)?,
            FIELD_SIGNATURE => {
                let signature = zbus::Signature::try_from(value).map_err(nonsense)?;
                incoming.signature = signature.to_string_no_parens();
            }
            _ => {}
        }
    }
    Ok(incoming)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal(member: &str, body: &(u32, &str)) -> Vec<u8> {
        let message =
            Message::signal("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", member);
        message.build(body).unwrap().data().bytes().to_vec()
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = signal("JobRemoved", &(7, "done"));
        for cut in 0..bytes.len() {
            let length = message_length(&bytes[..cut]).unwrap();
            assert!(length.is_none() || length == Some(bytes.len()));
        }
        let incoming = parse(bytes).unwrap();
        assert!(incoming.is_signal("JobRemoved") && !incoming.is_signal("JobNew") && !incoming.answers(0));
        assert_eq!(incoming.body::<(u32, String)>().unwrap(), (7, "done".to_owned()));
        assert!(matches!(incoming.body::<(u32, u32)>(), Err(BusError::Nonsense(_))));
        assert!(incoming.error().is_none());
    }

    #[test]
    fn a_sender_that_is_no_unique_name_does_no_harm() {
        // As systemd's private socket sends it.
        let mut bytes = signal("JobRemoved", &(7, "done"));
        let at = bytes.windows(10).position(|window| window == b"JobRemoved").unwrap();
        // The member's field becomes a sender's.
        let field = (0..at).rev().find(|&index| bytes[index] == FIELD_MEMBER).unwrap();
        bytes[field] = 7;
        assert!(!parse(bytes).unwrap().is_signal("JobRemoved"));
    }

    #[test]
    fn whatever_comes_is_read_or_refused_but_breaks_nothing() {
        let good = signal("JobRemoved", &(7, "done"));
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let index = (seed >> 8) as usize % bytes.len();
                bytes[index] = (seed >> 24) as u8;
            }
            if let Ok(Some(length)) = message_length(&bytes) {
                assert!(length <= MESSAGE_BYTES_MAX + FIELDS_BYTES_MAX + 32);
                bytes.resize(length.min(4096), 0);
                if bytes.len() == length
                    && let Ok(incoming) = parse(bytes)
                {
                    let _ = incoming.body::<(u32, String)>();
                    let _ = incoming.error();
                }
            }
        }
    }

    #[test]
    fn an_answer_of_anything_is_refused_where_it_would_take_much_memory() {
        type Properties = std::collections::HashMap<String, OwnedVariant>;
        let answer = |bytes: usize| {
            let properties = std::collections::HashMap::from([("P", zbus::Variant::from(vec![1_u8; bytes]))]);
            let message = Message::signal("/p", "i.f", "M").build(&(properties,)).unwrap();
            parse(message.data().bytes().to_vec())
                .unwrap()
                .body::<(Properties,)>()
                .map(|(properties,)| properties.len())
        };
        assert_eq!(answer(1000).unwrap(), 1);
        assert!(matches!(answer(ANYTHING_BYTES_MAX), Err(BusError::Nonsense(_))));
        // The header is read in the same way.
        let mut bytes = signal("JobRemoved", &(7, "done"));
        bytes[12..16].copy_from_slice(&(1_u32 << 20).to_ne_bytes());
        assert!(matches!(message_length(&bytes), Err(BusError::Nonsense(_))));
    }

    #[test]
    fn sizes_beyond_reason_are_refused_before_anything_is_kept() {
        let mut bytes = signal("JobRemoved", &(7, "done"));
        bytes[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(matches!(message_length(&bytes), Err(BusError::Nonsense(_))));
        assert!(matches!(message_length(b"HTTP/1.1 200 OK.."), Err(BusError::Nonsense(_))));
    }
}
