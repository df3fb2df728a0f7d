use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::metrics::{Counted, Metrics};

/// What a client of HTTP/2 sends first when it knows that the server speaks it (RFC 9113 §3.4).
pub(crate) const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One accepted connection: the socket, the bytes that told its version, its place among the
/// connections that may be open, and the clock that cuts it when the peer stops reading.
///
/// It is handed on when a request becomes a WebSocket, so that the place is given back when the
/// socket is really closed.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    /// Bytes that were read to learn the version and are yet to be given to the HTTP library.
    prefix: [u8; HTTP2_PREFACE.len()],
    prefix_start: u8,
    prefix_end: u8,
    stall: WriteStall,
    place: Place,
}

/// A connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    metrics: Arc<Metrics>,
    _counted: Counted,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    pub(crate) fn take(metrics: &Arc<Metrics>, permit: OwnedSemaphorePermit) -> Place {
        metrics.connections_accepted.one();
        Place {
            metrics: Arc::clone(metrics),
            _counted: Counted::new(metrics, |metrics| &metrics.connections),
            _permit: permit,
        }
    }
}

/// Measures how long a socket has taken nothing while something waits.
///
/// The timer exists only while the socket is full: a connection that is read costs nothing.
#[derive(Debug)]
struct WriteStall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// It was found out, here or by the kernel; it is counted once.
    is_counted: bool,
}

impl Connection {
    pub(crate) fn new(socket: TcpStream, write_stall: Duration, place: Place) -> Connection {
        Connection {
            socket,
            prefix: [0; HTTP2_PREFACE.len()],
            prefix_start: 0,
            prefix_end: 0,
            stall: WriteStall {
                limit: write_stall,
                timer: None,
                is_counted: false,
            },
            place,
        }
    }

    /// Reads until it is known whether the client speaks HTTP/2; what was read is kept for the
    /// HTTP library. The caller bounds the time.
    ///
    /// # Errors
    /// The socket's, and `UnexpectedEof` when the peer closed before it said anything.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        use tokio::io::AsyncReadExt;
        loop {
            let end = usize::from(self.prefix_end);
            let read = self.socket.read(&mut self.prefix[end..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = end + read;
            // At most 24.
            self.prefix_end = end as u8;
            if self.prefix[..end] != HTTP2_PREFACE[..end] {
                return Ok(false);
            }
            if end == HTTP2_PREFACE.len() {
                return Ok(true);
            }
        }
    }
}

impl WriteStall {
    /// Called with every outcome of a write.
    fn note<T>(
        &mut self,
        cx: &mut Context<'_>,
        metrics: &Metrics,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.timer = None;
            return self.note_kernel(metrics, outcome);
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        self.count(metrics);
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer has not read for too long",
        )))
    }

    /// Called with every outcome: the kernel gives up too (`TCP_USER_TIMEOUT`), on a peer that is
    /// gone.
    fn note_kernel<T>(
        &mut self,
        metrics: &Metrics,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &outcome
            && error.kind() == io::ErrorKind::TimedOut
        {
            self.count(metrics);
        }
        outcome
    }

    fn count(&mut self, metrics: &Metrics) {
        if !self.is_counted {
            self.is_counted = true;
            metrics.connections_stalled.one();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (start, end) = (usize::from(self.prefix_start), usize::from(self.prefix_end));
        if start < end {
            let count = (end - start).min(buffer.remaining());
            buffer.put_slice(&self.prefix[start..start + count]);
            self.prefix_start += count as u8;
            return Poll::Ready(Ok(()));
        }
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_read(cx, buffer);
        this.stall.note_kernel(&this.place.metrics, outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_write(cx, bytes);
        this.stall.note(cx, &this.place.metrics, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.socket).poll_write_vectored(cx, slices);
        this.stall.note(cx, &this.place.metrics, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
