//! A client that blocks: what the command line needs. Any number of calls on one connection, descriptors both ways,
//! several replies, upgrades.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::MESSAGE_MAX_BYTES;
use super::decoder::{DecodeError, Decoder};
use super::socket::{receive_now, send_now};

/// Why a call has no reply, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// An address of a kind that this client does not speak.
    #[error("cannot use the address {address:?}: only unix:PATH and unix:@NAME are supported")]
    Address {
        /// As given.
        address: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}")]
    Connect {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("cannot {attempted} the service")]
    Transport {
        /// What was attempted.
        attempted: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The service has closed the connection instead of replying.
    #[error("the service has closed the connection without a reply")]
    Closed,
    /// Something came that is no reply.
    #[error("the service has answered with something that is no varlink reply: {reason}")]
    NotAReply {
        /// What is wrong with it.
        reason: String,
    },
    /// The parameters are too long for a message.
    #[error("the call is longer than the {MESSAGE_MAX_BYTES} bytes that a message may have")]
    TooLong,
    /// The service has replied with an error.
    #[error("{error}")]
    Service {
        /// Its full name, as in `io.dormouse.Container.NotFound`.
        error: String,
        /// What belongs to it.
        parameters: Value,
    },
}

/// A good reply.
#[derive(Debug)]
pub struct Reply {
    /// An object.
    pub parameters: Value,
    /// The descriptors that came with it.
    pub fds: Vec<OwnedFd>,
    /// More replies follow.
    pub continues: bool,
}

/// A connection to a service.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    decoder: Decoder<OwnedFd>,
}

impl Connection {
    /// Connects to `unix:PATH`, `unix:@NAME` or a plain absolute path.
    ///
    /// # Errors
    /// [`ClientError::Address`], [`ClientError::Connect`].
    pub fn connect(address: &str) -> Result<Self, ClientError> {
        use std::os::linux::net::SocketAddrExt;
        let connect = |source| ClientError::Connect { address: address.to_owned(), source };
        let target = match address.strip_prefix("unix:") {
            Some(target) => target.split(';').next().unwrap_or_default(),
            None if address.starts_with('/') => address,
            None => return Err(ClientError::Address { address: address.to_owned() }),
        };
        let socket = match target.strip_prefix('@') {
            Some(name) => {
                let name = std::os::unix::net::SocketAddr::from_abstract_name(name).map_err(connect)?;
                UnixStream::connect_addr(&name).map_err(connect)?
            }
            None => UnixStream::connect(target).map_err(connect)?,
        };
        Ok(Self { socket, decoder: Decoder::default() })
    }

    /// Gives up on a reply that takes longer. `None`, as at first: never.
    ///
    /// # Errors
    /// [`ClientError::Transport`] for a time-out of zero.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        self.socket
            .set_read_timeout(timeout)
            .map_err(|source| ClientError::Transport { attempted: "prepare", source })
    }

    /// The socket, to be watched for replies.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Calls, and waits for the one reply.
    ///
    /// # Errors
    /// [`ClientError::Service`] for an error reply, else why there is none.
    pub fn call(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Reply, ClientError> {
        self.send(method, parameters, fds, |_| {})?;
        self.receive()
    }

    /// Calls, and gives the replies as they come.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::TooLong`].
    pub fn call_more(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
    ) -> Result<Replies<'_>, ClientError> {
        self.send(method, parameters, fds, |request| request.more = Some(true))?;
        Ok(Replies { connection: self, over: false })
    }

    /// Calls, and waits for nothing.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::TooLong`].
    pub fn call_oneway(&mut self, method: &str, parameters: impl Serialize) -> Result<(), ClientError> {
        self.send(method, parameters, &[], |request| request.oneway = Some(true))
    }

    /// Calls, and takes the connection over after the reply: the socket, and what has come behind the reply already.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_upgrade(
        mut self,
        method: &str,
        parameters: impl Serialize,
    ) -> Result<(Reply, UnixStream, Vec<u8>), ClientError> {
        self.send(method, parameters, &[], |request| request.upgrade = Some(true))?;
        let reply = self.receive()?;
        Ok((reply, self.socket, self.decoder.into_rest()))
    }

    fn send(
        &mut self,
        method: &str,
        parameters: impl Serialize,
        fds: &[BorrowedFd<'_>],
        adjust: impl FnOnce(&mut varlink::Request<'_>),
    ) -> Result<(), ClientError> {
        let not_json = |error: serde_json::Error| ClientError::NotAReply { reason: error.to_string() };
        let parameters = serde_json::to_value(parameters).map_err(not_json)?;
        let mut request = varlink::Request::create(method.to_owned(), Some(parameters));
        adjust(&mut request);
        let mut bytes = serde_json::to_vec(&request).map_err(not_json)?;
        if bytes.len() > MESSAGE_MAX_BYTES {
            return Err(ClientError::TooLong);
        }
        bytes.push(0);
        let (mut rest, mut fds) = (&bytes[..], fds);
        while !rest.is_empty() {
            let sent = send_now(self.socket.as_fd(), rest, fds)
                .map_err(|errno| ClientError::Transport { attempted: "write to", source: errno.into() })?;
            (rest, fds) = (&rest[sent..], &[]);
        }
        Ok(())
    }

    /// Waits for the next reply of a call that was sent.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let decode = |error: DecodeError| ClientError::NotAReply { reason: error.to_string() };
        let message = loop {
            if let Some(message) = self.decoder.next_message().map_err(decode)? {
                break message;
            }
            let mut buffer = vec![0; 64 << 10];
            let received = receive_now(self.socket.as_fd(), &mut buffer)
                .map_err(|errno| ClientError::Transport { attempted: "hear from", source: errno.into() })?;
            if received.length == 0 {
                return Err(ClientError::Closed);
            }
            self.decoder.push(&buffer[..received.length], received.descriptors).map_err(decode)?;
        };
        let reply: varlink::Reply = serde_json::from_slice(&message.bytes)
            .map_err(|error| ClientError::NotAReply { reason: error.to_string() })?;
        let parameters = reply.parameters.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        match reply.error {
            Some(error) => Err(ClientError::Service { error: error.into_owned(), parameters }),
            None => Ok(Reply {
                parameters,
                fds: message.descriptors,
                continues: reply.continues.unwrap_or(false),
            }),
        }
    }
}

/// The replies to one call; ends after the last, or after an error.
#[derive(Debug)]
pub struct Replies<'a> {
    connection: &'a mut Connection,
    over: bool,
}

impl Iterator for Replies<'_> {
    type Item = Result<Reply, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let reply = self.connection.receive();
        self.over = !reply.as_ref().is_ok_and(|reply| reply.continues);
        Some(reply)
    }
}
