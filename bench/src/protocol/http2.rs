//! The client's side of HTTP/2, as far as gRPC calls to one path need it.
//!
//! Response headers are skipped, not decoded: an answer is a DATA frame, a
//! stream that ends without one is a refusal. That makes HPACK decoding
//! unnecessary. Request headers are sent literally once, then by their index
//! in the dynamic table, as every gRPC client does.

use std::collections::VecDeque;

use super::ProtocolError;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The largest DATA frame we send: what every peer accepts.
const FRAME_BYTES_MAX: usize = 16_384;
/// What RFC 9113 gives before any SETTINGS or WINDOW_UPDATE.
const WINDOW_INITIAL: i64 = 65_535;
const WINDOW_MAX: u32 = 0x7fff_ffff;
/// We give the server new credit after so many received bytes.
const CREDIT_STEP_BYTES: u32 = 64 * 1024 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;

const SETTING_ENABLE_PUSH: u16 = 2;
const SETTING_INITIAL_WINDOW: u16 = 4;

/// What arrived.
pub enum Http2Event<'a> {
    /// Bytes of a stream's body.
    Data(u32, &'a [u8]),
    /// The server ended a stream.
    Ended(u32),
}

/// One connection that calls one path.
pub struct Http2 {
    authority: String,
    path: &'static str,
    next_stream: u32,
    headers_indexed: bool,
    /// Bytes that we may send on the connection.
    send_credit: i64,
    /// Frames of DATA that wait for credit, whole and in order.
    waiting: VecDeque<Vec<u8>>,
    received_since_credit: u32,
    /// A stream that lives as long as the connection and so needs credit too.
    long_stream: Option<u32>,
}

impl Http2 {
    /// A connection to `authority` whose requests all go to `path`.
    pub fn new(authority: String, path: &'static str) -> Self {
        Self {
            authority,
            path,
            next_stream: 1,
            headers_indexed: false,
            send_credit: WINDOW_INITIAL,
            waiting: VecDeque::new(),
            received_since_credit: 0,
            long_stream: None,
        }
    }

    /// Appends what a client says first.
    pub fn open(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PREFACE);
        let mut settings = Vec::with_capacity(12);
        for (setting, value) in [
            (SETTING_ENABLE_PUSH, 0),
            (SETTING_INITIAL_WINDOW, WINDOW_MAX),
        ] {
            settings.extend_from_slice(&setting.to_be_bytes());
            settings.extend_from_slice(&value.to_be_bytes());
        }
        put_frame(out, SETTINGS, 0, 0, &settings);
        put_credit(out, 0, WINDOW_MAX - WINDOW_INITIAL as u32);
    }

    /// Appends a request with this body; the stream's number comes back.
    ///
    /// `more` keeps the request open: a stream that lives on.
    pub fn request(&mut self, body: &[u8], more: bool, out: &mut Vec<u8>) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        if more {
            self.long_stream = Some(stream);
        }
        let headers = self.headers();
        put_frame(out, HEADERS, END_HEADERS, stream, &headers);
        let mut parts = body.chunks(FRAME_BYTES_MAX).peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() && !more {
                END_STREAM
            } else {
                0
            };
            if self.waiting.is_empty() && self.send_credit >= part.len() as i64 {
                self.send_credit -= part.len() as i64;
                put_frame(out, DATA, flags, stream, part);
            } else {
                let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + part.len());
                put_frame(&mut frame, DATA, flags, stream, part);
                self.waiting.push_back(frame);
            }
        }
        stream
    }

    fn headers(&mut self) -> Vec<u8> {
        // Static table: 3 = ":method POST", 6 = ":scheme http".
        let mut block = vec![0x83, 0x86];
        if self.headers_indexed {
            // Dynamic table, the newest entry first: 62 = te … 65 = :path.
            block.extend_from_slice(&[0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        } else {
            self.headers_indexed = true;
            // Literals with incremental indexing; names by static index.
            put_indexed_name(&mut block, 4, self.path.as_bytes());
            put_indexed_name(&mut block, 1, self.authority.as_bytes());
            put_indexed_name(&mut block, 31, b"application/grpc");
            block.push(0x40);
            put_string(&mut block, b"te");
            put_string(&mut block, b"trailers");
        }
        block
    }

    /// Reads whole frames from `data`, answers what needs an answer into
    /// `out`, and returns how many bytes were used.
    ///
    /// # Errors
    ///
    /// The server reset a stream or is going away, a frame that nobody may
    /// send to us, and those of `each`.
    pub fn receive(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
        mut each: impl FnMut(Http2Event<'_>) -> Result<(), ProtocolError>,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some(head) = data.get(at..at + FRAME_HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let body_at = at + FRAME_HEAD_BYTES;
            let Some(body) = data.get(body_at..body_at + length) else {
                break;
            };
            at = body_at + length;
            match kind {
                DATA => {
                    if flags & PADDED != 0 {
                        return Err(ProtocolError::unexpected("a frame without padding", head));
                    }
                    self.give_credit(length as u32, out);
                    each(Http2Event::Data(stream, body))?;
                    if flags & END_STREAM != 0 {
                        each(Http2Event::Ended(stream))?;
                    }
                }
                HEADERS if flags & END_STREAM != 0 => each(Http2Event::Ended(stream))?,
                SETTINGS if flags & ACK == 0 => put_frame(out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => put_frame(out, PING, ACK, 0, body),
                WINDOW_UPDATE if stream == 0 => {
                    let credit = body.try_into().map(u32::from_be_bytes).map_err(|_| {
                        ProtocolError::unexpected("a WINDOW_UPDATE of 4 bytes", body)
                    })?;
                    self.send_credit += i64::from(credit);
                    self.send_waiting(out);
                }
                RST_STREAM => {
                    return Err(ProtocolError::Refused(format!("it reset stream {stream}")));
                }
                GOAWAY => return Err(ProtocolError::refused(body.get(8..).unwrap_or(body))),
                PUSH_PROMISE => return Err(ProtocolError::unexpected("no PUSH_PROMISE", head)),
                _ => {}
            }
        }
        Ok(at)
    }

    fn send_waiting(&mut self, out: &mut Vec<u8>) {
        while let Some(frame) = self.waiting.front() {
            let bytes = (frame.len() - FRAME_HEAD_BYTES) as i64;
            if bytes > self.send_credit {
                return;
            }
            self.send_credit -= bytes;
            out.extend_from_slice(frame);
            self.waiting.pop_front();
        }
    }

    fn give_credit(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.received_since_credit += bytes;
        if self.received_since_credit >= CREDIT_STEP_BYTES {
            put_credit(out, 0, self.received_since_credit);
            if let Some(stream) = self.long_stream {
                put_credit(out, stream, self.received_since_credit);
            }
            self.received_since_credit = 0;
        }
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

fn put_credit(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    put_frame(out, WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
}

fn put_indexed_name(block: &mut Vec<u8>, name: u8, value: &[u8]) {
    block.push(0x40 | name);
    put_string(block, value);
}

/// A string without Huffman coding, shorter than 127 bytes.
fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() < 127, "longer strings need a longer length");
    block.push(text.len() as u8);
    block.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, usize)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            found.push((bytes[3], bytes[4], stream, length));
            bytes = &bytes[FRAME_HEAD_BYTES + length..];
        }
        found
    }

    #[test]
    fn the_second_request_sends_its_headers_by_index() {
        let mut client = Http2::new("127.0.0.1:1".into(), "/a/B");
        let mut out = Vec::new();
        assert_eq!(client.request(b"x", false, &mut out), 1);
        let first = out.len();
        assert_eq!(client.request(b"x", false, &mut out), 3);
        assert_eq!(
            frames(&out[first..]),
            vec![(HEADERS, END_HEADERS, 3, 6), (DATA, END_STREAM, 3, 1)]
        );
    }

    #[test]
    fn data_waits_for_credit_and_keeps_its_order() {
        let mut client = Http2::new("a".into(), "/a/B");
        let mut out = Vec::new();
        let body = vec![7; 60_000];
        client.request(&body, false, &mut out);
        out.clear();
        client.request(&body[..20_000], false, &mut out);
        assert_eq!(frames(&out).len(), 1, "only the headers");
        out.clear();
        let mut update = Vec::new();
        put_credit(&mut update, 0, 100_000);
        let used = client.receive(&update, &mut out, |_| Ok(())).unwrap();
        assert_eq!(used, update.len());
        assert_eq!(
            frames(&out),
            vec![(DATA, 0, 3, 16_384), (DATA, END_STREAM, 3, 3_616)]
        );
    }

    #[test]
    fn pings_and_settings_are_answered_and_data_is_handed_on() {
        let mut client = Http2::new("a".into(), "/a/B");
        let mut server = Vec::new();
        put_frame(&mut server, SETTINGS, 0, 0, &[]);
        put_frame(&mut server, PING, 0, 0, b"12345678");
        put_frame(&mut server, DATA, 0, 1, b"hello");
        put_frame(&mut server, HEADERS, END_HEADERS | END_STREAM, 1, b"?");
        let mut out = Vec::new();
        let mut seen = Vec::new();
        for cut in [3, server.len()] {
            let used = client
                .receive(&server[..cut], &mut out, |event| {
                    seen.push(match event {
                        Http2Event::Data(stream, data) => (stream, data.len()),
                        Http2Event::Ended(stream) => (stream, 0),
                    });
                    Ok(())
                })
                .unwrap();
            assert_eq!(used, if cut == 3 { 0 } else { server.len() });
        }
        assert_eq!(seen, vec![(1, 5), (1, 0)]);
        assert_eq!(frames(&out), vec![(SETTINGS, ACK, 0, 0), (PING, ACK, 0, 8)]);
    }

    #[test]
    fn a_server_that_goes_away_is_an_error() {
        let mut client = Http2::new("a".into(), "/a/B");
        let mut server = Vec::new();
        put_frame(&mut server, GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\0too_many_pings");
        let error = client
            .receive(&server, &mut Vec::new(), |_| Ok(()))
            .unwrap_err();
        assert!(error.to_string().contains("too_many_pings"));
    }
}
