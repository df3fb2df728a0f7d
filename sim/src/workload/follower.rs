//! Follows the timeline, from server to server, and goes on where it was.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidings_event::{Filter, FrameView, Index, NamespaceSet, TopicSet};
use tidings_host::simulated::Rng;
use tidings_timeline::SubscriptionEnd;
use tokio::time;

use super::any_server;
use super::publisher::TOPICS;
use crate::cluster::Cluster;
use crate::evidence::Followed;
use crate::server::Server;

/// How long everything is read once more.
const READ_AGAIN_MAX: Duration = Duration::from_secs(2);

/// What the follower is called that stays at a server.
pub(crate) fn name_at(server: &Server) -> String {
    format!("at {}", server.name)
}

/// Follows everything at one server, life after life.
pub(crate) fn watch(cluster: &Arc<Cluster>, server: &Arc<Server>) {
    let name = name_at(server);
    tokio::spawn(follow(
        cluster.clone(),
        name,
        None,
        Some(server.clone()),
        None,
    ));
}

/// Follows some of it, wherever there is somebody to ask.
pub(crate) fn roam(cluster: &Arc<Cluster>, name: String, mut rng: Rng) {
    let topic = rng
        .percent(60)
        .then(|| TOPICS[rng.place(TOPICS.len())].to_owned());
    tokio::spawn(follow(cluster.clone(), name, topic, None, Some(rng)));
}

/// Reads everything that a server has once more, as somebody who comes new.
pub(crate) async fn read_again(cluster: &Arc<Cluster>, server: &Arc<Server>) {
    let Some(mut access) = server.access() else {
        return;
    };
    let at = format!("again, {}", server.name);
    let broker = access.replica.broker();
    let mut next = 1;
    let reads = read(cluster, "again", &at, &None, &broker, &mut next);
    let _ = time::timeout(READ_AGAIN_MAX, access.during(reads)).await;
}

async fn follow(
    cluster: Arc<Cluster>,
    name: String,
    topic: Option<String>,
    pinned: Option<Arc<Server>>,
    mut rng: Option<Rng>,
) {
    cluster.evidence().followed.insert(
        name.clone(),
        Followed {
            name: name.clone(),
            topic: topic.clone(),
            from: 1,
            ..Followed::default()
        },
    );
    let mut next = 1;
    loop {
        let server = match (&pinned, &mut rng) {
            (Some(server), _) => server.clone(),
            (None, Some(rng)) => any_server(&cluster, rng),
            (None, None) => return,
        };
        let mut access = match &pinned {
            Some(_) => server.access_when_up().await,
            None => match server.access() {
                Some(access) => access,
                None => {
                    time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let stays = rng
            .as_mut()
            .map(|rng| Duration::from_millis(rng.within(500..20_000)));
        let at = format!("{name}, {}", server.name);
        let broker = access.replica.broker();
        let follows = read(&cluster, &name, &at, &topic, &broker, &mut next);
        match stays {
            Some(stays) => {
                let _ = time::timeout(stays, access.during(follows)).await;
            }
            None => {
                access.during(follows).await;
            }
        }
        drop(access);
        time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads until the subscription ends.
async fn read(
    cluster: &Cluster,
    name: &str,
    at: &str,
    topic: &Option<String>,
    broker: &Arc<tidings_timeline::Broker>,
    next: &mut u64,
) {
    let topics = match topic {
        None => TopicSet::everything(),
        Some(topic) => TopicSet::parse([topic.as_str()]).expect("a good topic"),
    };
    let filter = Filter::new(topics, NamespaceSet::All, None);
    let mut subscription = broker.subscribe(filter, Index(*next));
    loop {
        match subscription.next().await {
            Ok(slice) => {
                let mut evidence = cluster.evidence();
                for line in lines(&slice.bytes) {
                    let index = match FrameView::parse(&line) {
                        Ok(frame) => frame.index().get(),
                        Err(error) => {
                            let what = format!("{at} was given no frame ({error}): {line:?}");
                            evidence.violate("G4", what);
                            return;
                        }
                    };
                    if topic.is_none() {
                        evidence.serve(index, &line, at);
                    }
                    if let Some(followed) = evidence.followed.get_mut(name) {
                        followed.lines.push((index, line));
                    }
                }
                *next = slice.last.get() + 1;
            }
            Err(SubscriptionEnd::Gap { wanted, oldest }) => {
                if let Some(followed) = cluster.evidence().followed.get_mut(name) {
                    followed.gaps.push((wanted.get(), oldest.get()));
                }
                *next = oldest.get();
                subscription.seek(oldest);
            }
            // It stops, or its state was replaced: asked again there or elsewhere.
            Err(SubscriptionEnd::Closed | SubscriptionEnd::History(_)) => return,
        }
    }
}

fn lines(bytes: &Bytes) -> Vec<Bytes> {
    let mut lines = Vec::new();
    let mut start = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if *byte == b'\n' {
            lines.push(bytes.slice(start..at + 1));
            start = at + 1;
        }
    }
    lines
}
