//! The interfaces of a service, and the way of a call to its method. `org.varlink.service` is answered here.

use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;

use serde_json::json;

use super::call::{Call, CallError};
use super::parameters::Definition;

/// A future that a trait object can give.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One interface of a service.
pub trait Interface: Send + Sync + 'static {
    /// Its name, as in `io.dormouse.Container`.
    fn name(&self) -> &'static str;

    /// Its description, as clients get it.
    fn description(&self) -> &'static str;

    /// Answers a call to one of its methods. The parameters fit the description. Dropped when the client leaves: what
    /// must be finished runs elsewhere, with a [`super::BusyGuard`].
    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>>;
}

/// What a service says of itself, and what it can do.
pub struct Service {
    vendor: &'static str,
    product: &'static str,
    version: &'static str,
    url: &'static str,
    interfaces: Vec<Entry>,
}

struct Entry {
    interface: Box<dyn Interface>,
    /// Parsed by the first call that needs it: a call to one interface does not pay for the others.
    definition: OnceLock<Definition>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.interfaces.iter().map(|entry| entry.interface.name()).collect();
        f.debug_struct("Service")
            .field("product", &self.product)
            .field("interfaces", &names)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// A service that so far has only `org.varlink.service`.
    pub fn new(
        vendor: &'static str,
        product: &'static str,
        version: &'static str,
        url: &'static str,
    ) -> Self {
        Self { vendor, product, version, url, interfaces: vec![Entry::new(Box::new(ServiceInterface))] }
    }

    /// Adds an interface.
    #[must_use]
    pub fn with(mut self, interface: impl Interface) -> Self {
        self.interfaces.push(Entry::new(Box::new(interface)));
        self
    }

    /// Finds the method and has it answer. Parameters that do not fit the description never reach it.
    pub(super) async fn dispatch(&self, call: &mut Call) -> Result<(), CallError> {
        let Some((interface, method)) = call.full_method().rsplit_once('.') else {
            return Err(CallError::InterfaceNotFound { interface: call.full_method().to_owned() });
        };
        let entry = self.entry(interface)?;
        let definition = entry.definition.get_or_init(|| Definition::parse(entry.interface.description()));
        definition.check(method, call.full_method(), call.raw_parameters())?;
        if interface == ServiceInterface.name() {
            return self.answer(call).await;
        }
        entry.interface.call(call).await
    }

    fn entry(&self, interface: &str) -> Result<&Entry, CallError> {
        self.interfaces
            .iter()
            .find(|entry| entry.interface.name() == interface)
            .ok_or_else(|| CallError::InterfaceNotFound { interface: interface.to_owned() })
    }

    async fn answer(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "GetInfo" => {
                let interfaces: Vec<_> = self.interfaces.iter().map(|entry| entry.interface.name()).collect();
                call.reply(json!({
                    "vendor": self.vendor, "product": self.product, "version": self.version, "url": self.url,
                    "interfaces": interfaces,
                }))
                .await
            }
            _ => {
                let wanted = call.raw_parameters()["interface"].as_str().unwrap_or_default().to_owned();
                let description = self.entry(&wanted)?.interface.description();
                call.reply(json!({ "description": description })).await
            }
        }
    }
}

impl Entry {
    fn new(interface: Box<dyn Interface>) -> Self {
        Self { interface, definition: OnceLock::new() }
    }
}

/// Only its name and description; [`Service`] itself answers.
struct ServiceInterface;

impl Interface for ServiceInterface {
    fn name(&self) -> &'static str {
        "org.varlink.service"
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/org.varlink.service.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        let method = call.full_method().to_owned();
        Box::pin(async { Err(CallError::MethodNotFound { method }) })
    }
}
