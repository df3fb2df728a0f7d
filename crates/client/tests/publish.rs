//! Publishing over connections that lose requests and answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod scripted;

use std::time::Duration;

use scripted::{Exchange, ScriptedAgent, answers, json, scene, soon};
use tidings_client::{
    Client, ClientConfig, ClientError, PublishStreamConfig, Published, Token, Transaction,
};
use tidings_event::{Index, OwnedNewEvent};

fn transaction(key: &str) -> Transaction {
    let mut event = OwnedNewEvent::new("T", "t");
    event.key = key.to_owned();
    Transaction::try_from(event).unwrap()
}

/// Topic and id of the first event of a line or body.
fn key_and_id(text: &str) -> (String, String) {
    let value: serde_json::Value = serde_json::from_str(text).unwrap();
    let event = &value["Events"][0];
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    (text("Key"), text("Id"))
}

const ANSWER: &str = r#"{"Index":7}"#;

#[tokio::test]
async fn a_lost_answer_is_asked_again_with_the_same_id() {
    let agent = ScriptedAgent::start_with(
        ClientConfig {
            token: Some(Token::new("hush").unwrap()),
            ..ClientConfig::default()
        },
        vec![
            scene(|mut exchange: Exchange| async move {
                exchange.body().await;
            }),
            answers(json("200 OK", "", r#"{"Index":7,"Duplicate":true}"#)),
        ],
    )
    .await;
    let published = agent.client.publish(&transaction("a")).await.unwrap();
    assert_eq!(
        published,
        Published {
            index: Index(7),
            duplicate: true,
            spooled: false
        }
    );
    let bodies = agent.bodies();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(key_and_id(&bodies[0]).1.len(), 26);
    assert!(agent.head(1).contains("authorization: bearer hush"));
    assert!(agent.head(1).contains("content-type: application/json"));
}

#[tokio::test]
async fn a_bare_event_from_a_file_goes_as_a_transaction() {
    let agent = ScriptedAgent::start(vec![answers(json("200 OK", "", ANSWER))]).await;
    let line = Transaction::from_json(r#"{"Topic":"T","Type":"t","Key":"k","Id":"i"}"#, None);
    agent.client.publish(&line.unwrap()).await.unwrap();
    assert_eq!(key_and_id(&agent.bodies()[0]), ("k".into(), "i".into()));
}

#[tokio::test]
async fn waits_as_long_as_the_agent_asks() {
    let busy = r#"{"Error":{"Code":"overloaded","Message":"too much at once"}}"#;
    let agent = ScriptedAgent::start(vec![
        answers(json("503 Service Unavailable", "", busy)),
        answers(json("429 Too Many Requests", "Retry-After: 1\r\n", busy)),
        answers(json("200 OK", "", ANSWER)),
    ])
    .await;
    let started = std::time::Instant::now();
    agent.client.publish(&transaction("a")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_refusal_is_not_asked_again() {
    let refusal = r#"{"Error":{"Code":"event_too_large","Message":"at most 1 MiB"}}"#;
    let agent =
        ScriptedAgent::start(vec![answers(json("413 Content Too Large", "", refusal))]).await;
    let error = agent.client.publish(&transaction("a")).await.unwrap_err();
    assert_eq!(error.code(), Some("event_too_large"));
    assert!(error.to_string().contains("at most 1 MiB"), "{error}");
}

#[tokio::test]
async fn gives_up_when_its_time_is_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = Client::new(ClientConfig {
        addresses: vec![ClientConfig::parse_address(&address).unwrap()],
        // Long enough for a second try on a machine that is busy with other tests.
        retry_time: Duration::from_secs(2),
        retry_delay: Duration::from_millis(10),
        ..ClientConfig::default()
    })
    .unwrap();
    let error = client.publish(&transaction("a")).await.unwrap_err();
    let ClientError::GaveUp { tries, last, .. } = &error else {
        panic!("unexpected {error:?}");
    };
    assert!(*tries > 1);
    assert!(matches!(**last, ClientError::Connect { .. }), "{last:?}");
}

#[tokio::test]
async fn a_pipeline_sends_again_what_is_not_acknowledged() {
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let again = lines.clone();
    let agent = ScriptedAgent::start(vec![
        // Takes five, answers two, and the third by half.
        scene(move |mut exchange: Exchange| async move {
            for _ in 0..5 {
                lines.send(exchange.body_line().await.unwrap()).unwrap();
            }
            exchange.open().await;
            exchange.chunk("{\"Index\":1}\n{\"Index\":2}\n{\"Ind").await;
        }),
        scene(move |mut exchange: Exchange| async move {
            exchange.open().await;
            let mut index = 3;
            while let Some(line) = exchange.body_line().await {
                again.send(line).unwrap();
                let answer = match index {
                    3 => "{\"Index\":3,\"Duplicate\":true}\n".to_owned(),
                    4 => "{\"Error\":{\"Code\":\"topic_empty\",\"Message\":\"name a topic\"}}\n"
                        .to_owned(),
                    _ => format!("{{\"Index\":{index}}}\n"),
                };
                exchange.chunk(&answer).await;
                index += 1;
            }
            exchange.finish().await;
        }),
    ])
    .await;
    let (sender, mut acknowledgements) =
        agent.client.publish_stream(PublishStreamConfig::default());
    for key in ["a", "b", "c", "d", "e"] {
        sender.send(transaction(key)).await.unwrap();
    }
    let mut outcomes = Vec::new();
    for sequence in 0..5 {
        let answer = soon(acknowledgements.next()).await.unwrap().unwrap();
        assert_eq!(answer.sequence, sequence);
        outcomes.push(match answer.outcome {
            Ok(published) => format!("{} {}", published.index, published.duplicate),
            Err(refused) => refused.to_string(),
        });
    }
    assert_eq!(
        outcomes,
        [
            "1 false",
            "2 false",
            "3 true",
            "name a topic (topic_empty)",
            "5 false"
        ]
    );
    drop(sender);
    assert!(soon(acknowledgements.next()).await.is_none());

    let mut sent = Vec::new();
    while let Some(line) = seen.recv().await {
        sent.push(key_and_id(&line));
    }
    let keys: Vec<_> = sent.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c", "d", "e", "c", "d", "e"]);
    assert_eq!(sent[2..5], sent[5..8], "the same ids again");
    assert!(agent.head(0).contains("content-type: application/x-ndjson"));
}

#[tokio::test]
async fn a_pipeline_asks_again_what_was_refused_for_the_moment() {
    let agent = ScriptedAgent::start(vec![
        scene(|mut exchange: Exchange| async move {
            exchange.body_line().await.unwrap();
            exchange.open().await;
            exchange
                .chunk("{\"Error\":{\"Code\":\"overloaded\",\"Message\":\"later\"}}\n")
                .await;
            exchange.hang().await;
        }),
        scene(|mut exchange: Exchange| async move {
            exchange.body_line().await.unwrap();
            exchange.open().await;
            exchange.chunk("{\"Index\":1}\n").await;
            exchange.finish().await;
        }),
    ])
    .await;
    let (sender, mut acknowledgements) =
        agent.client.publish_stream(PublishStreamConfig::default());
    sender.send(transaction("a")).await.unwrap();
    drop(sender);
    let answer = soon(acknowledgements.next()).await.unwrap().unwrap();
    assert_eq!(answer.outcome.unwrap().index, Index(1));
    assert!(soon(acknowledgements.next()).await.is_none());
}

#[tokio::test]
async fn a_pipeline_goes_back_to_what_was_refused_for_the_moment() {
    let (lines, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let again = lines.clone();
    let agent = ScriptedAgent::start(vec![
        scene(move |mut exchange: Exchange| async move {
            for _ in 0..3 {
                lines.send(exchange.body_line().await.unwrap()).unwrap();
            }
            exchange.open().await;
            // It cannot say what became of the second; the third is stored.
            exchange
                .chunk(
                    "{\"Index\":1}\n{\"Error\":{\"Code\":\"outcome_unknown\",\"Message\":\"?\"}}\n{\"Index\":2}\n",
                )
                .await;
            exchange.hang().await;
        }),
        scene(move |mut exchange: Exchange| async move {
            exchange.open().await;
            for answer in [
                "{\"Index\":3}\n",
                "{\"Index\":2,\"Duplicate\":true}\n",
                "{\"Index\":4}\n",
            ] {
                again.send(exchange.body_line().await.unwrap()).unwrap();
                exchange.chunk(answer).await;
            }
            assert_eq!(exchange.body_line().await, None);
            exchange.finish().await;
        }),
    ])
    .await;
    let (sender, mut acknowledgements) =
        agent.client.publish_stream(PublishStreamConfig::default());
    for key in ["a", "b", "c"] {
        sender.send(transaction(key)).await.unwrap();
    }
    let mut outcomes = Vec::new();
    for sequence in 0..4 {
        let answer = soon(acknowledgements.next()).await.unwrap().unwrap();
        assert_eq!(answer.sequence, sequence);
        let published = answer.outcome.unwrap();
        outcomes.push((published.index.get(), published.duplicate));
        if sequence == 0 {
            sender.send(transaction("d")).await.unwrap();
        }
    }
    assert_eq!(outcomes, [(1, false), (3, false), (2, true), (4, false)]);
    drop(sender);
    assert!(soon(acknowledgements.next()).await.is_none());
    let mut sent = Vec::new();
    while let Some(line) = soon(seen.recv()).await {
        sent.push(key_and_id(&line));
    }
    let keys: Vec<_> = sent.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["a", "b", "c", "b", "c", "d"]);
    assert_eq!(sent[1..3], sent[3..5], "the same ids again");
}

#[tokio::test]
async fn a_pipeline_takes_no_more_than_its_limit() {
    let (go, answer) = tokio::sync::oneshot::channel::<()>();
    let agent = ScriptedAgent::start(vec![scene(move |mut exchange: Exchange| async move {
        exchange.open().await;
        answer.await.unwrap();
        let mut index = 0;
        while exchange.body_line().await.is_some() {
            index += 1;
            exchange.chunk(&format!("{{\"Index\":{index}}}\n")).await;
        }
        exchange.finish().await;
    })])
    .await;
    let config = PublishStreamConfig {
        in_flight_max: 3,
        ..PublishStreamConfig::default()
    };
    let (sender, mut acknowledgements) = agent.client.publish_stream(config);
    for key in ["a", "b", "c"] {
        sender.send(transaction(key)).await.unwrap();
    }
    let mut fourth = Box::pin(sender.send(transaction("d")));
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut fourth).await;
    assert!(waited.is_err(), "a fourth is in flight");
    go.send(()).unwrap();
    fourth.as_mut().await.unwrap();
    drop(fourth);
    drop(sender);
    for sequence in 0..4 {
        let answer = soon(acknowledgements.next()).await.unwrap().unwrap();
        assert_eq!(answer.sequence, sequence);
    }
    assert!(soon(acknowledgements.next()).await.is_none());
}

#[tokio::test]
async fn a_pipeline_that_is_refused_says_why_and_takes_no_more() {
    let refusal = r#"{"Error":{"Code":"token_unknown","Message":"the token is not known"}}"#;
    let agent = ScriptedAgent::start(vec![answers(json("403 Forbidden", "", refusal))]).await;
    let (sender, mut acknowledgements) =
        agent.client.publish_stream(PublishStreamConfig::default());
    sender.send(transaction("a")).await.unwrap();
    let error = soon(acknowledgements.next()).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some("token_unknown"));
    assert!(soon(acknowledgements.next()).await.is_none());
    assert!(sender.send(transaction("b")).await.is_err());
}
