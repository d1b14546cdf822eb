//! The service at the other end: its address, connections to it, and calls whose failures are told in words.
//!
//! It may be on another host. Then no descriptors can be passed, and calls that take some get channels in their place
//! ([`crate::varlink::stream`]); callers need not know. Connections by ssh are dear, so one is kept for the next call.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cli::errors::{CliError, why};
use crate::cli::remote::{Destination, Tunnel};
use crate::identity;
use crate::varlink::client::{ClientError, Connection, Reply};
use crate::varlink::stream::Controller;

/// A service that has nothing to do goes to sleep, and closes what was kept; no less than this is left to it.
const KEPT_AT_MOST: Duration = Duration::from_secs(2);

/// Where the service listens.
#[derive(Debug, Clone)]
pub struct Service {
    place: Place,
    kept: Arc<Mutex<Option<(Instant, Link)>>>,
}

#[derive(Debug, Clone)]
enum Place {
    /// Its address on this host.
    Here(String),
    There(Destination),
}

/// A connection, and the ssh that leads it elsewhere.
#[derive(Debug)]
struct Link {
    connection: Connection,
    tunnel: Option<Tunnel>,
}

impl Link {
    fn told(&mut self, attempted: &str, error: ClientError) -> CliError {
        match (error, &mut self.tunnel) {
            (ClientError::Closed | ClientError::Transport { .. }, Some(tunnel)) => {
                let (why, hint) = tunnel.post_mortem();
                CliError::new(format!("cannot {attempted}: {why}")).with_hint(hint)
            }
            (error, _) => told(attempted, error),
        }
    }
}

impl Service {
    /// The service at `address`, or at the usual place: the system's for root, the user's own for others.
    pub fn at(address: Option<&str>) -> Self {
        let address = address.filter(|address| !address.is_empty()).map_or_else(default_address, |address| {
            if address.starts_with('/') { format!("unix:{address}") } else { address.to_owned() }
        });
        Self { place: Place::Here(address), kept: Arc::default() }
    }

    /// The service on another host.
    pub fn there(destination: Destination) -> Self {
        Self { place: Place::There(destination), kept: Arc::default() }
    }

    /// Whether no descriptors can be passed.
    pub fn is_remote(&self) -> bool {
        matches!(self.place, Place::There(_))
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If nobody listens there, or not for this user.
    fn connect(&self) -> Result<Link, CliError> {
        match &self.place {
            Place::Here(address) => Ok(Link { connection: connect(address)?, tunnel: None }),
            Place::There(destination) => {
                let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some((_, link)) = kept.filter(|(since, _)| since.elapsed() < KEPT_AT_MOST) {
                    return Ok(link);
                }
                let (socket, tunnel) = destination.connect()?;
                Ok(Link { connection: Connection::from_stream(socket), tunnel: Some(tunnel) })
            }
        }
    }

    /// Opens a connection, so that a failure to do so shows before anything else is done.
    ///
    /// # Errors
    /// As for any call.
    pub fn reach(&self) -> Result<(), CliError> {
        let link = self.connect()?;
        self.keep(link);
        Ok(())
    }

    fn keep(&self, link: Link) {
        if link.tunnel.is_some() {
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), link));
        }
    }

    /// Does something with a connection that is good for another call unless that fails by itself.
    fn with_connection<T>(
        &self,
        attempted: &str,
        act: impl FnOnce(&mut Connection) -> Result<T, ClientError>,
    ) -> Result<T, CliError> {
        let mut link = self.connect()?;
        match act(&mut link.connection) {
            Ok(done) => {
                self.keep(link);
                Ok(done)
            }
            Err(error @ ClientError::Service { .. }) => {
                let error = link.told(attempted, error);
                self.keep(link);
                Err(error)
            }
            Err(error) => Err(link.told(attempted, error)),
        }
    }

    /// Calls a method and waits for its reply. Fields that are null are not sent.
    ///
    /// # Errors
    /// An error reply, a connection that breaks, or a reply that is not what the interface promises.
    pub fn call<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
    ) -> Result<T, CliError> {
        let attempted = attempted.to_string();
        let reply = self.with_connection(&attempted, |connection| {
            connection.call(method, without_nulls(parameters), &[])
        })?;
        typed(&attempted, reply)
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
        let reply = self.with_connection(&attempted, |connection| {
            match connection.call(method, without_nulls(parameters), &[]) {
                Err(ClientError::Service { error, .. }) if error == unless => Ok(None),
                result => result.map(Some),
            }
        })?;
        reply.map(|reply| typed(&attempted, reply)).transpose()
    }

    /// Calls a method with `more`, and takes each reply as it comes, until the last or until `each` fails.
    ///
    /// # Errors
    /// What [`Self::call`] and `each` say.
    pub fn stream<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        mut each: impl FnMut(T) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        self.stream_with_fds(attempted, method, parameters, Vec::new(), |reply, _| each(reply))
    }

    /// As [`Self::stream`], with descriptors in both directions; from another host none come.
    ///
    /// # Errors
    /// What [`Self::call`] and `each` say.
    pub fn stream_with_fds<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        descriptors: Vec<OwnedFd>,
        mut each: impl FnMut(T, Vec<OwnedFd>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let attempted = attempted.to_string();
        if self.is_remote() && !descriptors.is_empty() {
            let each = |reply| each(reply, Vec::new());
            return self.stream_with_channels(&attempted, method, parameters, descriptors, |_| (), each);
        }
        // What `each` says ends the stream, and is no failure of the connection.
        let mut refused = None;
        let ended = self.with_connection(&attempted, |connection| {
            let fds = borrowed(&descriptors);
            let replies = connection.call_more(method, without_nulls(parameters), &fds)?;
            for reply in replies {
                let Reply { parameters, fds, .. } = reply?;
                let taken = serde_json::from_value(parameters)
                    .map_err(|error| CliError::bad_reply(&attempted, error))
                    .and_then(|reply| each(reply, fds));
                if let Err(error) = taken {
                    refused = Some(error);
                    return Err(ClientError::Spent);
                }
            }
            Ok(())
        });
        match refused {
            Some(error) => Err(error),
            None => ended,
        }
    }

    /// Calls a method with descriptors, and waits for its last reply. `begun` gets what can be said to the service meanwhile,
    /// where that is not done by calls of its own: on another host.
    ///
    /// # Errors
    /// Those of [`Self::call`].
    pub fn call_with_fds<T: DeserializeOwned>(
        &self,
        attempted: impl Display,
        method: &str,
        parameters: Value,
        descriptors: Vec<OwnedFd>,
        begun: impl FnOnce(Controller),
    ) -> Result<T, CliError> {
        let attempted = attempted.to_string();
        if !self.is_remote() {
            let reply = self.with_connection(&attempted, |connection| {
                connection.call(method, without_nulls(parameters), &borrowed(&descriptors))
            })?;
            return typed(&attempted, reply);
        }
        let mut last = None;
        self.stream_with_channels(&attempted, method, parameters, descriptors, begun, |reply| {
            last = Some(reply);
            Ok(())
        })?;
        let last = last.ok_or_else(|| CliError::bad_reply(&attempted, "no reply has come"))?;
        serde_json::from_value(last).map_err(|error| CliError::bad_reply(&attempted, error))
    }

    fn stream_with_channels<T: DeserializeOwned>(
        &self,
        attempted: &str,
        method: &str,
        parameters: Value,
        descriptors: Vec<OwnedFd>,
        begun: impl FnOnce(Controller),
        mut each: impl FnMut(T) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let mut link = self.connect()?;
        let called = link.connection.call_stream(method, without_nulls(parameters), descriptors);
        let mut stream = match called {
            Ok(stream) => stream,
            Err(error) => {
                let refused = matches!(error, ClientError::Service { .. });
                let error = link.told(attempted, error);
                if refused {
                    self.keep(link);
                }
                return Err(error);
            }
        };
        begun(stream.controller());
        while let Some(reply) = stream.next_reply() {
            let reply = reply.map_err(|error| link.told(attempted, error))?;
            each(typed(attempted, reply)?)?;
        }
        Ok(())
    }
}

/// A connection to an address on this host.
///
/// # Errors
/// If nobody listens there, or not for this user.
pub fn connect(address: &str) -> Result<Connection, CliError> {
    Connection::connect(address).map_err(|error| match error {
        ClientError::Connect { address, source } => CliError::new(format!(
            "cannot reach the service at {address}: {}",
            why(&source)
        ))
        .with_hint(match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "the system's service is for root; another user's own is set by --address or DORMOUSE_ADDRESS"
            }
            _ => "is dormouse.socket active? If the service is elsewhere, set --address or DORMOUSE_ADDRESS",
        }),
        other => CliError::usage(error_text(&other)),
    })
}

fn typed<T: DeserializeOwned>(attempted: &str, reply: Reply) -> Result<T, CliError> {
    serde_json::from_value(reply.parameters).map_err(|error| CliError::bad_reply(attempted, error))
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

/// Where the service listens unless told: the system's for root, the user's own for others.
pub fn default_address() -> String {
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
        for text in ["/tmp/x", "unix:/tmp/x"] {
            let Place::Here(address) = Service::at(Some(text)).place else { panic!("{text} is here") };
            assert_eq!(address, "unix:/tmp/x");
        }
    }
}
