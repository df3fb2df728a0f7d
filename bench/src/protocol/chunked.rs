//! The response of one HTTP/1.1 request with a chunked body.

use super::ProtocolError;

/// A response head longer than this is an error.
const HEAD_BYTES_MAX: usize = 16 * 1024;

enum State {
    Head,
    Size,
    Data { left: usize },
    AfterData,
    Ended,
}

/// What `Chunked::next` found.
pub enum Piece<'a> {
    /// Bytes of the body; a chunk may come in several pieces.
    Body(&'a [u8]),
    /// Something that is not body was read.
    Passed,
    /// More bytes are needed.
    Wait,
}

/// Decodes one response: head, then chunks.
pub struct Chunked {
    state: State,
}

impl Chunked {
    /// Before the first byte of the head.
    pub fn new() -> Self {
        Self { state: State::Head }
    }

    /// Whether the head was read and was a 200.
    pub fn head_read(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// Takes one step in `data` from `at`, which it moves on.
    ///
    /// # Errors
    ///
    /// The status is not 200, the body is not chunked or has ended.
    pub fn next<'a>(&mut self, data: &'a [u8], at: &mut usize) -> Result<Piece<'a>, ProtocolError> {
        let rest = &data[*at..];
        match self.state {
            State::Head => {
                let Some(end) = memchr::memmem::find(rest, b"\r\n\r\n") else {
                    if rest.len() > HEAD_BYTES_MAX {
                        return Err(ProtocolError::unexpected("the end of the head", rest));
                    }
                    return Ok(Piece::Wait);
                };
                let head = &rest[..end];
                if !head.starts_with(b"HTTP/1.1 200") {
                    return Err(ProtocolError::refused(rest));
                }
                if !head
                    .to_ascii_lowercase()
                    .windows(26)
                    .any(|window| window == b"transfer-encoding: chunked")
                {
                    return Err(ProtocolError::unexpected("a chunked body", head));
                }
                *at += end + 4;
                self.state = State::Size;
                Ok(Piece::Passed)
            }
            State::Size => {
                let Some(end) = memchr::memchr(b'\n', rest) else {
                    return Ok(Piece::Wait);
                };
                let digits = rest[..end]
                    .strip_suffix(b"\r")
                    .ok_or_else(|| ProtocolError::unexpected("a chunk size", rest))?;
                let size = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| usize::from_str_radix(digits, 16).ok())
                    .ok_or_else(|| ProtocolError::unexpected("a chunk size", rest))?;
                *at += end + 1;
                self.state = if size == 0 {
                    State::Ended
                } else {
                    State::Data { left: size }
                };
                Ok(Piece::Passed)
            }
            State::Data { left } => {
                if rest.is_empty() {
                    return Ok(Piece::Wait);
                }
                let take = left.min(rest.len());
                *at += take;
                self.state = if take == left {
                    State::AfterData
                } else {
                    State::Data { left: left - take }
                };
                Ok(Piece::Body(&rest[..take]))
            }
            State::AfterData => {
                if rest.len() < 2 {
                    return Ok(Piece::Wait);
                }
                if !rest.starts_with(b"\r\n") {
                    return Err(ProtocolError::unexpected("the end of a chunk", rest));
                }
                *at += 2;
                self.state = State::Size;
                Ok(Piece::Passed)
            }
            State::Ended => Err(ProtocolError::unexpected("a stream without end", rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(response: &[u8], step: usize) -> Vec<u8> {
        let mut chunked = Chunked::new();
        let mut body = Vec::new();
        let mut from = 0;
        let mut to = 0;
        while to < response.len() {
            to = (to + step).min(response.len());
            let mut at = 0;
            let data = &response[from..to];
            loop {
                match chunked.next(data, &mut at).unwrap() {
                    Piece::Body(part) => body.extend_from_slice(part),
                    Piece::Passed => {}
                    Piece::Wait => break,
                }
            }
            from += at;
        }
        body
    }

    #[test]
    fn chunks_are_joined_however_the_bytes_arrive() {
        let response =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n";
        for step in 1..response.len() {
            assert_eq!(body_of(response, step), b"hello world");
        }
    }

    #[test]
    fn an_error_status_carries_the_servers_words() {
        let mut at = 0;
        let error = Chunked::new()
            .next(b"HTTP/1.1 429 Too Many Requests\r\n\r\nlater", &mut at)
            .err()
            .unwrap();
        assert!(error.to_string().contains("429"));
    }
}
