//! A network between servers that can be cut in each direction by itself.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tidings_raft::{PeerStream, TcpTransport, Transport};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{self, Interval},
};

/// How often a direction that is cut is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Which way is cut, for all servers.
#[derive(Debug, Default)]
pub struct Network {
    /// (from, to), by address.
    cut: Mutex<BTreeSet<(String, String)>>,
}

impl Network {
    /// Nothing gets from one to the other any more, in this direction: what is sent is lost.
    pub fn cut_way(&self, from: &str, to: &str) {
        self.cut.lock().insert((from.to_owned(), to.to_owned()));
    }

    /// Nothing gets through between one server and these others.
    pub fn cut_off(&self, one: &str, others: &[String]) {
        for other in others.iter().filter(|other| *other != one) {
            self.cut_way(one, other);
            self.cut_way(other, one);
        }
    }

    pub fn heal(&self) {
        self.cut.lock().clear();
    }

    fn is_cut(&self, (from, to): &(String, String)) -> bool {
        let way = (from.clone(), to.clone());
        self.cut.lock().contains(&way)
    }

    /// What a server at `address` uses.
    pub fn transport(self: &Arc<Self>, listener: TcpListener, address: &str) -> Arc<dyn Transport> {
        Arc::new(OnNetwork {
            network: self.clone(),
            tcp: TcpTransport::new(listener, address),
            address: address.to_owned(),
        })
    }
}

#[derive(Debug)]
struct OnNetwork {
    network: Arc<Network>,
    tcp: TcpTransport,
    address: String,
}

impl Transport for OnNetwork {
    fn dial<'t>(&'t self, address: &'t str) -> BoxFuture<'t, io::Result<PeerStream>> {
        Box::pin(async move {
            let (here, there) = (self.address.clone(), address.to_owned());
            let (out, back) = ((here.clone(), there.clone()), (there, here));
            while self.network.is_cut(&out) || self.network.is_cut(&back) {
                // the first packets are lost
                time::sleep(LOOK_INTERVAL).await;
            }
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            let broken = Arc::new(AtomicBool::new(false));
            Ok(PeerStream::new(
                Lossy::new(reader, &self.network, back, &broken),
                Lossy::new(writer, &self.network, out, &broken),
            ))
        })
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(PeerStream, String)>> {
        self.tcp.accept()
    }
}

/// One direction of a connection.
struct Lossy<S> {
    stream: S,
    network: Arc<Network>,
    way: (String, String),
    /// Something was lost: the connection is of no use when the way is whole again.
    broken: Arc<AtomicBool>,
    look: Interval,
}

impl<S> Lossy<S> {
    fn new(
        stream: S,
        network: &Arc<Network>,
        way: (String, String),
        broken: &Arc<AtomicBool>,
    ) -> Lossy<S> {
        Lossy {
            stream,
            network: network.clone(),
            way,
            broken: broken.clone(),
            look: time::interval(LOOK_INTERVAL),
        }
    }

    /// Ready when bytes get through; an error when some were lost.
    fn poll_way(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.network.is_cut(&self.way) {
            self.broken.store(true, Ordering::SeqCst);
            ready!(self.look.poll_tick(context));
        }
        match self.broken.load(Ordering::SeqCst) {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            false => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lossy<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let way = self.poll_way(context);
        if !matches!(way, Poll::Ready(Ok(()))) {
            buffer.set_filled(before);
        }
        way
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lossy<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.network.is_cut(&self.way) {
            self.broken.store(true, Ordering::SeqCst);
        }
        match self.broken.load(Ordering::SeqCst) {
            // sent, and lost
            true => Poll::Ready(Ok(bytes.len())),
            false => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
