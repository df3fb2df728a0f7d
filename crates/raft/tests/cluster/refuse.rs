use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cluster::{Cluster, Server, history, in_time, publish_one},
    wire::{STRANGER, STRANGER_OF_VERSION_2, frame, read_one},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_timeline_is_refused() {
    let cluster = Cluster::of_three().await;
    publish_one(&cluster.replicas[0], "ours").await;
    let other = Server::new("other");
    let (replica, _) = other.start(1, &[]).await;
    in_time("it is alone", replica.ready()).await;
    publish_one(&replica, "theirs").await;
    replica.shutdown().await;
    let before = history(&other);

    let (replica, address) = other.start(1, &cluster.addresses).await;
    in_time("it leads itself", replica.ready()).await;
    // Both sides would have learned of each other in the first round; what they say to each other:
    let hello = greeting(&address).await;
    let refused = said(&cluster.addresses[0], &hello).await;
    assert!(refused.contains("holds timeline"), "{refused}");
    assert!(refused.contains("empty data directory"), "{refused}");

    publish_one(&cluster.replicas[1], "ours too").await;
    cluster.check_one_history().await;
    assert_eq!(cluster.replicas[0].status().members.len(), 3);
    assert_eq!(replica.status().members.len(), 1);
    assert_eq!(history(&other), before);
    replica.shutdown().await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_with_a_sentence_and_changes_nothing() {
    let cluster = Cluster::of_three().await;
    publish_one(&cluster.replicas[0], "before").await;
    let http = said(&cluster.addresses[0], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(http.contains("not of a tidings server"), "{http}");
    let mut large = b"td\x01\x01\0\0\0\0\xff\xff\xff\xff\0\0\0\0".to_vec();
    let refused = said(&cluster.addresses[0], &large).await;
    assert!(refused.contains("are allowed"), "{refused}");
    large[2] = 9;
    let refused = said(&cluster.addresses[0], &large).await;
    assert!(refused.contains("version 9"), "{refused}");
    // a sound frame that is no greeting
    let empty = b"td\x01\x04\0\0\0\0\0\0\0\0\0\0\0\0";
    let refused = said(&cluster.addresses[0], empty).await;
    assert!(refused.contains("not a greeting"), "{refused}");
    // its own greeting back to it
    let own = greeting(&cluster.addresses[0]).await;
    let refused = said(&cluster.addresses[0], &own).await;
    assert!(refused.contains("this server itself"), "{refused}");

    // a snapshot that is none, a piece and an end of one that was never offered
    let old = frame(1, &STRANGER);
    let hello = frame(1, &STRANGER_OF_VERSION_2);
    let nonsense = frame(20, &[0xff; 40]);
    for kind in [20, 22, 24] {
        let refused = answer_to(&cluster.addresses[0], &old, &frame(kind, &[0])).await;
        assert!(
            refused
                .contains("it takes version 2 of the peers' protocol and the two servers have 1"),
            "{refused}"
        );
    }
    let refused = answer_to(&cluster.addresses[0], &hello, &nonsense).await;
    assert!(
        refused.contains("a varint that didn't terminate"),
        "{refused}"
    );
    let piece = frame(22, &[9, 1, 0, b'x']);
    let refused = answer_to(&cluster.addresses[0], &hello, &piece).await;
    assert!(refused.contains("a piece of another snapshot"), "{refused}");
    let refused = answer_to(&cluster.addresses[0], &hello, &frame(24, &[9])).await;
    assert!(refused.contains("another snapshot"), "{refused}");
    for server in &cluster.servers {
        assert!(!server.data_dir().join("incoming").exists());
    }

    // commands that no server could apply, for whoever leads
    let leader = cluster.leader().await;
    let commands: [&[u8]; 4] = [
        // of a kind that there is not
        &[1, 0, 99, 0, 0, 0, 0],
        // a transaction that is cut
        &[1, 0, 1, 4, 0, 0, 0, 1, 0, 0, 0],
        // settings that are none
        &[1, 0, 4, 2, 0, 0, 0, b'{', b'!'],
        // one, where two are announced
        &[2, 0, 5, 0, 0, 0, 0],
    ];
    for commands in commands {
        let refused = answer_to(&cluster.addresses[leader], &hello, &frame(11, commands)).await;
        assert!(refused.contains("no commands for the log"), "{refused}");
    }
    for replica in &cluster.replicas {
        assert_eq!(replica.status().damaged, None);
    }

    publish_one(&cluster.replicas[1], "after").await;
    cluster.check_one_history().await;
    assert_eq!(cluster.replicas[0].status().members.len(), 3);
    cluster.shutdown().await;
}

/// The body of the answer to one message after the greeting.
async fn answer_to(address: &str, hello: &[u8], message: &[u8]) -> String {
    in_time("an answer", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(hello).await.unwrap();
        read_one(&mut stream).await;
        stream.write_all(message).await.unwrap();
        String::from_utf8_lossy(&read_one(&mut stream).await).into_owned()
    })
    .await
}

/// What a server says to bytes, until it closes the connection.
async fn said(address: &str, bytes: &[u8]) -> String {
    in_time("an answer", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        // what was not read of ours may reset the connection behind the answer
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

/// The frame with which a server introduces itself: its answer to a stranger, as a greeting.
async fn greeting(address: &str) -> Vec<u8> {
    in_time("a welcome", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&frame(1, &STRANGER)).await.unwrap();
        frame(1, &read_one(&mut stream).await)
    })
    .await
}
