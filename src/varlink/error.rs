//! How a call fails, and what its client is told.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Why a call has no ordinary reply.
///
/// All become an error reply but [`Disconnected`](CallError::Disconnected) and those about a reply that can't be
/// sent ([`Encode`](CallError::Encode), [`TooLarge`](CallError::TooLarge),
/// [`TooManyDescriptors`](CallError::TooManyDescriptors)); these end the connection.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A typed error of the interface itself; see [`CallError::reply`].
    #[error("{name}")]
    Varlink {
        /// The full name, `io.dormouse.Container.NotFound`.
        name: Cow<'static, str>,
        /// The error's fields.
        parameters: Map<String, Value>,
    },
    /// A parameter does not fit.
    #[error("invalid parameter {parameter:?}")]
    InvalidParameter {
        /// Its path, `spec.mounts[2].target`.
        parameter: String,
    },
    /// The method only makes sense as a stream, and the call lacks `more`.
    #[error("the method only answers calls that ask for more")]
    ExpectedMore,
    /// The interface has no such method.
    #[error("no such method")]
    MethodNotFound,
    /// The interface has the method, this service does not.
    #[error("the method is not implemented")]
    MethodNotImplemented,
    /// There is no such interface.
    #[error("no interface {interface:?}")]
    InterfaceNotFound {
        /// What was asked for.
        interface: String,
    },
    /// The peer may not do this.
    #[error("permission denied")]
    PermissionDenied,
    /// The client has gone; nobody reads an answer any more.
    #[error("the client has left")]
    Disconnected {
        /// What the socket said.
        #[source]
        source: io::Error,
    },
    /// The reply is nothing that JSON can carry.
    #[error("cannot encode the reply as a JSON object")]
    Encode {
        /// What the serializer said, `None` when it made something other than an object.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// The reply is longer than a message may be.
    #[error("the reply takes {size} bytes, more than a message may have")]
    TooLarge {
        /// Bytes of the encoded reply.
        size: usize,
    },
    /// The reply has more descriptors than can travel with a message.
    #[error("the reply has {count} descriptors, more than a message may have")]
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
}

impl CallError {
    /// A typed error of an interface: its full name, and a struct or map with its fields.
    ///
    /// `parameters` that do not serialize to an object (or to null) give [`CallError::Encode`].
    pub fn reply(name: impl Into<Cow<'static, str>>, parameters: impl Serialize) -> Self {
        match serde_json::to_value(parameters) {
            Ok(Value::Object(parameters)) => Self::Varlink { name: name.into(), parameters },
            Ok(Value::Null) => Self::Varlink { name: name.into(), parameters: Map::new() },
            Ok(_) => Self::Encode { source: None },
            Err(source) => Self::Encode { source: Some(source) },
        }
    }

    /// `org.varlink.service.InvalidParameter` for the parameter at `path`.
    pub fn invalid_parameter(path: impl Into<String>) -> Self {
        Self::InvalidParameter { parameter: path.into() }
    }

    /// The error's name and fields on the wire, for a call of `method` (full name); `None` where the connection
    /// is of no more use.
    pub(super) fn into_wire(self, method: &str) -> Option<(Cow<'static, str>, Value)> {
        let (name, parameters) = match self {
            Self::Varlink { name, parameters } => (name, Value::Object(parameters)),
            Self::InvalidParameter { parameter } => {
                ("org.varlink.service.InvalidParameter".into(), json!({ "parameter": parameter }))
            }
            Self::ExpectedMore => ("org.varlink.service.ExpectedMore".into(), json!({})),
            Self::MethodNotFound => {
                ("org.varlink.service.MethodNotFound".into(), json!({ "method": method }))
            }
            Self::MethodNotImplemented => {
                ("org.varlink.service.MethodNotImplemented".into(), json!({ "method": method }))
            }
            Self::InterfaceNotFound { interface } => {
                ("org.varlink.service.InterfaceNotFound".into(), json!({ "interface": interface }))
            }
            Self::PermissionDenied => ("org.varlink.service.PermissionDenied".into(), json!({})),
            Self::Disconnected { .. }
            | Self::Encode { .. }
            | Self::TooLarge { .. }
            | Self::TooManyDescriptors { .. } => return None,
        };
        Some((name, parameters))
    }
}
