//! One call, as a method of an interface sees it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::activity::{Activity, BusyGuard};
use super::decoder::Request;
use super::socket::Socket;
use super::{MESSAGE_MAX_BYTES, Peer, UpgradedStream};

/// Why a method did not reply as it would like to. All but `Disconnected` are sent to the client.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CallError {
    /// An error of the interface, with its full name.
    #[error("{name}")]
    Reply {
        /// `io.dormouse.Container.NotFound`
        name: String,
        /// What the IDL says.
        parameters: Value,
    },
    /// org.varlink.service.InvalidParameter
    #[error("parameter {parameter} can't be used")]
    InvalidParameter {
        /// The path of the parameter, as in `spec.mounts[2].target`.
        parameter: String,
    },
    /// org.varlink.service.MethodNotFound
    #[error("method {method} is not known")]
    MethodNotFound {
        /// With its interface.
        method: String,
    },
    /// org.varlink.service.MethodNotImplemented
    #[error("method {method} is not implemented")]
    MethodNotImplemented {
        /// With its interface.
        method: String,
    },
    /// org.varlink.service.InterfaceNotFound
    #[error("interface {interface} is not known")]
    InterfaceNotFound {
        /// Its name.
        interface: String,
    },
    /// org.varlink.service.ExpectedMore
    #[error("this can only be called with more")]
    ExpectedMore,
    /// org.varlink.service.PermissionDenied
    #[error("permission denied")]
    PermissionDenied,
    /// The client is not there any more.
    #[error("the client has left")]
    Disconnected,
}

impl CallError {
    /// An error that the interface defines.
    pub fn reply(name: impl Into<String>, parameters: impl Serialize) -> Self {
        let parameters = serde_json::to_value(parameters).unwrap_or(Value::Null);
        Self::Reply { name: name.into(), parameters }
    }

    /// As it goes over the wire; `None` if there is nobody to hear it.
    fn into_wire(self) -> Option<varlink::Reply> {
        let (name, parameters) = match self {
            Self::Reply { name, parameters } => (name, Some(parameters)),
            Self::InvalidParameter { parameter } => standard("InvalidParameter", "parameter", parameter),
            Self::MethodNotFound { method } => standard("MethodNotFound", "method", method),
            Self::MethodNotImplemented { method } => standard("MethodNotImplemented", "method", method),
            Self::InterfaceNotFound { interface } => standard("InterfaceNotFound", "interface", interface),
            Self::ExpectedMore => ("org.varlink.service.ExpectedMore".to_owned(), None),
            Self::PermissionDenied => ("org.varlink.service.PermissionDenied".to_owned(), None),
            Self::Disconnected => return None,
        };
        Some(varlink::Reply::error(name, parameters))
    }
}

fn standard(error: &str, field: &str, value: String) -> (String, Option<Value>) {
    let parameters = serde_json::Map::from_iter([(field.to_owned(), Value::String(value))]);
    (format!("org.varlink.service.{error}"), Some(Value::Object(parameters)))
}

impl From<Errno> for CallError {
    /// Whatever keeps a reply from going out, there is nobody to tell.
    fn from(_: Errno) -> Self {
        Self::Disconnected
    }
}

/// One call. It ends with one of `reply`, `reply_with_fds` and `upgrade`, or with an error.
#[derive(Debug)]
pub struct Call {
    request: Request,
    descriptors: Vec<OwnedFd>,
    peer: Arc<Peer>,
    socket: Arc<Socket>,
    activity: Activity,
    ordered: Arc<AtomicBool>,
    replied: bool,
    upgraded: bool,
    /// What came behind the call; taken by an upgrade.
    rest: Option<tokio::sync::oneshot::Sender<tokio::sync::oneshot::Sender<Vec<u8>>>>,
}

impl Call {
    pub(super) fn new(
        request: Request,
        descriptors: Vec<OwnedFd>,
        peer: Arc<Peer>,
        socket: Arc<Socket>,
        activity: Activity,
        rest: tokio::sync::oneshot::Sender<tokio::sync::oneshot::Sender<Vec<u8>>>,
    ) -> Self {
        let rest = Some(rest);
        Self {
            request,
            descriptors,
            peer,
            socket,
            activity,
            ordered: Arc::default(),
            replied: false,
            upgraded: false,
            rest,
        }
    }

    /// The method with its interface.
    pub fn full_method(&self) -> &str {
        &self.request.method
    }

    /// The method alone.
    pub fn method(&self) -> &str {
        self.request.method.rsplit('.').next().unwrap_or_default()
    }

    /// The parameters as they came: an object.
    pub fn raw_parameters(&self) -> &Value {
        &self.request.parameters
    }

    /// The parameters as the interface has them. Their form has been checked against the IDL before.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`].
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        T::deserialize(&self.request.parameters)
            .map_err(|error| CallError::InvalidParameter { parameter: error.to_string() })
    }

    /// The client welcomes several replies.
    pub fn wants_more(&self) -> bool {
        self.request.more
    }

    /// The client wants no reply.
    pub fn is_oneway(&self) -> bool {
        self.request.oneway
    }

    /// The client wants the connection handed over.
    pub fn wants_upgrade(&self) -> bool {
        self.request.upgrade
    }

    /// Who is calling.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The descriptors that came with the call, in their order.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Marks what this call orders as to be finished: the service neither sleeps nor ends while the guard lives, and this
    /// call is not cut off when the service is stopped.
    pub fn busy(&mut self) -> BusyGuard {
        self.ordered.store(true, Ordering::Relaxed);
        self.activity.busy()
    }

    /// Becomes true when the call has ordered something.
    pub(super) fn order_flag(&self) -> Arc<AtomicBool> {
        self.ordered.clone()
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    /// Sends the only, or the last, reply.
    ///
    /// # Errors
    /// [`CallError::Disconnected`].
    pub async fn reply(&mut self, parameters: impl Serialize) -> Result<(), CallError> {
        self.reply_with_fds(parameters, Vec::new()).await
    }

    /// As [`Self::reply`], with descriptors, which are closed here when they are sent.
    ///
    /// # Errors
    /// [`CallError::Disconnected`].
    pub async fn reply_with_fds(
        &mut self,
        parameters: impl Serialize,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        let reply = varlink::Reply::parameters(Some(to_value(parameters)));
        self.replied = true;
        self.send(&reply, &fds).await
    }

    /// Sends one of several replies; returns when it is on the socket, which takes as long as the client takes to read
    /// what came before.
    ///
    /// # Errors
    /// [`CallError::ExpectedMore`] unless the client has asked for several; [`CallError::Disconnected`].
    pub async fn reply_continues(&mut self, parameters: impl Serialize) -> Result<(), CallError> {
        self.reply_continues_with_fds(parameters, Vec::new()).await
    }

    /// As [`Self::reply_continues`], with descriptors, which are closed here when they are sent.
    ///
    /// # Errors
    /// As [`Self::reply_continues`].
    pub async fn reply_continues_with_fds(
        &mut self,
        parameters: impl Serialize,
        fds: Vec<OwnedFd>,
    ) -> Result<(), CallError> {
        if !self.request.more {
            return Err(CallError::ExpectedMore);
        }
        let mut reply = varlink::Reply::parameters(Some(to_value(parameters)));
        reply.continues = Some(true);
        self.send(&reply, &fds).await
    }

    /// Replies, and takes the connection over: what the client has sent behind the call comes first.
    ///
    /// # Errors
    /// [`CallError::InvalidParameter`] unless the client has asked for it; [`CallError::Disconnected`].
    pub async fn upgrade(&mut self, parameters: impl Serialize) -> Result<UpgradedStream, CallError> {
        if !self.request.upgrade {
            return Err(CallError::InvalidParameter { parameter: "upgrade".to_owned() });
        }
        // From here on, nobody else reads.
        let (give, take) = tokio::sync::oneshot::channel();
        let hand_over = self.rest.take().ok_or(CallError::Disconnected)?;
        hand_over.send(give).map_err(|_| CallError::Disconnected)?;
        let rest = take.await.map_err(|_| CallError::Disconnected)?;
        self.upgraded = true;
        self.reply(parameters).await?;
        let fd = self.socket.as_fd().try_clone_to_owned().map_err(|_| CallError::Disconnected)?;
        UpgradedStream::new(rest, fd).map_err(|_| CallError::Disconnected)
    }

    /// Sends what went wrong, unless a last reply is out already.
    pub(super) async fn finish(&mut self, result: Result<(), CallError>) -> Result<(), CallError> {
        match result {
            Ok(()) if self.replied || self.request.oneway => Ok(()),
            Ok(()) => self.reply(serde_json::json!({})).await,
            Err(CallError::Disconnected) => Err(CallError::Disconnected),
            Err(error) if self.replied => {
                tracing::warn!(%error, method = self.request.method, "a method failed after its reply, ignoring");
                Ok(())
            }
            Err(error) => match error.into_wire() {
                Some(reply) => self.send(&reply, &[]).await,
                None => Ok(()),
            },
        }
    }

    async fn send(&self, reply: &varlink::Reply, fds: &[OwnedFd]) -> Result<(), CallError> {
        if self.request.oneway {
            return Ok(());
        }
        let mut bytes = serde_json::to_vec(reply).map_err(|_| CallError::Disconnected)?;
        if bytes.len() > MESSAGE_MAX_BYTES {
            tracing::error!(
                method = self.request.method,
                length = bytes.len(),
                "a reply is too long to be sent"
            );
            return Err(CallError::Disconnected);
        }
        bytes.push(0);
        self.socket.send(&bytes, fds).await?;
        Ok(())
    }
}

fn to_value(parameters: impl Serialize) -> Value {
    match serde_json::to_value(parameters) {
        Ok(Value::Null) | Err(_) => Value::Object(serde_json::Map::new()),
        Ok(value) => value,
    }
}
