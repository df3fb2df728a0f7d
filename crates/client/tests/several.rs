//! Several servers of one cluster, some of which are away, behind, or of another cluster.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use std::time::Duration;

use scripted::{
    Exchange, Scene, ScriptedAgent, answers, client_of, config_of, frame, json, nobody, progress,
    scene, soon,
};
use tidings_client::{
    Client, ClientConfig, ClientError, EventStream, From, PublishStreamConfig, PutOptions,
    SenderNumbers, StreamEvent, StreamRequest, Transaction,
};
use tidings_event::{Index, OwnedNewEvent};

fn transaction(key: &str) -> Transaction {
    let mut event = OwnedNewEvent::new("T", "t");
    event.key = key.to_owned();
    Transaction::try_from(event).unwrap()
}

fn refusal(code: &str) -> String {
    format!(r#"{{"Error":{{"Code":"{code}","Message":"so it is"}}}}"#)
}

fn ok(body: &str) -> Scene {
    answers(json("200 OK", "", body))
}

fn unavailable(code: &str) -> Scene {
    answers(json("503 Service Unavailable", "", &refusal(code)))
}

/// A stream of this timeline that sends these lines and then breaks.
fn sends(timeline: &'static str, lines: Vec<String>) -> Scene {
    scene(move |mut exchange: Exchange| async move {
        let head = format!("X-Tidings-Timeline: {timeline}\r\n");
        exchange.open_with(&head).await;
        for line in lines {
            exchange.chunk(&line).await;
        }
    })
}

fn from(from: From) -> StreamRequest {
    StreamRequest {
        from,
        ..StreamRequest::default()
    }
}

/// Indexes of the next frames; everything else is told in between.
async fn frames(stream: &mut EventStream, count: usize) -> (Vec<u64>, Vec<String>) {
    let (mut indexes, mut told) = (Vec::new(), Vec::new());
    while indexes.len() < count {
        match soon(stream.next()).await.expect("goes on").unwrap() {
            StreamEvent::Frame(line) => indexes.push(line.index().get()),
            StreamEvent::Progress(_) | StreamEvent::Connected => {}
            StreamEvent::Reconnecting { error, .. } => told.push(error.to_string()),
            other => told.push(format!("{other:?}")),
        }
    }
    (indexes, told)
}

#[tokio::test]
async fn a_publish_goes_to_the_next_server_with_the_same_id() {
    let cut = ScriptedAgent::start(vec![scene(|mut exchange: Exchange| async move {
        exchange.body().await;
    })])
    .await;
    let without_leader = ScriptedAgent::start(vec![unavailable("no_leader")]).await;
    let well = ScriptedAgent::start(vec![ok(r#"{"Index":7}"#), ok(r#"{"Index":8}"#)]).await;
    let client = client_of(&[&cut.address, &without_leader.address, &well.address]);
    let published = soon(client.publish(&transaction("a"))).await.unwrap();
    assert_eq!(published.index, Index(7));
    assert_eq!(cut.bodies(), well.bodies());
    assert_eq!(without_leader.bodies(), well.bodies());
    // The one that works is kept.
    soon(client.publish(&transaction("b"))).await.unwrap();
    assert!(client.address().ends_with(&well.address));
}

#[tokio::test]
async fn what_failed_is_told_for_each_address() {
    let nobody = nobody().await;
    let stopping = ScriptedAgent::start(vec![unavailable("stopping")]).await;
    let client = client_of(&[&nobody, &stopping.address]);
    let error = soon(client.state_get("T", "k", None)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("http://{nobody}: cannot connect")),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "http://{}: the agent refused it",
            stopping.address
        )),
        "{text}"
    );
    assert!(matches!(error, ClientError::NoServer { .. }));
    assert_eq!(error.code(), Some("stopping"));
}

#[tokio::test]
async fn a_publish_that_is_given_up_names_all_that_were_asked() {
    let (one, two) = (nobody().await, nobody().await);
    let client = Client::new(ClientConfig {
        retry_time: Duration::from_millis(200),
        ..config_of(&[&one, &two])
    })
    .unwrap();
    let error = soon(client.publish(&transaction("a"))).await.unwrap_err();
    let ClientError::GaveUp { last, .. } = &error else {
        panic!("unexpected {error:?}");
    };
    let ClientError::NoServer { tried, .. } = &**last else {
        panic!("unexpected {last:?}");
    };
    assert_eq!(tried.iter().count(), 2);
    let text = last.to_string();
    assert!(text.contains(&format!("{two}: cannot connect: ")), "{text}");
    // Each address once, whoever prints the error with its causes.
    assert!(std::error::Error::source(&**last).is_none());
}

#[tokio::test]
async fn a_put_is_made_elsewhere_only_when_it_certainly_was_not_made() {
    let payload = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
    let options = PutOptions {
        compare_and_set: Some(Index(3)),
        ..PutOptions::default()
    };
    let well = ScriptedAgent::start(vec![ok(r#"{"Index":4}"#), ok(r#"{"Index":5}"#)]).await;
    for certain in ["no_leader", "stopping"] {
        let first = ScriptedAgent::start(vec![unavailable(certain)]).await;
        let client = client_of(&[&first.address, &well.address]);
        soon(client.state_put("T", "k", &payload, &options))
            .await
            .unwrap();
    }
    assert_eq!(well.requests()[0], "PUT /v1/state/T/k?cas=3");
    let unknown = ScriptedAgent::start(vec![unavailable("outcome_unknown")]).await;
    let cut = ScriptedAgent::start(vec![scene(|mut exchange: Exchange| async move {
        exchange.body().await;
    })])
    .await;
    for first in [&unknown, &cut] {
        let client = client_of(&[&first.address, &well.address]);
        let put = client.state_put("T", "k", &payload, &options);
        assert!(soon(put).await.unwrap_err().is_transient());
        assert_eq!(well.requests().len(), 2, "not asked of another server");
    }
}

#[tokio::test]
async fn a_stream_goes_on_at_another_server_behind_the_last_frame() {
    let one = ScriptedAgent::start(vec![sends("A", vec![frame(5), frame(6), progress(8)])]).await;
    let two = ScriptedAgent::start(vec![sends("A", vec![frame(9), frame(10)])]).await;
    let client = client_of(&[&one.address, &two.address]);
    let mut stream = client.stream(from(From::Index(Index(5))));
    let (indexes, _) = frames(&mut stream, 4).await;
    assert_eq!(indexes, [5, 6, 9, 10]);
    assert!(
        two.requests()[0].ends_with("&index=9"),
        "{:?}",
        two.requests()
    );
}

#[tokio::test]
async fn a_server_that_is_behind_is_left_for_one_that_is_not() {
    let one = ScriptedAgent::start(vec![sends("A", vec![frame(5)])]).await;
    let behind = ScriptedAgent::start(vec![
        answers(json("409 Conflict", "", &refusal("index_ahead"))),
        sends("A", vec![]),
    ])
    .await;
    let level = ScriptedAgent::start(vec![sends("A", vec![frame(6)])]).await;
    let client = client_of(&[&one.address, &behind.address, &level.address]);
    let mut stream = client.stream(from(From::Index(Index(5))));
    let (indexes, told) = frames(&mut stream, 2).await;
    assert_eq!(indexes, [5, 6]);
    assert!(
        told.iter().any(|text| text.contains("index_ahead")),
        "{told:?}"
    );
    assert!(
        behind.requests()[1].ends_with("&from=now"),
        "only to see which timeline it keeps"
    );
}

#[tokio::test]
async fn a_server_of_another_cluster_does_not_reset_a_stream() {
    let one = ScriptedAgent::start(vec![sends("A", vec![frame(5)])]).await;
    let foreign = ScriptedAgent::start(vec![sends("B", vec![frame(6)])]).await;
    let same = ScriptedAgent::start(vec![sends("A", vec![frame(6)])]).await;
    let client = client_of(&[&one.address, &foreign.address, &same.address]);
    let mut stream = client.stream(from(From::Index(Index(5))));
    let (indexes, told) = frames(&mut stream, 2).await;
    assert_eq!(indexes, [5, 6]);
    assert!(
        told.iter().any(|text| text.contains("another timeline")),
        "{told:?}"
    );
    assert_eq!(stream.timeline(), Some("A"));
}

#[tokio::test]
async fn a_reset_is_told_once_nobody_keeps_the_former_timeline() {
    let one = ScriptedAgent::start(vec![
        sends("A", vec![frame(5)]),
        sends("B", vec![]),
        sends("B", vec![frame(1)]),
    ])
    .await;
    let two = ScriptedAgent::start(vec![sends("B", vec![]), sends("B", vec![frame(1)])]).await;
    let client = client_of(&[&one.address, &two.address]);
    let mut stream = client.stream(from(From::Index(Index(5))));
    let (indexes, told) = frames(&mut stream, 2).await;
    assert_eq!(indexes, [5, 1]);
    assert!(
        told.iter().any(|text| text.starts_with("Reset")),
        "{told:?}"
    );
    assert_eq!(stream.timeline(), Some("B"));
}

#[tokio::test]
async fn a_pipeline_goes_on_at_another_server_with_its_numbers() {
    let one = ScriptedAgent::start(vec![scene(|mut exchange: Exchange| async move {
        exchange.open().await;
        exchange.body_line().await;
        exchange.body_line().await;
        exchange.chunk("{\"Index\":1}\n").await;
    })])
    .await;
    let two = ScriptedAgent::start(vec![scene(|mut exchange: Exchange| async move {
        exchange.open().await;
        let mut index = 2;
        while exchange.body_line().await.is_some() {
            let line = format!("{{\"Index\":{index},\"Duplicate\":{}}}\n", index == 2);
            exchange.chunk(&line).await;
            index += 1;
        }
        exchange.finish().await;
    })])
    .await;
    let client = client_of(&[&one.address, &two.address]);
    let (sender, mut acknowledgements) = client.publish_stream(PublishStreamConfig {
        sender: Some(SenderNumbers {
            id: "01K0000000000000000000000A".to_owned(),
            epoch: 3,
            first: 11,
        }),
        ..PublishStreamConfig::default()
    });
    for key in ["a", "b", "c"] {
        sender.send(transaction(key)).await.unwrap();
    }
    drop(sender);
    let mut indexes = Vec::new();
    while let Some(answer) = soon(acknowledgements.next()).await {
        let published = answer.unwrap().outcome.unwrap();
        indexes.push((published.index.get(), published.duplicate));
    }
    assert_eq!(indexes, [(1, false), (2, true), (3, false)]);
    assert!(
        one.head(0)
            .contains("x-tidings-sender: 01k0000000000000000000000a 3 11\r")
    );
    assert!(
        two.head(0)
            .contains("x-tidings-sender: 01k0000000000000000000000a 3 12\r")
    );
}

#[tokio::test]
async fn the_other_servers_are_learned_and_asked_when_the_given_one_goes() {
    let two = ScriptedAgent::start(vec![sends("A", vec![frame(6)])]).await;
    let list = format!(
        r#"{{"Servers":[{{"Name":"a","Http":""}},{{"Name":"b","Http":"{}"}}],"Leader":"a"}}"#,
        two.address
    );
    let (told, learned) = tokio::sync::oneshot::channel();
    let one = ScriptedAgent::start(vec![
        scene(|mut exchange: Exchange| async move {
            exchange.open_with("X-Tidings-Timeline: A\r\n").await;
            exchange.chunk(&frame(5)).await;
            // Breaks only when the list was asked for.
            let _ = learned.await;
        }),
        scene(move |mut exchange: Exchange| async move {
            exchange.write(json("200 OK", "", &list).as_bytes()).await;
            exchange.hang().await;
            let _ = told.send(());
        }),
    ])
    .await;
    let client = Client::new(ClientConfig {
        learn_servers_every: Some(Duration::from_secs(60)),
        ..config_of(&[&one.address])
    })
    .unwrap();
    let mut stream = client.stream(from(From::Index(Index(5))));
    assert_eq!(frames(&mut stream, 2).await.0, [5, 6]);
    assert_eq!(one.requests()[1], "GET /v1/servers");
}
