//! A blocking varlink client, for the command line: no runtime, no threads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use rustix::net::Shutdown;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::socket::{Incoming, Message, ReceiveError, send};
use super::stream::ClientStream;
use super::wire::{MESSAGE_FDS_MAX, MESSAGE_SIZE_MAX, Request, WireError, decode_reply};

/// Why a call has no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("{address:?} is no varlink address; write unix:PATH, unix:@NAME, or a path")]
    Address {
        /// What was given.
        address: String,
    },
    /// The address is of a kind that this client can't reach.
    #[error("cannot connect to {address:?}: {scheme:?} addresses are not supported by this client")]
    Unsupported {
        /// What was given.
        address: String,
        /// Its kind: `exec`, `ssh-unix`, `tcp`, …
        scheme: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address:?}")]
    Connect {
        /// What was given.
        address: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the service broke")]
    Transport {
        /// What the kernel said; `WouldBlock` when the time given to [`Connection::set_timeout`] is over.
        #[source]
        source: io::Error,
    },
    /// The service closed the connection before it replied, or replied to nothing.
    #[error("the service closed the connection without a reply")]
    Closed,
    /// An earlier call was not waited for, or was upgraded.
    #[error("the connection cannot be used for another call")]
    Spent,
    /// The parameters can't be sent.
    #[error("cannot encode the parameters as a message of at most 16 MiB and 253 descriptors")]
    Encode {
        /// What the serializer said.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// What came is no varlink reply.
    #[error("the service sent something that is no varlink reply")]
    Protocol {
        /// What is wrong with it.
        #[source]
        source: Option<WireError>,
    },
    /// Descriptors that belong to a reply were lost.
    #[error("descriptors of a reply were lost, most likely because too many are open")]
    DescriptorsLost,
    /// The reply's parameters are not what was expected.
    #[error("the reply does not have the expected fields")]
    Parameters {
        /// What is missing.
        #[source]
        source: serde_json::Error,
    },
    /// The service answered with an error.
    #[error("{error}{}", described(parameters))]
    Service {
        /// Its full name, `io.dormouse.Container.NotFound`.
        error: String,
        /// Its fields; an object.
        parameters: Value,
    },
}

/// An error's parameters for a person: nothing if there are none.
fn described(parameters: &Value) -> String {
    match parameters {
        Value::Object(fields) if fields.is_empty() => String::new(),
        parameters => format!(" {parameters}"),
    }
}

impl From<ReceiveError> for ClientError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Wire(source) => Self::Protocol { source: Some(source) },
            ReceiveError::DescriptorsLost => Self::DescriptorsLost,
            ReceiveError::CutOff => Self::Closed,
            ReceiveError::Socket(source) => Self::Transport { source },
        }
    }
}

/// A reply.
#[derive(Debug)]
pub struct Reply {
    /// The fields; an object.
    pub parameters: Value,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
    /// Whether more replies follow.
    pub continues: bool,
}

impl Reply {
    /// The fields as a type.
    ///
    /// # Errors
    /// [`ClientError::Parameters`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        T::deserialize(&self.parameters).map_err(|source| ClientError::Parameters { source })
    }
}

/// A connection to a varlink service; calls are made one after the other.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    incoming: Incoming,
    spent: bool,
}

/// What a call asks for beside its reply.
#[derive(Debug, Default, Clone, Copy)]
struct Wishes {
    more: bool,
    oneway: bool,
    upgrade: bool,
}

impl Connection {
    /// Connects to `unix:PATH` (options after `;` are ignored), `unix:@NAME`, or a plain path.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Unsupported`], [`ClientError::Connect`].
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        let failed = |source| ClientError::Connect { address: address.to_owned(), source };
        let socket = match Place::parse(address)? {
            Place::Path(path) => UnixStream::connect(path),
            Place::Abstract(name) => {
                SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address))
            }
        };
        Ok(Self::from_stream(socket.map_err(failed)?))
    }

    /// The socket itself.
    pub fn into_stream(self) -> UnixStream {
        self.socket
    }

    /// Uses a socket that is connected already.
    pub fn from_stream(socket: UnixStream) -> Self {
        Self { socket, incoming: Incoming::default(), spent: false }
    }

    /// Bounds the time that any single read or write may wait; `None`, the default, for ever.
    ///
    /// # Errors
    /// [`ClientError::Transport`], also for a duration of zero.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let failed = |source| ClientError::Transport { source };
        self.socket.set_read_timeout(timeout).map_err(failed)?;
        self.socket.set_write_timeout(timeout).map_err(failed)
    }

    /// Calls `method` (full name) and waits for its reply. `fds`, at most 253, go with the call.
    ///
    /// # Errors
    /// [`ClientError::Service`] for an error reply, after which the connection is still good.
    pub fn call(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply, ClientError> {
        self.send(method, parameters, fds, Wishes::default())?;
        let reply = self.receive()?;
        if reply.continues {
            self.spend();
            return Err(ClientError::Protocol { source: None });
        }
        Ok(reply)
    }

    /// Calls `method` and returns its replies as they come. Dropping the iterator before its end closes the
    /// connection, which cancels the call.
    ///
    /// # Errors
    /// As [`Connection::call`], for sending alone.
    pub fn call_more(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Replies<'_>, ClientError> {
        self.send(method, parameters, fds, Wishes { more: true, ..Wishes::default() })?;
        Ok(Replies { connection: self, ended: false })
    }

    /// Sends a call that is not replied to.
    ///
    /// # Errors
    /// As [`Connection::call`], for sending alone.
    pub fn call_oneway(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        self.send(method, parameters, fds, Wishes { oneway: true, ..Wishes::default() })
    }

    /// Calls `method`, and returns its reply with the stream of bytes that the connection has become. Nothing has
    /// been read ahead of it.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn call_upgrade(
        mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, UnixStream), ClientError> {
        self.send(method, parameters, fds, Wishes { upgrade: true, ..Wishes::default() })?;
        let reply = self.receive()?;
        Ok((reply, self.socket))
    }

    /// Calls `method` with channels in place of descriptors: an index among the parameters is one among `descriptors`, from and
    /// to which bytes are carried. Afterwards this connection is spent, except if the call was refused.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn call_stream(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<ClientStream, ClientError> {
        let failed = |source| ClientError::Transport { source };
        self.send(method, parameters, &[], Wishes { upgrade: true, ..Wishes::default() })?;
        let reply = self.receive()?;
        self.spent = true;
        let socket = self.socket.try_clone().map_err(failed)?;
        ClientStream::new(socket, Reply { continues: true, ..reply }, descriptors).map_err(failed)
    }

    fn send(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
        wishes: Wishes,
    ) -> Result<(), ClientError> {
        if self.spent {
            return Err(ClientError::Spent);
        }
        let encode = |source| ClientError::Encode { source: Some(source) };
        let parameters = match serde_json::to_value(parameters).map_err(encode)? {
            Value::Null => Value::Object(serde_json::Map::new()),
            parameters @ Value::Object(_) => parameters,
            _ => return Err(ClientError::Encode { source: None }),
        };
        let flag = |wish: bool| wish.then_some(true);
        let request = Request {
            more: flag(wishes.more),
            oneway: flag(wishes.oneway),
            upgrade: flag(wishes.upgrade),
            method: method.into(),
            parameters: Some(parameters),
        };
        let mut text = serde_json::to_vec(&request).map_err(encode)?;
        if text.len() > MESSAGE_SIZE_MAX || fds.len() > MESSAGE_FDS_MAX {
            return Err(ClientError::Encode { source: None });
        }
        text.push(0);
        let mut fds = fds;
        let mut rest = &text[..];
        while !rest.is_empty() {
            let sent = send(self.socket.as_fd(), rest, fds).map_err(|source| {
                // Half a message may be on its way.
                self.spend();
                ClientError::Transport { source }
            })?;
            rest = &rest[sent..];
            fds = &[];
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Reply, ClientError> {
        let received = match self.incoming.read(self.socket.as_fd()) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(ClientError::Closed),
            Err(error) => Err(error.into()),
        };
        let reply = received.and_then(|Message { text, fds }| reply_of(&text, fds));
        if !matches!(reply, Ok(_) | Err(ClientError::Service { .. })) {
            // Whatever went wrong, the next message need not be the reply to the next call.
            self.spend();
        }
        reply
    }

    fn spend(&mut self) {
        self.spent = true;
        // Fails only where the connection is gone already.
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
    }
}

/// A reply from its text; an error reply is an error.
pub(super) fn reply_of(text: &[u8], fds: Vec<OwnedFd>) -> Result<Reply, ClientError> {
    let reply = decode_reply(text).map_err(|source| ClientError::Protocol { source: Some(source) })?;
    let parameters = reply.parameters.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    match reply.error {
        Some(error) => Err(ClientError::Service { error: error.into_owned(), parameters }),
        None => Ok(Reply { parameters, fds, continues: reply.continues == Some(true) }),
    }
}

/// The replies of a call with `more`, up to the one that nothing follows, or an error.
#[derive(Debug)]
pub struct Replies<'a> {
    connection: &'a mut Connection,
    ended: bool,
}

impl Iterator for Replies<'_> {
    type Item = Result<Reply, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let reply = self.connection.receive();
        self.ended = !matches!(&reply, Ok(Reply { continues: true, .. }));
        Some(reply)
    }
}

impl Drop for Replies<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.connection.spend();
        }
    }
}

/// Where a service is.
#[derive(Debug, PartialEq, Eq)]
enum Place<'a> {
    Path(&'a str),
    Abstract(&'a str),
}

impl<'a> Place<'a> {
    fn parse(address: &'a str) -> Result<Self, ClientError> {
        let malformed = || ClientError::Address { address: address.to_owned() };
        if address.starts_with(['/', '.']) {
            return Ok(Self::Path(address));
        }
        let place = match address.split_once(':') {
            Some(("unix", rest)) => rest.split_once(';').map_or(rest, |(place, _options)| place),
            Some((scheme, _)) if !scheme.is_empty() && !scheme.contains('/') => {
                return Err(ClientError::Unsupported {
                    address: address.to_owned(),
                    scheme: scheme.to_owned(),
                });
            }
            _ if address.contains('/') => address,
            _ => return Err(malformed()),
        };
        match place.strip_prefix('@') {
            Some("") => Err(malformed()),
            Some(name) => Ok(Self::Abstract(name)),
            None if place.is_empty() => Err(malformed()),
            None => Ok(Self::Path(place)),
        }
    }
}
