//! A publisher that keeps many transactions in flight on one connection.

use std::io::{BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::http::{Stream, connect};

/// One `application/x-ndjson` request: lines go out, answers come back in their order.
pub struct Pipeline {
    socket: TcpStream,
    answers: Option<Stream>,
}

impl Pipeline {
    /// Open the request; nothing is published yet.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let mut socket = connect(address)?;
        socket.write_all(
            b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\n\
              Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        Ok(Self {
            socket,
            answers: None,
        })
    }

    /// Send lines, each with its `\n`, as one chunk.
    pub fn send(&mut self, lines: &[u8]) -> Result<()> {
        ensure!(!lines.is_empty(), "an empty chunk would end the request");
        let mut chunk = format!("{:x}\r\n", lines.len()).into_bytes();
        chunk.extend(lines);
        chunk.extend(b"\r\n");
        self.socket.write_all(&chunk).context("cannot send")
    }

    /// Say that no more lines come.
    pub fn finish(&mut self) -> Result<()> {
        self.socket.write_all(b"0\r\n\r\n").context("cannot send")
    }

    /// The next answer line; `None` when all were given.
    pub fn next_answer(&mut self) -> Result<Option<Value>> {
        if self.answers.is_none() {
            self.answers = Some(Stream::read_head(BufReader::new(self.socket.try_clone()?))?);
        }
        let answers = self.answers.as_mut().context("the head was read")?;
        let line = answers.next_line()?;
        line.map(|line| serde_json::from_slice(&line).context("an answer is not JSON"))
            .transpose()
    }

    /// A second handle on the same connection, for a thread that only sends.
    pub fn sender(&self) -> Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            answers: None,
        })
    }

    /// Close both directions at once.
    pub fn abort(&self) {
        // It fails where the other side has closed before, which is as good.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
