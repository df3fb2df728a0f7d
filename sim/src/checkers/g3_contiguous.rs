//! G3: indexes are contiguous and never go back.

use tidings_event::FrameView;

use crate::evidence::Evidence;

pub(super) fn check(evidence: &mut Evidence) {
    for history in evidence.histories.clone() {
        let mut expected = None;
        for (name, bytes) in &history.segments {
            let first: u64 = name
                .split('.')
                .next()
                .and_then(|digits| digits.parse().ok())
                .unwrap_or_default();
            if expected.is_some_and(|expected| expected != first) {
                let what = format!("{name} of {} should begin at {expected:?}", history.server);
                evidence.violate("G3", what);
            }
            let mut next = first;
            for line in bytes.split_inclusive(|byte| *byte == b'\n') {
                match FrameView::parse(line) {
                    Ok(frame) if frame.index().get() == next => next += 1,
                    found => {
                        let found = found.map(|frame| frame.index());
                        let what = format!(
                            "{name} of {} has {found:?} in place of frame {next}",
                            history.server
                        );
                        evidence.violate("G3", what);
                        return;
                    }
                }
            }
            expected = Some(next);
        }
        let newest = expected.unwrap_or(1) - 1;
        if newest != evidence.newest {
            let what = format!(
                "the history of {} ends at {newest}, the state at {}",
                history.server, evidence.newest
            );
            evidence.violate("G3", what);
        }
    }
    let beyond = evidence.served.keys().next_back().copied();
    if let Some(beyond) = beyond.filter(|index| *index > evidence.newest) {
        let what = format!(
            "frame {beyond} was given out, and the newest is {}",
            evidence.newest
        );
        evidence.violate("G3", what);
    }
}
