//! HTTP/1.1 as it stands on the wire, blocking, with every chunk visible.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// No read or write of a test waits longer; a heartbeat comes at least every 30 s.
const IO_TIMEOUT: Duration = Duration::from_secs(45);

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body, without chunk framing.
    pub body: Vec<u8>,
}

/// An open stream: the head has been read, chunks follow.
pub struct Stream {
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    reader: BufReader<TcpStream>,
    lines: VecDeque<Vec<u8>>,
    partial: Vec<u8>,
}

/// Connect with the time limits of the tests.
pub fn connect(address: SocketAddr) -> Result<TcpStream> {
    connect_within(address, IO_TIMEOUT)
}

/// Connect to somebody who may not answer; every wait, later ones too, is given up after `limit`.
pub fn connect_within(address: SocketAddr, limit: Duration) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("cannot connect to {address}"))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(limit))?;
    socket.set_write_timeout(Some(limit))?;
    Ok(socket)
}

/// One request on a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    request_within(IO_TIMEOUT, address, method, target, headers, body)
}

/// One request to somebody who may not answer: every wait is given up after `limit`.
pub fn request_within(
    limit: Duration,
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut socket = connect_within(address, limit)?;
    let mut head = head(method, target, headers);
    if !body.is_empty() {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "Connection: close\r\n\r\n";
    socket.write_all(head.as_bytes())?;
    // A server that refuses early may close before it has taken the body: its answer tells why.
    let sent = socket.write_all(body);
    Response::read(&mut BufReader::new(socket)).map_err(|error| match sent {
        Err(sending) => anyhow::Error::new(sending).context(format!("{error:#}")),
        Ok(()) => error,
    })
}

// === impl Response ===

impl Response {
    /// Read one answer to its end.
    pub fn read(reader: &mut impl BufRead) -> Result<Self> {
        let (status, headers) = read_head(reader)?;
        let mut body = Vec::new();
        if is_chunked(&headers) {
            while let Some(chunk) = read_chunk(reader)? {
                body.extend(chunk);
            }
        } else if let Some(length) = header(&headers, "content-length") {
            body.resize(length.parse()?, 0);
            reader.read_exact(&mut body)?;
        } else {
            reader.read_to_end(&mut body)?;
        }
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; any status but 200 is an error with the body.
    pub fn json(&self) -> Result<Value> {
        ensure!(
            self.status == 200,
            "status {}: {}",
            self.status,
            self.text()
        );
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// The stable code of an error answer.
    pub fn error_code(&self) -> Result<String> {
        let answer: Value = serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", self.text()))?;
        let code = answer["Error"]["Code"].as_str();
        code.map(str::to_owned)
            .with_context(|| format!("no error code in {answer}"))
    }
}

// === impl Stream ===

impl Stream {
    /// Open a chunked stream; any status but 200 is an error with the body.
    pub fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut socket = connect(address)?;
        socket.write_all(format!("{}\r\n", head("GET", target, headers)).as_bytes())?;
        Self::read_head(BufReader::new(socket))
    }

    /// Read the head of an answer whose chunks will follow.
    pub(crate) fn read_head(mut reader: BufReader<TcpStream>) -> Result<Self> {
        let (status, headers) = read_head(&mut reader)?;
        if status != 200 {
            let mut body = vec![0; header(&headers, "content-length").unwrap_or("0").parse()?];
            reader.read_exact(&mut body)?;
            bail!("status {status}: {}", String::from_utf8_lossy(&body));
        }
        ensure!(
            is_chunked(&headers),
            "the stream is not chunked: {headers:?}"
        );
        Ok(Self {
            headers,
            reader,
            lines: VecDeque::new(),
            partial: Vec::new(),
        })
    }

    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The socket, to change its timeouts or close it.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next chunk as it was sent; `None` after the closing `0\r\n\r\n`.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        read_chunk(&mut self.reader)
    }

    /// The next line without its `\n`; `None` at a clean end.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            let Some(chunk) = self.next_chunk()? else {
                ensure!(self.partial.is_empty(), "the stream ended within a line");
                return Ok(None);
            };
            self.partial.extend(chunk);
            while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let rest = self.partial.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.partial, rest);
                line.pop();
                self.lines.push_back(line);
            }
        }
    }

    /// The text of the next line that is not a heartbeat.
    pub fn next_frame_text(&mut self) -> Result<String> {
        loop {
            match self.next_line()? {
                Some(line) if line == b"{}" => {}
                Some(line) => return String::from_utf8(line).context("a frame is not UTF-8"),
                None => bail!("the stream ended"),
            }
        }
    }

    /// The next frame that is not a heartbeat.
    pub fn next_frame(&mut self) -> Result<Value> {
        let text = self.next_frame_text()?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The next `count` frames.
    pub fn frames(&mut self, count: usize) -> Result<Vec<Value>> {
        (0..count).map(|_| self.next_frame()).collect()
    }
}

// === reading and writing ===

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head
}

fn read_head(reader: &mut impl BufRead) -> Result<(u16, Vec<(String, String)>)> {
    let first = read_line(reader)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("not a status line: {first:?}"))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("not a header: {line:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    ensure!(
        reader.read_line(&mut line)? > 0,
        "the connection was closed"
    );
    ensure!(line.ends_with("\r\n"), "a line ends without CRLF: {line:?}");
    line.truncate(line.len() - 2);
    Ok(line)
}

fn read_chunk(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let size = read_line(reader)?;
    let size =
        usize::from_str_radix(&size, 16).with_context(|| format!("not a chunk size: {size:?}"))?;
    let mut chunk = vec![0; size];
    reader.read_exact(&mut chunk)?;
    ensure!(
        read_line(reader)?.is_empty(),
        "a chunk is longer than its size"
    );
    Ok((size > 0).then_some(chunk))
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(n, _)| n == name)
        .map(|(_, value)| value.as_str())
}

fn is_chunked(headers: &[(String, String)]) -> bool {
    header(headers, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_answers_are_put_together() {
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n1\r\n7\r\n0\r\n\r\n";
        let answer = Response::read(&mut &wire[..]).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}\n7"));
    }

    #[test]
    fn a_cut_chunk_is_an_error() {
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\n";
        assert!(Response::read(&mut &wire[..]).is_err());
    }
}
