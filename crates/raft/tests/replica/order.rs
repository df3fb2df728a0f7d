use tidings_event::Index;
use tidings_timeline::{CommandGroup, Outcome};

use crate::server::{Server, add_event, frames, publish, publish_one};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_proposed_at_once_gets_contiguous_indexes() {
    let server = Server::new();
    let replica = server.open().await;
    let publishers: Vec<_> = (0..16)
        .map(|publisher| {
            let replica = replica.clone();
            tokio::spawn(async move {
                let mut indexes = Vec::new();
                for n in 0..20 {
                    let mut group = CommandGroup::new();
                    for event in 0..3 {
                        add_event(&mut group, &format!("{publisher}/{n}/{event}"), None);
                    }
                    for outcome in replica.propose(group).await.unwrap() {
                        let Outcome::Published { index } = outcome else {
                            panic!("{outcome:?}");
                        };
                        indexes.push(index.get());
                    }
                }
                (publisher, indexes)
            })
        })
        .collect();
    let mut all = Vec::new();
    for publisher in publishers {
        let (publisher, indexes) = publisher.await.unwrap();
        assert!(indexes.is_sorted(), "one publisher's order");
        for group in indexes.chunks(3) {
            assert_eq!(group[2], group[0] + 2, "a group stays together");
        }
        let name = |at: usize| format!("{publisher}/{}/{}", at / 3, at % 3);
        all.extend(
            indexes
                .into_iter()
                .enumerate()
                .map(|(at, index)| (index, name(at))),
        );
    }
    all.sort();
    assert!(all.iter().map(|(index, _)| *index).eq(1..=960));
    assert_eq!(replica.state().index, Index(960));
    assert_eq!(replica.broker().newest(), Index(960));
    assert_eq!(*replica.applied().borrow(), Index(960));

    let status = replica.status();
    assert!(status.batches <= status.groups, "{status:?}");
    assert_eq!(
        (status.groups, status.commands),
        (321, 961),
        "the founding too"
    );
    assert_eq!(status.role.as_str(), "leader");
    assert_eq!(status.leader, Some(crate::server::NODE));
    replica.shutdown().await;
    assert_eq!(
        frames(&server.config.data_dir),
        all,
        "the history says the same"
    );
}

#[tokio::test]
async fn an_empty_group_needs_no_entry() {
    let server = Server::new();
    let replica = server.open().await;
    let before = replica.status().log_last;
    assert_eq!(replica.propose(CommandGroup::new()).await.unwrap(), []);
    assert_eq!(replica.status().log_last, before);
    replica.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_went_away_harms_nobody() {
    let server = Server::new();
    let replica = server.open().await;
    for n in 0..50 {
        let gone = replica.propose(publish(&format!("gone{n}"), None));
        // polled once at most, then dropped
        let _ = tokio::time::timeout(std::time::Duration::ZERO, gone).await;
    }
    let index = publish_one(&replica, "stays").await;
    assert!(index.get() >= 1 && index == replica.state().index);
    replica.shutdown().await;
}
