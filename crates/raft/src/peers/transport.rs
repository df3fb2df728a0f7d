use std::{fmt, io, sync::Arc};

use futures_util::future::BoxFuture;
use tidings_host::net::{self, TcpListener, TcpStream};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection between two servers, whatever carries it: bytes in both directions, in order.
pub struct PeerStream {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    pub(crate) writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// What carries connections between servers: TCP, or something else in tests and simulations.
///
/// Encryption is not its business: [`PeersTls`](crate::PeersTls) works over each of them.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// Connects to another server. Takes as long as it takes: the caller limits it.
    fn dial<'t>(&'t self, address: &'t str) -> BoxFuture<'t, io::Result<PeerStream>>;

    /// The next connection that another server makes, and where it comes from, for people. What is
    /// dropped half-way loses no connection.
    fn accept(&self) -> BoxFuture<'_, io::Result<(PeerStream, String)>>;
}

/// Connections over TCP.
pub struct TcpTransport {
    /// `None`: it only dials.
    listener: Option<TcpListener>,
    /// Where it is for the others: matters in a simulation alone.
    at: String,
}

// === impl PeerStream ===

impl PeerStream {
    /// A connection whose directions are apart.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> PeerStream {
        PeerStream {
            reader: Box::new(reader),
            writer: Box::new(writer),
        }
    }

    /// A connection in one piece.
    pub fn whole(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> PeerStream {
        let (reader, writer) = tokio::io::split(stream);
        PeerStream::new(reader, writer)
    }

    fn tcp(stream: TcpStream) -> io::Result<PeerStream> {
        // an answer must not wait for the next one
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(PeerStream::new(reader, writer))
    }
}

impl fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerStream")
    }
}

// === impl TcpTransport ===

impl TcpTransport {
    /// Takes connections at `listener`, which is `at` this address for the others.
    pub fn new(listener: TcpListener, at: &str) -> TcpTransport {
        TcpTransport {
            at: at.to_owned(),
            listener: Some(listener),
        }
    }

    /// Takes no connections.
    pub(crate) fn dialing() -> TcpTransport {
        TcpTransport {
            listener: None,
            at: String::new(),
        }
    }

    /// As what [`PeersConfig`](crate::PeersConfig) wants.
    pub fn shared(listener: TcpListener, at: &str) -> Arc<dyn Transport> {
        Arc::new(TcpTransport::new(listener, at))
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TcpTransport({})", self.at)
    }
}

impl Transport for TcpTransport {
    fn dial<'t>(&'t self, address: &'t str) -> BoxFuture<'t, io::Result<PeerStream>> {
        Box::pin(async move { PeerStream::tcp(net::dial(&self.at, address).await?) })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(PeerStream, String)>> {
        Box::pin(async move {
            let Some(listener) = &self.listener else {
                return std::future::pending().await;
            };
            let (stream, from) = listener.accept().await?;
            Ok((PeerStream::tcp(stream)?, from.to_string()))
        })
    }
}
