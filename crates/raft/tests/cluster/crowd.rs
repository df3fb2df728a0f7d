//! Whoever opens connections by the hundred and announces large messages.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time,
};

use crate::{
    cluster::{Cluster, Server, in_time, publish_one, until},
    wire::{STRANGER, frame, read_one},
};

const MIB: usize = 1 << 20;
/// The largest message that a server takes: entries or commands.
const ANNOUNCED: u32 = 288 << 20;
/// Kinds of messages.
const HELLO: u8 = 1;
const PROPOSE: u8 = 11;

/// The head of a message of commands that is as large as one may be.
fn largest_head() -> Vec<u8> {
    let mut head = frame(PROPOSE, &[]);
    head[8..12].copy_from_slice(&ANNOUNCED.to_le_bytes());
    head
}

/// A connection that has introduced itself.
async fn introduced(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&frame(HELLO, &STRANGER)).await.unwrap();
    read_one(&mut stream).await;
    stream
}

/// Everything that is said until the connection ends.
async fn last_words(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // what was not read of ours may reset the connection behind the words
    let _ = in_time("the connection ends", stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

async fn with_little_memory() -> Cluster {
    let mut cluster = Cluster {
        servers: Vec::new(),
        replicas: Vec::new(),
        addresses: Vec::new(),
    };
    for name in ["a", "b", "c"] {
        let server = Server::new(name);
        let others = cluster.addresses.clone();
        let started = server.try_start(3, &others, |peers| {
            peers.limits.buffered_bytes_max = 8 * MIB;
            peers.limits.newcomers_max = 40;
            peers.limits.strangers_max = 10;
        });
        let (replica, address) = started.await.unwrap();
        cluster.servers.push(server);
        cluster.replicas.push(replica);
        cluster.addresses.push(address);
    }
    for replica in &cluster.replicas {
        in_time("the cluster has formed", replica.ready()).await;
    }
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_announces_the_largest_messages_gets_no_more_than_the_room() {
    let cluster = with_little_memory().await;
    let leader = cluster.leader().await;
    let (address, replica) = (&cluster.addresses[leader], &cluster.replicas[leader]);
    let term = replica.status().term;
    let status = || replica.status().peers.unwrap();
    assert_eq!(status().buffered_bytes_max, 8 << 20);

    // Each announces 288 MiB, and sends one of them: thirty times what there is room for.
    let mut crowd = Vec::new();
    for _ in 0..30 {
        let mut stream = introduced(address).await;
        crowd.push(tokio::spawn(async move {
            let _ = stream.write_all(&largest_head()).await;
            let zeros = vec![0; MIB];
            // the server reads no more than it has room for
            let _ = time::timeout(Duration::from_secs(1), stream.write_all(&zeros)).await;
            last_words(stream).await
        }));
    }
    until("the room is full", || status().buffered_bytes > 6 << 20).await;
    // what is small has room beside it
    for n in 0..10 {
        publish_one(&cluster.replicas[(leader + 1) % 3], &format!("n{n}")).await;
    }
    let mut refused = 0;
    for words in crowd {
        let words = in_time("the end of one", words).await.unwrap();
        refused += usize::from(words.contains("raise peers.buffered_bytes of this server"));
        assert!(
            words.contains("peers.buffered_bytes") || words.contains("in the middle of a message"),
            "{words}"
        );
    }
    assert!(refused > 0);
    assert!(status().messages_refused >= refused as u64);
    until("all of it is given back", || status().buffered_bytes == 0).await;
    assert!(replica.is_leader(), "it has led throughout");
    assert_eq!(replica.status().term, term);
    publish_one(&cluster.replicas[leader], "after").await;
    cluster.check_one_history().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_says_nothing_pushes_out_its_own() {
    let mut cluster = with_little_memory().await;
    let address = cluster.addresses[0].clone();
    let status = |cluster: &Cluster| cluster.replicas[0].status().peers.unwrap();
    let before = status(&cluster).connections_refused;
    let mut crowd = Vec::new();
    for _ in 0..30 {
        crowd.push(TcpStream::connect(&address).await.unwrap());
    }
    until("the oldest have gone", || {
        status(&cluster).connections_refused >= before + 20
    })
    .await;
    let words = last_words(crowd.remove(0)).await;
    assert!(words.contains("say hello sooner"), "{words}");

    // As many as may be in the cluster one day, and no more.
    let mut newcomers = Vec::new();
    let refused = loop {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&frame(HELLO, &STRANGER)).await.unwrap();
        let answer = String::from_utf8_lossy(&read_one(&mut stream).await).into_owned();
        if answer.contains("from servers outside its cluster") {
            break answer;
        }
        newcomers.push(stream);
        assert!(newcomers.len() <= 40, "no end of them");
    };
    assert!(
        refused.contains("this server has 40 connections"),
        "{refused}"
    );
    assert!(newcomers.len() > 20);

    // Those of the cluster are not in its way: a server that comes back, and one that goes on.
    let back = cluster.replicas.pop().unwrap();
    in_time("shutdown", back.shutdown()).await;
    drop(back);
    let (replica, _) = cluster.servers[2].start(3, &cluster.addresses[..1]).await;
    cluster.replicas.push(replica);
    in_time("it is back", cluster.replicas[2].ready()).await;
    publish_one(&cluster.replicas[2], "meanwhile").await;
    cluster.check_one_history().await;
    cluster.shutdown().await;
}
