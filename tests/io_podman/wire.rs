//! Raw bytes to and from the service: what no client library would send, and upgraded connections.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::common::{Host, PATIENCE};

/// A connection whose bytes are seen.
pub struct Raw {
    socket: UnixStream,
    read: Vec<u8>,
}

impl Raw {
    pub fn connect(host: &Host) -> Self {
        let address = host.address();
        let socket = UnixStream::connect(address.strip_prefix("unix:").unwrap()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, read: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends a call, and what is to follow it at once.
    pub fn call(&mut self, method: &str, parameters: &Value, flags: &[&str], behind: &[u8]) {
        let mut call = json!({"method": format!("io.podman.{method}"), "parameters": parameters});
        for flag in flags {
            call[*flag] = json!(true);
        }
        let mut bytes = serde_json::to_vec(&call).unwrap();
        bytes.push(0);
        bytes.extend(behind);
        self.send(&bytes);
    }

    fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        match self.socket.read(&mut chunk) {
            Ok(0) => false,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Ok(count) => {
                self.read.extend(&chunk[..count]);
                true
            }
            Err(error) => panic!("nothing came: {error}; so far {:?}", String::from_utf8_lossy(&self.read)),
        }
    }

    /// The next message, without its NUL; `None` at the end.
    pub fn message(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == 0) {
                let message = self.read.drain(..=end).take(end).collect();
                return Some(message);
            }
            if !self.more() {
                return None;
            }
        }
    }

    pub fn reply(&mut self) -> Value {
        serde_json::from_slice(&self.message().expect("a reply")).unwrap()
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.read.len() < count {
            assert!(self.more(), "the stream ended after {:?}", self.read);
        }
        self.read.drain(..count).collect()
    }

    /// A frame: its type, and what is in it.
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        let header = self.bytes(8);
        assert_eq!(header[1..4], [0, 0, 0]);
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        (header[0], self.bytes(length.try_into().unwrap()))
    }

    /// All there is until the end.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }
}

/// A frame as clients send it.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&[kind, 0, 0, 0][..], &length.to_be_bytes(), payload].concat()
}
