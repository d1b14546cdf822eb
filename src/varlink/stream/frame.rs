//! Frames as bytes: pure functions.

use crate::varlink::wire::MESSAGE_SIZE_MAX;

/// The bytes before what a frame carries.
pub const HEADER_BYTES: usize = 6;
/// The longest piece of data in one frame.
pub const DATA_BYTES_MAX: usize = 64 * 1024;
/// How much may be on its way to a channel that is not read from.
pub const WINDOW_BYTES: usize = 1024 * 1024;
/// No signal's name is longer.
const SIGNAL_BYTES_MAX: usize = 32;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told once, in the table
pub enum Kind {
    Data,
    Credit,
    Closed,
    Reply,
    Window,
    Signal,
    Leave,
}

impl Kind {
    const ALL: [(Self, u8); 7] = [
        (Self::Data, b'D'),
        (Self::Credit, b'C'),
        (Self::Closed, b'X'),
        (Self::Reply, b'R'),
        (Self::Window, b'W'),
        (Self::Signal, b'S'),
        (Self::Leave, b'L'),
    ];

    fn byte(self) -> u8 {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| byte)
    }

    fn length_allowed(self, length: usize) -> bool {
        match self {
            Self::Data => length <= DATA_BYTES_MAX,
            Self::Credit | Self::Window => length == 4,
            Self::Closed | Self::Leave => length == 0,
            Self::Reply => length <= MESSAGE_SIZE_MAX,
            Self::Signal => (1..=SIGNAL_BYTES_MAX).contains(&length),
        }
    }
}

/// What is in front of a frame's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// Which channel it is about.
    pub channel: u8,
    /// How many bytes follow.
    pub length: usize,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No frame begins with this byte.
    #[error("no frame is of kind {kind:#04x}")]
    Kind {
        /// The byte.
        kind: u8,
    },
    /// No frame of this kind may be of this length.
    #[error("a frame of kind {kind:?} can't have {length} bytes")]
    Length {
        /// What it claims to be.
        kind: Kind,
        /// What it says of its length.
        length: usize,
    },
    /// More data than credit was given for.
    #[error("more data was sent on channel {channel} than it has room for")]
    Overrun {
        /// Which.
        channel: u8,
    },
    /// A frame that only the other side may send.
    #[error("a frame of kind {kind:?} comes from the other side only")]
    Direction {
        /// Which.
        kind: Kind,
    },
}

impl From<FrameError> for std::io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

impl Header {
    /// The header as bytes.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [a, b, c, d] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        [self.kind.byte(), self.channel, a, b, c, d]
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::Kind`], [`FrameError::Length`].
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [kind, channel, a, b, c, d] = bytes;
        let (kind, _) =
            Kind::ALL.into_iter().find(|(_, byte)| *byte == kind).ok_or(FrameError::Kind { kind })?;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if !kind.length_allowed(length) {
            return Err(FrameError::Length { kind, length });
        }
        Ok(Self { kind, channel, length })
    }
}

/// A whole frame.
pub fn encode(kind: Kind, channel: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&Header { kind, channel, length: body.len() }.encode());
    frame.extend_from_slice(body);
    frame
}

/// The size of a window, as a frame carries it.
pub fn encode_window(rows: u16, columns: u16) -> [u8; 4] {
    let ([r0, r1], [c0, c1]) = (rows.to_be_bytes(), columns.to_be_bytes());
    [r0, r1, c0, c1]
}

/// Rows and columns.
pub fn decode_window([r0, r1, c0, c1]: [u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([r0, r1]), u16::from_be_bytes([c0, c1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was() {
        for (kind, length) in [
            (Kind::Data, 0),
            (Kind::Data, DATA_BYTES_MAX),
            (Kind::Credit, 4),
            (Kind::Closed, 0),
            (Kind::Reply, MESSAGE_SIZE_MAX),
            (Kind::Window, 4),
            (Kind::Signal, 7),
            (Kind::Leave, 0),
        ] {
            let header = Header { kind, channel: 2, length };
            assert_eq!(Header::decode(header.encode()), Ok(header));
        }
        assert_eq!(decode_window(encode_window(24, 80)), (24, 80));
        assert_eq!(encode(Kind::Data, 1, b"hi"), b"D\x01\0\0\0\x02hi");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert_eq!(Header::decode(*b"Z\0\0\0\0\0"), Err(FrameError::Kind { kind: b'Z' }));
        let long = FrameError::Length { kind: Kind::Data, length: DATA_BYTES_MAX + 1 };
        assert_eq!(Header::decode(*b"D\0\0\x01\0\x01"), Err(long));
        for bytes in [b"R\0\xff\xff\xff\xff", b"C\0\0\0\0\x03", b"X\0\0\0\0\x01", b"S\0\0\0\0\0"] {
            assert!(matches!(Header::decode(*bytes), Err(FrameError::Length { .. })), "{bytes:?}");
        }
    }
}
