//! The files of segments: found, checked, opened and created.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tidings_event::{Index, Timestamp};
use tidings_host::fs::{self, File, FileExt as _, OpenOptions, OpenOptionsExt as _};
use tracing::warn;

use super::index_file::{self, FOOTER_BYTES, Footer, INDEX_HEAD_BYTES, encode_head};
use super::reader::{Active, Sealed};
use super::recovery::Recovered;
use super::{HistoryCut, VerifyOnStart, recovery};
use crate::disk;
use crate::error::{StoreError, verify_help};
use crate::layout::DiskName;

/// The two files of a segment.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) first: u64,
    pub(crate) lines: PathBuf,
    pub(crate) index: PathBuf,
}

/// The segment that is written, as it was opened.
pub(crate) struct Opened {
    pub(crate) lines: File,
    pub(crate) index: File,
    pub(crate) active: Active,
    pub(crate) cut: Option<HistoryCut>,
    pub(crate) reindexed: usize,
}

/// The segments in a folder, oldest first, and the indexes that removed ones have left. Up to
/// `durable_to` (all when it is `None`) no segment between two others may lack its lines. With
/// `clean`, files that were not finished go.
pub(crate) fn find_segments(
    dir: &Path,
    clean: bool,
    durable_to: Option<Index>,
) -> Result<(Vec<Pair>, Vec<PathBuf>), StoreError> {
    let mut pairs = BTreeMap::new();
    let mut indexes = Vec::new();
    let mut leftovers = Vec::new();
    for (name, path) in disk::list(dir, clean)? {
        match DiskName::parse(&name) {
            Some(DiskName::HistoryLines(first)) => {
                pairs.insert(first, path);
            }
            Some(DiskName::HistoryIndex(first)) => indexes.push((first, path)),
            Some(DiskName::HistoryOldest) => {}
            _ => {
                warn!(path = %path.display(), "a file that is not ours lies in the history's folder")
            }
        }
    }
    for (first, path) in indexes {
        if pairs.contains_key(&first) {
            continue;
        }
        let durable = durable_to.is_none_or(|durable_to| first <= durable_to.get());
        let between = durable
            && pairs.keys().next().is_some_and(|&oldest| oldest < first)
            && pairs
                .keys()
                .next_back()
                .is_some_and(|&newest| newest > first);
        if between {
            return Err(StoreError::missing(
                &path.with_extension("ndjson"),
                "its index is there",
            ));
        }
        leftovers.push(path);
    }
    let pair = |(first, lines): (u64, PathBuf)| Pair {
        first,
        index: lines.with_extension("idx"),
        lines,
    };
    Ok((pairs.into_iter().map(pair).collect(), leftovers))
}

/// Checks that a segment begins where the one before ends.
pub(crate) fn check_follows(
    pair: &Pair,
    before: Option<&Sealed>,
    dir: &Path,
) -> Result<(), StoreError> {
    match before {
        Some(before) if before.next() < pair.first => Err(StoreError::missing(
            &dir.join(DiskName::HistoryLines(before.next()).file_name()),
            format!(
                "frames {} to {} are in no segment",
                before.next(),
                pair.first - 1
            ),
        )),
        Some(before) if before.next() > pair.first => Err(StoreError::damaged(
            &pair.lines,
            0,
            format!(
                "frames from {} on are in the segment before as well",
                pair.first
            ),
        )),
        None if pair.first == 0 => Err(StoreError::damaged(
            &pair.lines,
            0,
            "there is no frame 0, so this is no segment",
        )),
        _ => Ok(()),
    }
}

/// Whether the index of the newest segment ends with a good footer. A bad one is that of a seal
/// that was interrupted.
pub(crate) fn looks_sealed(pair: &Pair) -> bool {
    read_footer(&pair.index).is_ok()
}

/// How many of the segments hold what is durable. Those behind are made again, synced or not.
pub(crate) fn durable_count(pairs: &[Pair], durable_to: Option<Index>) -> usize {
    let Some(durable_to) = durable_to else {
        return pairs.len();
    };
    let behind = durable_to.get().saturating_add(1);
    let count = pairs
        .partition_point(|pair| pair.first <= behind)
        .max(1)
        .min(pairs.len());
    match &pairs[..count] {
        // A snapshot completes the seals before it. This one came after: it is made again too.
        [.., before, last] if last.first == behind && was_seal_interrupted(before) => count - 1,
        _ => count,
    }
}

/// Whether a segment's footer never got to the disk: the index is too short for one, or has the
/// size and not the bytes.
fn was_seal_interrupted(pair: &Pair) -> bool {
    let Ok(bytes) = fs::read(&pair.index) else {
        return false;
    };
    let tail = &bytes[bytes.len().saturating_sub(FOOTER_BYTES)..];
    !index_file::has_footer(bytes.len() as u64) || tail.iter().all(|&byte| byte == 0)
}

/// The footer of an index file, its header unread.
pub(crate) fn read_footer(path: &Path) -> Result<Footer, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::missing(
                path,
                "every sealed segment has an index",
            ));
        }
        Err(source) => return Err(StoreError::io("open", path)(source)),
    };
    let bytes = file.metadata().map_err(StoreError::io("open", path))?.len();
    let mut tail = [0; FOOTER_BYTES];
    if bytes >= FOOTER_BYTES as u64 {
        file.read_exact_at(&mut tail, bytes - FOOTER_BYTES as u64)
            .map_err(StoreError::io("read", path))?;
    }
    Footer::decode(&tail, bytes).map_err(|(at, what)| StoreError::damaged(path, at, what))
}

/// Opens a sealed segment: footer, sizes and header, and with `All` every line.
pub(crate) fn open_sealed(pair: &Pair, verify: VerifyOnStart) -> Result<Sealed, StoreError> {
    let footer = read_footer(&pair.index)?;
    let metadata = fs::metadata(&pair.lines).map_err(StoreError::io("open", &pair.lines))?;
    if metadata.len() != footer.bytes {
        return Err(StoreError::damaged(
            &pair.lines,
            metadata.len().min(footer.bytes),
            format!(
                "the segment has {} bytes and was sealed with {}",
                metadata.len(),
                footer.bytes
            ),
        ));
    }
    if footer.count == 0 {
        return Err(StoreError::damaged(
            &pair.index,
            0,
            "an empty segment is never sealed",
        ));
    }
    if verify == VerifyOnStart::All {
        let (entries, footer) = recovery::load_index(&pair.index, pair.first)?;
        recovery::check_lines(
            &pair.lines,
            pair.first,
            &entries,
            footer.bytes,
            false,
            &mut |_| {},
        )?;
    } else {
        let mut head = [0; INDEX_HEAD_BYTES];
        File::open(&pair.index)
            .and_then(|file| file.read_exact_at(&mut head, 0))
            .map_err(StoreError::io("read", &pair.index))?;
        index_file::check_head(&head, pair.first)
            .map_err(|(at, what)| StoreError::damaged(&pair.index, at, what))?;
    }
    Ok(Sealed {
        first: pair.first,
        count: footer.count,
        bytes: footer.bytes,
        first_time: footer.first_time,
        last_time: footer.last_time,
    })
}

/// Checks that the good part of the newest segment reaches as far as the snapshot.
pub(crate) fn check_durable(
    pair: &Pair,
    recovered: &Recovered,
    durable_to: Index,
    dir: &Path,
) -> Result<(), StoreError> {
    let next = pair.first + recovered.entries.len() as u64;
    if next > durable_to.get() {
        return Ok(());
    }
    Err(match &recovered.fault {
        Some(what) => StoreError::damaged(
            &pair.lines,
            recovered.bytes,
            format!("frame {next}, which was on disk when the last snapshot was taken: {what}"),
        ),
        None => short(dir, next - 1, durable_to),
    })
}

/// Opens the segment that was being written, cut to what is whole.
pub(crate) fn open_active(
    pair: &Pair,
    durable_to: Index,
    dir: &Path,
) -> Result<Opened, StoreError> {
    let (recovered, file_bytes) = recovery::recover_files(&pair.lines, &pair.index, pair.first)?;
    check_durable(pair, &recovered, durable_to, dir)?;
    let lines = disk::open_existing(&pair.lines)?;
    let modified = lines.metadata().and_then(|metadata| metadata.modified());
    // In a file of its own, durable, before the lines are cut and written again: what a flush that failed
    // left of the old one is not known, and a sealed segment is never shorter than its footer says.
    let mut bytes = encode_head(pair.first).to_vec();
    recovered
        .entries
        .iter()
        .for_each(|entry| entry.encode(&mut bytes));
    disk::replace(&pair.index, &[&bytes])?;
    let mut cut = None;
    if let Some(what) = recovered.fault {
        warn!(path = %pair.lines.display(), offset = recovered.bytes, what, "the end of the history was cut off, to be applied again");
        lines
            .set_len(recovered.bytes)
            .map_err(StoreError::io("cut", &pair.lines))?;
        cut = Some(HistoryCut {
            path: pair.lines.clone(),
            offset: recovered.bytes,
            bytes: file_bytes - recovered.bytes,
            what,
        });
    }
    let reindexed = recovered.entries.len() - recovered.indexed;
    let index = disk::open_existing(&pair.index)?;
    let first_time = recovered.first_time.unwrap_or_default();
    let active = Active {
        first: pair.first,
        entries: recovered.entries,
        bytes: recovered.bytes,
        first_time,
        last_time: modified.map_or(first_time, from_system_time),
    };
    Ok(Opened {
        lines,
        index,
        active,
        cut,
        reindexed,
    })
}

fn from_system_time(time: SystemTime) -> Timestamp {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_unix_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Creates the two files of an empty segment. Their names are durable with the first sync of the
/// folder.
pub(crate) fn create_segment(dir: &Path, first: u64) -> Result<Opened, StoreError> {
    let create = |name: DiskName| {
        let path = dir.join(name.file_name());
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(disk::FILE_MODE)
            .open(&path)
            .map_err(StoreError::io("create", &path))
    };
    let lines = create(DiskName::HistoryLines(first))?;
    let index = create(DiskName::HistoryIndex(first))?;
    index
        .write_all_at(&encode_head(first), 0)
        .map_err(StoreError::io(
            "write",
            &dir.join(DiskName::HistoryIndex(first).file_name()),
        ))?;
    let active = Active {
        first,
        ..Active::default()
    };
    Ok(Opened {
        lines,
        index,
        active,
        cut: None,
        reindexed: 0,
    })
}

pub(crate) fn short(dir: &Path, newest: u64, wanted: Index) -> StoreError {
    StoreError::HistoryShort {
        path: dir.to_owned(),
        newest,
        wanted: wanted.get(),
        help: verify_help(&dir.join("any")),
    }
}
