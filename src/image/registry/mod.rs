//! Registries: what is asked of them, and how.
//!
//! Everything here blocks its thread. A [`Session`] is about one repository; it finds out how the registry wants to be
//! asked (TLS, tokens), and tries again what can be tried again. Blobs are read by [`BlobReader`], which goes on by ranges
//! after a broken connection. Whatever comes is hostile: digests are checked by those who know them, sizes are bounded.
//!
//! Sources: OCI distribution-spec 1.1; distribution, "token authentication"; containers-registries.conf(5),
//! containers-auth.json(5), containers-certs.d(5).

mod auth;
mod blob;
mod config;
mod error;
mod http;
mod push;
mod search;

pub use auth::{AuthFiles, Credentials};
pub use blob::BlobReader;
pub use config::{Endpoint, Registries};
pub use error::RegistryError;
pub use http::{Access, Session};
pub use push::Upload;
pub use search::Found;
