//! Checking everything on disk without changing anything.

use std::path::{Path, PathBuf};

use tidings_event::Index;

use tidings_host::fs;

use crate::checked_file::{self, Kind};
use crate::disk;
use crate::error::{StoreError, verify_help};
use crate::history::index_file::index_bytes;
use crate::history::oldest;
use crate::history::recovery as history_recovery;
use crate::history::segments::{self, Pair};
use crate::incoming;
use crate::layout::{DiskName, HISTORY_FOLDER, INCOMING_FOLDER};
use crate::lock::DataDir;
use crate::raft_log::committed;
use crate::raft_log::recovery as raft_recovery;
use crate::snapshots;

/// How far checking has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyProgress {
    /// The file that is being checked.
    pub path: PathBuf,
    /// Bytes checked so far, of all files.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes_total: u64,
}

/// Something on disk that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Where in it, in bytes from its start.
    pub offset: u64,
    /// What was found.
    pub what: String,
    /// What a person can do about it.
    pub help: String,
}

/// What checking has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The first fault of each file that has one.
    pub faults: Vec<Fault>,
    /// What a crash has left and the next start repairs by itself; no cause for alarm.
    pub repairable: Vec<Fault>,
    /// Segments of the history.
    pub segments: usize,
    /// Frames of the history.
    pub frames: u64,
    /// Entries of the Raft log.
    pub raft_records: u64,
    /// Bytes of all files checked.
    pub bytes: u64,
}

/// Checks a data directory that no agent works on: names, continuity, every checksum, that every
/// line is a frame under its index, and every digest. `progress` is called every few megabytes.
///
/// # Errors
///
/// [`StoreError::Locked`] while an agent runs, [`StoreError::Missing`] when this is no data
/// directory, [`StoreError::Format`] for one of another version, and [`StoreError::Io`] when it
/// cannot be listed. Faults of its files are in the report.
pub fn verify(
    data_dir: &Path,
    progress: &mut dyn FnMut(VerifyProgress),
) -> Result<VerifyReport, StoreError> {
    let data = DataDir::open_existing(data_dir)?;
    // While a snapshot of another server is being installed, its history counts, wherever it is.
    let install = incoming::underway(data_dir)?;
    let staged = data.path().join(INCOMING_FOLDER).join(HISTORY_FOLDER);
    let history = match install.is_some() && fs::is_dir(&staged) {
        true => staged,
        false => data.history(),
    };
    let mut total = 0;
    for folder in [history.clone(), data.raft(), data.snapshots()] {
        if fs::is_dir(&folder) {
            for (name, path) in disk::list(&folder, false)? {
                // There is nothing in a spare segment that could be checked.
                if matches!(DiskName::parse(&name), Some(DiskName::RaftSpare(_))) {
                    continue;
                }
                total += fs::metadata(&path).map_or(0, |metadata| metadata.len());
            }
        }
    }
    let mut check = Check {
        report: VerifyReport::default(),
        progress,
        total,
    };
    // What the history must hold depends on the snapshot that the next start goes on from.
    let mut durable_to = if fs::is_dir(&data.snapshots()) {
        check.snapshots(&data.snapshots())?
    } else {
        Some(Index::ZERO)
    };
    if let Some(install) = install {
        durable_to = Some(install.frame);
        check.report.repairable.push(Fault {
            path: data.path().join(INCOMING_FOLDER),
            offset: 0,
            what: "the snapshot of another server is being installed".to_owned(),
            help: "start the agent, which goes on with it".to_owned(),
        });
    }
    if fs::is_dir(&history) {
        check.history(&history, durable_to)?;
    }
    if fs::is_dir(&data.raft()) {
        check.raft(&data.raft())?;
    }
    Ok(check.report)
}

struct Check<'a> {
    report: VerifyReport,
    progress: &'a mut dyn FnMut(VerifyProgress),
    total: u64,
}

impl Check<'_> {
    fn done(&mut self, path: &Path, bytes: u64) {
        self.report.bytes += bytes;
        (self.progress)(VerifyProgress {
            path: path.to_owned(),
            bytes_done: self.report.bytes,
            bytes_total: self.total,
        });
    }

    /// Puts a failure into the report, once for each file.
    fn note(&mut self, path: &Path, error: StoreError) {
        let fault = fault_of(path, error);
        if !self
            .report
            .faults
            .iter()
            .any(|known| known.path == fault.path)
        {
            self.report.faults.push(fault);
        }
    }

    /// Checks the history as a start would that goes on from a snapshot at frame `durable_to`, and
    /// beyond that what a start takes on trust.
    fn history(&mut self, dir: &Path, durable_to: Option<Index>) -> Result<(), StoreError> {
        let pairs = match segments::find_segments(dir, false, durable_to) {
            Ok((pairs, _)) => pairs,
            Err(error @ StoreError::Missing { .. }) => {
                self.note(dir, error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let (durable, leftover) = pairs.split_at(segments::durable_count(&pairs, durable_to));
        self.report.segments += pairs.len();
        if let Err(error) = oldest::check(dir, &pairs, durable_to) {
            self.note(dir, error);
        }
        let durable_to = durable_to.unwrap_or_default();
        let mut expected = None;
        for (position, pair) in durable.iter().enumerate() {
            if let Some(expected) = expected.filter(|&expected| expected != pair.first) {
                let path = dir.join(DiskName::HistoryLines(expected).file_name());
                let what = format!(
                    "the segment before ends at {} and the next begins at {}",
                    expected - 1,
                    pair.first
                );
                self.note(&path, StoreError::missing(&path, what));
            }
            let newest = position + 1 == durable.len();
            let count = if newest && (!leftover.is_empty() || !segments::looks_sealed(pair)) {
                self.active_segment(pair, durable_to, dir)
            } else {
                self.sealed_segment(pair)
            };
            // Of a segment that cannot be read nobody knows where it ends.
            expected = count.map(|count| pair.first + count);
            self.report.frames += count.unwrap_or(0);
        }
        let next = if pairs.is_empty() { Some(1) } else { expected };
        if let Some(next) = next.filter(|&next| next <= durable_to.get())
            && self
                .report
                .faults
                .iter()
                .all(|fault| !fault.path.starts_with(dir))
        {
            self.note(dir, segments::short(dir, next - 1, durable_to));
        }
        for pair in leftover {
            self.leftover_segment(pair, dir);
        }
        Ok(())
    }

    /// A segment that begins after the last snapshot: the next start makes it again, so that no
    /// fault in it is one of the directory.
    fn leftover_segment(&mut self, pair: &Pair, dir: &Path) {
        let known = self.report.faults.len();
        let count = if segments::looks_sealed(pair) {
            self.sealed_segment(pair)
        } else {
            self.active_segment(pair, Index::ZERO, dir)
        };
        self.report.frames += count.unwrap_or(0);
        let found = self.report.faults.split_off(known);
        self.report
            .repairable
            .extend(found.into_iter().map(|fault| {
                Fault {
            help: "it follows the last snapshot; the next start makes it again from the raft log"
                .to_owned(),
            ..fault
        }
            }));
    }

    fn sealed_segment(&mut self, pair: &Pair) -> Option<u64> {
        if !fs::exists(&pair.index) {
            self.note(
                &pair.index,
                StoreError::missing(&pair.index, "every sealed segment has an index"),
            );
            return None;
        }
        let (entries, footer) = match history_recovery::load_index(&pair.index, pair.first) {
            Ok(index) => index,
            Err(error) => {
                self.note(&pair.index, error);
                return None;
            }
        };
        self.done(&pair.index, index_bytes(entries.len()));
        let checked = history_recovery::check_lines(
            &pair.lines,
            pair.first,
            &entries,
            footer.bytes,
            true,
            &mut |bytes| self.done(&pair.lines, bytes),
        );
        if let Err(error) = checked {
            self.note(&pair.lines, error);
        }
        Some(footer.count)
    }

    /// The segment that was being written: a torn end is no fault, the next start cuts it off, unless
    /// the snapshot relies on what is torn.
    fn active_segment(&mut self, pair: &Pair, durable_to: Index, dir: &Path) -> Option<u64> {
        let (recovered, file_bytes) =
            match history_recovery::recover_files(&pair.lines, &pair.index, pair.first) {
                Ok(found) => found,
                Err(error) => {
                    self.note(&pair.lines, error);
                    return None;
                }
            };
        if let Err(error) = segments::check_durable(pair, &recovered, durable_to, dir) {
            self.note(&pair.lines, error);
        } else if let Some(what) = recovered.fault {
            self.report.repairable.push(Fault {
                path: pair.lines.clone(),
                offset: recovered.bytes,
                what,
                help: "the next start cuts it off and applies it again from the raft log"
                    .to_owned(),
            });
        } else if recovered.indexed > 0 {
            // What recovery takes from the index on trust is read in full here.
            let checked = history_recovery::check_lines(
                &pair.lines,
                pair.first,
                &recovered.entries,
                recovered.bytes,
                true,
                &mut |_| {},
            );
            if let Err(error) = checked {
                self.note(&pair.lines, error);
            }
        }
        self.done(&pair.lines, file_bytes);
        self.done(&pair.index, index_bytes(recovered.indexed));
        Some(recovered.entries.len() as u64)
    }

    fn raft(&mut self, dir: &Path) -> Result<(), StoreError> {
        let vote = dir.join(DiskName::RaftVote.file_name());
        if let Err(error) = checked_file::read(&vote, Kind::Vote) {
            self.note(&vote, error);
        }
        let committed = self.committed(&dir.join(DiskName::RaftCommitted.file_name()));
        let truncating_path = dir.join(DiskName::RaftTruncating.file_name());
        let truncating = raft_recovery::read_truncating(dir).unwrap_or_else(|error| {
            self.note(&truncating_path, error);
            None
        });
        let purged_path = dir.join(DiskName::RaftPurged.file_name());
        let purged = raft_recovery::read_purged(dir).unwrap_or_else(|error| {
            self.note(&purged_path, error);
            None
        });
        let purged_to = purged.map(|purged| purged.index);
        let mut segments = Vec::new();
        for (name, path) in disk::list(dir, false)? {
            if let Some(DiskName::RaftSegment(first)) = DiskName::parse(&name) {
                segments.push((first, path));
            }
        }
        let known = self.report.faults.len();
        let next = self.raft_segments(dir, &segments, purged_to, truncating);
        // Where something else is wrong already, that says more.
        if known == self.report.faults.len()
            && let Some(committed) = committed.filter(|&committed| committed >= next)
        {
            let path = match segments.last() {
                Some((_, path)) => path.clone(),
                None => dir.join(DiskName::RaftSegment(next).file_name()),
            };
            let what = raft_recovery::ends_early(next, committed);
            let end = self.torn_at(&path);
            self.note(&path, StoreError::damaged(&path, end, what));
        }
        Ok(())
    }

    /// Takes back that the end of this file is repairable: it is not, where it was committed. Says
    /// where it was torn.
    fn torn_at(&mut self, path: &Path) -> u64 {
        let repairable = &mut self.report.repairable;
        match repairable.iter().position(|fault| fault.path == path) {
            Some(at) => repairable.remove(at).offset,
            None => fs::metadata(path).map_or(0, |metadata| metadata.len()),
        }
    }

    /// Up to where the log was once on disk.
    fn committed(&mut self, path: &Path) -> Option<u64> {
        match disk::read_optional(path) {
            Ok(Some(bytes))
                if committed::newest(&bytes).is_none() && !committed::is_unused(&bytes) =>
            {
                self.note(
                    path,
                    StoreError::damaged(path, 0, "neither of its two slots can be read"),
                );
                None
            }
            Ok(_) => committed::read(path).ok().flatten().map(|id| id.index),
            Err(error) => {
                self.note(path, error);
                None
            }
        }
    }

    /// Checks the segments; says where the next record would go.
    fn raft_segments(
        &mut self,
        dir: &Path,
        segments: &[(u64, PathBuf)],
        purged: Option<u64>,
        truncating: Option<u64>,
    ) -> u64 {
        let mut next = purged.map_or(0, |purged| purged + 1);
        if let Some((first, _)) = segments.first() {
            let start = purged.map_or(raft_recovery::FIRST_INDEX_MAX, |purged| purged + 1);
            if *first > start {
                let path = dir.join(DiskName::RaftSegment(start).file_name());
                let what = format!(
                    "the log should begin at {start} and its first segment begins at {first}"
                );
                self.note(&path, StoreError::missing(&path, what));
            }
        }
        for (position, (first, path)) in segments.iter().enumerate() {
            let next_first = segments.get(position + 1).map(|(first, _)| *first);
            // What the next start removes need not be whole.
            let going = purged
                .is_some_and(|purged| next_first.is_some_and(|next| next <= purged + 1))
                || truncating.is_some_and(|from| *first >= from);
            if going {
                continue;
            }
            let bytes = match fs::read(path) {
                Ok(bytes) => bytes,
                Err(source) => {
                    self.note(path, StoreError::io("read", path)(source));
                    continue;
                }
            };
            let after = self.raft_segment(*first, path, &bytes, next_first, truncating);
            next = next.max(after);
            self.done(path, bytes.len() as u64);
        }
        next
    }

    fn raft_segment(
        &mut self,
        first: u64,
        path: &Path,
        bytes: &[u8],
        next_first: Option<u64>,
        truncating: Option<u64>,
    ) -> u64 {
        let scan = match raft_recovery::scan(bytes, first) {
            Ok(scan) => scan,
            Err((at, what)) => {
                self.note(path, StoreError::damaged(path, at, what));
                return first;
            }
        };
        let next = first + scan.offsets.len() as u64;
        self.report.raft_records += scan.offsets.len() as u64;
        if truncating.is_some_and(|from| from <= next) {
            return next;
        }
        if let Some(expected) = next_first.filter(|&expected| expected != next) {
            let what = format!(
                "records {next} to {} cannot be read",
                expected.saturating_sub(1)
            );
            self.note(path, StoreError::damaged(path, scan.end as u64, what));
            return next;
        }
        match scan.tail {
            Some(tail) if tail.damage || next_first.is_some() => {
                self.note(path, StoreError::damaged(path, scan.end as u64, tail.what));
            }
            Some(tail) => self.report.repairable.push(Fault {
                path: path.to_owned(),
                offset: scan.end as u64,
                what: tail.what.to_owned(),
                help: "it was never acknowledged; the next start cuts it off".to_owned(),
            }),
            None => {}
        }
        next
    }

    /// Checks the snapshots. The frame that the newest readable one ends at; `None` when there are
    /// snapshots and none can be read.
    fn snapshots(&mut self, dir: &Path) -> Result<Option<Index>, StoreError> {
        let found = snapshots::list(dir)?;
        let mut frame = found.is_empty().then_some(Index::ZERO);
        for (index, path) in found {
            match snapshots::read(&path, index) {
                Ok(snapshot) => {
                    frame = Some(snapshot.frame);
                    self.done(&path, (snapshot.meta.len() + snapshot.data.len()) as u64);
                }
                Err(error) => self.note(&path, error),
            }
        }
        Ok(frame)
    }
}

fn fault_of(path: &Path, error: StoreError) -> Fault {
    match error {
        StoreError::Damaged {
            path,
            offset,
            what,
            help,
        } => Fault {
            path,
            offset,
            what,
            help,
        },
        StoreError::Missing { path, what, help } => Fault {
            path,
            offset: 0,
            what: format!("the file is missing: {what}"),
            help,
        },
        StoreError::Io {
            action,
            path,
            source,
        } => Fault {
            what: format!("cannot {action} it: {source}"),
            offset: 0,
            help: "look at the permissions and at the kernel's log of the disk".to_owned(),
            path,
        },
        other => Fault {
            path: path.to_owned(),
            offset: 0,
            what: other.to_string(),
            help: verify_help(path),
        },
    }
}
