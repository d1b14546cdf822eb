//! `org.varlink.service`, and finding the interface of a call.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use varlink::ServiceInfo;

use super::schema::Schema;
use super::{Call, CallError, Interface, ParameterCheck, Service};

/// The interface that every varlink service has.
const NAME: &str = "org.varlink.service";
const DESCRIPTION: &str = include_str!("../../interfaces/org.varlink.service.varlink");

/// The interfaces of a service with their schemas, each parsed when it is first called.
pub(super) struct Registry {
    info: ServiceInfo,
    own_schema: OnceLock<Option<Arc<Schema>>>,
    entries: Vec<Entry>,
}

struct Entry {
    interface: Box<dyn Interface>,
    schema: OnceLock<Option<Arc<Schema>>>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Registry").field("info", &self.info).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct DescriptionParameters {
    interface: String,
}

#[derive(Serialize)]
struct DescriptionReply {
    description: &'static str,
}

impl Registry {
    pub(super) fn new(service: Service) -> Self {
        let names = service.interfaces.iter().map(|interface| interface.name());
        let info = ServiceInfo {
            vendor: service.vendor,
            product: service.product,
            version: service.version,
            url: service.url,
            interfaces: std::iter::once(NAME).chain(names).map(Into::into).collect(),
        };
        let entries = service
            .interfaces
            .into_iter()
            .map(|interface| Entry { interface, schema: OnceLock::new() })
            .collect();
        Self { info, own_schema: OnceLock::new(), entries }
    }

    /// Checks a call and hands it to its interface.
    pub(super) async fn dispatch(&self, call: &mut Call) -> Result<(), CallError> {
        if !call.full_method().contains('.') {
            return Err(CallError::invalid_parameter("method"));
        }
        if call.interface() == NAME {
            admit(call, &self.own_schema, DESCRIPTION, ParameterCheck::Strict)?;
            return self.describe(call).await;
        }
        let Some(entry) = self.entries.iter().find(|entry| entry.interface.name() == call.interface()) else {
            return Err(CallError::InterfaceNotFound { interface: call.interface().to_owned() });
        };
        let interface = &entry.interface;
        admit(call, &entry.schema, interface.description(), interface.parameter_check())?;
        interface.call(call).await
    }

    async fn describe(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "GetInfo" => call.reply(&self.info).await,
            "GetInterfaceDescription" => {
                let DescriptionParameters { interface } = call.parameters()?;
                let description = if interface == NAME {
                    DESCRIPTION
                } else {
                    let entry = self.entries.iter().find(|entry| entry.interface.name() == interface);
                    entry.ok_or(CallError::InterfaceNotFound { interface })?.interface.description()
                };
                call.reply(DescriptionReply { description }).await
            }
            _ => Err(CallError::MethodNotImplemented),
        }
    }
}

/// Holds a call against the IDL of its interface.
fn admit(
    call: &mut Call,
    schema: &OnceLock<Option<Arc<Schema>>>,
    description: &'static str,
    check: ParameterCheck,
) -> Result<(), CallError> {
    let schema = schema.get_or_init(|| match Schema::parse(description) {
        Ok(schema) => Some(Arc::new(schema)),
        Err(error) => {
            tracing::error!(interface = call.interface(), %error, "the interface's own IDL is wrong");
            None
        }
    });
    let Some(schema) = schema else { return Err(CallError::MethodNotImplemented) };
    match check {
        ParameterCheck::Strict => schema.check_call(call.method(), call.raw_parameters())?,
        ParameterCheck::Lenient => {
            call.keep_open();
            // The servers of such interfaces told the method's name alone.
            let unknown = |method: &str| {
                CallError::reply("org.varlink.service.MethodNotFound", serde_json::json!({"method": method}))
            };
            let made = schema.complete_call(call.method(), call.raw_parameters());
            let made = made.map_err(|error| match error {
                CallError::MethodNotFound => unknown(call.method()),
                other => other,
            })?;
            call.set_parameters(made);
        }
    }
    call.check_replies(schema);
    Ok(())
}
