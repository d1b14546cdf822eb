//! Upgraded connections: streams of containers and commands in frames, and files that are sent and received.

mod attach;
mod exec;
mod files;
mod frames;
mod session;
mod sockets;

pub(super) use files::Handles;

use super::{Call, CallError, PodmanInterface, errors, wire};
