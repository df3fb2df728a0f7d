//! What lies between a server and the others, and fails on demand.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time,
};

/// Read at once.
const BUFFER_BYTES: usize = 64 << 10;

/// Carries connections to one server.
pub struct Proxy {
    pub address: String,
    target: watch::Sender<Option<SocketAddr>>,
    faults: Arc<Faults>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    /// Nothing gets through, and what there is ends.
    blocked: AtomicBool,
    /// So many connections are cut once they have carried `at` bytes.
    cuts: AtomicUsize,
    /// In so many a byte is changed after `at` bytes.
    flips: AtomicUsize,
    at: AtomicU64,
    /// Milliseconds before each piece on a connection that has carried much.
    delay_ms: AtomicU64,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub async fn new() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = watch::Sender::new(None);
        let faults = Arc::new(Faults::default());
        let task = tokio::spawn(run(listener, target.subscribe(), faults.clone()));
        Proxy {
            address,
            target,
            faults,
            task,
        }
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    pub fn block(&self, blocked: bool) {
        self.faults.blocked.store(blocked, Ordering::SeqCst);
    }

    /// Cuts the next `times` connections that carry `at` bytes to the server.
    pub fn cut(&self, times: usize, at: u64) {
        self.faults.at.store(at, Ordering::SeqCst);
        self.faults.cuts.store(times, Ordering::SeqCst);
    }

    /// Changes a byte in the next `times` connections that carry `at` bytes.
    pub fn flip(&self, times: usize, at: u64) {
        self.faults.at.store(at, Ordering::SeqCst);
        self.faults.flips.store(times, Ordering::SeqCst);
    }

    /// Whether all of them were.
    pub fn has_failed(&self) -> bool {
        let left = |number: &AtomicUsize| number.load(Ordering::SeqCst);
        left(&self.faults.cuts) + left(&self.faults.flips) == 0
    }

    /// Slows connections that have carried more than a few pieces.
    pub fn slow_down(&self, delay: Duration) {
        let delay = delay.as_millis() as u64;
        self.faults.delay_ms.store(delay, Ordering::SeqCst);
    }
}

async fn run(
    listener: TcpListener,
    target: watch::Receiver<Option<SocketAddr>>,
    faults: Arc<Faults>,
) {
    let mut connections = JoinSet::new();
    while let Ok((from, _)) = listener.accept().await {
        let Some(target) = *target.borrow() else {
            continue;
        };
        if !faults.blocked.load(Ordering::SeqCst) {
            let faults = faults.clone();
            connections.spawn(async move {
                if let Ok(to) = TcpStream::connect(target).await {
                    carry(from, to, &faults).await;
                }
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(from: TcpStream, to: TcpStream, faults: &Faults) {
    let (mut from_reader, mut from_writer) = from.into_split();
    let (mut to_reader, mut to_writer) = to.into_split();
    let there = async {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut carried = 0;
        while let Ok(read @ 1..) = from_reader.read(&mut buffer).await {
            carried += read as u64;
            let due = |left: &AtomicUsize| {
                let take = |left: usize| left.checked_sub(1);
                carried > faults.at.load(Ordering::SeqCst)
                    && left
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                        .is_ok()
            };
            if due(&faults.cuts) {
                return;
            }
            if due(&faults.flips) {
                buffer[read / 2] ^= 1;
            }
            let delay = faults.delay_ms.load(Ordering::SeqCst);
            if delay > 0 && carried > 4 * BUFFER_BYTES as u64 {
                time::sleep(Duration::from_millis(delay)).await;
            }
            if to_writer.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    let blocked = async {
        while !faults.blocked.load(Ordering::SeqCst) {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = there => {}
        _ = copy(&mut to_reader, &mut from_writer) => {}
        () = blocked => {}
    }
}
