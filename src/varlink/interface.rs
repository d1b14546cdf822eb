//! What a service is made of: the [`Interface`]s it answers for, and what it says of itself.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::schema::{Schema, SchemaError};
use super::{Call, CallError};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How strictly the parameters of a call are held against the IDL before the interface sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ParameterCheck {
    /// Unknown fields, missing or wrongly typed ones, and unknown enum values are refused with
    /// `org.varlink.service.InvalidParameter` and the exact path.
    #[default]
    Strict,
    /// For older interfaces whose clients omit fields and send extra ones: what is missing or null is empty, unknown
    /// fields are dropped, and names match whatever their case, so that the interface sees parameters that fit. What is
    /// wrong beyond that is `org.varlink.service.InvalidParameter` for `parameters`. A call for an upgrade that is refused
    /// leaves the connection as it was.
    Lenient,
}

/// One varlink interface: its name, its text, and its methods.
///
/// ```
/// use dormouse::varlink::{BoxFuture, Call, CallError, Interface};
///
/// struct Ping;
///
/// impl Interface for Ping {
///     fn name(&self) -> &'static str { "org.example.ping" }
///     fn description(&self) -> &'static str {
///         "interface org.example.ping\nmethod Ping(text: string) -> (text: string)\n"
///     }
///     fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
///         Box::pin(async move {
///             match call.method() {
///                 "Ping" => {
///                     let parameters: serde_json::Value = call.parameters()?;
///                     call.reply(parameters).await
///                 }
///                 _ => Err(CallError::MethodNotImplemented),
///             }
///         })
///     }
/// }
/// ```
pub trait Interface: Send + Sync + 'static {
    /// The interface's full name, `io.dormouse.Container`.
    fn name(&self) -> &'static str;

    /// The IDL text, as `GetInterfaceDescription` returns it and as parameters are checked against it.
    fn description(&self) -> &'static str;

    /// How strictly parameters are checked; strictly unless overridden.
    fn parameter_check(&self) -> ParameterCheck {
        ParameterCheck::Strict
    }

    /// Carries out one call. The method is known to be in the IDL and the parameters fit it (unless lenient).
    ///
    /// A method ends with one of [`Call::reply`], [`Call::reply_with_fds`], [`Call::upgrade`], or an error; a method
    /// without output may simply return `Ok(())`. When the client leaves, the future is dropped at its next
    /// await; work that must be finished belongs on another task or thread, holding a [`Call::busy`] guard.
    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>>;
}

/// What is served: the answers of `org.varlink.service.GetInfo`, and the interfaces.
pub struct Service {
    /// Who makes the service, `dormouse`.
    pub vendor: Cow<'static, str>,
    /// What it is called.
    pub product: Cow<'static, str>,
    /// Its version.
    pub version: Cow<'static, str>,
    /// Where to read about it.
    pub url: Cow<'static, str>,
    /// The interfaces beside `org.varlink.service`, which is always there.
    pub interfaces: Vec<Box<dyn Interface>>,
}

impl Service {
    /// Reads the definitions of all interfaces, for a test: serving reads each when it is first called, and answers
    /// calls of a wrong one with `MethodNotImplemented`.
    ///
    /// # Errors
    /// The first that does not parse, uses an undefined type, or is that of another interface.
    pub fn check_definitions(&self) -> Result<(), SchemaError> {
        for interface in &self.interfaces {
            let schema = Schema::parse(interface.description())?;
            if schema.interface() != interface.name() {
                let (found, wanted) = (schema.interface().to_owned(), interface.name().to_owned());
                return Err(SchemaError::OtherInterface { found, wanted });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.interfaces.iter().map(|interface| interface.name()).collect();
        formatter.debug_struct("Service").field("product", &self.product).field("interfaces", &names).finish()
    }
}
