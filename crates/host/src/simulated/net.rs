//! A network in memory: hosts by name, connections that keep their order as TCP does, and between any
//! two hosts, in each direction, a way that can be slow or cut.
//!
//! ```text
//! write ─▶ [ bytes, and when they arrive ] ─▶ read
//!               a way that is cut holds them back; healed, they come, as if sent again
//! ```
//!
//! A host that is killed resets its connections, one that loses its power says nothing: the others
//! find out when it is back.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future as _;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio::time::{self, Instant, Sleep};

use super::rng::Rng;
use super::world;

/// Bytes on their way in one direction of a connection before its writer waits.
const WINDOW_BYTES: usize = 256 * 1024;
/// How long one waits for a host that says nothing.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(60);
/// What a lost packet costs: TCP sends it again.
const RESEND_PAUSE: Duration = Duration::from_millis(200);

/// How a way between two hosts is.
#[derive(Debug, Clone)]
pub struct Way {
    /// How long bytes take.
    pub delay_micros: Range<u64>,
    /// How many writes of a hundred are lost at first.
    pub loss_percent: u64,
    /// Whether nothing comes through.
    pub is_cut: bool,
}

impl Default for Way {
    fn default() -> Self {
        Self {
            delay_micros: 50..500,
            loss_percent: 0,
            is_cut: false,
        }
    }
}

/// The network of a simulation.
#[derive(Debug)]
pub struct Net {
    state: Mutex<State>,
    /// A way or a host has changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    rng: Rng,
    usual: Way,
    ways: BTreeMap<(String, String), Way>,
    hosts: BTreeMap<String, Host>,
    pipes: Vec<Weak<Mutex<Pipe>>>,
    port: u16,
}

#[derive(Debug, Default)]
struct Host {
    is_up: bool,
    listeners: BTreeMap<u16, mpsc::UnboundedSender<TcpStream>>,
}

/// One direction of a connection.
#[derive(Debug)]
struct Pipe {
    from: String,
    to: String,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// The writer has ended.
    closed: bool,
    /// The reader has gone.
    refused: bool,
    /// One of the hosts has forgotten the connection.
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Takes connections.
#[derive(Debug)]
pub struct TcpListener {
    address: String,
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<TcpStream>>,
}

/// A connection.
#[derive(Debug)]
pub struct TcpStream {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    other: String,
}

/// Its reading half.
#[derive(Debug)]
pub struct OwnedReadHalf {
    net: Arc<Net>,
    pipe: Arc<Mutex<Pipe>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Its writing half.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    net: Arc<Net>,
    pipe: Arc<Mutex<Pipe>>,
}

/// Connects `from`, an address of this host, to the address `to`.
///
/// # Errors
///
/// When nobody listens there or one of the hosts is down.
pub async fn dial(from: &str, to: &str) -> io::Result<TcpStream> {
    let net = world::net();
    let dialled = net.dial(host_of(from), to);
    match time::timeout(CONNECT_WAIT_MAX, dialled).await {
        Ok(dialled) => dialled,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn host_of(address: &str) -> &str {
    address.split_once(':').map_or(address, |(host, _)| host)
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

// === impl Net ===

impl Net {
    pub(super) fn new(rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                rng,
                usual: Way::default(),
                ways: BTreeMap::new(),
                hosts: BTreeMap::new(),
                pipes: Vec::new(),
                port: 0,
            }),
            changed: Notify::new(),
        })
    }

    /// How ways are that were not changed.
    pub fn set_usual(&self, way: Way) {
        self.state.lock().usual = way;
    }

    /// Changes the way from one host to another, in this direction.
    pub fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Way)) {
        let mut state = self.state.lock();
        let usual = state.usual.clone();
        let way = state.ways.entry((from.to_owned(), to.to_owned()));
        change(way.or_insert(usual));
        drop(state);
        self.tell();
    }

    /// Makes all ways as they usually are.
    pub fn heal(&self) {
        self.state.lock().ways.clear();
        self.tell();
    }

    /// A host is there. What others still held of connections to an earlier life of it is reset.
    pub fn up(&self, host: &str) {
        let mut state = self.state.lock();
        state.forget(host, true);
        state.hosts.entry(host.to_owned()).or_default().is_up = true;
        drop(state);
        self.tell();
    }

    /// A host is gone. `told`: the others are, as after a kill; not after a power cut.
    pub fn down(&self, host: &str, told: bool) {
        let mut state = self.state.lock();
        state.hosts.insert(host.to_owned(), Host::default());
        state.forget(host, told);
        drop(state);
        self.tell();
    }

    fn tell(&self) {
        self.changed.notify_waiters();
        let pipes = {
            let mut state = self.state.lock();
            state.pipes.retain(|pipe| pipe.strong_count() > 0);
            state.pipes.clone()
        };
        for pipe in pipes.iter().filter_map(Weak::upgrade) {
            pipe.lock().wake();
        }
    }

    fn way(&self, from: &str, to: &str) -> Way {
        let state = self.state.lock();
        let way = state.ways.get(&(from.to_owned(), to.to_owned()));
        way.unwrap_or(&state.usual).clone()
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let down = {
            let state = self.state.lock();
            let is_up = |host| state.hosts.get(host).is_some_and(|host: &Host| host.is_up);
            !is_up(from) || !is_up(to)
        };
        down || self.way(from, to).is_cut
    }

    fn delay(&self, from: &str, to: &str) -> Duration {
        let way = self.way(from, to);
        let mut state = self.state.lock();
        let mut delay = Duration::from_micros(state.rng.within(way.delay_micros));
        let mut pause = RESEND_PAUSE;
        while state.rng.percent(way.loss_percent.min(90)) {
            delay += pause;
            pause *= 2;
        }
        delay
    }

    async fn passes(&self, from: &str, to: &str) {
        loop {
            let changed = self.changed.notified();
            if !self.is_cut(from, to) {
                break;
            }
            changed.await;
        }
        time::sleep(self.delay(from, to)).await;
    }

    async fn dial(self: Arc<Self>, from: &str, to: &str) -> io::Result<TcpStream> {
        let (host, port) = to
            .split_once(':')
            .and_then(|(host, port)| Some((host, port.parse().ok()?)))
            .ok_or(io::ErrorKind::InvalidInput)?;
        if !self.state.lock().hosts.get(from).is_some_and(|h| h.is_up) {
            return Err(reset());
        }
        self.passes(from, host).await;
        let listener = {
            let state = self.state.lock();
            let host = state.hosts.get(host);
            host.and_then(|host| host.listeners.get(&port).cloned())
        };
        let Some(listener) = listener else {
            self.passes(host, from).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (there, back) = (self.pipe(from, host), self.pipe(host, from));
        let stream =
            |reader: &Arc<Mutex<Pipe>>, writer: &Arc<Mutex<Pipe>>, other: &str| TcpStream {
                reader: OwnedReadHalf {
                    net: self.clone(),
                    pipe: reader.clone(),
                    sleep: None,
                },
                writer: OwnedWriteHalf {
                    net: self.clone(),
                    pipe: writer.clone(),
                },
                other: other.to_owned(),
            };
        let ours = stream(&back, &there, to);
        if listener.send(stream(&there, &back, from)).is_err() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.passes(host, from).await;
        Ok(ours)
    }

    fn pipe(&self, from: &str, to: &str) -> Arc<Mutex<Pipe>> {
        let pipe = Arc::new(Mutex::new(Pipe {
            from: from.to_owned(),
            to: to.to_owned(),
            chunks: VecDeque::new(),
            bytes: 0,
            closed: false,
            refused: false,
            reset: false,
            reader: None,
            writer: None,
        }));
        self.state.lock().pipes.push(Arc::downgrade(&pipe));
        pipe
    }
}

impl State {
    /// Ends the connections of a host: its own ends at once, those of the others if they are told.
    fn forget(&mut self, host: &str, told: bool) {
        for pipe in self.pipes.iter().filter_map(Weak::upgrade) {
            let mut pipe = pipe.lock();
            if pipe.from == host || pipe.to == host {
                // What is told is told in both directions. A host that says nothing leaves what it
                // was to hear and what it has said on the way for ever.
                pipe.reset |= told;
            }
        }
    }
}

// === impl Pipe ===

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

// === impl TcpListener ===

impl TcpListener {
    /// Listens at an address, `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// When the address is none or the host is down.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let net = world::net();
        let (host, port) = address
            .split_once(':')
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (sender, incoming) = mpsc::unbounded_channel();
        let mut state = net.state.lock();
        let port = match port {
            0 => {
                state.port += 1;
                state.port
            }
            port => port,
        };
        let host = state
            .hosts
            .get_mut(host)
            .filter(|host| host.is_up)
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        host.listeners.insert(port, sender);
        Ok(Self {
            address: format!("{}:{port}", host_of(address)),
            incoming: tokio::sync::Mutex::new(incoming),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The next connection, and who made it.
    ///
    /// # Errors
    ///
    /// When the host has gone down.
    pub async fn accept(&self) -> io::Result<(TcpStream, String)> {
        match self.incoming.lock().await.recv().await {
            Some(stream) => {
                let other = stream.other.clone();
                Ok((stream, other))
            }
            None => std::future::pending().await,
        }
    }
}

// === impl TcpStream ===

impl TcpStream {
    /// Every write is sent at once.
    ///
    /// # Errors
    ///
    /// None.
    pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Both halves.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        (self.reader, self.writer)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}

impl AsyncRead for OwnedReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut pipe = this.pipe.lock();
        if pipe.reset {
            return Poll::Ready(Err(reset()));
        }
        pipe.reader = Some(context.waker().clone());
        if this.net.is_cut(&pipe.from, &pipe.to) {
            return Poll::Pending;
        }
        let Some((due, _)) = pipe.chunks.front() else {
            return match pipe.closed {
                true => Poll::Ready(Ok(())),
                false => Poll::Pending,
            };
        };
        if *due > Instant::now() {
            let mut sleep = Box::pin(time::sleep_until(*due));
            if sleep.as_mut().poll(context).is_pending() {
                this.sleep = Some(sleep);
                return Poll::Pending;
            }
        }
        this.sleep = None;
        if let Some((_, chunk)) = pipe.chunks.front_mut() {
            let read = chunk.len().min(buffer.remaining());
            buffer.put_slice(&chunk[..read]);
            chunk.drain(..read);
            let empty = chunk.is_empty();
            pipe.bytes -= read;
            if empty {
                pipe.chunks.pop_front();
            }
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for OwnedWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.pipe.lock();
        if pipe.reset || pipe.refused {
            return Poll::Ready(Err(reset()));
        }
        if pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.bytes >= WINDOW_BYTES {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let written = bytes.len().min(WINDOW_BYTES - pipe.bytes);
        let mut due = Instant::now() + self.net.delay(&pipe.from, &pipe.to);
        if let Some((before, _)) = pipe.chunks.back() {
            due = due.max(*before);
        }
        pipe.chunks.push_back((due, bytes[..written].to_vec()));
        pipe.bytes += written;
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.pipe.lock();
        pipe.closed = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for OwnedReadHalf {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.refused = true;
        pipe.wake();
    }
}

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        let mut pipe = self.pipe.lock();
        pipe.closed = true;
        pipe.wake();
    }
}
