//! The log driver `none`: output is for attached clients only.

use super::{LogError, Stream};

/// Logs nothing.
#[derive(Debug)]
pub struct Discard;

impl Discard {
    // The same signature as the other drivers have.
    #[allow(clippy::unnecessary_wraps, clippy::unused_self)]
    pub(super) fn write(&mut self, _stream: Stream, _data: &[u8]) -> Result<(), LogError> {
        Ok(())
    }
}
