//! dormouse: a container service that sleeps.
//!
//! The engine is a library; `main.rs` only picks the role that this process plays. Imports point one way:
//! `cli` → varlink client; `varlink` → `api` → `engine` → {`store`, `image`, `runtime`, `monitor`, `network`, `systemd`}.

pub mod api;
pub mod boot;
pub mod bridge;
pub mod cleanup;
pub mod cli;
pub mod engine;
pub mod health_check;
pub(crate) mod identity;
pub mod image;
pub mod machine;
pub(crate) mod memory;
pub mod monitor;
pub mod network;
pub mod oci;
pub(crate) mod pace;
pub mod pod_holder;
pub mod quadlet;
pub(crate) mod readiness;
mod role;
pub mod rootless;
pub mod runtime;
pub mod serve;
pub mod store;
pub mod systemd;
pub mod unit;
pub mod varlink;
pub mod wire;
