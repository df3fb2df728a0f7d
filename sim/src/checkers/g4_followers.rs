//! G4: a follower gets every frame that matches, once and in order, or is told that it does not.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidings_event::{Filter, NamespaceSet, Selected, TopicSet};

use crate::evidence::{Evidence, Followed};

pub(super) fn check(evidence: &mut Evidence, timeline: &BTreeMap<u64, Bytes>) {
    let followed: Vec<Followed> = evidence.followed.values().cloned().collect();
    for follower in followed {
        if let Err(what) = check_one(&follower, timeline, evidence.oldest) {
            let what = format!("{}: {what}", follower.name);
            evidence.violate("G4", what);
        }
    }
}

fn check_one(
    follower: &Followed,
    timeline: &BTreeMap<u64, Bytes>,
    oldest: u64,
) -> Result<(), String> {
    let topics = match &follower.topic {
        None => TopicSet::everything(),
        Some(topic) => TopicSet::parse([topic.as_str()]).map_err(|error| error.to_string())?,
    };
    let filter = Filter::new(topics, NamespaceSet::All, None);
    if let Some((from, to)) = follower.gaps.iter().find(|(_, to)| *to > oldest) {
        return Err(format!(
            "it was told that {from}..{to} is no longer kept, and the oldest is {oldest}"
        ));
    }
    let is_gap = |index| {
        follower
            .gaps
            .iter()
            .any(|(from, to)| (*from..*to).contains(&index))
    };
    let mut given = follower.lines.iter().peekable();
    for (index, line) in timeline.range(follower.from..) {
        let wanted = match filter.select(line) {
            Ok(Selected::All) => line.clone(),
            Ok(Selected::Some(part)) => part,
            Ok(Selected::None) => continue,
            Err(error) => return Err(format!("frame {index} cannot be read: {error}")),
        };
        match given.peek() {
            Some((at, bytes)) if at == index && *bytes == wanted => {
                given.next();
            }
            _ if is_gap(*index) => {}
            None if follower.ends_early => break,
            other => {
                return Err(format!("frame {index} should have come, and {other:?} did"));
            }
        }
    }
    match given.next() {
        None => Ok(()),
        Some((index, _)) => Err(format!("frame {index} came once too often, or is no frame")),
    }
}
