//! Servers in temporary directories that know one another's addresses.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tidings_event::{Index, Limits, NewEvent, Timestamp};
use tidings_raft::{
    DiskLimits, OpenError, PeersConfig, PeersLimits, ProposeError, QueueLimits, Replica,
    ReplicaConfig, TcpTransport, VerifyHistory,
};
use tidings_timeline::{BrokerConfig, CommandGroup, Outcome, Settings, Stamper};
use tokio::{
    net::TcpListener,
    time::{self, Instant},
};

use crate::{network::Network, proxy::Proxy};

/// How long anything may take, on a slow machine that does other things as well.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Server {
    pub dir: TempDir,
    pub name: String,
    pub settings: Option<Settings>,
    pub disk: DiskLimits,
    pub answer_wait_max: Duration,
    /// What its clock shows, in microseconds since 1970. It stands still.
    pub clock: Arc<AtomicI64>,
}

/// What clocks show unless they are set.
pub const NOW: i64 = 1_800_000_000_000_000;

impl Server {
    pub fn new(name: &str) -> Server {
        Server {
            dir: tempfile::tempdir().unwrap(),
            name: name.to_owned(),
            settings: None,
            answer_wait_max: QueueLimits::default().answer_wait_max,
            clock: Arc::new(AtomicI64::new(NOW)),
            disk: DiskLimits {
                free_reserve: 0,
                ..DiskLimits::default()
            },
        }
    }

    /// One with small segments, that keeps nothing in its log that is in a snapshot.
    pub fn forgetful(name: &str, segment_bytes: u64) -> Server {
        let mut server = Server::new(name);
        server.settings = Some(Settings {
            segment_bytes,
            ..Settings::default()
        });
        server.disk.log_entries_kept_for_peers = 0;
        server
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Sets its clock to so many seconds after that of others.
    pub fn set_clock(&self, seconds: i64) {
        self.clock
            .store(NOW + seconds * 1_000_000, Ordering::Relaxed);
    }

    fn config(&self) -> ReplicaConfig {
        let clock = self.clock.clone();
        ReplicaConfig {
            data_dir: self.data_dir(),
            node_id: 0,
            node_name: self.name.clone(),
            settings: self.settings.clone(),
            queue: QueueLimits {
                answer_wait_max: self.answer_wait_max,
                ..QueueLimits::default()
            },
            disk: self.disk.clone(),
            broker: BrokerConfig::default(),
            verify: VerifyHistory::All,
            clock: Arc::new(move || Timestamp::from_unix_micros(clock.load(Ordering::Relaxed))),
        }
    }

    /// Starts on a free port; where that is comes along.
    pub async fn start(&self, expect: u32, join: &[String]) -> (Replica, String) {
        self.try_start(expect, join, |_| {}).await.unwrap()
    }

    /// As [`Server::start`], with something changed.
    pub async fn try_start(
        &self,
        expect: u32,
        join: &[String],
        adjust: impl FnOnce(&mut PeersConfig),
    ) -> Result<(Replica, String), OpenError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut peers = self.peers(listener, &address, expect, join);
        adjust(&mut peers);
        let replica = Replica::open_with_peers(self.config(), peers).await?;
        Ok((replica, address))
    }

    /// Starts where a network that can be cut leads.
    pub async fn start_on(&self, network: &Arc<Network>, join: &[String]) -> (Replica, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peers = self.peers(unused, &address, 3, join);
        peers.transport = network.transport(listener, &address);
        let replica = Replica::open_with_peers(self.config(), peers).await;
        (replica.unwrap(), address)
    }

    /// Starts behind a proxy, which the others go through.
    pub async fn start_behind(&self, proxy: &Proxy, join: &[String]) -> Replica {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        proxy.lead_to(listener.local_addr().unwrap());
        let peers = self.peers(listener, &proxy.address, 3, join);
        let replica = Replica::open_with_peers(self.config(), peers).await;
        replica.unwrap()
    }

    fn peers(
        &self,
        listener: TcpListener,
        address: &str,
        expect: u32,
        join: &[String],
    ) -> PeersConfig {
        PeersConfig {
            transport: TcpTransport::shared(listener, address),
            tls: None,
            advertise: address.to_owned(),
            http: format!("http-of-{}", self.name),
            bootstrap_expect: expect,
            join: join.to_vec(),
            standby: false,
            replaces: None,
            version_max: None,
            limits: PeersLimits::default(),
        }
    }
}

pub struct Cluster {
    pub servers: Vec<Server>,
    pub replicas: Vec<Replica>,
    pub addresses: Vec<String>,
}

impl Cluster {
    /// Three servers that have met, two of which were told of the first.
    pub async fn of_three() -> Cluster {
        Cluster::of(["a", "b", "c"].map(Server::new)).await
    }

    /// These servers, once they have met.
    pub async fn of(servers: [Server; 3]) -> Cluster {
        let mut cluster = Cluster {
            servers: Vec::new(),
            replicas: Vec::new(),
            addresses: Vec::new(),
        };
        for server in servers {
            let first: Vec<String> = cluster.addresses.iter().take(1).cloned().collect();
            let (replica, address) = server.start(3, &first).await;
            cluster.servers.push(server);
            cluster.replicas.push(replica);
            cluster.addresses.push(address);
        }
        for replica in &cluster.replicas {
            in_time("the cluster has formed", replica.ready()).await;
        }
        cluster
    }

    /// The place of the server that leads.
    pub async fn leader(&self) -> usize {
        let leads = || self.replicas.iter().position(Replica::is_leader);
        until("somebody leads", || leads().is_some()).await;
        leads().unwrap_or(0)
    }

    /// Waits until all servers have everything, and checks that all have the same bytes.
    pub async fn check_one_history(&self) {
        let newest = |replica: &Replica| replica.state().index;
        let most = self.replicas.iter().map(newest).max().unwrap();
        for replica in &self.replicas {
            until("all have everything", || newest(replica) >= most).await;
        }
        let first = history(&self.servers[0]);
        assert!(!first.is_empty());
        for server in &self.servers[1..] {
            assert!(history(server) == first, "server {} differs", server.name);
        }
    }

    pub async fn shutdown(self) {
        for replica in &self.replicas {
            in_time("shutdown", replica.shutdown()).await;
        }
    }
}

/// What a future gives, which must come within [`WAIT_MAX`].
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match time::timeout(WAIT_MAX, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {WAIT_MAX:?}"),
    }
}

/// Waits for a condition of which nobody tells.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    in_time(what, async {
        while !condition() {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A group that publishes one event under an Id.
pub fn publish(key: &str) -> CommandGroup {
    publish_bytes(key, 1)
}

/// A group that publishes one event, with about so many bytes, under an Id.
pub fn publish_bytes(key: &str, bytes: usize) -> CommandGroup {
    let zeros = "0".repeat(bytes);
    let json = format!(
        r#"{{"Topic":"Job","Type":"JobRegistered","Key":"{key}","Id":"{key}","Payload":{{"n":"{zeros}"}}}}"#
    );
    let event = NewEvent::parse(json.as_bytes()).unwrap();
    let mut group = CommandGroup::new();
    let mut stamper = Stamper::new("n", "test", 1);
    group
        .publish(&[event], &mut stamper, &Limits::default())
        .unwrap();
    group
}

/// Publishes one event, again and again as long as there is nobody to take it.
pub async fn publish_one(replica: &Replica, key: &str) -> Index {
    publish_one_of(replica, key, 1).await
}

/// Publishes one event with about so many bytes.
pub async fn publish_one_of(replica: &Replica, key: &str, bytes: usize) -> Index {
    let begun = Instant::now();
    loop {
        match in_time("an answer", replica.propose(publish_bytes(key, bytes))).await {
            Ok(outcomes) => match outcomes[..] {
                [Outcome::Published { index } | Outcome::Duplicate { index }] => return index,
                _ => panic!("not published: {outcomes:?}"),
            },
            Err(ProposeError::NotLeader { .. } | ProposeError::Unknown { .. }) => {
                assert!(begun.elapsed() < WAIT_MAX, "nobody takes {key}");
                time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// All files of a server's history, and their bytes.
pub fn history(server: &Server) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(server.data_dir().join("history"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "ndjson"))
        .filter_map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            match std::fs::read(path) {
                Ok(bytes) => Some((name, bytes)),
                // retention has removed it since it was listed
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => panic!("{error}"),
            }
        })
        .collect();
    files.sort();
    files
}

/// How often an event of `key` stands in a server's history.
pub fn count(server: &Server, key: &str) -> usize {
    let key = format!(r#""Key":"{key}""#);
    history(server)
        .iter()
        .map(|(_, bytes)| String::from_utf8_lossy(bytes).matches(&key).count())
        .sum()
}
