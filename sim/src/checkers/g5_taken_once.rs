//! G5: what an agent took is on the timeline once, in the order in which it took it; what it refused is
//! not there.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidings_event::FrameView;

use crate::evidence::{Evidence, HandedAnswer};
use crate::workload::handing::TOKEN;

pub(super) fn check(evidence: &mut Evidence, timeline: &BTreeMap<u64, Bytes>) {
    if evidence.handed.is_empty() {
        return;
    }
    let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (index, line) in timeline {
        for token in tokens(line) {
            places.entry(token).or_default().push(*index);
        }
    }
    // Where retention took something before anybody saw it, what is missing may have been that.
    let seen_all = (1..=evidence.newest).all(|index| timeline.contains_key(&index));
    // Of each agent, the last that is there.
    let mut last: BTreeMap<String, (u64, String)> = BTreeMap::new();
    for handed in evidence.handed.clone() {
        let found = places.remove(&handed.token).unwrap_or_default();
        let is_right = match (handed.answer, &found[..]) {
            (HandedAnswer::Taken { index }, [place]) => index == 0 || index == *place,
            (HandedAnswer::Spooled | HandedAnswer::Unknown, [_]) => true,
            (HandedAnswer::Taken { .. } | HandedAnswer::Spooled, []) => !seen_all,
            (HandedAnswer::Unknown | HandedAnswer::NotTaken | HandedAnswer::Refused, []) => true,
            _ => false,
        };
        if !is_right {
            let what = format!(
                "{} of {}: {:?}, and it is at {found:?}",
                handed.token, handed.agent, handed.answer
            );
            evidence.violate("G5", what);
        }
        let Some(place) = found.first().copied() else {
            continue;
        };
        if let Some((before, token)) = last.get(&handed.agent)
            && *before >= place
        {
            let what = format!(
                "{} took {token}, then {}: they are at {before} and {place}",
                handed.agent, handed.token
            );
            evidence.violate("G5", what);
        }
        last.insert(handed.agent, (place, handed.token));
    }
}

/// What stands in a frame that was handed to an agent.
fn tokens(line: &[u8]) -> Vec<String> {
    let Ok(frame) = FrameView::parse(line) else {
        return Vec::new();
    };
    let events = frame.events();
    let token = |payload: &str| {
        let payload: serde_json::Value = serde_json::from_str(payload).ok()?;
        Some(payload.get(TOKEN)?.as_str()?.to_owned())
    };
    events
        .iter()
        .filter_map(|event| token(event.payload()))
        .collect()
}
