//! The names on disk: every file that a data directory may hold.
//!
//! ```text
//! <data>/lock                              flock(2): two agents on one directory are refused
//! <data>/format                            the version of all formats below, as one line of text
//! <data>/history/{first:020}.ndjson        frames, exactly as they are streamed
//! <data>/history/{first:020}.idx           offset, checksum and digest of each frame
//! <data>/history/oldest                    the frame that the oldest segment begins at
//! <data>/raft/{first:020}.log              records of the Raft log
//! <data>/raft/spare.{place}.log            segments ready to be renamed into use, places 0 to 3
//! <data>/raft/vote                         the vote (replaced atomically)
//! <data>/raft/committed                    the committed log id (two slots, written in turn)
//! <data>/raft/purged                       the log id up to which the log was purged
//! <data>/raft/truncating                   there only while a suffix is being cut off
//! <data>/snapshots/{log index:020}.snap    snapshots of the state
//! <data>/incoming/history/                 a history that another server sends, segment by segment
//! <data>/incoming/history/{first:020}.ndjson.part    a segment of which only the beginning has come
//! <data>/incoming/{crc:08x}.{bytes}.state  the state that goes with it, as far as it has come
//! <data>/incoming/{log index:020}.snap     the state as a snapshot, ready to be installed
//! <data>/incoming/install                  there only while all of this takes the place of the old
//! <any>/{name}.tmp                         a file that was not finished; removed at the next start
//! ```

/// One file of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskName {
    /// `lock`
    Lock,
    /// `format`
    Format,
    /// `history/{first:020}.ndjson`
    HistoryLines(u64),
    /// `history/{first:020}.idx`
    HistoryIndex(u64),
    /// `history/oldest`
    HistoryOldest,
    /// `raft/{first:020}.log`
    RaftSegment(u64),
    /// `raft/spare.{place}.log`, places below [`SPARE_SEGMENTS_MAX`]
    RaftSpare(u8),
    /// `raft/vote`
    RaftVote,
    /// `raft/committed`
    RaftCommitted,
    /// `raft/purged`
    RaftPurged,
    /// `raft/truncating`
    RaftTruncating,
    /// `snapshots/{log index:020}.snap`
    Snapshot(u64),
    /// `incoming/history/{first:020}.ndjson.part`
    HistoryPart(u64),
    /// `incoming/install`
    Install,
}

/// The folder of the history's segments.
pub(crate) const HISTORY_FOLDER: &str = "history";
/// The folder of the Raft log.
pub(crate) const RAFT_FOLDER: &str = "raft";
/// The folder of the snapshots.
pub(crate) const SNAPSHOT_FOLDER: &str = "snapshots";
/// The folder of what another server sends.
pub(crate) const INCOMING_FOLDER: &str = "incoming";
/// How many spare segments a Raft log keeps: what one snapshot makes dispensable is mostly reused,
/// and the disk space that is held back stays small (256 MiB with segments of 64 MiB).
pub(crate) const SPARE_SEGMENTS_MAX: u8 = 4;
/// How the name of an unfinished file ends.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

impl DiskName {
    /// The file's name in its folder.
    pub(crate) fn file_name(self) -> String {
        match self {
            Self::Lock => "lock".to_owned(),
            Self::Format => "format".to_owned(),
            Self::HistoryLines(first) => format!("{first:020}.ndjson"),
            Self::HistoryIndex(first) => format!("{first:020}.idx"),
            Self::HistoryOldest => "oldest".to_owned(),
            Self::RaftSegment(first) => format!("{first:020}.log"),
            Self::RaftSpare(place) => format!("spare.{place}.log"),
            Self::RaftVote => "vote".to_owned(),
            Self::RaftCommitted => "committed".to_owned(),
            Self::RaftPurged => "purged".to_owned(),
            Self::RaftTruncating => "truncating".to_owned(),
            Self::Snapshot(index) => format!("{index:020}.snap"),
            Self::HistoryPart(first) => format!("{first:020}.ndjson.part"),
            Self::Install => "install".to_owned(),
        }
    }

    /// The inverse of [`DiskName::file_name`]; `None` for a name that is not ours.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "lock" => return Some(Self::Lock),
            "format" => return Some(Self::Format),
            "oldest" => return Some(Self::HistoryOldest),
            "vote" => return Some(Self::RaftVote),
            "committed" => return Some(Self::RaftCommitted),
            "purged" => return Some(Self::RaftPurged),
            "truncating" => return Some(Self::RaftTruncating),
            "install" => return Some(Self::Install),
            _ => {}
        }
        if let Some(place) = name
            .strip_prefix("spare.")
            .and_then(|rest| rest.strip_suffix(".log"))
        {
            return (0..SPARE_SEGMENTS_MAX)
                .find(|known| known.to_string() == place)
                .map(Self::RaftSpare);
        }
        let (number, suffix) = name.split_once('.')?;
        if number.len() != 20 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let number = number.parse().ok()?;
        match suffix {
            "ndjson" => Some(Self::HistoryLines(number)),
            "idx" => Some(Self::HistoryIndex(number)),
            "log" => Some(Self::RaftSegment(number)),
            "snap" => Some(Self::Snapshot(number)),
            "ndjson.part" => Some(Self::HistoryPart(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fixed_and_read_back() {
        // Stored names: append only.
        let pinned = [
            (DiskName::Lock, "lock"),
            (DiskName::Format, "format"),
            (DiskName::HistoryLines(1), "00000000000000000001.ndjson"),
            (DiskName::HistoryIndex(7), "00000000000000000007.idx"),
            (DiskName::HistoryOldest, "oldest"),
            (DiskName::RaftSegment(0), "00000000000000000000.log"),
            (DiskName::RaftSpare(0), "spare.0.log"),
            (DiskName::RaftSpare(3), "spare.3.log"),
            (DiskName::RaftVote, "vote"),
            (DiskName::RaftCommitted, "committed"),
            (DiskName::RaftPurged, "purged"),
            (DiskName::RaftTruncating, "truncating"),
            (DiskName::Snapshot(u64::MAX), "18446744073709551615.snap"),
            (DiskName::HistoryPart(1), "00000000000000000001.ndjson.part"),
            (DiskName::Install, "install"),
        ];
        for (name, text) in pinned {
            assert_eq!(name.file_name(), text);
            assert_eq!(DiskName::parse(text), Some(name));
        }
        for foreign in [
            "",
            "1.log",
            "spare.log",
            "spare.4.log",
            "spare.00.log",
            "00000000000000000001.ndjson.tmp",
            "99999999999999999999.log",
            "+0000000000000000001.log",
        ] {
            assert_eq!(DiskName::parse(foreign), None, "{foreign}");
        }
    }
}
