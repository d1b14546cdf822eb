//! The varlink transport: sockets, messages, calls and replies. It knows nothing of containers.
//!
//! ```text
//! activation / listen ──► server ──► connection ──► service ──► an Interface (crate::api)
//!                            │           │
//!                         activity     decoder, socket (bytes and descriptors)
//! ```
//!
//! What holds for every interface: calls on one connection are answered in order; a reply under `more` is on the socket
//! before the next is made, so a slow reader holds up its own stream and nobody else; descriptors travel with calls and
//! replies; a message has at most 16 MiB; a call whose client has left is dropped, unless what it ordered holds a
//! [`BusyGuard`]. The `varlink` crate's wire types are used; its servers are not (replies wait for the handler's end, no
//! descriptors, no peer, no limits).

mod activation;
mod activity;
mod call;
pub mod client;
mod connection;
pub mod decoder;
mod listen;
mod parameters;
mod peer;
mod server;
mod service;
mod socket;

pub use activation::{ActivationError, activated_listeners};
pub use activity::BusyGuard;
pub use call::{Call, CallError};
pub use listen::{ListenError, Listener};
pub use peer::Peer;
pub use server::{ServeError, ServeOptions, serve};
pub use service::{BoxFuture, Interface, Service};
pub use socket::UpgradedStream;

/// The largest message, in bytes without the NUL. The same as systemd's.
pub const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// The most descriptors that one message may bring: the kernel's own limit for one sendmsg(2) (SCM_MAX_FD).
pub const DESCRIPTORS_MAX: usize = 253;
