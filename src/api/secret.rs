//! io.dormouse.Secret.

use std::io::Read;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::engine::{Engine, EngineError, NewSecret, Secret};
use crate::image::DescriptorReader;
use crate::store::User;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::{CancelOnDrop, Descriptors, listing, looked_up, ordered};
use crate::wire::secret as wire;

const NAME: &str = "io.dormouse.Secret";
/// More than a secret may have: the engine says how much that is.
const READ_MAX: u64 = 1 << 20;

/// The interface over an engine.
pub(super) struct SecretInterface {
    engine: Engine,
}

impl Interface for SecretInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Secret.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Create" => self.create(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Remove" => self.remove(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

impl SecretInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn create(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Create_Args = call.parameters()?;
        let descriptor = Descriptors::of(call).take("descriptor", given.descriptor)?;
        let refused = |field: &str, reason: &str| {
            failed(EngineError::InvalidSpec { field: field.into(), reason: reason.into() })
        };
        let bytes = match (descriptor, given.data) {
            (Some(descriptor), None) => {
                // Read before anything is ordered: a client that leaves meanwhile has not said all of it.
                let cancelled = CancelOnDrop(Arc::default());
                let flag = Arc::clone(&cancelled.0);
                let read = looked_up(move || {
                    let mut bytes = Vec::new();
                    DescriptorReader::new(descriptor, &flag).take(READ_MAX).read_to_end(&mut bytes).map_err(
                        |error| EngineError::InvalidSpec {
                            field: "descriptor".into(),
                            reason: format!("it can't be read: {error}"),
                        },
                    )?;
                    Ok(bytes)
                });
                read.await.map_err(failed)?
            }
            (None, Some(data)) => {
                BASE64_STANDARD.decode(data).map_err(|_| refused("data", "it is no base64"))?
            }
            _ => return Err(refused("data", "either a descriptor or data is wanted")),
        };
        let new = NewSecret {
            name: given.name,
            bytes,
            labels: given.labels.unwrap_or_default().into_iter().collect(),
            replace: given.replace.unwrap_or_default(),
        };
        let engine = self.engine.clone();
        let made = ordered(
            call,
            looked_up(move || {
                let secret = engine.create_secret(new)?;
                let users = engine.users_of_secret(&secret.row.id)?;
                Ok(details(secret, &users))
            }),
        );
        let secret = made.await.map_err(failed)?;
        call.reply(wire::Create_Reply { secret }).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let wanted = listing::Wanted::new(given.names, given.labels);
        let look = move |engine: &Engine| Ok(wanted.of(all(engine)?, |it| (&it.id, &it.name, &it.labels)));
        let reply = |secrets, gone| wire::List_Reply { secrets, gone };
        listing::list(call, &self.engine, NAME, look, |secret| &secret.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let secret = looked_up(move || {
            let secret = engine.find_secret(&given.name)?;
            let users = engine.users_of_secret(&secret.row.id)?;
            Ok(details(secret, &users))
        });
        call.reply(wire::Inspect_Reply { secret: secret.await.map_err(failed)? }).await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let engine = self.engine.clone();
        let removed = ordered(call, looked_up(move || engine.remove_secret(&given.name)));
        removed.await.map_err(failed)?;
        call.reply(wire::Remove_Reply {}).await
    }
}

fn all(engine: &Engine) -> Result<Vec<wire::Details>, EngineError> {
    Ok(engine.secrets()?.into_iter().map(|(secret, users)| details(secret, &users)).collect())
}

fn details(secret: Secret, users: &[User]) -> wire::Details {
    wire::Details {
        id: secret.row.id,
        name: secret.row.name,
        labels: secret.definition.labels.into_iter().collect(),
        createdUSec: secret.row.created_usec,
        sizeBytes: i64::try_from(secret.definition.size_bytes).unwrap_or(i64::MAX),
        containers: users
            .iter()
            .map(|user| wire::User { id: user.id.clone(), name: user.name.clone() })
            .collect(),
    }
}
