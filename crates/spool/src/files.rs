//! The files of the spool, and how they are read after a crash.
//!
//! ```text
//! spool/lock              held while an agent uses the directory
//! spool/sender            who sends, under which epochs
//! spool/acknowledged      the last position that the timeline has
//! spool/<first>.spool     records, each file up to a size, the newest is appended to
//! spool/refused.ndjson    what the timeline refused for good after it had been taken
//! ```
//!
//! Only the newest file has anything that is not on the disk: the one before is flushed when the next is
//! begun. A start writes the newest again before it goes on behind it, as what it reads there may be in
//! the memory of the machine alone, also when it had been flushed and that had failed.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;
use tidings_host::fs::{self, File, FileExt as _, OpenOptions};

use crate::record::{self, HEAD_BYTES, RECORD_HEAD_BYTES, Read};
use crate::sender::{self, Sender};

/// A file whose records the timeline has is begun anew beyond this part of a file's size, although it
/// is the newest: so the spool of an agent that reaches a server stays in the cache and never gets to
/// the disk.
const WORN_PART: u64 = 8;

/// What is kept of refused transactions, at most.
const REFUSED_BYTES_MAX: u64 = 64 << 20;

/// Bytes that are read of a file at once.
const READ_BYTES: u64 = 1 << 20;

/// Why the spool cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// The file system refused.
    #[error("{} cannot be used", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent has it.
    #[error("{} is in use by another agent: give each a data directory of its own", path.display())]
    InUse {
        /// Which directory.
        path: PathBuf,
    },
    /// What is there is not what was written.
    #[error(
        "{} is damaged at byte {offset}: events that were taken stand behind it. Bring the file back from a copy, or move it away to go on without what it holds",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
    },
    /// The file that says under which numbers records were sent.
    #[error(
        "{} cannot be read, and without it nobody knows under which numbers events were sent. Bring the file back from a copy, or move it away: then what is in the spool is sent anew, and what was sent just before may be on the timeline twice",
        path.display()
    )]
    Sender {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Positions of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// One before `first` when it is empty.
    pub(crate) last: u64,
    pub(crate) bytes: u64,
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) sender: Option<Sender>,
    /// The last position that the timeline has.
    pub(crate) acknowledged: u64,
    /// Bytes of records that it does not have.
    pub(crate) bytes: u64,
    /// The last position.
    pub(crate) last: u64,
    /// Positions that a file which was moved away had: from, to.
    pub(crate) holes: Vec<(u64, u64)>,
    /// Bytes that were cut off the end of the newest file.
    pub(crate) cut: u64,
}

/// Why something was not written.
#[derive(Debug, Error)]
pub(crate) enum WriteError {
    /// It was not, and can be tried again.
    #[error("writing failed: {0}")]
    Write(#[from] io::Error),
    /// A flush failed. The kernel may have dropped what it could not write: another flush would lie.
    #[error("flushing failed: {0}; restart the agent")]
    Flush(#[source] io::Error),
}

/// The directory, while this process has it.
#[derive(Debug)]
pub(crate) struct Files {
    directory: PathBuf,
    /// A file is followed by the next one beyond this size.
    file_bytes: u64,
    segments: Vec<Segment>,
    /// The newest.
    newest: Option<File>,
    _lock: File,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    |source| SpoolError::Io { path, source }
}

fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{first:020}.spool"))
}

impl Files {
    /// Takes the directory and reads what is in it.
    pub(crate) fn open(directory: &Path, file_bytes: u64) -> Result<(Files, Found), SpoolError> {
        if !fs::is_dir(directory) {
            fs::create_dir_all(directory).map_err(at(directory))?;
            sender::sync_directory_of(directory).map_err(at(directory))?;
        }
        let lock_path = directory.join("lock");
        let mut lock = File::create(&lock_path).map_err(at(&lock_path))?;
        if !fs::try_lock(&mut lock).map_err(at(&lock_path))? {
            return Err(SpoolError::InUse {
                path: directory.to_owned(),
            });
        }
        let sender_path = directory.join("sender");
        let sender = Sender::read(&sender_path).map_err(|source| SpoolError::Sender {
            path: sender_path,
            source,
        })?;
        let mut firsts = Vec::new();
        for entry in fs::read_dir(directory).map_err(at(directory))? {
            let name = entry.map_err(at(directory))?.file_name();
            let first = name.to_str().and_then(|name| name.strip_suffix(".spool"));
            firsts.extend(first.and_then(|first| first.parse::<u64>().ok()));
        }
        firsts.sort_unstable();
        let acknowledged_path = directory.join("acknowledged");
        let mut acknowledged = read_acknowledged(&acknowledged_path);
        let mut found = Found {
            sender,
            acknowledged: 0,
            bytes: 0,
            last: 0,
            holes: Vec::new(),
            cut: 0,
        };
        let mut segments: Vec<Segment> = Vec::new();
        for (place, first) in firsts.iter().copied().enumerate() {
            let next = firsts.get(place + 1).copied();
            let scanned = scan(directory, first, next, acknowledged)?;
            let Some((segment, unacknowledged, cut)) = scanned else {
                continue;
            };
            // Nothing was ever in it, and it must not look like the last one before a hole.
            if segment.last < segment.first && next.is_some() {
                let path = segment_path(directory, first);
                fs::remove_file(&path).map_err(at(&path))?;
                continue;
            }
            found.cut += cut;
            found.bytes += unacknowledged;
            let before = segments.last().map(|before| before.last + 1);
            if let Some(expected) = before.filter(|expected| *expected < segment.first) {
                found.holes.push((expected, segment.first - 1));
            }
            segments.push(segment);
        }
        if let Some(oldest) = segments.first() {
            acknowledged = acknowledged.max(oldest.first - 1);
        }
        let begun = found.sender.iter().flat_map(|sender| &sender.epochs);
        let given_out = begun.map(|epoch| epoch.first - 1).max().unwrap_or(0);
        let in_files = segments.last().map_or(0, |segment| segment.last);
        found.last = in_files.max(acknowledged);
        if segments.is_empty() {
            // Nothing was left to send: positions go on behind those that were given out.
            found.last = found.last.max(given_out);
            acknowledged = found.last;
        }
        found.acknowledged = acknowledged;
        // What is forgotten because of it must not be asked for after a power cut.
        write_acknowledged(&acknowledged_path, acknowledged)
            .and_then(|file| file.sync_all())
            .and_then(|()| sender::sync_directory_of(&acknowledged_path))
            .map_err(at(&acknowledged_path))?;
        found.holes.retain(|(_, to)| *to > acknowledged);
        let files = Files {
            directory: directory.to_owned(),
            file_bytes,
            segments,
            newest: None,
            _lock: lock,
        };
        Ok((files, found))
    }

    /// Where it is.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Appends records from a position on, in one write. What was written before stays whole when it
    /// fails.
    pub(crate) fn append(&mut self, first: u64, lines: &[Bytes]) -> Result<(), WriteError> {
        let is_full = self
            .segments
            .last()
            .is_none_or(|newest| newest.bytes >= self.file_bytes || newest.last + 1 != first);
        if is_full || self.newest.is_none() {
            self.begin(first)?;
        }
        let (Some(file), Some(segment)) = (&mut self.newest, self.segments.last_mut()) else {
            return Err(io::Error::other("no file was begun").into());
        };
        let mut bytes = Vec::with_capacity(
            lines
                .iter()
                .map(|line| line.len() + RECORD_HEAD_BYTES)
                .sum(),
        );
        for line in lines {
            record::push(line, &mut bytes);
        }
        if let Err(error) = file.write_all_at(&bytes, segment.bytes) {
            // Half a record must not stand at the end.
            file.set_len(segment.bytes)?;
            return Err(error.into());
        }
        segment.bytes += bytes.len() as u64;
        segment.last += lines.len() as u64;
        Ok(())
    }

    /// Begins a file.
    fn begin(&mut self, first: u64) -> Result<(), WriteError> {
        // Only the newest is flushed later on.
        self.flush()?;
        self.newest = None;
        let path = segment_path(&self.directory, first);
        if let Some(empty) = self.segments.pop_if(|segment| segment.last < segment.first) {
            fs::remove_file(segment_path(&self.directory, empty.first))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(&path)?;
        file.write_all_at(&record::head(first), 0)?;
        sender::sync_directory_of(&path).map_err(WriteError::Flush)?;
        self.newest = Some(file);
        self.segments.push(Segment {
            first,
            last: first - 1,
            bytes: HEAD_BYTES as u64,
        });
        Ok(())
    }

    /// Makes everything that was appended durable.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        let (Some(file), Some(segment)) = (&self.newest, self.segments.last_mut()) else {
            return Ok(());
        };
        file.sync_data().map_err(WriteError::Flush)?;
        // Without it damage in what was flushed would pass for torn, and there may be no room for it.
        if file.write_all_at(&record::mark(), segment.bytes).is_ok() {
            segment.bytes += RECORD_HEAD_BYTES as u64;
        }
        Ok(())
    }

    /// Removes what the timeline has, up to a position.
    pub(crate) fn acknowledge(&mut self, position: u64) -> Result<(), WriteError> {
        write_acknowledged(&self.directory.join("acknowledged"), position)?;
        while let Some(oldest) = self.segments.first() {
            let is_newest = self.segments.len() == 1;
            let is_done = oldest.last <= position;
            if !is_done || is_newest && oldest.bytes < self.file_bytes / WORN_PART {
                break;
            }
            let path = segment_path(&self.directory, oldest.first);
            fs::remove_file(&path)?;
            self.segments.remove(0);
            if is_newest {
                self.newest = None;
            }
            // None may be gone, or begun, while one before it is there again.
            sender::sync_directory_of(&path).map_err(WriteError::Flush)?;
        }
        Ok(())
    }

    /// Writes down a transaction that the timeline refuses for good.
    pub(crate) fn keep_refused(&mut self, line: &str) -> io::Result<()> {
        let path = self.directory.join("refused.ndjson");
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        if file.metadata()?.len() + line.len() as u64 > REFUSED_BYTES_MAX {
            return Err(io::Error::other(format!(
                "{} has {REFUSED_BYTES_MAX} bytes: look at it, then move it away",
                path.display()
            )));
        }
        file.write_all(line.as_bytes())?;
        file.sync_all()?;
        sender::sync_directory_of(&path)
    }
}

/// Reads the records of a directory from a position on, up to a number of bytes. Whoever appends
/// meanwhile is not in the way.
pub(crate) fn read_from(directory: &Path, position: u64) -> io::Result<Vec<Bytes>> {
    let mut firsts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let first = name.to_str().and_then(|name| name.strip_suffix(".spool"));
        firsts.extend(first.and_then(|first| first.parse::<u64>().ok()));
    }
    let Some(first) = firsts.into_iter().filter(|first| *first <= position).max() else {
        return Err(io::Error::other(format!(
            "no file of the spool has position {position}"
        )));
    };
    let bytes = Bytes::from(fs::read(segment_path(directory, first))?);
    let mut offset = HEAD_BYTES;
    let mut lines = Vec::new();
    let (mut at, mut taken) = (first, 0);
    while let Some(rest) = bytes.get(offset..) {
        let (line, length) = match record::read(rest) {
            Read::Record(line, length) => (line, length),
            Read::Mark => {
                offset += RECORD_HEAD_BYTES;
                continue;
            }
            Read::End | Read::Broken => break,
        };
        if at >= position {
            lines.push(bytes.slice(offset + RECORD_HEAD_BYTES..offset + length));
            taken += line.len() as u64;
            if taken >= READ_BYTES {
                break;
            }
        }
        at += 1;
        offset += length;
    }
    match lines.is_empty() {
        true => Err(io::Error::other(format!(
            "{} does not hold position {position}",
            segment_path(directory, first).display()
        ))),
        false => Ok(lines),
    }
}

/// Looks through a file: its positions, the bytes of records that are not acknowledged, and how much
/// was cut off its end. `None` when nothing is left of it. The newest is on the disk afterwards.
fn scan(
    directory: &Path,
    first: u64,
    next: Option<u64>,
    acknowledged: u64,
) -> Result<Option<(Segment, u64, u64)>, SpoolError> {
    let is_newest = next.is_none();
    let path = segment_path(directory, first);
    let bytes = fs::read(&path).map_err(at(&path))?;
    let damaged = |offset: usize| SpoolError::Damaged {
        path: path.clone(),
        offset: offset as u64,
    };
    if record::read_head(&bytes) != Some(first) {
        // It was begun, and never flushed.
        if is_newest && !record::any_mark_in(&bytes) {
            fs::remove_file(&path).map_err(at(&path))?;
            return Ok(None);
        }
        return Err(damaged(0));
    }
    let (mut offset, mut last, mut unacknowledged) = (HEAD_BYTES, first - 1, 0);
    let mut cut = 0;
    loop {
        match record::read(&bytes[offset..]) {
            Read::Record(_, length) => {
                offset += length;
                last += 1;
                if last > acknowledged {
                    unacknowledged += length as u64;
                }
            }
            Read::Mark => offset += RECORD_HEAD_BYTES,
            Read::End => break,
            Read::Broken if is_newest && !record::any_mark_in(&bytes[offset..]) => {
                cut = (bytes.len() - offset) as u64;
                break;
            }
            // All its records are there: what is torn is the mark behind them.
            Read::Broken if next == Some(last + 1) => break,
            Read::Broken => return Err(damaged(offset)),
        }
    }
    if is_newest {
        write_again(&path, &bytes[..offset]).map_err(at(&path))?;
        offset += RECORD_HEAD_BYTES;
    }
    let segment = Segment {
        first,
        last,
        bytes: offset as u64,
    };
    Ok(Some((segment, unacknowledged, cut)))
}

/// The last position that the timeline has; 0 when that is not known, which costs only sending again.
fn read_acknowledged(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap_or_default();
    let Some((position, crc)) = bytes.split_first_chunk::<8>() else {
        return 0;
    };
    match crc == crc32fast::hash(position).to_le_bytes() {
        true => u64::from_le_bytes(*position),
        false => 0,
    }
}

/// Writes a file as it was read, and a mark behind it; what stood there is cut off. Beside the one that
/// is there: a power cut may tear what is written over.
fn write_again(path: &Path, bytes: &[u8]) -> io::Result<()> {
    sender::replace(path, &[bytes, &record::mark()].concat())
}

fn write_acknowledged(path: &Path, position: u64) -> io::Result<File> {
    let position = position.to_le_bytes();
    let crc = crc32fast::hash(&position).to_le_bytes();
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)?;
    file.write_all_at(&[&position[..], &crc].concat(), 0)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(from: u64, to: u64) -> Vec<Bytes> {
        (from..=to)
            .map(|position| Bytes::from(format!("line {position}")))
            .collect()
    }

    fn open(path: &Path) -> Result<(Files, Found), SpoolError> {
        Files::open(path, 8 << 20)
    }

    /// All records from a position on.
    fn all_from(directory: &Path, mut position: u64, last: u64) -> Vec<String> {
        let mut all = Vec::new();
        while position <= last {
            let some = read_from(directory, position).unwrap();
            position += some.len() as u64;
            all.extend(
                some.iter()
                    .map(|line| String::from_utf8_lossy(line).into_owned()),
            );
        }
        all
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, found) = open(path).unwrap();
        assert_eq!((found.last, found.acknowledged), (0, 0));
        files.append(1, &lines(1, 3)).unwrap();
        files.append(4, &lines(4, 5)).unwrap();
        files.flush().unwrap();
        assert!(matches!(open(path), Err(SpoolError::InUse { .. })));
        files.acknowledge(2).unwrap();
        drop(files);
        let (mut files, found) = open(path).unwrap();
        assert_eq!((found.last, found.acknowledged, found.cut), (5, 2, 0));
        assert_eq!(found.bytes, 3 * (8 + 6));
        assert_eq!(all_from(path, 3, 5), ["line 3", "line 4", "line 5"]);
        files.append(6, &lines(6, 6)).unwrap();
        assert_eq!(all_from(path, 5, 6), ["line 5", "line 6"]);
        files.acknowledge(6).unwrap();
        drop(files);
        let (_, found) = open(path).unwrap();
        assert_eq!((found.last, found.acknowledged, found.bytes), (6, 6, 0));
    }

    #[test]
    fn what_was_not_flushed_may_be_torn_and_damage_before_it_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, _) = open(path).unwrap();
        files.append(1, &lines(1, 3)).unwrap();
        let file = segment_path(path, 1);
        let whole = std::fs::read(&file).unwrap();
        files.flush().unwrap();
        files.append(4, &lines(4, 6)).unwrap();
        drop(files);
        let flushed = std::fs::read(&file).unwrap();
        for end in HEAD_BYTES..whole.len() {
            std::fs::write(&file, &whole[..end]).unwrap();
            let (files, found) = open(path).unwrap();
            let kept = (end - HEAD_BYTES) / 14;
            assert_eq!(found.last, kept as u64, "cut at {end}");
            assert_eq!(found.cut, ((end - HEAD_BYTES) % 14) as u64);
            drop(files);
        }
        for at in 0..flushed.len() {
            let mut flipped = flushed.clone();
            flipped[at] ^= 4;
            std::fs::write(&file, &flipped).unwrap();
            match open(path) {
                Err(SpoolError::Damaged { .. }) => assert!(at < whole.len(), "flip at {at}"),
                // In the mark itself, or behind it: of that nothing had to be kept.
                opened => {
                    let (_, found) = opened.unwrap();
                    assert!(at >= whole.len(), "flip at {at}");
                    assert!((3..6).contains(&found.last), "flip at {at}");
                }
            }
        }
        // Not even begun; the head was lost, and what was written behind it was not.
        let mut headless = whole.clone();
        headless[..HEAD_BYTES].fill(0);
        for begun in [&whole[..HEAD_BYTES - 1], &headless] {
            std::fs::write(&file, begun).unwrap();
            let (_, found) = open(path).unwrap();
            assert_eq!(found.last, 0);
            assert!(!file.exists());
        }
    }

    #[test]
    fn files_go_when_the_timeline_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (mut files, _) = open(path).unwrap();
        let line = Bytes::from(vec![b'x'; 3 << 20]);
        for position in 1..=7 {
            files.append(position, std::slice::from_ref(&line)).unwrap();
        }
        let firsts = |files: &Files| -> Vec<u64> {
            files.segments.iter().map(|segment| segment.first).collect()
        };
        assert_eq!(firsts(&files), [1, 4, 7]);
        files.acknowledge(3).unwrap();
        assert_eq!(firsts(&files), [4, 7]);
        files.acknowledge(7).unwrap();
        assert_eq!(firsts(&files), [0; 0]);
        files.append(8, &lines(8, 8)).unwrap();
        drop(files);
        // A file in the middle was moved away.
        let (mut files, _) = open(path).unwrap();
        for position in 9..=16 {
            files.append(position, std::slice::from_ref(&line)).unwrap();
        }
        let gone = firsts(&files)[1];
        let end = firsts(&files)[2] - 1;
        drop(files);
        std::fs::remove_file(segment_path(path, gone)).unwrap();
        let (_, found) = open(path).unwrap();
        assert_eq!(found.holes, [(gone, end)]);
    }

    #[test]
    fn an_empty_file_that_was_left_is_not_the_edge_of_a_hole() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = open(directory.path()).unwrap();
        files.append(9, &lines(9, 10)).unwrap();
        files.flush().unwrap();
        drop(files);
        std::fs::write(segment_path(directory.path(), 4), record::head(4)).unwrap();
        let (files, found) = open(directory.path()).unwrap();
        assert_eq!(found.holes, []);
        // What was before the oldest record was removed because the timeline had it.
        assert_eq!((found.acknowledged, found.last), (8, 10));
        drop(files);
        assert!(!segment_path(directory.path(), 4).exists());
    }

    #[test]
    fn a_file_that_a_start_left_empty_goes_with_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (mut files, _) = open(directory.path()).unwrap();
        files.begin(5).unwrap();
        drop(files);
        let (mut files, _) = open(directory.path()).unwrap();
        files.append(8, &lines(8, 8)).unwrap();
        files.flush().unwrap();
        drop(files);
        assert!(!segment_path(directory.path(), 5).exists());
        let (_, found) = open(directory.path()).unwrap();
        assert_eq!((found.holes, found.last), (Vec::new(), 8));
    }
}
