//! Both faces of systemd: the host's, and the one inside a container.
//!
//! [`host`] asks the service manager of this host for scopes, and registers machines. [`mode`] says when a container's
//! command is systemd and what is set up for it; [`inside`] asks and orders the systemd that runs there; [`journal`]
//! reads what its journalctl prints; [`unit_file`] reads and writes unit files. Nothing here starts processes or knows of containers' states: the engine does.

mod bus;
pub mod host;
pub mod inside;
pub mod journal;
pub mod mode;
pub mod unit_file;
