//! Descriptors for a client that can't pass any: the channels of an upgraded call.
//!
//! A method that takes descriptors can be called with `upgrade` instead. The call is the same, but an index among its
//! descriptors names a channel of the stream that the connection becomes, and replies come as frames between the bytes, as
//! with `more`. The first reply is an ordinary one, and the upgrade; if it is an error, the connection is as before.
//!
//! A frame is a kind (one byte), a channel (one byte, 0 where it means nothing), the length of what follows (u32, big
//! endian), and that:
//!
//! | kind | from | what follows |
//! |---|---|---|
//! | `D` data | both | bytes of the channel, at most 64 KiB; none: its end |
//! | `C` credit | service | u32: so many more bytes of data may be sent on the channel, which the service reads from |
//! | `X` closed | both | nothing: nobody reads from the channel any more, and what is sent on it is dropped |
//! | `R` reply | service | a varlink reply, as with `more`; the one without `continues` is the last frame |
//! | `W` window | client | u16 rows, u16 columns: the size of the client's terminal |
//! | `S` signal | client | the name of a signal for the process, or its number |
//! | `L` leave | client | nothing: the client detaches; a command goes on, where a client that is lost would end it |
//!
//! Without credit the client sends no data, so a frame that is not data is never stuck behind a process that does not
//! read. In the other direction a slow client holds up its own stream. Every byte of output is on the stream before the last
//! reply. A client that closes its connection, or only its writing side, before that has left.
//!
//! [`Channels`] is the service's side (async), [`ClientStream`] the client's (blocking threads), [`frame`] what both have in
//! common.

mod client;
pub mod frame;
mod input;
mod output;
mod server;

pub use client::{ClientStream, Controller};
pub use server::{Control, Finish};

pub(super) use server::Channels;
