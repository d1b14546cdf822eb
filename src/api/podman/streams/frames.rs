//! Frames: four bytes of which the first is the type, the length in four bytes, big endian, and as many bytes.

use std::io;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const HEADER_BYTES: usize = 8;
/// No client sends more at once; podman-remote sends 32 KiB.
const PAYLOAD_MAX_BYTES: usize = 16 << 20;

const STDOUT: u8 = 0;
const STDIN: u8 = 1;
const STDERR: u8 = 2;
const RESIZE: u8 = 3;
const QUIT: u8 = 4;
const HANGUP: u8 = 5;

/// What a client sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient {
    /// For the standard input.
    Input(Vec<u8>),
    /// Rows and columns.
    Resize(u16, u16),
    /// The end of the input.
    EndOfInput,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// The next frame that means something; `None` if the client has gone.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<FromClient>> {
    loop {
        let mut header = [0; HEADER_BYTES];
        match from.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > PAYLOAD_MAX_BYTES {
            return Err(io::Error::other("a frame is too long"));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        match header[0] {
            STDIN => return Ok(Some(FromClient::Input(payload))),
            RESIZE => {
                if let Ok(Size { width, height }) = serde_json::from_slice(&payload) {
                    return Ok(Some(FromClient::Resize(height, width)));
                }
            }
            HANGUP => return Ok(Some(FromClient::EndOfInput)),
            // Of no use here, and passed over whole.
            _ => {}
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame.extend([kind, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    to.write_all(&frame).await
}

/// Both streams of the payload: its standard error comes as output too, as Podman had it.
pub(super) async fn output(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    write(to, STDOUT, bytes).await
}

/// What this program has to say itself.
pub(super) async fn message(to: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    write(to, STDERR, format!("{text}\n").as_bytes()).await
}

/// The end, with the exit code.
pub(super) async fn quit(to: &mut (impl AsyncWrite + Unpin), code: i32) -> io::Result<()> {
    write(to, QUIT, &code.to_be_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_and_what_means_nothing_is_passed_over() {
        let bytes = b"\x09\0\0\0\0\0\0\x02xx\x01\0\0\0\0\0\0\x06hello\n\x03\0\0\0\0\0\0\x18{\"Width\":99,\"Height\":33}\x05\0\0\0\0\0\0\x03EOF";
        let mut from = &bytes[..];
        assert_eq!(read(&mut from).await.unwrap(), Some(FromClient::Input(b"hello\n".to_vec())));
        assert_eq!(read(&mut from).await.unwrap(), Some(FromClient::Resize(33, 99)));
        assert_eq!(read(&mut from).await.unwrap(), Some(FromClient::EndOfInput));
        assert_eq!(read(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn frames_are_written_to_the_byte() {
        let mut to = Vec::new();
        output(&mut to, b"foo\n").await.unwrap();
        quit(&mut to, 3).await.unwrap();
        assert_eq!(to, b"\0\0\0\0\0\0\0\x04foo\n\x04\0\0\0\0\0\0\x04\0\0\0\x03");
    }

    #[tokio::test]
    async fn a_frame_that_is_too_long_is_an_error() {
        assert!(read(&mut &b"\x01\0\0\0\xff\xff\xff\xff"[..]).await.is_err());
    }
}
