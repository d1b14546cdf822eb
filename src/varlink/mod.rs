//! The varlink transport, server and client. It knows nothing of containers.
//!
//! ```text
//!  activation / listen ──► server ──► connection ──► call ──► dyn Interface      (async, current-thread tokio)
//!                            │           │    └──► schema: parameters against the IDL, before dispatch
//!                         activity     socket ──► wire: framing and decoding, pure functions over bytes
//!                                        │
//!  client::Connection (blocking) ────────┘
//! ```
//!
//! - [`Interface`] is what a service implements, [`Call`] what it is handed, [`CallError`] how it refuses.
//! - [`serve`] runs a [`Service`] on [`Listener`]s until it is idle or told to stop.
//! - [`client::Connection`] is the blocking client of the command line.
//! - [`stream`] takes the place of descriptors where none can be passed.
//!
//! Invariants a change must keep: a message is read from the socket only when the one before it has been
//! answered, and never beyond its closing NUL (so nothing is ever buffered that an upgrade, or the next wake of
//! the service, would need); everything that a stranger can fill is bounded; whatever one connection sends can
//! harm that connection only.
//!
//! Source: <https://varlink.org>, systemd's `sd-varlink` for descriptors and for the errors that varlink.org does
//! not list.

pub mod activation;
mod activity;
mod call;
pub mod client;
mod connection;
mod error;
mod interface;
mod introspection;
pub mod listen;
mod peer;
mod schema;
mod server;
mod socket;
pub mod stream;
mod upgrade;
pub mod wire;

pub use activity::BusyGuard;
pub use call::Call;
pub use error::CallError;
pub use interface::{BoxFuture, Interface, ParameterCheck, Service};
pub use listen::Listener;
pub use peer::Peer;
pub use schema::SchemaError;
pub use server::{ServeError, ServeOptions, serve, serve_until};
pub use upgrade::UpgradedStream;
