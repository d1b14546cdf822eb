//! The runtime specification, section by section: each module is a document of it, each test one of its sections.
//!
//! Written from the text of runtime-spec 1.2; what later versions say more clearly is taken from there, where it does not
//! contradict.

#![allow(clippy::unwrap_used)] // the lint's exception for tests does not reach helpers

#[path = "../oci_support/mod.rs"]
mod oci_support;

mod config;
mod config_linux;
mod features;
mod runtime;
mod runtime_linux;
