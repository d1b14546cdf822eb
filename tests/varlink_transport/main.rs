//! What a varlink client may rely on, whatever the interface: held against a toy interface over real sockets.
//!
//! Most tests serve from a thread of this process. Those about processes (activation, idle exit, signals) start this
//! very test program again as the server: see [`toy_server_process`].
#![allow(clippy::unwrap_used)] // a failure is to end the test
#![allow(unsafe_code)] // the server process adopts descriptors while the test harness's main thread sleeps

mod calls;
mod clients;
mod life;
mod processes;
mod toy;
