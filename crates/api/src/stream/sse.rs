//! Server-Sent Events: how frames are written so that a browser's `EventSource` reads them and,
//! after a lost connection, resumes where it was.

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use tidings_event::Index;

use super::encoding::{index_of, lines_of};
use super::query::{Surface, last_index};
use crate::error::ApiError;

/// A comment: browsers drop it, connections stay alive by it.
pub(crate) const HEARTBEAT: &[u8] = b": \n\n";

/// What is added to a line at most: `id: `, 20 digits, `\ndata: `, `\n`.
const OVERHEAD: usize = 32;

/// What a browser sends when it reconnects; it overrules every other start.
pub(crate) fn last_event_id(
    headers: &HeaderMap,
    surface: Surface,
) -> Result<Option<Index>, ApiError> {
    let Some(value) = headers
        .get("last-event-id")
        .filter(|_| surface == Surface::Sse)
    else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    if text.trim().is_empty() {
        Ok(None)
    } else {
        last_index(&text).map(Some)
    }
}

/// Each line as one message, its index as the message's id.
pub(crate) fn encode_frames(lines: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(lines.len() + lines.len() / 4 + OVERHEAD);
    for line in lines_of(lines) {
        push(&mut out, index_of(line), line);
    }
    out.freeze()
}

/// Each line as one message without an id.
pub(crate) fn encode_state(lines: &Bytes) -> Bytes {
    let mut out = BytesMut::with_capacity(lines.len() + lines.len() / 4 + OVERHEAD);
    for line in lines_of(lines) {
        push(&mut out, None, line);
    }
    out.freeze()
}

/// Appends one message. Without an id the browser's last one stays.
pub(crate) fn push(out: &mut BytesMut, id: Option<&[u8]>, data: &[u8]) {
    out.reserve(data.len() + OVERHEAD);
    if let Some(id) = id {
        out.put_slice(b"id: ");
        out.put_slice(id);
        out.put_u8(b'\n');
    }
    out.put_slice(b"data: ");
    out.put_slice(data);
    out.put_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_one_message_with_its_index() {
        let lines =
            Bytes::from_static(b"{\"Index\":7,\"Events\":[1]}\n{\"Index\":12,\"Events\":[]}\n");
        let expected: &[u8] = b"id: 7\ndata: {\"Index\":7,\"Events\":[1]}\n\n\
            id: 12\ndata: {\"Index\":12,\"Events\":[]}\n\n";
        assert_eq!(encode_frames(&lines), expected);
    }
}
