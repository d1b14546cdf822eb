//! The fields of a header.

use super::BLOCK_BYTES;

/// Reads a number of a header: octal, or base 256 if the highest bit is set. An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let [first, rest @ ..] = field
        && first & 0x80 != 0
    {
        // 0xff begins a negative number; its upper bytes then are all ones, and fall out of the 64 bits.
        let mut value = if first & 0x40 != 0 { u64::MAX } else { u64::from(first & 0x3f) };
        let negative = first & 0x40 != 0;
        for &byte in rest {
            let fill = value >> 56;
            if fill != if negative { 0xff } else { 0 } {
                return None;
            }
            value = value << 8 | u64::from(byte);
        }
        return Some(value);
    }
    let text = field.split(|&byte| byte == 0).next().unwrap_or_default().trim_ascii();
    text.iter().try_fold(0_u64, |value, &byte| match byte {
        b'0'..=b'7' if value >> 61 == 0 => Some(value << 3 | u64::from(byte - b'0')),
        _ => None,
    })
}

/// The sum of all bytes, the sum's own field taken as spaces; old tars added signed bytes.
pub(super) fn checksum_holds(block: &[u8; BLOCK_BYTES]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let Some(expected) = number(&block[FIELD]) else { return false };
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if FIELD.contains(&index) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    let expected = expected.cast_signed();
    expected == unsigned || expected == signed
}

pub(super) fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|&byte| byte == 0) {
        name.truncate(end);
    }
    name
}
