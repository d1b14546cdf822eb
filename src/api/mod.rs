//! One file per varlink interface: wire types in, engine calls out, and no logic of its own.

mod changes;
mod container;
mod convert;
mod copy;
mod errors;
mod health;
mod image;
mod listing;
mod logs;
mod manager;
mod mount_types;
mod network;
mod network_types;
mod pod;
mod podman;
mod secret;
mod streams;
mod unit;
mod usage;
mod volume;

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::engine::{Engine, EngineError};
use crate::varlink::stream::{Control, Finish};
use crate::varlink::wire::MESSAGE_SIZE_MAX;
use crate::varlink::{Call, CallError, Service};

pub use podman::FlagReader;

const VENDOR: &str = "dormouse";
const PRODUCT: &str = "dormouse";
/// No client needs to know more often how far something is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const URL: &str = "https://varlink.org/";

/// The service with all its interfaces. `read_flags` is what io.podman reads its options with.
pub fn service(engine: &Engine, idle_timeout: Option<Duration>, read_flags: FlagReader) -> Service {
    Service {
        vendor: VENDOR.into(),
        product: PRODUCT.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        url: URL.into(),
        interfaces: vec![
            Box::new(container::ContainerInterface::new(engine.clone())),
            Box::new(unit::UnitInterface::new(engine.clone())),
            Box::new(image::ImageInterface::new(engine.clone())),
            Box::new(network::NetworkInterface::new(engine.clone())),
            Box::new(pod::PodInterface::new(engine.clone())),
            Box::new(volume::VolumeInterface::new(engine.clone())),
            Box::new(secret::SecretInterface::new(engine.clone())),
            Box::new(manager::ManagerInterface::new(engine.clone(), idle_timeout)),
            Box::new(podman::PodmanInterface::new(engine.clone(), read_flags)),
        ],
    }
}

/// Has something done to its end, whether or not the client waits for it.
async fn ordered<T: Send + 'static>(
    call: &mut Call,
    work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    let busy = call.busy();
    let task = tokio::spawn(async move {
        let result = work.await;
        drop(busy);
        result
    });
    finished(task.await)
}

/// Looks something up on a thread that may block.
async fn looked_up<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    finished(tokio::task::spawn_blocking(work).await)
}

/// Has work given up when the client leaves, which drops this.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes something in a thread, and tells how many bytes are written; given up if the client leaves.
async fn with_bytes<R: serde::Serialize>(
    call: &mut Call,
    work: impl FnOnce(&AtomicBool, &mut dyn FnMut(u64)) -> Result<u64, EngineError> + Send + 'static,
    failed: impl Fn(EngineError) -> CallError,
    reply: impl Fn(i64) -> R,
) -> Result<(), CallError> {
    let count = |written: u64| i64::try_from(written).unwrap_or(i64::MAX);
    call.begin_stream(reply(0), Finish::AtEnd).await?;
    let cancelled = CancelOnDrop(Arc::default());
    let flag = Arc::clone(&cancelled.0);
    let (tell, mut told) = tokio::sync::mpsc::channel::<u64>(1);
    let mut task = tokio::task::spawn_blocking(move || {
        work(&flag, &mut |written| {
            // If the client reads slowly, it gets fewer of these.
            let _ = tell.try_send(written);
        })
    });
    let result = loop {
        tokio::select! {
            result = &mut task => break finished(result),
            Some(written) = told.recv(), if call.wants_more() => {
                call.reply_continues(reply(count(written))).await?;
                tokio::select! {
                    result = &mut task => break finished(result),
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {}
                }
            }
        }
    };
    call.reply(reply(count(result.map_err(failed)?))).await
}

/// What a plain call gathers, and has to fit into its one reply: who writes it may write without end.
struct Gathered<T> {
    entries: Vec<T>,
    bytes: usize,
}

impl<T> Gathered<T> {
    fn new() -> Self {
        Self { entries: Vec::new(), bytes: 0 }
    }

    /// Adds entries; `size` is the length of what is text in one.
    ///
    /// # Errors
    /// [`CallError::ExpectedMore`] where it is too much for one reply.
    fn extend(
        &mut self,
        entries: impl Iterator<Item = T>,
        size: impl Fn(&T) -> usize,
    ) -> Result<(), CallError> {
        for entry in entries {
            self.bytes += size(&entry) + size_of::<T>();
            if self.bytes > MESSAGE_SIZE_MAX {
                return Err(CallError::ExpectedMore);
            }
            self.entries.push(entry);
        }
        Ok(())
    }
}

fn finished<T>(result: Result<Result<T, EngineError>, tokio::task::JoinError>) -> Result<T, EngineError> {
    result.unwrap_or_else(|error| {
        Err(EngineError::Failed { attempted: "finish the work".to_owned(), reason: error.to_string() })
    })
}

/// The descriptors of a call, taken by the indices that its parameters give: those that came along, or ends of channels.
struct Descriptors<'a>(&'a mut Call);

impl<'a> Descriptors<'a> {
    fn of(call: &'a mut Call) -> Self {
        Self(call)
    }

    /// As [`Self::take`], for one without which nothing can be done.
    fn need(&mut self, field: &str, index: i64) -> Result<OwnedFd, CallError> {
        let taken = self.0.input(index);
        self.found(field, taken, OFlags::WRONLY)
    }

    /// As [`Self::take_output`], for one without which nothing can be done.
    fn need_output(&mut self, field: &str, index: i64) -> Result<OwnedFd, CallError> {
        let taken = self.0.output(index);
        self.found(field, taken, OFlags::RDONLY)
    }

    /// One to read from. An index that is out of range, or was taken before, is a slip of the caller, and so is a
    /// descriptor that is open for the other direction only.
    fn take(&mut self, field: &str, index: Option<i64>) -> Result<Option<OwnedFd>, CallError> {
        index.map(|index| self.need(field, index)).transpose()
    }

    /// One to write to.
    fn take_output(&mut self, field: &str, index: Option<i64>) -> Result<Option<OwnedFd>, CallError> {
        index.map(|index| self.need_output(field, index)).transpose()
    }

    /// `useless` is how it is open if nothing can go the way that it is for: better told now than by output that is lost.
    fn found(
        &self,
        field: &str,
        taken: io::Result<Option<OwnedFd>>,
        useless: OFlags,
    ) -> Result<OwnedFd, CallError> {
        match taken {
            Ok(Some(fd))
                if rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags & OFlags::RWMODE != useless) =>
            {
                Ok(fd)
            }
            Ok(_) => Err(CallError::InvalidParameter { parameter: field.to_owned() }),
            Err(error) => Err(no_channel(self.0, &error)),
        }
    }
}

/// A channel could not be opened.
fn no_channel(call: &Call, error: &io::Error) -> CallError {
    let reason = format!("cannot open a channel: {error}");
    CallError::reply(format!("{}.Failed", call.interface()), serde_json::json!({ "reason": reason }))
}

/// Waits for work to be done, and does meanwhile what the client says on its stream; `None` if it says that it leaves.
async fn attended<T>(
    call: &mut Call,
    work: impl Future<Output = T>,
    mut obey: impl FnMut(Control),
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            result = &mut work => return Some(result),
            control = call.control() => match control {
                Control::Leave => return None,
                control => obey(control),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    const DESCRIPTIONS: &[&str] = &[
        include_str!("../../interfaces/io.dormouse.Container.varlink"),
        include_str!("../../interfaces/io.dormouse.Unit.varlink"),
        include_str!("../../interfaces/io.dormouse.Image.varlink"),
        include_str!("../../interfaces/io.dormouse.Network.varlink"),
        include_str!("../../interfaces/io.dormouse.Pod.varlink"),
        include_str!("../../interfaces/io.dormouse.Volume.varlink"),
        include_str!("../../interfaces/io.dormouse.Secret.varlink"),
        include_str!("../../interfaces/io.dormouse.Manager.varlink"),
        include_str!("../../interfaces/io.podman.varlink"),
        include_str!("../../interfaces/org.varlink.service.varlink"),
    ];

    #[test]
    fn every_description_is_sound_and_of_its_interface() {
        let dir = tempfile::tempdir().unwrap();
        let (state_dir, run_dir) = (dir.path().join("state"), dir.path().join("run"));
        let engine = crate::engine::Engine::new(crate::store::Paths { state_dir, run_dir }).unwrap();
        super::service(&engine, None, |_| Ok(serde_json::Map::new())).check_definitions().unwrap();
    }

    #[test]
    fn every_method_and_error_is_explained() {
        for description in DESCRIPTIONS {
            let idl = varlink_parser::IDL::try_from(*description).unwrap();
            for (name, doc) in idl
                .methods
                .values()
                .map(|method| (method.name, method.doc))
                .chain(idl.errors.values().map(|error| (error.name, error.doc)))
                .chain(idl.typedefs.values().map(|typedef| (typedef.name, typedef.doc)))
            {
                assert!(doc.len() > 10, "{}.{name} has no comment", idl.name);
            }
        }
    }
}
