//! Everything that was answered fits into one order that agrees with the clock: that of the indexes.
//!
//! Each change that took place has an index, so the order need not be searched for. What is checked:
//! a change that was answered before another was asked for comes before it; a compare-and-set took
//! place on exactly the value that it expected; one that was refused was refused for a value that the
//! entry can have had meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidings_event::FrameView;

use crate::evidence::{Evidence, SetResult};
use crate::workload::setter::TOPIC;

pub(super) fn check(evidence: &mut Evidence, timeline: &BTreeMap<u64, Bytes>) {
    check_order(evidence);
    check_sets(evidence, timeline);
}

/// Nothing that was answered comes after what was asked for later.
fn check_order(evidence: &mut Evidence) {
    let acknowledged = evidence.acknowledged.iter();
    let mut changes: Vec<(u64, Duration, Duration, String)> = acknowledged
        .map(|told| (told.index, told.invoked, told.answered, told.ids[0].clone()))
        .collect();
    for call in &evidence.sets {
        if let SetResult::Stored { index } = call.result {
            changes.push((index, call.invoked, call.answered, call.operation.clone()));
        }
    }
    changes.sort();
    // From the last to the first: none may be asked for after one behind it was answered.
    let mut earliest: Option<(Duration, u64, String)> = None;
    for (index, invoked, answered, name) in changes.into_iter().rev() {
        if let Some((before, other, other_name)) = &earliest
            && *before < invoked
        {
            let what = format!(
                "{name} ({index}) was asked for at {invoked:?}, after {other_name} ({other}) had \
                 been answered at {before:?}"
            );
            evidence.violate("order", what);
        }
        if earliest
            .as_ref()
            .is_none_or(|(before, ..)| answered < *before)
        {
            earliest = Some((answered, index, name));
        }
    }
}

fn check_sets(evidence: &mut Evidence, timeline: &BTreeMap<u64, Bytes>) {
    // Of each key, the indexes of its changes; of each change, what it says it stood on.
    let mut changes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut operations: BTreeMap<String, u64> = BTreeMap::new();
    for (index, line) in timeline {
        let Ok(frame) = FrameView::parse(line) else {
            continue;
        };
        for event in frame.events().iter().filter(|event| event.topic() == TOPIC) {
            let payload: serde_json::Value =
                serde_json::from_str(event.payload()).unwrap_or_default();
            let before = changes.entry(event.key().into_owned()).or_default();
            let stood_on = payload["cas"].as_u64().unwrap_or_default();
            let was = before.last().copied().unwrap_or_default();
            // Where what came before is no longer kept nobody can tell.
            let known = was > 0 || timeline.keys().next().is_none_or(|first| *first <= 1);
            if known && stood_on != was {
                let what = format!(
                    "frame {index} set {} where it stood on {stood_on}, and it was {was}",
                    event.key()
                );
                evidence.violate("cas", what);
            }
            before.push(*index);
            if let Some(operation) = payload["operation"].as_str() {
                operations.insert(operation.to_owned(), *index);
            }
        }
    }
    let stored: Vec<(String, u64, Duration)> = evidence
        .sets
        .iter()
        .filter_map(|call| match call.result {
            SetResult::Stored { index } => Some((call.key.clone(), index, call.answered)),
            _ => None,
        })
        .collect();
    for call in evidence.sets.clone() {
        let found = operations.get(&call.operation).copied();
        match call.result {
            SetResult::Stored { index } if found == Some(index) => {}
            SetResult::Stored { index } if index < evidence.oldest && found.is_none() => {}
            SetResult::Mismatch { current } if found.is_none() => {
                let newest_before = stored
                    .iter()
                    .filter(|(key, _, answered)| *key == call.key && *answered < call.invoked)
                    .map(|(_, index, _)| *index)
                    .max();
                if newest_before.is_some_and(|newest| current < newest) {
                    let what = format!("{call:?} was refused, and {newest_before:?} was there");
                    evidence.violate("cas", what);
                }
            }
            SetResult::Unknown => {}
            result => {
                let what = format!("{}: {result:?}, and it is {found:?}", call.operation);
                evidence.violate("cas", what);
            }
        }
    }
}
