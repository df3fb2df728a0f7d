//! What an agent takes is on the timeline once and in order, whatever happens on the way.

use std::time::Duration;

use serde_json::value::RawValue;
use tidings_client::{ListRequest, PublishStreamConfig, PutOptions, Transaction};
use tidings_event::{Index, Limits};

use crate::support::{Agent, Network, Server, event, publish, soon, spool_dir, transaction, until};

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| format!("k{number}")).collect()
}

#[tokio::test]
async fn a_publish_is_answered_with_the_index_of_the_timeline() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[server.address]).await;
    for index in 1..=3 {
        let published = publish(&agent.client, &format!("k{index}")).await;
        assert_eq!((published.index, published.spooled), (Index(index), false));
    }
    // An Id that the publisher gave is known through any agent.
    let again = transaction("same");
    assert!(!agent.client.publish(&again).await.unwrap().duplicate);
    let repeat = server.client.publish(&again).await.unwrap();
    assert_eq!((repeat.index, repeat.duplicate), (Index(4), true));
    assert_eq!(agent.fact("/Spool/Forwarded").await, 4);
    assert_eq!(agent.fact("/Spool/Bytes").await, 0);
    agent.stop().await;
}

#[tokio::test]
async fn g5_what_is_taken_without_servers_is_on_the_timeline_once_and_in_order_later() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    network.down();
    let spool = tempfile::tempdir().unwrap();
    for round in 0..3 {
        // Over restarts of the agent, too.
        let agent = Agent::start(&spool, &[network.address]).await;
        for key in round * 5 + 1..=round * 5 + 5 {
            assert!(publish(&agent.client, &format!("k{key}")).await.spooled);
        }
        assert_eq!(agent.fact("/Spool/Transactions").await, (round + 1) * 5);
        agent.stop().await;
    }
    network.up();
    let agent = Agent::start(&spool, &[network.address]).await;
    assert_eq!(server.keys(15).await, numbered(15));
    until(async || agent.fact("/Spool/Transactions").await == 0).await;
    let published = soon(agent.client.publish(&transaction("k16")))
        .await
        .unwrap();
    assert_eq!(published.index, Index(16), "nothing came twice");
    agent.stop().await;
}

#[tokio::test]
async fn g5_lost_answers_and_restarts_repeat_nothing_and_lose_nothing() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    let spool = tempfile::tempdir().unwrap();
    let mut given = 0;
    for round in 0..6_u64 {
        // Connections break in the middle of answers, at other places in each round.
        network.cut_after(180 + 37 * round);
        let agent = Agent::start(&spool, &[network.address]).await;
        let (sender, mut answers) = agent.client.publish_stream(PublishStreamConfig::default());
        for _ in 0..60 {
            given += 1;
            sender
                .send(transaction(&format!("k{given}")))
                .await
                .unwrap();
        }
        drop(sender);
        while let Some(answer) = soon(answers.next()).await {
            let published = answer.unwrap().outcome.unwrap();
            assert!(published.spooled || published.index > Index::ZERO);
        }
        agent.stop().await;
        if round % 2 == 0 {
            // As if it had been killed before it noted how far the timeline is.
            let _ = std::fs::remove_file(spool_dir(&spool).join("acknowledged"));
        }
    }
    network.cut_after(0);
    let agent = Agent::start(&spool, &[network.address]).await;
    until(async || agent.fact("/Spool/Transactions").await == 0).await;
    assert_eq!(server.keys(given).await, numbered(given));
    assert_eq!(server.replica.status().frames_newest, Index(given as u64));
    assert_eq!(agent.fact("/Spool/InDoubt").await, 0);
    agent.stop().await;
}

#[tokio::test]
async fn a_full_spool_refuses_and_drops_nothing() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    network.down();
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::with(&spool, &[network.address], |config| {
        config.spool_bytes_max = 2_000;
    })
    .await;
    let http = agent.address;
    let mut taken = 0;
    let refused = loop {
        let key = format!("k{}", taken + 1);
        let body = serde_json::to_string(&event(&key)).unwrap();
        let answer = post(http, &body).await;
        match answer.starts_with("HTTP/1.1 202") {
            true => taken += 1,
            false => break answer,
        }
    };
    assert!(taken > 3, "{refused}");
    assert!(refused.starts_with("HTTP/1.1 507"), "{refused}");
    assert!(
        refused.to_lowercase().contains("\r\nretry-after: 10\r\n"),
        "{refused}"
    );
    assert!(refused.contains("\"Code\":\"spool_full\""), "{refused}");
    network.up();
    assert_eq!(server.keys(taken).await, numbered(taken));
    until(async || agent.fact("/Spool/Bytes").await == 0).await;
    let more = publish(&agent.client, "more").await;
    assert_eq!(more.index, Index(taken as u64 + 1));
    agent.stop().await;
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_takes_nothing_until_it_can() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    network.down();
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    // Where the first file is to be.
    let in_the_way = spool_dir(&spool).join(format!("{:020}.spool", 1));
    std::fs::create_dir(&in_the_way).unwrap();
    let give = async |key: &str| {
        let body = serde_json::to_string(&event(key)).unwrap();
        post(agent.address, &body).await
    };
    let unknown = give("k1").await;
    assert!(unknown.starts_with("HTTP/1.1 503"), "{unknown}");
    assert!(unknown.contains("outcome_unknown"), "{unknown}");
    let refused = give("refused").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("spool_failed"), "{refused}");
    let health = agent.client.health().await.unwrap();
    assert!(health.not_ready.unwrap().contains("cannot be written"));
    std::fs::remove_dir(&in_the_way).unwrap();
    until(async || agent.client.health().await.unwrap().is_ready()).await;
    let taken = give("k2").await;
    assert!(taken.starts_with("HTTP/1.1 202"), "{taken}");
    network.up();
    assert_eq!(server.keys(2).await, numbered(2));
    until(async || agent.fact("/Spool/Transactions").await == 0).await;
    agent.stop().await;
}

#[tokio::test]
async fn what_the_timeline_refuses_for_good_is_kept_aside_and_stops_nothing() {
    let server = Server::with(|config| {
        config.limits = Limits {
            event_bytes: 600,
            ..Limits::default()
        };
    })
    .await;
    let network = Network::to(server.address).await;
    network.down();
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    let large = |key: &str| {
        let mut event = event(key);
        let payload = format!("{{\"x\":\"{}\"}}", "y".repeat(800));
        event.payload = RawValue::from_string(payload).unwrap();
        Transaction::try_from(event).unwrap()
    };
    for (key, is_large) in [("k1", false), ("bad", true), ("k2", false), ("k3", false)] {
        let transaction = if is_large {
            large(key)
        } else {
            transaction(key)
        };
        let published = agent.client.publish(&transaction);
        assert!(soon(published).await.unwrap().spooled);
    }
    network.up();
    assert_eq!(server.keys(3).await, numbered(3));
    let refused = spool_dir(&spool).join("refused.ndjson");
    let text = std::fs::read_to_string(refused).unwrap();
    assert!(
        text.contains("event_too_large") && text.contains("\"bad\""),
        "{text}"
    );
    // Who waits is told instead.
    let error = soon(agent.client.publish(&large("bad2")))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some("event_too_large"));
    let published = soon(agent.client.publish(&transaction("k4")))
        .await
        .unwrap();
    assert_eq!(published.index, Index(4));
    assert_eq!(agent.fact("/Spool/Refused").await, 2);
    agent.stop().await;
}

#[tokio::test]
async fn a_timeline_that_knows_less_than_was_sent_takes_what_comes_next() {
    let first = Server::start().await;
    let network = Network::to(first.address).await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    for key in 1..=5 {
        soon(agent.client.publish(&transaction(&format!("k{key}"))))
            .await
            .unwrap();
    }
    agent.stop().await;
    // Another one answers now, as after a restore of an old snapshot.
    let second = Server::start().await;
    let agent = Agent::start(&spool, &[second.address]).await;
    let published = soon(agent.client.publish(&transaction("k6")))
        .await
        .unwrap();
    assert_eq!(published.index, Index(1));
    agent.stop().await;
}

#[tokio::test]
async fn state_is_read_and_changed_through_the_agent() {
    let server = Server::start().await;
    let network = Network::to(server.address).await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[network.address]).await;
    let payload = RawValue::from_string("{\"a\":1}".to_owned()).unwrap();
    let any = PutOptions::default();
    let only_new = PutOptions {
        compare_and_set: Some(Index::ZERO),
        ..PutOptions::default()
    };
    let put = agent.client.state_put("T", "k/1", &payload, &only_new);
    assert_eq!(soon(put).await.unwrap(), Index(1));
    let put = agent.client.state_put("T", "k/1", &payload, &only_new);
    assert_eq!(soon(put).await.unwrap_err().code(), Some("cas_mismatch"));
    let entry = soon(agent.client.state_get("T", "k/1", None))
        .await
        .unwrap();
    assert_eq!(entry.unwrap().payload.get(), "{\"a\":1}");
    assert!(
        soon(agent.client.state_get("T", "none", None))
            .await
            .unwrap()
            .is_none()
    );
    let mut pages = agent.client.state_list("T", ListRequest::default());
    let page = soon(pages.next()).await.unwrap().unwrap();
    assert_eq!(
        (page.entries.len(), page.index),
        (1, Index(1)),
        "headers come along"
    );
    let delete = agent.client.state_delete("T", "k/1", &any);
    assert_eq!(soon(delete).await.unwrap(), Some(Index(2)));
    network.down();
    // It was sent, and nobody knows what became of it.
    let put = agent.client.state_put("T", "k", &payload, &any);
    let error = soon(put).await.unwrap_err();
    assert_eq!(error.code(), Some("outcome_unknown"), "{error}");
    agent.stop().await;
    let nobody = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let agent = Agent::start(&spool, &[nobody]).await;
    let put = agent.client.state_put("T", "k", &payload, &any);
    let error = soon(put).await.unwrap_err();
    assert_eq!(error.code(), Some("no_server"), "{error}");
    agent.stop().await;
}

#[tokio::test]
async fn an_agent_goes_on_with_the_next_server() {
    let server = Server::start().await;
    let (one, two) = (
        Network::to(server.address).await,
        Network::to(server.address).await,
    );
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::with(&spool, &[one.address, two.address], |config| {
        config.answer_within = Duration::from_secs(10);
    })
    .await;
    for key in 1..=20 {
        if key % 5 == 0 {
            let (down, up) = if key % 2 == 0 {
                (&one, &two)
            } else {
                (&two, &one)
            };
            up.up();
            down.down();
        }
        let published = publish(&agent.client, &format!("k{key}")).await;
        assert_eq!(published.index, Index(key));
    }
    agent.stop().await;
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_left() {
    let server = Server::start().await;
    let (hung, well) = (
        Network::to(server.address).await,
        Network::to(server.address).await,
    );
    hung.hang();
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[hung.address, well.address]).await;
    // Nobody waits for it longer than it is worth.
    let first = publish(&agent.client, "k1").await;
    assert!(first.spooled);
    assert_eq!(server.keys(1).await, numbered(1));
    until(async || agent.fact("/Spool/Transactions").await == 0).await;
    assert_eq!(publish(&agent.client, "k2").await.index, Index(2));
    agent.stop().await;
}

#[tokio::test]
async fn g5_agents_behind_agents_publish_once_and_in_order() {
    let server = Server::start().await;
    let (near, far) = (
        Network::to(server.address).await,
        tempfile::tempdir().unwrap(),
    );
    let upper = Agent::start(&far, &[near.address]).await;
    let between = Network::to(upper.address).await;
    let spool = tempfile::tempdir().unwrap();
    let agent = Agent::start(&spool, &[between.address]).await;
    let mut streamed = agent.client.stream(tidings_client::StreamRequest {
        from: tidings_client::From::Now,
        ..Default::default()
    });
    soon(streamed.open()).await.unwrap();
    for key in 1..=40 {
        if key % 8 == 0 {
            let network = if key % 16 == 0 { &near } else { &between };
            network.cut();
        }
        publish(&agent.client, &format!("k{key}")).await;
    }
    assert_eq!(server.keys(40).await, numbered(40));
    assert_eq!(crate::support::keys(&mut streamed, 40).await, numbered(40));
    until(async || agent.fact("/Spool/Transactions").await == 0).await;
    assert_eq!(
        upper.fact("/Spool/Forwarded").await,
        0,
        "it keeps nothing of it"
    );
    drop(streamed);
    agent.stop().await;
    upper.stop().await;
}

#[tokio::test]
async fn an_agent_that_knows_no_server_yet_keeps_what_it_takes() {
    let server = Server::start().await;
    let spool = tempfile::tempdir().unwrap();
    let (found, is_found) = tokio::sync::watch::channel(false);
    let address = server.address;
    let agent = Agent::with(&spool, &[], |config| {
        config.find = Some(std::sync::Arc::new(move || {
            let is_found = *is_found.borrow();
            Box::pin(async move {
                match is_found {
                    true => Ok(vec![address.to_string()]),
                    false => Err("nobody answers".to_owned()),
                }
            })
        }));
    })
    .await;
    assert!(
        soon(agent.client.publish(&transaction("k1")))
            .await
            .unwrap()
            .spooled
    );
    assert!(agent.relay.waits_for().unwrap().contains("nobody answers"));
    found.send_replace(true);
    assert_eq!(server.keys(1).await, ["k1"]);
    agent.stop().await;
}

/// The whole answer to a publish.
async fn post(address: std::net::SocketAddr, body: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(socket.read_to_string(&mut answer)).await.unwrap();
    answer
}
