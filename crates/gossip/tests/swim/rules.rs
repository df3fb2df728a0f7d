//! Whose word counts, and what it changes.

use std::time::Duration;

use bytes::Bytes;
use tidings_gossip::Chance;
use tidings_gossip::Name;
use tidings_gossip::swim::{Command, Config, ConfigError, Output, Swim};
use tidings_gossip::wire::{Alive, Message, NodeState, PushPull, State, StreamMessage, Versions};

use crate::script::{Script, addr, alive, events, said, sent};

/// The announcements about ourselves that go out while time goes by.
fn announced(outputs: &[Output]) -> Vec<u32> {
    let about_us = |(_, message): &(_, Message)| match message {
        Message::Alive(alive) if alive.node == Name::from("me") => Some(alive.incarnation),
        _ => None,
    };
    sent(outputs).iter().filter_map(about_us).collect()
}

#[test]
fn a_member_is_taken_in_once_and_only_newer_word_of_it_counts() {
    let mut script = Script::new();
    assert_eq!(
        events(&script.says("x", Message::Alive(alive("a", 3)))),
        ["a joined"]
    );
    for old in [2, 3] {
        let other = Alive {
            meta: Bytes::from_static(b"other"),
            ..alive("a", old)
        };
        assert_eq!(events(&script.says("x", Message::Alive(other))), [""; 0]);
    }
    let newer = Alive {
        meta: Bytes::from_static(b"other"),
        ..alive("a", 4)
    };
    assert_eq!(
        events(&script.says("x", Message::Alive(newer))),
        ["a updated"]
    );
    let versions = Versions {
        protocol_max: 4,
        ..Versions::SERF
    };
    let newer = Alive {
        meta: Bytes::from_static(b"other"),
        versions,
        ..alive("a", 5)
    };
    assert_eq!(events(&script.says("x", Message::Alive(newer))), [""; 0]);
    assert_eq!(script.incarnation("a"), 5);
}

#[test]
fn g9_announcements_that_cannot_be_true_are_ignored_and_counted() {
    let mut script = Script::among(&["a"]);
    let strange = [
        Alive {
            addr: None,
            ..alive("b", 1)
        },
        Alive {
            port: 0,
            ..alive("b", 1)
        },
        Alive {
            addr: Some([0, 0, 0, 0].into()),
            ..alive("b", 1)
        },
        Alive {
            node: Name::default(),
            ..alive("b", 1)
        },
        Alive {
            node: Name::from("n".repeat(513)),
            ..alive("b", 1)
        },
        Alive {
            meta: Bytes::from(vec![0; 513]),
            ..alive("b", 1)
        },
        Alive {
            versions: Versions::default(),
            ..alive("b", 1)
        },
        Alive {
            incarnation: u32::MAX,
            ..alive("a", 1)
        },
        Alive {
            incarnation: 1 << 31,
            ..alive("a", 1)
        },
    ];
    for (at, strange) in strange.into_iter().enumerate() {
        assert_eq!(events(&script.says("x", Message::Alive(strange))), [""; 0]);
        assert_eq!(script.swim.counters().messages_ignored, at as u64 + 1);
    }
    assert_eq!(
        (script.swim.members().count(), script.incarnation("a")),
        (2, 1)
    );
}

#[test]
fn g9_accusations_that_cannot_be_passed_on_are_ignored_and_counted() {
    let mut script = Script::among(&["a"]);
    let long = "n".repeat(513);
    script.says("x", Message::Suspect(said("a", 1, &long)));
    script.says("x", Message::Dead(said("a", 1, &long)));
    assert_eq!(script.state("a"), Some(State::Alive));
    assert_eq!(script.swim.counters().messages_ignored, 2);
}

#[test]
fn a_suspect_that_says_nothing_is_dead_when_its_time_is_up() {
    let mut script = Script::among(&["a"]);
    assert_eq!(script.says("x", Message::Suspect(said("a", 0, "x"))), []);
    assert_eq!(
        script.state("a"),
        Some(State::Alive),
        "the word was about an older announcement"
    );
    script.says("x", Message::Suspect(said("a", 1, "x")));
    assert_eq!(script.state("a"), Some(State::Suspect));
    // Two members: nobody could confirm it, and so it takes 4 s.
    assert_eq!(events(&script.wait_ms(3_999)), [""; 0]);
    assert_eq!(events(&script.wait_ms(1)), ["a Dead"]);
    script.says("x", Message::Alive(alive("a", 1)));
    assert_eq!(
        script.state("a"),
        Some(State::Dead),
        "what was said before it died"
    );
    assert_eq!(
        events(&script.says("x", Message::Alive(alive("a", 2)))),
        ["a joined"]
    );
}

#[test]
fn a_suspect_that_contradicts_lives_on_without_a_word_to_anybody() {
    let mut script = Script::among(&["a", "b"]);
    script.says("x", Message::Suspect(said("a", 1, "x")));
    assert_eq!(
        events(&script.says("x", Message::Alive(alive("a", 2)))),
        [""; 0]
    );
    assert_eq!(script.state("a"), Some(State::Alive));
    // The old suspicion's time comes to nothing, also when there is a new one by then.
    script.wait_ms(900);
    script.says("x", Message::Suspect(said("a", 2, "x")));
    assert_eq!(events(&script.wait_ms(3_900)), [""; 0]);
}

#[test]
fn confirmations_bring_the_end_nearer_and_are_passed_on() {
    let mut script = Script::among(&["a", "b", "c", "d"]);
    let count = |outputs: &[Output]| {
        let suspects = sent(outputs).into_iter().filter(|(_, message)| {
            matches!(message, Message::Suspect(said) if said.node == Name::from("a"))
        });
        suspects.count()
    };
    script.says("x", Message::Suspect(said("a", 1, "b")));
    let first = count(&script.wait_ms(3_000));
    assert!(first > 0);
    script.says("x", Message::Suspect(said("a", 1, "b")));
    script.says("x", Message::Suspect(said("a", 1, "c")));
    script.says("x", Message::Suspect(said("a", 1, "d")));
    // 4 s after the first word, where 24 s would have passed without confirmation.
    let outputs = script.wait_ms(999);
    assert_eq!((events(&outputs), count(&outputs) > 0), (vec![], true));
    assert_eq!(events(&script.wait_ms(1)), ["a Dead"]);
}

#[test]
fn who_says_it_of_itself_has_left() {
    let mut script = Script::among(&["a", "b"]);
    assert_eq!(
        events(&script.says("x", Message::Dead(said("a", 1, "a")))),
        ["a Left"]
    );
    assert_eq!(
        events(&script.says("x", Message::Dead(said("b", 1, "a")))),
        ["b Dead"]
    );
    assert_eq!(
        events(&script.says("x", Message::Dead(said("b", 9, "b")))),
        [""; 0],
        "once"
    );
    assert_eq!(
        events(&script.says("x", Message::Dead(said("c", 1, "c")))),
        [""; 0],
        "unknown"
    );
}

#[test]
fn what_is_said_about_us_is_contradicted() {
    let mut script = Script::among(&["a"]);
    script.says("x", Message::Suspect(said("me", 1, "x")));
    assert_eq!(announced(&script.wait_ms(1_000)).iter().max(), Some(&2));
    script.says("x", Message::Dead(said("me", 5, "x")));
    assert_eq!(announced(&script.wait_ms(1_000)).iter().max(), Some(&6));
    script.says("x", Message::Alive(alive("me", 9)));
    assert_eq!(
        script.incarnation("me"),
        10,
        "another life of ours, with other meta"
    );
    assert_eq!(script.state("me"), Some(State::Alive));
    assert_eq!(script.swim.counters().refutations, 3);
    script.says("x", Message::Suspect(said("me", 9, "x")));
    assert_eq!(
        script.swim.counters().refutations,
        3,
        "that was about an older one"
    );
}

#[test]
fn g9_no_incarnation_leaves_us_without_an_answer() {
    let mut script = Script::among(&["a"]);
    for absurd in [u32::MAX, u32::MAX - 1, 1 << 31, 1 << 30] {
        script.says("x", Message::Dead(said("me", absurd, "x")));
        script.says("x", Message::Suspect(said("me", absurd, "x")));
        assert_eq!(script.incarnation("me"), 1);
    }
    let greatest = (1 << 30) - 1;
    script.says("x", Message::Dead(said("me", greatest, "x")));
    assert_eq!(script.incarnation("me"), 1 << 30);
    script.says("x", Message::Alive(alive("me", (1 << 31) - 1)));
    assert_eq!(
        script.incarnation("me"),
        (1 << 31) - 1,
        "as far as it goes, and no overflow"
    );
    for again in 0..3 {
        script.says(
            "x",
            Message::Dead(said("me", (1 << 31) - 1, &again.to_string())),
        );
    }
    assert_eq!(script.state("me"), Some(State::Alive));
}

#[test]
fn a_name_at_another_address_is_a_conflict_unless_its_bearer_has_left() {
    let mut script = Script::among(&["a"]);
    let elsewhere = Alive {
        port: 9,
        ..alive("a", 7)
    };
    assert_eq!(
        events(&script.says("x", Message::Alive(elsewhere.clone()))),
        ["a conflicts 9"]
    );
    assert_eq!(script.incarnation("a"), 1);
    script.says("x", Message::Dead(said("a", 1, "b")));
    let conflict = events(&script.says("x", Message::Alive(elsewhere.clone())));
    assert_eq!(conflict, ["a conflicts 9"], "dead, it may come back");
    script.says("x", Message::Alive(alive("a", 2)));
    script.says("x", Message::Dead(said("a", 2, "a")));
    let low = Alive {
        incarnation: 1,
        ..elsewhere
    };
    assert_eq!(events(&script.says("x", Message::Alive(low))), ["a joined"]);
    assert_eq!(script.swim.member(&Name::from("a")).unwrap().addr.port(), 9);
    let us = Alive {
        port: 9,
        ..alive("me", 7)
    };
    assert_eq!(
        events(&script.says("x", Message::Alive(us))),
        ["me conflicts 9"]
    );
}

#[test]
fn what_others_hold_for_dead_is_suspect_to_us() {
    let mut script = Script::among(&["a", "b", "c", "me2"]);
    let node = |name: &str, state| NodeState {
        name: Name::from(name),
        addr: Some(addr(name).ip()),
        port: addr(name).port(),
        meta: Bytes::new(),
        incarnation: 1,
        state,
        versions: Versions::SERF,
    };
    let exchange = StreamMessage::PushPull(PushPull {
        nodes: vec![
            node("a", State::Dead),
            node("b", State::Suspect),
            node("c", State::Left),
            node("d", State::Alive),
            node("e", State::Dead),
            node("me", State::Dead),
        ],
        ..PushPull::default()
    });
    let outputs = script.says_on_stream(1, &exchange);
    assert_eq!(events(&outputs), ["c Left", "d joined"]);
    let states = ["a", "b", "c", "d", "e", "me"].map(|name| script.state(name));
    let [suspect, left, alive] = [State::Suspect, State::Left, State::Alive].map(Some);
    assert_eq!(states, [suspect, suspect, left, alive, None, alive]);
    assert_eq!(script.incarnation("me"), 2);
}

#[test]
fn leaving_is_told_and_then_nothing_brings_us_back() {
    let mut alone = Script::new();
    let timeout = Duration::from_secs(5);
    let outputs = alone.command(Command::Leave { timeout });
    assert_eq!(events(&outputs), ["me Left"]);
    assert!(outputs.contains(&Output::LeaveFinished { told: true }));

    let mut script = Script::among(&["a", "b"]);
    let outputs = script.command(Command::Leave { timeout });
    assert!(!outputs.contains(&Output::LeaveFinished { told: true }));
    let outputs = script.wait_ms(2_000);
    let told = sent(&outputs)
        .into_iter()
        .filter(|(_, message)| matches!(message, Message::Dead(said) if said.node == said.from));
    assert_eq!(
        told.count(),
        4,
        "as often as all news in a pool of this size"
    );
    assert!(outputs.contains(&Output::LeaveFinished { told: true }));
    script.says("x", Message::Alive(alive("me", 9)));
    assert_eq!(script.state("me"), Some(State::Left));
}

#[test]
fn leaving_does_not_wait_for_those_who_do_not_listen() {
    let mut script = Script::among(&["a"]);
    script.says("x", Message::Suspect(said("a", 1, "x")));
    let timeout = Duration::from_millis(300);
    script.command(Command::Leave { timeout });
    let finished = Output::LeaveFinished { told: false };
    assert!(!script.wait_ms(299).contains(&finished));
    assert!(script.wait_ms(1).contains(&finished));
    assert!(!script.wait_ms(10_000).contains(&finished), "once");
}

#[test]
fn our_own_meta_is_told_and_has_a_limit() {
    let mut script = Script::among(&["a"]);
    script.wait_ms(2_000);
    let meta = Bytes::from_static(b"new");
    let outputs = script.command(Command::Update {
        meta: meta.clone(),
        token: Some(7),
    });
    assert_eq!(events(&outputs), ["me updated"]);
    let outputs = script.wait_ms(2_000);
    let told: Vec<_> = sent(&outputs)
        .into_iter()
        .filter_map(|(_, message)| match message {
            Message::Alive(alive) => Some((alive.incarnation, alive.meta)),
            _ => None,
        })
        .collect();
    assert_eq!(told, vec![(2, meta); 4]);
    assert!(outputs.contains(&Output::Told { token: 7 }));
    let refused = script.command(Command::Update {
        meta: Bytes::from(vec![0; 513]),
        token: None,
    });
    let reason = "the meta of a node has at most 512 bytes, this has 513".to_owned();
    assert_eq!(refused, [Output::UpdateRefused { reason }]);
}

#[test]
fn news_reaches_the_dead_for_a_while_and_those_that_left_never() {
    let mut script = Script::among(&["a", "b"]);
    script.says("x", Message::Dead(said("a", 1, "x")));
    script.says("x", Message::Dead(said("b", 1, "b")));
    let to: Vec<_> = sent(&script.wait_ms(3_000))
        .into_iter()
        .map(|(to, _)| to)
        .collect();
    assert!(to.contains(&addr("a")) && !to.contains(&addr("b")));
    script.wait_ms(30_000);
    script.command(Command::Update {
        meta: Bytes::new(),
        token: None,
    });
    assert_eq!(sent(&script.wait_ms(3_000)), []);
}

#[test]
fn a_configuration_that_cannot_work_is_refused_with_a_reason() {
    let refused = |change: fn(&mut Config)| {
        let mut config = Config::new(Name::from("me"), addr("me"));
        change(&mut config);
        Swim::new(config, Chance::from_number(1)).unwrap_err()
    };
    assert_eq!(
        refused(|config| config.name = Name::default()),
        ConfigError::Name(0)
    );
    assert_eq!(
        refused(|config| config.meta = Bytes::from(vec![0; 600])),
        ConfigError::Meta(600)
    );
    let nowhere = refused(|config| config.addr.set_port(0)).to_string();
    assert!(nowhere.contains("cannot reach 127.0.0.1:0"), "{nowhere}");
}
