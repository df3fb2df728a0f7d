//! G1: every server stores the same bytes for the same index, file by file, and these are the bytes
//! that were given out.

use crate::evidence::Evidence;

pub(super) fn check(evidence: &mut Evidence) {
    let histories = evidence.histories.clone();
    let Some((first, others)) = histories.split_first() else {
        return;
    };
    for other in others {
        let names = |h: &crate::evidence::DiskHistory| {
            h.segments
                .iter()
                .map(|(n, _)| n.clone())
                .collect::<Vec<_>>()
        };
        if names(first) != names(other) {
            let what = format!(
                "{} has the segments {:?}, {} has {:?}",
                first.server,
                names(first),
                other.server,
                names(other)
            );
            evidence.violate("G1", what);
        }
        for (name, bytes) in &first.segments {
            let theirs = other.segments.iter().find(|(theirs, _)| theirs == name);
            if let Some((_, theirs)) = theirs
                && theirs != bytes
            {
                let at = bytes.iter().zip(theirs).position(|(one, two)| one != two);
                let what = format!(
                    "segment {name} has {} bytes at {} and {} at {}; they differ at {at:?}",
                    bytes.len(),
                    first.server,
                    theirs.len(),
                    other.server
                );
                evidence.violate("G1", what);
            }
        }
    }
    for history in &histories {
        for (index, line) in history.lines() {
            evidence.serve(index, &line, &format!("the disk of {}", history.server));
        }
    }
}
