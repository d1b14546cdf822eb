//! io.dormouse.Volume.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{Archive, Engine, EngineError, NewVolume, SaveTo, Volume, VolumeDefinition};
use crate::store::User;
use crate::varlink::{BoxFuture, Call, CallError, Interface};

use super::errors::to_reply;
use super::{Descriptors, listing, looked_up, ordered, with_bytes};
use crate::wire::volume as wire;

const NAME: &str = "io.dormouse.Volume";

/// The interface over an engine.
pub(super) struct VolumeInterface {
    engine: Engine,
}

impl Interface for VolumeInterface {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        include_str!("../../interfaces/io.dormouse.Volume.varlink")
    }

    fn call<'a>(&'a self, call: &'a mut Call) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(async move {
            match call.method() {
                "Create" => self.create(call).await,
                "List" => self.list(call).await,
                "Inspect" => self.inspect(call).await,
                "Remove" => self.remove(call).await,
                "Prune" => self.prune(call).await,
                "Export" => self.export(call).await,
                "Import" => self.import(call).await,
                _ => Err(CallError::MethodNotImplemented),
            }
        })
    }
}

fn failed(error: EngineError) -> CallError {
    to_reply(NAME)(error)
}

/// One of the two ways to name an archive.
fn one_of<T>(descriptor: Option<T>, path: Option<T>) -> Result<T, CallError> {
    match (descriptor, path) {
        (Some(one), None) | (None, Some(one)) => Ok(one),
        _ => {
            let reason = "either a descriptor or a path is wanted".to_owned();
            Err(failed(EngineError::InvalidSpec { field: "archive".into(), reason }))
        }
    }
}

impl VolumeInterface {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine }
    }

    async fn create(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Create_Args = call.parameters()?;
        let new = NewVolume {
            name: given.name,
            definition: VolumeDefinition {
                options: given.options.unwrap_or_default().into_iter().collect(),
                labels: given.labels.unwrap_or_default().into_iter().collect(),
            },
        };
        let engine = self.engine.clone();
        let made = ordered(
            call,
            looked_up(move || {
                let volume = engine.create_volume(new)?;
                Ok(details(&engine, volume, &[]))
            }),
        );
        let volume = made.await.map_err(failed)?;
        call.reply(wire::Create_Reply { volume }).await
    }

    async fn list(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::List_Args = call.parameters()?;
        let wanted = listing::Wanted::new(given.names, given.labels);
        let look = move |engine: &Engine| {
            let mut volumes = wanted.of(all(engine)?, |it| (&it.id, &it.name, &it.labels));
            volumes.retain(|volume| given.unused.is_none_or(|unused| volume.containers.is_empty() == unused));
            Ok(volumes)
        };
        let reply = |volumes, gone| wire::List_Reply { volumes, gone };
        listing::list(call, &self.engine, NAME, look, |volume| &volume.id, reply).await
    }

    async fn inspect(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Inspect_Args = call.parameters()?;
        let engine = self.engine.clone();
        let volume = looked_up(move || {
            let volume = engine.find_volume(&given.name)?;
            let users = engine.users_of_volume(&volume.row.id)?;
            Ok(details(&engine, volume, &users))
        });
        call.reply(wire::Inspect_Reply { volume: volume.await.map_err(failed)? }).await
    }

    async fn remove(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Remove_Args = call.parameters()?;
        let engine = self.engine.clone();
        let force = given.force.unwrap_or_default();
        ordered(call, async move { engine.remove_volume(&given.name, force).await }).await.map_err(failed)?;
        call.reply(wire::Remove_Reply {}).await
    }

    async fn prune(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Prune_Args = call.parameters()?;
        let engine = self.engine.clone();
        let anonymous = given.anonymous.unwrap_or_default();
        let labels = given.labels.unwrap_or_default().into_iter().collect();
        let pruned = ordered(call, looked_up(move || engine.prune_volumes(anonymous, &labels)));
        let pruned = pruned.await.map_err(failed)?;
        let freed = i64::try_from(pruned.freed_bytes).unwrap_or(i64::MAX);
        call.reply(wire::Prune_Reply { removed: pruned.removed, freedBytes: freed }).await
    }

    async fn export(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Export_Args = call.parameters()?;
        let descriptor = Descriptors::of(call).take_output("archive", given.archive)?;
        let to =
            one_of(descriptor.map(SaveTo::Descriptor), given.path.map(|path| SaveTo::Path(path.into())))?;
        let (engine, name) = (self.engine.clone(), given.name);
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            engine.export_volume(&name, to, cancelled, progress)
        };
        with_bytes(call, work, failed, |written| wire::Export_Reply { bytesWritten: written }).await
    }

    async fn import(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::Import_Args = call.parameters()?;
        let descriptor = Descriptors::of(call).take("archive", given.archive)?;
        let from =
            one_of(descriptor.map(Archive::Descriptor), given.path.map(|path| Archive::Path(path.into())))?;
        let (engine, name) = (self.engine.clone(), given.name);
        // Filled when the work is done, before the last reply is made.
        let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
        let found = Arc::clone(&warnings);
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            let (read, told) = engine.import_volume(&name, from, cancelled, progress)?;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = told;
            Ok(read)
        };
        let reply = |read| wire::Import_Reply {
            bytesRead: read,
            warnings: warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        with_bytes(call, work, failed, reply).await
    }
}

fn all(engine: &Engine) -> Result<Vec<wire::Details>, EngineError> {
    Ok(engine.volumes()?.into_iter().map(|(volume, users)| details(engine, volume, &users)).collect())
}

fn details(engine: &Engine, volume: Volume, users: &[User]) -> wire::Details {
    wire::Details {
        mountPoint: engine.volume_path(&volume).to_string_lossy().into_owned(),
        id: volume.row.id,
        name: volume.row.name,
        driver: wire::Driver::local,
        options: volume.definition.options.into_iter().collect(),
        labels: volume.definition.labels.into_iter().collect(),
        createdUSec: volume.row.created_usec,
        anonymous: volume.row.anonymous,
        fresh: volume.row.fresh,
        containers: users
            .iter()
            .map(|user| wire::User { id: user.id.clone(), name: user.name.clone() })
            .collect(),
    }
}
