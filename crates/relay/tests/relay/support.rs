//! A real server, an agent before it, and a network between them that tests can cut.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tidings_api::{ApiConfig, ApiServer};
use tidings_client::{
    Client, ClientConfig, EventStream, From, Published, StreamEvent, StreamRequest, Transaction,
};
use tidings_event::{OwnedNewEvent, Timestamp};
use tidings_raft::{DiskLimits, QueueLimits, Replica, ReplicaConfig, VerifyHistory};
use tidings_relay::{Relay, RelayConfig};
use tidings_timeline::BrokerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Of servers and agents: a stream that is silent for two and a half of these counts as dead, which
/// a machine that is busy with other tests must not bring about.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Longer than anything here takes; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("waited too long")
}

/// Waits until a condition holds.
pub async fn until<A: Future<Output = bool>>(mut holds: impl FnMut() -> A) {
    soon(async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A server that is alone, with its HTTP surface.
pub struct Server {
    pub address: SocketAddr,
    pub client: Client,
    pub replica: Replica,
    stop: CancellationToken,
    _data: TempDir,
}

fn clock() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    Timestamp::from_unix_micros(since.as_micros() as i64)
}

impl Server {
    pub async fn start() -> Server {
        Server::with(|_| {}).await
    }

    pub async fn with(configure: impl FnOnce(&mut ApiConfig)) -> Server {
        let data = tempfile::tempdir().unwrap();
        let replica = Replica::open(ReplicaConfig {
            data_dir: data.path().join("data"),
            node_id: 1,
            node_name: "s1".to_owned(),
            settings: None,
            queue: QueueLimits::default(),
            disk: DiskLimits {
                free_reserve: 0,
                ..DiskLimits::default()
            },
            broker: BrokerConfig::default(),
            verify: VerifyHistory::Tail,
            clock: Arc::new(clock),
        });
        let replica = replica.await.unwrap();
        let mut config = ApiConfig::default();
        configure(&mut config);
        let (address, stop) = serve(ApiServer::new(replica.clone(), config)).await;
        Server {
            address,
            client: client(&[address]),
            replica,
            stop,
            _data: data,
        }
    }

    /// How many streams are open.
    pub async fn streams(&self) -> u64 {
        let status = self.client.status().await.unwrap();
        status.get("/Http/Streams").unwrap().as_u64().unwrap()
    }

    /// The keys of everything that is on the timeline, in order.
    pub async fn keys(&self, count: usize) -> Vec<String> {
        let mut stream = self.client.stream(StreamRequest {
            from: From::Beginning,
            namespace: Some("*".to_owned()),
            ..StreamRequest::default()
        });
        keys(&mut stream, count).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(server: ApiServer) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(server.run(listener, stop.clone().cancelled_owned()));
    (address, stop)
}

pub fn client(addresses: &[SocketAddr]) -> Client {
    let parse = |address: &SocketAddr| ClientConfig::parse_address(&address.to_string()).unwrap();
    Client::new(ClientConfig {
        addresses: addresses.iter().map(parse).collect(),
        retry_delay: Duration::from_millis(10),
        retry_delay_max: Duration::from_millis(100),
        learn_servers_every: None,
        ..ClientConfig::default()
    })
    .unwrap()
}

/// An agent without a timeline, with its HTTP surface.
pub struct Agent {
    pub address: SocketAddr,
    pub client: Client,
    pub relay: Relay,
    stop: CancellationToken,
}

impl Agent {
    pub async fn start(spool: &TempDir, servers: &[SocketAddr]) -> Agent {
        Agent::with(spool, servers, |_| {}).await
    }

    pub async fn with(
        spool: &TempDir,
        servers: &[SocketAddr],
        configure: impl FnOnce(&mut RelayConfig),
    ) -> Agent {
        let mut config = RelayConfig {
            servers: servers
                .iter()
                .map(|address| ClientConfig::parse_address(&address.to_string()).unwrap())
                .collect(),
            answer_within: Duration::from_millis(700),
            heartbeat: HEARTBEAT,
            ..RelayConfig::new(spool_dir(spool))
        };
        configure(&mut config);
        let relay = Relay::start(config).await.unwrap();
        let mut api = ApiConfig {
            node_name: "a1".to_owned(),
            ..ApiConfig::default()
        };
        api.stream.heartbeat = HEARTBEAT;
        let (address, stop) = serve(ApiServer::new(relay.clone(), api)).await;
        Agent {
            address,
            client: client(&[address]),
            relay,
            stop,
        }
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.relay.shutdown().await;
    }

    pub async fn fact(&self, pointer: &str) -> serde_json::Value {
        let status = self.client.status().await.unwrap();
        status.get(pointer).cloned().unwrap_or_default()
    }
}

pub fn spool_dir(spool: &TempDir) -> PathBuf {
    spool.path().join("spool")
}

pub fn event(key: &str) -> OwnedNewEvent {
    let mut event = OwnedNewEvent::new("T", "t");
    event.key = key.to_owned();
    event
}

pub fn transaction(key: &str) -> Transaction {
    Transaction::try_from(event(key)).unwrap()
}

/// Publishes and waits for the answer.
pub async fn publish(client: &Client, key: &str) -> Published {
    soon(client.publish(&transaction(key))).await.unwrap()
}

/// The keys of the next frames.
pub async fn keys(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut keys = Vec::new();
    while keys.len() < count {
        if let StreamEvent::Frame(line) = soon(stream.next()).await.unwrap().unwrap() {
            let frame = line.decode().unwrap();
            keys.extend(frame.events.into_iter().map(|event| event.key));
        }
    }
    keys
}

/// Indexes of the next frames.
pub async fn indexes(stream: &mut EventStream, count: usize) -> Vec<u64> {
    let mut indexes = Vec::new();
    while indexes.len() < count {
        if let StreamEvent::Frame(line) = soon(stream.next()).await.unwrap().unwrap() {
            indexes.push(line.index().get());
        }
    }
    indexes
}

/// What stands between agent and server.
pub struct Network {
    pub address: SocketAddr,
    is_up: Arc<AtomicBool>,
    /// Whether connections are taken and nothing passes.
    is_hung: Arc<AtomicBool>,
    /// Bytes of answers after which a connection is cut; 0: none is.
    cut_after: Arc<AtomicU64>,
    cut_all: Arc<parking_lot::Mutex<CancellationToken>>,
    /// Whether nothing passes on connections that stay open.
    is_stalled: Arc<watch::Sender<bool>>,
}

impl Network {
    pub async fn to(server: SocketAddr) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Network {
            address: listener.local_addr().unwrap(),
            is_up: Arc::new(AtomicBool::new(true)),
            is_hung: Arc::default(),
            cut_after: Arc::default(),
            cut_all: Arc::default(),
            is_stalled: Arc::new(watch::Sender::new(false)),
        };
        let is_stalled = network.is_stalled.clone();
        let (is_up, is_hung, cut_after, cut_all) = (
            network.is_up.clone(),
            network.is_hung.clone(),
            network.cut_after.clone(),
            network.cut_all.clone(),
        );
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !is_up.load(Ordering::SeqCst) {
                    continue;
                }
                let (cut, after) = (cut_all.lock().clone(), cut_after.load(Ordering::SeqCst));
                let is_hung = is_hung.load(Ordering::SeqCst);
                let mut stalled = is_stalled.subscribe();
                tokio::spawn(async move {
                    let passing = async {
                        match is_hung {
                            true => std::future::pending().await,
                            false => pass(&mut near, server, after).await,
                        }
                    };
                    tokio::select! {
                        () = cut.cancelled() => {}
                        () = passing => {}
                        () = async {
                            let _ = stalled.wait_for(|stalled| *stalled).await;
                            // Open, until it is cut.
                            cut.cancelled().await;
                        } => {}
                    }
                });
            }
        });
        network
    }

    /// Cuts everything, and lets nothing through.
    pub fn down(&self) {
        self.is_up.store(false, Ordering::SeqCst);
        self.cut();
    }

    /// Takes connections from now on, as a server that was stopped does, and passes nothing.
    pub fn hang(&self) {
        self.is_hung.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Leaves every connection open and passes nothing any more, as a server that is stopped does.
    pub fn stall(&self) {
        self.is_stalled.send_replace(true);
    }

    pub fn up(&self) {
        self.is_up.store(true, Ordering::SeqCst);
    }

    /// Cuts what is open.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut_all.lock()).cancel();
    }

    /// From now on each connection is cut after so many bytes of answers.
    pub fn cut_after(&self, bytes: u64) {
        self.cut_after.store(bytes, Ordering::SeqCst);
        self.cut();
    }
}

async fn pass(near: &mut TcpStream, server: SocketAddr, cut_after: u64) {
    let Ok(mut far) = TcpStream::connect(server).await else {
        return;
    };
    let (mut near_in, mut near_out) = near.split();
    let (mut far_in, mut far_out) = far.split();
    let there = async {
        let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
        std::future::pending::<()>().await;
    };
    let back = async {
        let mut left = if cut_after == 0 { u64::MAX } else { cut_after };
        let mut buffer = vec![0; 4096];
        while left > 0 {
            let Ok(count @ 1..) = far_in.read(&mut buffer).await else {
                return;
            };
            let count = (count as u64).min(left);
            left -= count;
            if near_out.write_all(&buffer[..count as usize]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
