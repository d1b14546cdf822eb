//! The varlink decoder: framing, then calls and replies.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run call_decoder fuzz/corpus/call_decoder fuzz/seeds/call_decoder`
//!
//! The first byte of the input says how the rest is cut into packets. Whatever it is, the messages must be the bytes
//! between the NULs; and what was decoded as a call must be a call again after it was encoded.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The decoder depends on nothing else of dormouse, so nothing else is built and instrumented.
#[path = "../../src/varlink/wire.rs"]
mod wire;

use wire::{Decoded, Framer, MESSAGE_FDS_MAX, MESSAGE_SIZE_MAX, decode_call, decode_reply};

fuzz_target!(|input: &[u8]| {
    let Some((packet, stream)) = input.split_first() else { return };
    assert!(
        MESSAGE_FDS_MAX > 0 && stream.len() <= MESSAGE_SIZE_MAX,
        "shorter than any message that is refused"
    );
    let messages = frame(stream, usize::from(*packet) + 1);
    let expected: Vec<&[u8]> = stream.split(|byte| *byte == 0).collect();
    // What follows the last NUL is no message yet.
    assert_eq!(messages, expected[..expected.len() - 1]);
    for message in &messages {
        if let Ok(Decoded::Call(call)) = decode_call(message) {
            let encoded = serde_json::to_vec(&call).expect("a decoded call can be encoded");
            assert!(!encoded.contains(&0), "a NUL must not get into the stream");
            let Ok(Decoded::Call(again)) = decode_call(&encoded) else {
                panic!("no call any more: {call:?}")
            };
            assert_eq!(again, call);
        }
        let _ = decode_reply(message);
    }
});

fn frame(stream: &[u8], packet: usize) -> Vec<Vec<u8>> {
    let mut framer = Framer::default();
    let mut messages = Vec::new();
    for mut rest in stream.chunks(packet) {
        while !rest.is_empty() {
            let wanted = framer.measure(rest).expect("the input is short");
            let (taken, message) = framer.push(rest).expect("the input is short");
            assert!(taken > 0 && taken == wanted);
            rest = &rest[taken..];
            messages.extend(message);
        }
    }
    assert_eq!(framer.is_empty(), stream.is_empty() || stream.ends_with(&[0]));
    messages
}
