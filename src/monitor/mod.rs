//! The per-container supervisor.

pub mod config;
pub mod state;
