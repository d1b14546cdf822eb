//! The service at the other end: its address, connections to it, and calls whose failures are told in words.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cli::errors::{CliError, why};
use crate::identity;
use crate::varlink::client::{ClientError, Connection, Reply};

/// Where the service listens.
#[derive(Debug, Clone)]
pub struct Service {
    address: String,
}

impl Service {
    /// The service at `address`, or at the usual place: the system's for root, the user's own for others.
    pub fn at(address: Option<&str>) -> Self {
        let address = address.filter(|address| !address.is_empty()).map_or_else(default_address, |address| {
            if address.starts_with('/') { format!("unix:{address}") } else { address.to_owned() }
        });
        Self { address }
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If nobody listens there, or not for this user.
    pub fn connect(&self) -> Result<Connection, CliError> {
        Connection::connect(&self.address).map_err(|error| match error {
            ClientError::Connect { address, source } => {
                CliError::new(format!("cannot reach the service at {address}: {}", why(&source))).with_hint(match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        "the system's service is for root; another user's own is set by --address or DORMOUSE_ADDRESS"
                    }
                    _ => "is dormouse.socket active? If the service is elsewhere, set --address or DORMOUSE_ADDRESS",
                })
            }
            other => CliError::usage(error_text(&other)),
        })
    }

    /// Calls a method on a connection of its own.
    ///
    /// # Errors
    /// What [`call`] says, or if there is no connection.
    pub fn call<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
    ) -> Result<T, CliError> {
        call(&mut self.connect()?, attempted, method, parameters)
    }

    /// As [`Self::call`]; `None` for the error reply of this full name.
    ///
    /// # Errors
    /// Those of [`Self::call`], but this one.
    pub fn call_unless<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        unless: &str,
    ) -> Result<Option<T>, CliError> {
        let attempted = attempted.to_string();
        match self.connect()?.call(method, without_nulls(parameters), &[]) {
            Ok(reply) => serde_json::from_value(reply.parameters)
                .map(Some)
                .map_err(|error| CliError::bad_reply(&attempted, error)),
            Err(ClientError::Service { error, .. }) if error == unless => Ok(None),
            Err(error) => Err(told(&attempted, error)),
        }
    }

    /// Calls a method with `more`, and takes each reply as it comes, until the last or until `each` fails.
    ///
    /// # Errors
    /// What [`call`] and `each` say.
    pub fn stream<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        mut each: impl FnMut(T) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.stream_with_fds(attempted, method, parameters, Vec::new(), |reply, _| each(reply))
    }

    /// As [`Self::stream`], with descriptors in both directions.
    ///
    /// # Errors
    /// What [`call`] and `each` say.
    pub fn stream_with_fds<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        descriptors: Vec<OwnedFd>,
        mut each: impl FnMut(T, Vec<OwnedFd>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut connection = self.connect()?;
        let attempted = attempted.to_string();
        let replies = connection
            .call_more(method, without_nulls(parameters), &borrowed(&descriptors))
            .map_err(|error| told(&attempted, error))?;
        drop(descriptors);
        for reply in replies {
            let Reply { parameters, fds, .. } = reply.map_err(|error| told(&attempted, error))?;
            let reply =
                serde_json::from_value(parameters).map_err(|error| CliError::bad_reply(&attempted, error))?;
            each(reply, fds)?;
        }
        Ok(())
    }
}

/// Calls a method and waits for its reply. Fields that are null are not sent.
///
/// # Errors
/// An error reply, a connection that breaks, or a reply that is not what the interface promises.
pub fn call<T: DeserializeOwned>(
    connection: &mut Connection,
    attempted: impl Display,
    method: &str,
    parameters: Value,
) -> Result<T, CliError> {
    call_with_fds(connection, attempted, method, parameters, Vec::new())
}

/// As [`call`], with descriptors for the service.
///
/// # Errors
/// As for [`call`].
pub fn call_with_fds<T: DeserializeOwned>(
    connection: &mut Connection,
    attempted: impl Display,
    method: &str,
    parameters: Value,
    descriptors: Vec<OwnedFd>,
) -> Result<T, CliError> {
    let attempted = attempted.to_string();
    let reply = connection
        .call(method, without_nulls(parameters), &borrowed(&descriptors))
        .map_err(|error| told(&attempted, error))?;
    serde_json::from_value(reply.parameters).map_err(|error| CliError::bad_reply(&attempted, error))
}

fn borrowed(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

fn told(attempted: &str, error: ClientError) -> CliError {
    match error {
        ClientError::Service { error, parameters } => CliError::from_reply(attempted, &error, &parameters),
        other => CliError::new(format!("cannot {attempted}: {}", error_text(&other))),
    }
}

/// An error with all its causes in one line.
fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn without_nulls(parameters: Value) -> Value {
    match parameters {
        Value::Object(fields) => {
            Value::Object(fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        other => other,
    }
}

fn default_address() -> String {
    let directory = if identity::is_root() { PathBuf::from("/run") } else { identity::runtime_directory() };
    format!("unix:{}/dormouse/io.dormouse", directory.display())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_without_a_value_are_not_sent() {
        assert_eq!(without_nulls(json!({"name": "web", "signal": null})), json!({"name": "web"}));
    }

    #[test]
    fn an_address_may_be_a_bare_path() {
        assert_eq!(Service::at(Some("/tmp/x")).address, "unix:/tmp/x");
        assert_eq!(Service::at(Some("unix:/tmp/x")).address, "unix:/tmp/x");
    }
}
