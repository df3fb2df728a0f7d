//! Members, and what they mean to do.

use std::collections::BTreeMap;
use std::time::Duration;

use tidings_gossip::Name;
use tidings_gossip::serf::{SerfCommand, SerfConfig, distance};
use tidings_gossip::wire::serf::{MemberStatus, Tags};

use crate::pool::{Pool, name, serf};

#[test]
fn all_know_all_with_their_tags() {
    let mut pool = Pool::joined(5);
    for node in 0..5 {
        assert_eq!(pool.nodes[node].roster().count(MemberStatus::Alive), 5);
        for other in 0..5 {
            let member = pool.nodes[node].roster().get(&name(other)).unwrap();
            assert_eq!(member.tags.get(&Name::from("number")), Some(&name(other)));
        }
    }
    let told = pool.told(1);
    assert_eq!(told[0], "n1 Join");
    assert!(told.contains(&"joined 1".to_owned()));
    let tags = Tags(BTreeMap::from([(Name::from("new"), Name::from("tag"))]));
    let outputs = pool.nodes[3].set_tags(pool.now, &tags).unwrap();
    pool.carry_out(3, outputs);
    pool.seconds(2);
    assert_eq!(pool.told(1), ["n3 Update"]);
    assert_eq!(pool.nodes[1].roster().get(&name(3)).unwrap().tags, tags);
}

#[test]
fn who_leaves_is_left_and_who_vanishes_has_failed() {
    let change = |config: &mut SerfConfig| {
        config.timing.tombstone_timeout = Duration::from_secs(600);
    };
    let mut pool = Pool::of((0..4).map(|number| serf(number, change)).collect());
    (1..4).for_each(|number| pool.join(number, 0));
    pool.seconds(3);
    (0..4).for_each(|node| drop(pool.told(node)));
    pool.command(3, SerfCommand::Leave);
    pool.seconds(10);
    assert_eq!(pool.told(3), ["n3 Leave", "left"]);
    for node in 0..3 {
        assert_eq!(pool.status(node, 3), Some(MemberStatus::Left));
        assert_eq!(pool.told(node), ["n3 Leave"]);
    }
    pool.down.extend([2, 3]);
    pool.seconds(60);
    for node in 0..2 {
        assert_eq!(pool.status(node, 2), Some(MemberStatus::Failed));
        assert_eq!(pool.told(node), ["n2 Failed"]);
    }
    let node = name(2);
    pool.command(
        0,
        SerfCommand::ForceLeave {
            node: node.clone(),
            prune: false,
        },
    );
    pool.seconds(3);
    assert_eq!(
        (pool.told(0), pool.told(1)),
        (vec!["n2 Leave".into()], vec!["n2 Leave".into()])
    );
    pool.command(1, SerfCommand::ForceLeave { node, prune: true });
    pool.seconds(3);
    assert_eq!((pool.status(0, 2), pool.status(1, 2)), (None, None));
    assert_eq!(pool.status(0, 3), Some(MemberStatus::Left));
    pool.seconds(600);
    assert_eq!(pool.status(0, 3), None, "forgotten");
}

#[test]
fn who_is_told_to_leave_and_does_not_is_a_member_again() {
    let mut pool = Pool::joined(3);
    pool.command(
        0,
        SerfCommand::ForceLeave {
            node: name(1),
            prune: false,
        },
    );
    assert_eq!(pool.status(0, 1), Some(MemberStatus::Leaving));
    pool.seconds(3);
    for node in 0..3 {
        assert_eq!(pool.status(node, 1), Some(MemberStatus::Alive));
    }
}

#[test]
fn who_failed_is_tried_until_it_is_there_again() {
    let mut pool = Pool::joined(2);
    pool.down.insert(1);
    pool.seconds(120);
    assert_eq!(pool.status(0, 1), Some(MemberStatus::Failed));
    pool.down.remove(&1);
    pool.seconds(300);
    assert_eq!(
        (pool.status(0, 1), pool.status(1, 0)),
        (Some(MemberStatus::Alive), Some(MemberStatus::Alive))
    );
    assert!(pool.told(0).contains(&"n1 Join".to_owned()));
}

#[test]
fn members_know_how_far_away_they_are() {
    let mut pool = Pool::joined(3);
    pool.seconds(120);
    let node = &pool.nodes[0];
    let (here, there) = (node.place(&name(0)).unwrap(), node.place(&name(1)).unwrap());
    assert!(distance(here, there) < Duration::from_millis(5));
    assert_eq!(node.place(&Name::from("zz")), None);
}
