//! The Raft log against a model: a list of records in memory.
#![allow(clippy::unwrap_used)] // also in what the tests share

use bytes::Bytes;
use proptest::prelude::*;
use tidings_store::{LogId, LogRecord, RaftLog, RaftLogConfig, RaftLogState};

#[derive(Debug, Clone)]
enum Step {
    /// Appends records with payloads of these sizes, in so many parts.
    Append(Vec<(u16, u8)>),
    /// Cuts off this share of the log, in 1/256.
    Truncate(u8),
    /// Purges this share of the log, in 1/256.
    Purge(u8),
    /// Purges beyond the end, as after a snapshot was taken over.
    Jump(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sizes = prop::collection::vec((0..700_u16, 0..4_u8), 0..8);
    let step = prop_oneof![
        8 => sizes.prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Truncate),
        2 => any::<u8>().prop_map(Step::Purge),
        1 => any::<u8>().prop_map(Step::Jump),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

fn config(cache_bytes: usize) -> RaftLogConfig {
    RaftLogConfig {
        segment_bytes: 2000,
        cache_bytes,
        ..RaftLogConfig::default()
    }
}

#[derive(Default)]
struct Model {
    records: Vec<LogRecord>,
    purged: Option<LogId>,
    /// Makes every payload different from all before it.
    stamp: u64,
}

impl Model {
    fn next(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(0, |purged| purged.index + 1);
        self.records
            .last()
            .map_or(purged, |record| record.index + 1)
    }

    fn make(&mut self, sizes: &[(u16, u8)]) -> Vec<LogRecord> {
        let next = self.next();
        let records = sizes.iter().zip(next..).map(|(&(size, parts), index)| {
            self.stamp += 1;
            let payload: Vec<u8> = (0..size)
                .map(|at| (self.stamp as u8).wrapping_mul(31) ^ at as u8)
                .collect();
            let payload = Bytes::from(payload);
            let piece = payload.len() / usize::from(parts.max(1)) + 1;
            LogRecord {
                index,
                term: self.stamp,
                leader: self.stamp.to_le_bytes()[..2].to_vec(),
                kind: parts,
                parts: payload.chunks(piece).map(Bytes::copy_from_slice).collect(),
            }
        });
        records.collect()
    }

    fn check(&self, log: &RaftLog, state: &RaftLogState) {
        assert_eq!(state.first, self.records.first().map(LogRecord::id));
        assert_eq!(
            state.last,
            self.records
                .last()
                .map(LogRecord::id)
                .or(self.purged.clone())
        );
        assert_eq!(state.purged, self.purged);
        let range = self.records.first().map_or(0, |r| r.index)..self.next();
        let found = log
            .read(if self.records.is_empty() { 0..0 } else { range })
            .unwrap();
        assert_eq!(found.len(), self.records.len());
        for (found, expected) in found.iter().zip(&self.records) {
            assert_eq!(found.id(), expected.id());
            assert_eq!(found.kind, expected.kind);
            assert_eq!(found.parts.concat(), expected.parts.concat());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_was_done_to_it(steps in steps(), cached in any::<bool>()) {
        let dir = tempfile::tempdir().unwrap();
        let config = config(if cached { 1 << 20 } else { 1000 });
        let mut model = Model::default();
        let (mut log, _) = RaftLog::open(dir.path(), config.clone()).unwrap();
        for step in steps {
            match step {
                Step::Append(sizes) => {
                    let records = model.make(&sizes);
                    log.append_and_wait(records.clone()).unwrap();
                    model.records.extend(records);
                }
                Step::Truncate(share) => {
                    let keep = model.records.len() * (255 - usize::from(share)) / 255;
                    if let Some(first) = model.records.get(keep) {
                        log.truncate_from(first.index).unwrap();
                        model.records.truncate(keep);
                    }
                }
                Step::Purge(share) => {
                    let count = model.records.len() * usize::from(share) / 255;
                    if let Some(last) = model.records.drain(..count).next_back() {
                        log.purge_to(last.id()).unwrap();
                        model.purged = Some(last.id());
                    }
                }
                Step::Jump(by) => {
                    let upto = LogId { index: model.next() + u64::from(by), term: 7, leader: vec![1] };
                    log.purge_to(upto.clone()).unwrap();
                    model.records.clear();
                    model.purged = Some(upto);
                }
                Step::Reopen => {
                    drop(log);
                    let (again, state) = RaftLog::open(dir.path(), config.clone()).unwrap();
                    prop_assert_eq!(&state.torn, &None);
                    log = again;
                }
            }
            model.check(&log, &log.state());
        }
        drop(log);
        let (log, state) = RaftLog::open(dir.path(), config).unwrap();
        model.check(&log, &state);
    }
}
