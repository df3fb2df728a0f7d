use std::path::Path;

use proptest::{prelude::*, test_runner::TestRunner};
use tidings_event::Index;
use tidings_timeline::{CommandGroup, Outcome};

use crate::server::{Server, delete, history, publish, publish_one, put};

/// A step of a random life of a server.
#[derive(Clone, Debug)]
enum Step {
    Publish {
        key: u8,
        id: Option<u8>,
    },
    Put {
        key: u8,
        cas: Option<u64>,
    },
    Delete {
        key: u8,
    },
    Snapshot,
    /// The process is gone from one moment to the next.
    Crash,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), prop::option::of(0..20u8)).prop_map(|(key, id)| Step::Publish { key, id }),
        4 => (0..6u8, prop::option::of(0..30u64)).prop_map(|(key, cas)| Step::Put { key, cas }),
        2 => (0..6u8).prop_map(|key| Step::Delete { key }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

fn group(step: &Step) -> Option<CommandGroup> {
    match step {
        Step::Publish { key, id } => {
            let id = id.map(|id| format!("id-{id}"));
            Some(publish(&key.to_string(), id.as_deref()))
        }
        Step::Put { key, cas } => Some(put(&key.to_string(), *cas)),
        Step::Delete { key } => Some(delete(&key.to_string(), None)),
        Step::Snapshot | Step::Crash | Step::Restart => None,
    }
}

/// What the disk holds at this moment, as after a crash of the process.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Entries and indexes of the state, as text.
fn state(replica: &tidings_raft::Replica) -> String {
    let state = replica.state();
    format!(
        "{} {} {:?}",
        state.index,
        state.oldest,
        state.entries_by_index()
    )
}

/// Lives through the steps; answers the outcomes of all commands, the history, and the state.
async fn live(steps: &[Step], interrupted: bool) -> (Vec<Outcome>, Vec<u8>, String) {
    let mut server = Server::new();
    server.config.disk.log_entries_kept = 0;
    let mut replica = server.open().await;
    let mut outcomes = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        if let Some(group) = group(step) {
            outcomes.extend(replica.propose(group).await.unwrap());
            continue;
        }
        if !interrupted {
            continue;
        }
        match step {
            Step::Snapshot => assert!(replica.snapshot().await),
            Step::Restart => {
                replica.shutdown().await;
                replica = server.open().await;
            }
            _ => {
                let copied = server.dir.path().join(format!("copy{at}"));
                copy(&server.config.data_dir, &copied);
                replica.shutdown().await;
                server.config.data_dir = copied;
                replica = server.open().await;
            }
        }
    }
    let state = state(&replica);
    replica.shutdown().await;
    (outcomes, history(&server.config.data_dir), state)
}

#[test]
fn a_server_with_a_hard_life_ends_up_like_one_without() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig {
        cases: 8,
        failure_persistence: None,
        ..Default::default()
    };
    let mut runner = TestRunner::new(config);
    let steps = prop::collection::vec(step(), 1..30);
    let result = runner.run(&steps, |steps| {
        let calm = runtime.block_on(live(&steps, false));
        let hard = runtime.block_on(live(&steps, true));
        prop_assert_eq!(calm.0, hard.0, "outcomes");
        prop_assert_eq!(calm.1, hard.1, "history");
        prop_assert_eq!(calm.2, hard.2, "state");
        Ok(())
    });
    result.unwrap();
}

/// G2: the copy is taken after the answers, while nothing was shut down or synced by us.
#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let mut server = Server::new();
    let replica = server.open().await;
    for n in 0..30 {
        publish_one(&replica, &n.to_string()).await;
    }
    let copied = server.dir.path().join("copy");
    copy(&server.config.data_dir, &copied);
    // What the page cache alone had is lost as well: the history, but not the log.
    std::fs::remove_dir_all(copied.join("history")).unwrap();
    let bytes = history(&server.config.data_dir);
    replica.shutdown().await;
    server.config.data_dir = copied;
    let replica = server.open().await;
    assert_eq!(replica.state().index, Index(30));
    assert_eq!(history(&server.config.data_dir), bytes);
    replica.shutdown().await;
}
