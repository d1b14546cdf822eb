//! io.dormouse.Container: files into containers and out of them.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::{PathKind, PathStat};
use crate::varlink::{Call, CallError};

use super::container::{ContainerInterface, failed};
use super::{Descriptors, looked_up, with_bytes};
use crate::wire::container as wire;

impl ContainerInterface {
    pub(super) async fn stat_path(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::StatPath_Args = call.parameters()?;
        let engine = self.engine.clone();
        let stat = looked_up(move || engine.stat_path(&given.name, &given.path)).await.map_err(failed)?;
        call.reply(wire::StatPath_Reply { info: info(stat) }).await
    }

    pub(super) async fn copy_out(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::CopyOut_Args = call.parameters()?;
        let archive = Descriptors::of(call).need_output("archive", given.archive)?;
        let engine = self.engine.clone();
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            engine.copy_out(&given.name, &given.path, given.topName.as_deref(), archive, cancelled, progress)
        };
        with_bytes(call, work, failed, |written| wire::CopyOut_Reply { bytesWritten: written }).await
    }

    pub(super) async fn copy_in(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::CopyIn_Args = call.parameters()?;
        let archive = Descriptors::of(call).need("archive", given.archive)?;
        let engine = self.engine.clone();
        // Filled when the work is done, before the last reply is made.
        let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
        let found = Arc::clone(&warnings);
        let work = move |cancelled: &AtomicBool, progress: &mut dyn FnMut(u64)| {
            let (read, told) = engine.copy_in(&given.name, &given.path, archive, cancelled, progress)?;
            *found.lock().unwrap_or_else(PoisonError::into_inner) = told;
            Ok(read)
        };
        let reply = |read| wire::CopyIn_Reply {
            bytesRead: read,
            warnings: warnings.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        with_bytes(call, work, failed, reply).await
    }
}

fn info(stat: PathStat) -> wire::PathInfo {
    wire::PathInfo {
        kind: match stat.kind {
            PathKind::File => wire::PathInfo_kind::file,
            PathKind::Directory => wire::PathInfo_kind::directory,
            PathKind::Link => wire::PathInfo_kind::link,
            PathKind::CharacterDevice => wire::PathInfo_kind::characterDevice,
            PathKind::BlockDevice => wire::PathInfo_kind::blockDevice,
            PathKind::Fifo => wire::PathInfo_kind::fifo,
            PathKind::Socket => wire::PathInfo_kind::socket,
        },
        mode: stat.mode.into(),
        uid: stat.uid.into(),
        gid: stat.gid.into(),
        sizeBytes: stat.size_bytes,
        modifiedUSec: stat.modified_usec,
    }
}
