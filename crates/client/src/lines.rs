//! Cuts a body into lines, with a bound.

use bytes::{Bytes, BytesMut};

/// Longest line that is taken from an agent unless set otherwise, in bytes. A frame is bounded by
/// the agent's transaction limit, 4 MiB unless set higher, and by what a line of its history may have,
/// which is this. It only keeps a broken peer from filling memory without end.
pub const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Bytes in, whole lines out (without their `\n`). Bytes after the last `\n` stay inside: a
/// connection that breaks in the middle of a line has not delivered it.
#[derive(Debug)]
pub(crate) struct LineCutter {
    buffer: BytesMut,
    /// Bytes of `buffer` that are known to hold no `\n`, so a long line is scanned once.
    scanned: usize,
    limit: usize,
}

/// A line grew past the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong {
    pub(crate) limit: usize,
}

impl LineCutter {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            limit,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole line, or `None` until more bytes come.
    pub(crate) fn next_line(&mut self) -> Result<Option<Bytes>, TooLong> {
        let Some(found) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return if self.scanned > self.limit {
                Err(TooLong { limit: self.limit })
            } else {
                Ok(None)
            };
        };
        let length = self.scanned + found;
        self.scanned = 0;
        if length > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        let mut line = self.buffer.split_to(length + 1);
        line.truncate(length);
        Ok(Some(line.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_the_bytes_are_cut() {
        let text = b"{}\n\n{\"Index\":1}\nrest";
        for step in 1..=text.len() {
            let mut cutter = LineCutter::new(64);
            let mut lines = Vec::new();
            for piece in text.chunks(step) {
                cutter.push(piece);
                while let Some(line) = cutter.next_line().unwrap() {
                    lines.push(line);
                }
            }
            assert_eq!(lines, ["{}", "", "{\"Index\":1}"]);
        }
    }

    #[test]
    fn a_line_without_end_is_refused_at_the_limit() {
        let mut cutter = LineCutter::new(8);
        cutter.push(b"12345678");
        assert_eq!(cutter.next_line(), Ok(None));
        cutter.push(b"9");
        assert_eq!(cutter.next_line(), Err(TooLong { limit: 8 }));

        let mut whole = LineCutter::new(8);
        whole.push(b"123456789\n");
        assert_eq!(whole.next_line(), Err(TooLong { limit: 8 }));
    }
}
