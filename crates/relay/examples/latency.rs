//! What an agent adds to the way of an event: published at a server and followed there, against
//! published and followed through an agent before the same server, in one process and one run.
//!
//! `cargo run --release -p tidings-relay --example latency [EVENTS]`

#![allow(clippy::unwrap_used, reason = "a measurement fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tidings_api::{ApiConfig, ApiServer};
use tidings_client::{
    Client, ClientConfig, From, PublishStreamConfig, StreamEvent, StreamRequest, Transaction,
};
use tidings_event::{OwnedNewEvent, Timestamp};
use tidings_raft::{DiskLimits, QueueLimits, Replica, ReplicaConfig, VerifyHistory};
use tidings_relay::{Relay, RelayConfig};
use tidings_timeline::BrokerConfig;
use tokio::net::TcpListener;

/// Between two events, so that each is alone.
const PAUSE: Duration = Duration::from_millis(2);

fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::from_unix_micros(since.unwrap().as_micros() as i64)
}

async fn serve(server: ApiServer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.run(listener, std::future::pending()));
    address
}

fn client(address: SocketAddr) -> Client {
    Client::new(ClientConfig {
        addresses: vec![ClientConfig::parse_address(&address.to_string()).unwrap()],
        learn_servers_every: None,
        ..ClientConfig::default()
    })
    .unwrap()
}

/// Milliseconds at these parts of all.
fn told(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{name:<44} p50 {:7.3} ms  p90 {:7.3} ms  p99 {:7.3} ms",
        at(0.5),
        at(0.9),
        at(0.99)
    );
}

#[tokio::main]
async fn main() {
    let events: usize = std::env::args()
        .nth(1)
        .map_or(2_000, |text| text.parse().expect("a number of events"));
    let data = tempfile::tempdir().unwrap();
    let replica = Replica::open(ReplicaConfig {
        data_dir: data.path().join("server"),
        node_id: 1,
        node_name: "s1".to_owned(),
        settings: None,
        queue: QueueLimits::default(),
        disk: DiskLimits::default(),
        broker: BrokerConfig::default(),
        verify: VerifyHistory::Tail,
        clock: Arc::new(clock),
    })
    .await
    .unwrap();
    let server = serve(ApiServer::new(replica, ApiConfig::default())).await;
    let relay = Relay::start(RelayConfig {
        servers: vec![ClientConfig::parse_address(&server.to_string()).unwrap()],
        ..RelayConfig::new(data.path().join("spool"))
    })
    .await
    .unwrap();
    let agent = serve(ApiServer::new(relay.clone(), ApiConfig::default())).await;

    // Turn by turn, so that both see the same disk and the same neighbours.
    let (server, agent) = (client(server), client(agent));
    let mut followers = Vec::new();
    for followed in [&server, &agent] {
        let mut stream = followed.stream(StreamRequest {
            from: From::Now,
            ..StreamRequest::default()
        });
        stream.open().await.unwrap();
        let (seen, at) = tokio::sync::mpsc::channel::<Instant>(1_024);
        tokio::spawn(async move {
            while let Some(Ok(event)) = stream.next().await {
                if matches!(event, StreamEvent::Frame(_))
                    && seen.send(Instant::now()).await.is_err()
                {
                    return;
                }
            }
        });
        followers.push(at);
    }
    let mut times = [const { Vec::new() }; 4];
    for number in 0..events + 100 {
        for (place, published_at) in [&server, &agent].into_iter().enumerate() {
            let transaction = Transaction::try_from(OwnedNewEvent::new("T", "t")).unwrap();
            let begun = Instant::now();
            published_at.publish(&transaction).await.unwrap();
            let answered = begun.elapsed();
            let seen = followers[0].recv().await.unwrap();
            let relayed = followers[1].recv().await.unwrap();
            // The first ones open connections.
            if number >= 100 {
                times[place].push(answered);
                if place == 0 {
                    times[2].push(seen.saturating_duration_since(begun));
                    times[3].push(relayed.saturating_duration_since(begun));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    let [at_server, at_agent, seen, relayed] = times;
    told("publish, answered by the server", at_server);
    told("publish, answered through the agent", at_agent);
    told("published at the server, seen there", seen);
    told("published at the server, seen at the agent", relayed);
    for (name, published_at) in [("at the server", &server), ("through the agent", &agent)] {
        let rate = pipelined(published_at, events * 50).await;
        println!("pipelined publishing {name:<23} {rate:9.0} events/s");
    }
    relay.shutdown().await;
}

/// Events a second over one connection with many in flight.
async fn pipelined(client: &Client, events: usize) -> f64 {
    let (sender, mut answers) = client.publish_stream(PublishStreamConfig::default());
    let begun = Instant::now();
    let giving = tokio::spawn(async move {
        for _ in 0..events {
            let transaction = OwnedNewEvent::new("T", "t").try_into().unwrap();
            sender.send(transaction).await.unwrap();
        }
    });
    let mut answered = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap().outcome.unwrap();
        answered += 1;
    }
    giving.await.unwrap();
    assert_eq!(answered, events);
    events as f64 / begun.elapsed().as_secs_f64()
}
