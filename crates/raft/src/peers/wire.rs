use std::{
    io::{self, Cursor},
    sync::Arc,
};

use tokio::io::AsyncReadExt;

use super::{
    tls::{self, PeersTls},
    transport::{PeerStream, Transport},
};

/// The first byte of everything that TLS says first: a record of its handshake.
pub(crate) const TLS_FIRST_BYTE: u8 = 0x16;

/// How this server reaches the others, and they it: a transport, and encryption where it is set up.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub transport: Arc<dyn Transport>,
    pub tls: Option<PeersTls>,
}

/// A connection that another server has made.
pub(crate) enum Secured {
    Ready(PeerStream),
    /// It does not speak TLS, and should.
    Plain(PeerStream),
}

impl Wire {
    /// Connects to another server.
    pub async fn dial(&self, address: &str) -> io::Result<PeerStream> {
        Wire::dial_over(&*self.transport, self.tls.as_ref(), address).await
    }

    /// As [`Wire::dial`], for somebody who takes no connections.
    pub async fn dial_over(
        transport: &dyn Transport,
        tls: Option<&PeersTls>,
        address: &str,
    ) -> io::Result<PeerStream> {
        let stream = transport.dial(address).await?;
        match tls {
            None => Ok(stream),
            Some(tls) => {
                let connected = tls.connect(stream).await;
                connected.map_err(|error| io::Error::new(error.kind(), tls::reason(&error)))
            }
        }
    }

    /// Makes a connection that was taken ready to be used.
    pub async fn secure(&self, stream: PeerStream) -> io::Result<Secured> {
        let Some(tls) = &self.tls else {
            return Ok(Secured::Ready(stream));
        };
        let PeerStream { mut reader, writer } = stream;
        // Whoever speaks without TLS is told so, rather than sent a record that it cannot read.
        let first = reader.read_u8().await?;
        let reader = Cursor::new([first]).chain(reader);
        let stream = PeerStream::new(reader, writer);
        if first != TLS_FIRST_BYTE {
            return Ok(Secured::Plain(stream));
        }
        let accepted = tls.accept(stream).await;
        accepted
            .map(Secured::Ready)
            .map_err(|error| io::Error::new(error.kind(), tls::reason(&error)))
    }
}
