//! A read after a barrier sees everything that was acknowledged, by whichever server, before the
//! barrier was asked for.

use crate::evidence::Evidence;

pub(super) fn check(evidence: &mut Evidence) {
    let short = |read: &&crate::evidence::Read| read.seen < read.told;
    let short: Vec<String> = evidence
        .reads
        .iter()
        .filter(short)
        .map(|read| {
            format!(
                "{} asked {} at {:?}, when {} had been acknowledged, and saw only {}",
                read.name, read.server, read.asked, read.told, read.seen
            )
        })
        .collect();
    for what in short {
        evidence.violate("read", what);
    }
}
