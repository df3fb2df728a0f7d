//! G2: what was acknowledged is there, under the index that was told, whole, and once.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidings_event::FrameView;

use crate::evidence::Evidence;

pub(super) fn check(evidence: &mut Evidence, timeline: &BTreeMap<u64, Bytes>) {
    let mut places: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (index, line) in timeline {
        let Ok(frame) = FrameView::parse(line) else {
            evidence.violate("G2", format!("frame {index} cannot be read: {line:?}"));
            continue;
        };
        for event in frame.events() {
            places
                .entry(event.id().into_owned())
                .or_default()
                .push(*index);
        }
    }
    let twice: Vec<_> = places.iter().filter(|(_, at)| at.len() > 1).collect();
    for (id, at) in twice {
        evidence.violate("G2", format!("{id} is there more than once: {at:?}"));
    }
    for told in evidence.acknowledged.clone() {
        for id in &told.ids {
            match places.get(id).map(Vec::as_slice) {
                Some([at]) if *at == told.index => {}
                // Retention has dropped it before anybody who looks at everything saw it.
                None if told.index < evidence.oldest && !timeline.contains_key(&told.index) => {}
                found => {
                    let what = format!(
                        "{id} was acknowledged as {} and is at {found:?}; there is {:?}",
                        told.index,
                        timeline.get(&told.index)
                    );
                    evidence.violate("G2", what);
                }
            }
        }
    }
}
