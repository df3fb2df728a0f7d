//! Under which name and numbers the records are sent.
//!
//! A record's number is its place in its epoch. A new epoch begins with every start: after a power cut
//! positions may be given out again, and what was sent under them before must not hide what is sent
//! under them now.

use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidings_host::fs::{self, File};

/// Who sends, and which epochs the positions belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sender {
    /// A ULID, made once for each place that the spool was in.
    pub(crate) id: String,
    /// Which place that is: a copy of the spool elsewhere must not give the same numbers to other
    /// records.
    pub(crate) home: String,
    /// Oldest first; each begins later, and is greater than those before of the same name.
    pub(crate) epochs: Vec<Epoch>,
}

/// The count that begins at a position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Epoch {
    /// Whose count it is.
    pub(crate) id: String,
    /// The position with the number 1.
    pub(crate) first: u64,
    /// When it began, in microseconds since 1970, or just after the one before.
    pub(crate) epoch: u64,
}

/// Epochs that are remembered: one for each start since the oldest record was taken.
const EPOCHS_MAX: usize = 10_000;

impl Sender {
    /// The epoch of a position.
    pub(crate) fn epoch_of(&self, position: u64) -> Option<&Epoch> {
        let mut found = self.epochs.iter().rev();
        found.find(|epoch| epoch.first <= position)
    }

    /// Takes another name for what comes when the spool is at another place than before: what it holds
    /// keeps the name under which it may have been sent, here or where it was copied from.
    pub(crate) fn move_to(&mut self, home: &str) {
        if self.home != home {
            home.clone_into(&mut self.home);
            self.id = tidings_host::ulid().to_string();
        }
    }

    /// The last position that belongs to the same epoch, as far as it has an end.
    pub(crate) fn end_of(&self, position: u64) -> Option<u64> {
        let next = self.epochs.iter().find(|epoch| epoch.first > position)?;
        Some(next.first - 1)
    }

    /// Takes another name for what comes, where epochs of the one before are ahead of what the timeline
    /// bears: nothing was taken under the new one, so it may begin at any time, also at one before what
    /// was taken under the old one.
    pub(crate) fn rename(&mut self) {
        self.id = tidings_host::ulid().to_string();
    }

    /// Begins a new epoch at a position: what was to be of another from there on is of this one.
    pub(crate) fn begin(&mut self, first: u64, now_micros: u64) {
        let same = self.epochs.iter().filter(|epoch| epoch.id == self.id);
        let after = same.map(|epoch| epoch.epoch + 1).max().unwrap_or(0);
        self.epochs.retain(|epoch| epoch.first < first);
        self.epochs.push(Epoch {
            id: self.id.clone(),
            first,
            epoch: now_micros.max(after),
        });
    }

    /// Forgets epochs that only positions up to here have.
    pub(crate) fn forget(&mut self, acknowledged: u64) {
        while self.epochs.len() > 1 && self.epochs[1].first <= acknowledged + 1 {
            self.epochs.remove(0);
        }
    }

    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is not as it was written.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Sender>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::other("its checksum does not match");
        let (crc, json) = text.trim_end().split_once(' ').ok_or_else(damaged)?;
        if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(json.as_bytes())) {
            return Err(damaged());
        }
        let sender: Sender = serde_json::from_str(json)?;
        let grows = |pair: &[Epoch]| {
            let is_later = pair[0].id != pair[1].id || pair[0].epoch < pair[1].epoch;
            pair[0].first < pair[1].first && is_later
        };
        match sender.epochs.windows(2).all(grows) {
            true => Ok(Some(sender)),
            false => Err(io::Error::other("its epochs are not in order")),
        }
    }

    /// Replaces the file, durably.
    ///
    /// # Errors
    /// When that fails; the file is then as before.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        if self.epochs.len() > EPOCHS_MAX {
            return Err(io::Error::other(
                "it began too often while no server was reached",
            ));
        }
        let json = serde_json::to_string(self)?;
        let crc = crc32fast::hash(json.as_bytes());
        replace(path, format!("{crc:08x} {json}\n").as_bytes())
    }
}

/// Names the place of a directory.
pub(crate) fn home_of(directory: &Path) -> io::Result<String> {
    let place = fs::place_of(directory)?;
    // Told to nobody as it is.
    Ok(format!("{:08x}", crc32fast::hash(place.as_bytes())))
}

/// Replaces a small file, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_directory_of(path)
}

/// Makes what was created or renamed in a directory durable.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> Sender {
        Sender {
            id: "01K0000000000000000000000A".to_owned(),
            home: "here".to_owned(),
            epochs: Vec::new(),
        }
    }

    #[test]
    fn epochs_grow_and_positions_belong_to_one() {
        let mut sender = sender();
        sender.begin(1, 100);
        sender.begin(5, 50);
        let id = sender.id.clone();
        let epoch = |first, epoch| {
            let id = id.clone();
            Some(Epoch { id, first, epoch })
        };
        assert_eq!(sender.epoch_of(4).cloned(), epoch(1, 100));
        assert_eq!(
            sender.epoch_of(9).cloned(),
            epoch(5, 101),
            "the clock went back"
        );
        assert_eq!((sender.end_of(4), sender.end_of(5)), (Some(4), None));
        // Sent anew from position 3 on, greater than what had been sent.
        sender.begin(3, 60);
        assert_eq!(sender.epoch_of(9).cloned(), epoch(3, 102));
        assert_eq!(sender.epoch_of(2).cloned(), epoch(1, 100));
        // Its clock was ahead, and nobody took it: another name may begin before.
        sender.begin(3, 1_000_000);
        sender.rename();
        sender.begin(3, 90);
        let renamed = sender.epoch_of(3).cloned().unwrap();
        assert_eq!((renamed.first, renamed.epoch), (3, 90));
        assert_ne!(renamed.id, id);
        sender.begin(4, 80);
        assert_eq!(sender.epoch_of(4).map(|epoch| epoch.epoch), Some(91));
        sender.forget(1);
        assert_eq!(sender.epochs.len(), 3);
        sender.forget(2);
        assert_eq!(sender.epochs.len(), 2);
    }

    #[test]
    fn the_file_is_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sender");
        assert_eq!(Sender::read(&path).unwrap(), None);
        let mut sender = sender();
        sender.begin(1, 100);
        sender.write(&path).unwrap();
        assert_eq!(Sender::read(&path).unwrap(), Some(sender));
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() - 1 {
            std::fs::write(&path, &bytes[..at]).unwrap();
            assert!(Sender::read(&path).is_err(), "cut at {at}");
        }
    }
}
