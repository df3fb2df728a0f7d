//! The two ways in which text enters a line: as an escaped string, or as JSON kept as it was given.

use crate::EventError;

/// Appends `text` as a JSON string with its quotes.
///
/// Only what JSON demands is escaped, always in the same way, so that equal texts are equal bytes:
/// filters compare bytes and need not unescape.
pub fn push_json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    push_escaped(text, out);
    out.push(b'"');
}

/// Appends `text` escaped, without quotes.
pub(crate) fn push_escaped(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    if is_plain(text) {
        out.extend_from_slice(bytes);
        return;
    }
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

/// Whether nothing in the text has to be escaped. Looks at every byte, without branches, which for
/// names and keys is faster than stopping early.
pub(crate) fn is_plain(text: &str) -> bool {
    let special = text.bytes().fold(false, |special, byte| {
        special | (byte < 0x20) | (byte == b'"') | (byte == b'\\')
    });
    !special
}

/// `text` escaped, without quotes.
pub(crate) fn escaped(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    push_escaped(text, &mut out);
    out
}

/// Appends valid JSON without the white space between its tokens, all else untouched.
///
/// # Errors
/// [`EventError::PayloadDepth`] when arrays and objects are nested deeper than `depth_max`; `out`
/// then has a part of the text at its end.
pub fn push_minified(json: &str, depth_max: usize, out: &mut Vec<u8>) -> Result<(), EventError> {
    let bytes = json.as_bytes();
    let mut depth = 0_usize;
    let mut keep_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = end_of_string(bytes, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    return Err(EventError::PayloadDepth { limit: depth_max });
                }
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            b' ' | b'\n' | b'\r' | b'\t' => {
                out.extend_from_slice(&bytes[keep_from..at]);
                at += 1;
                keep_from = at;
            }
            _ => at += 1,
        }
    }
    out.extend_from_slice(&bytes[keep_from..]);
    Ok(())
}

/// The offset behind the closing quote of the string that opens at `open`; the end of `bytes` when
/// it is not closed.
pub(crate) fn end_of_string(bytes: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn minified_keeps_strings_and_numbers() {
        let mut out = Vec::new();
        push_minified(
            " { \"a b\" : [ 1.0 , 1e+21, \"x \\\" y\" ] }\n",
            8,
            &mut out,
        )
        .unwrap();
        assert_eq!(out, br#"{"a b":[1.0,1e+21,"x \" y"]}"#);
    }

    #[test]
    fn depth_is_limited_on_both_sides() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(push_minified(&nested(8), 8, &mut Vec::new()).is_ok());
        assert!(push_minified(&nested(9), 8, &mut Vec::new()).is_err());
    }

    proptest! {
        #[test]
        fn strings_agree_with_serde(text in any::<String>()) {
            let mut ours = Vec::new();
            push_json_string(&text, &mut ours);
            prop_assert_eq!(&ours, &serde_json::to_vec(&text).unwrap());
            prop_assert_eq!(end_of_string(&ours, 0), ours.len());
        }
    }
}
