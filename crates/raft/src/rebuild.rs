//! A server whose disk is damaged, or whose files are not to be trusted: it says so, stops, and comes
//! back as a new one that gets everything from the others.
//!
//! ```text
//! damage is found ─▶ noted in `damaged` ─▶ no start with peers ─▶ set_aside ─▶ start, empty:
//!                                                                             a new number that
//!                                                                             replaces the old one
//! ```
//! The number changes because a number belongs to one log for ever: under the old one an empty log
//! could vote against what it has acknowledged.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tidings_host::fs;
use tidings_store::DataDir;

use crate::{
    error::OpenError,
    identity::{
        self, CANDIDATE_FILE, MEMBER_FILE, NODE_FILE, REMOVED_FILE, TIMELINE_FILE, WORD_FILE,
    },
};

/// What was found damaged, in words: there until the files are set aside, or a person removes it.
const DAMAGED_FILE: &str = "damaged";
/// How the folder is called to which files are set aside; a time follows.
const FOLDER_PREFIX: &str = "damaged-";
/// Bytes of the note that are read.
const NOTE_BYTES_MAX: usize = 4096;
/// Folders that one second can give a name to.
const FOLDERS_PER_SECOND_MAX: u32 = 100;

/// What another server, or a file, sends.
pub(crate) const INCOMING_FOLDER: &str = "incoming";

/// What belongs to a server's timeline, in the order in which it goes. The number goes last: until
/// then a start finds a server whose log is gone, and refuses.
pub(crate) const SERVER_FILES: [&str; 11] = [
    "history",
    "raft",
    "snapshots",
    INCOMING_FOLDER,
    DAMAGED_FILE,
    REMOVED_FILE,
    TIMELINE_FILE,
    WORD_FILE,
    MEMBER_FILE,
    CANDIDATE_FILE,
    NODE_FILE,
];

/// What [`set_aside`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where the old files are now.
    pub folder: PathBuf,
    /// The files and folders that were moved there.
    pub moved: Vec<&'static str>,
    /// The number of the server that the next start takes the place of; `None` when there was none,
    /// or the file with it could not be read.
    pub node: Option<u64>,
}

/// Moves the files of a server out of the way, for it to begin anew and get everything from the
/// others.
///
/// They go to a folder `damaged-…` in the data directory, where they stay until a person removes
/// them. What an agent holds beside the timeline, as its spool, stays where it is.
///
/// # Errors
///
/// When an agent works on the directory, when it is none, or when a file cannot be moved. It can be
/// called again then.
pub fn set_aside(data_dir: &Path) -> Result<SetAside, OpenError> {
    let store = |source| OpenError::Store {
        path: data_dir.to_owned(),
        source,
    };
    let _lock = DataDir::open_existing(data_dir).map_err(store)?;
    let node = match identity::stored_node_id(data_dir) {
        Ok(Some(node)) => Some(node),
        // Set aside before, and never began since.
        Ok(None) => identity::replaces(data_dir)?,
        Err(error) => {
            tracing::warn!(%error, "the number of the old server is not known");
            None
        }
    };
    if let Some(node) = node {
        identity::record_replaces(data_dir, node)?;
    }
    let aside = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| OpenError::SetAside { path, source }
    };
    let mut folder = None;
    let mut moved = Vec::new();
    for name in SERVER_FILES {
        let from = data_dir.join(name);
        if !is_there(&from).map_err(aside(&from))? {
            continue;
        }
        let to = match &folder {
            Some(folder) => folder,
            None => folder.insert(new_folder(data_dir).map_err(aside(data_dir))?),
        };
        fs::rename(&from, to.join(name)).map_err(aside(&from))?;
        moved.push(name);
    }
    let folder = folder.ok_or_else(|| OpenError::NothingToSetAside {
        path: data_dir.to_owned(),
    })?;
    for dir in [&folder, &data_dir.to_owned()] {
        let synced = fs::File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(aside(dir))?;
    }
    tracing::info!(folder = %folder.display(), node, "files set aside");
    Ok(SetAside {
        folder,
        moved,
        node,
    })
}

/// As `Path::try_exists`, of the host's files.
fn is_there(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A folder that was not there before.
fn new_folder(data_dir: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    for n in 0..FOLDERS_PER_SECOND_MAX {
        let name = match n {
            0 => format!("{FOLDER_PREFIX}{seconds}"),
            n => format!("{FOLDER_PREFIX}{seconds}.{n}"),
        };
        let folder = data_dir.join(name);
        if !is_there(&folder)? {
            fs::create_dir_all(&folder)?;
            return Ok(folder);
        }
    }
    Err(io::Error::other("too many folders of this name"))
}

/// Notes what was found damaged, for the next start.
pub(crate) fn note_damage(data_dir: &Path, what: &str) -> io::Result<()> {
    let path = data_dir.join(DAMAGED_FILE);
    if is_there(&path)? {
        return Ok(());
    }
    fs::write(&path, format!("{what}\n"))?;
    fs::File::open(data_dir)?.sync_all()
}

/// Refuses a data directory in which something was found damaged.
pub(crate) fn check_undamaged(data_dir: &Path) -> Result<(), OpenError> {
    let path = data_dir.join(DAMAGED_FILE);
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(OpenError::NodeFile { path, source }),
        Ok(mut note) => {
            note.truncate(NOTE_BYTES_MAX);
            Err(OpenError::FoundDamaged {
                data_dir: data_dir.to_owned(),
                note: path,
                what: String::from_utf8_lossy(&note).trim_end().to_owned(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(node: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        identity::record(dir.path(), node).unwrap();
        std::fs::write(dir.path().join("history/1.ndjson"), "old").unwrap();
        std::fs::create_dir(dir.path().join("spool")).unwrap();
        std::fs::write(dir.path().join("spool/1"), "taken").unwrap();
        dir
    }

    #[test]
    fn the_old_files_are_kept_and_the_next_start_knows_whom_it_replaces() {
        let dir = begun(7);
        let aside = set_aside(dir.path()).unwrap();
        assert_eq!(aside.node, Some(7));
        assert_eq!(aside.moved, ["history", "raft", "snapshots", NODE_FILE]);
        let old = std::fs::read(aside.folder.join("history/1.ndjson")).unwrap();
        assert_eq!(old, b"old");
        assert_eq!(std::fs::read(dir.path().join("spool/1")).unwrap(), b"taken");
        assert_eq!(identity::replaces(dir.path()).unwrap(), Some(7));
        let new = identity::own_or_new(dir.path()).unwrap();
        assert_ne!(new, 7);
        drop(DataDir::open(dir.path()).unwrap());

        // Once more, before it ever began: the old number is still the one to be replaced.
        let again = set_aside(dir.path()).unwrap();
        assert_eq!(again.node, Some(7));
        assert_ne!(again.folder, aside.folder);
        assert_eq!(identity::replaces(dir.path()).unwrap(), Some(7));
        identity::forget_replaces(dir.path()).unwrap();
        assert_eq!(identity::replaces(dir.path()).unwrap(), None);
    }

    #[test]
    fn what_is_in_use_or_no_data_directory_is_left_alone() {
        let dir = begun(7);
        let lock = DataDir::open(dir.path()).unwrap();
        let refused = set_aside(dir.path()).unwrap_err();
        let sentence = crate::error::chain(&refused);
        assert!(sentence.contains("in use by"), "{sentence}");
        assert_eq!(identity::stored_node_id(dir.path()).unwrap(), Some(7));
        assert_eq!(identity::replaces(dir.path()).unwrap(), None);
        drop(lock);

        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("node"), "mine").unwrap();
        assert!(set_aside(other.path()).is_err());
        assert!(other.path().join("node").exists());
    }

    #[test]
    fn an_interrupted_one_is_done_again() {
        let dir = begun(7);
        identity::record_replaces(dir.path(), 7).unwrap();
        std::fs::remove_dir_all(dir.path().join("history")).unwrap();
        let aside = set_aside(dir.path()).unwrap();
        assert_eq!(aside.node, Some(7));
        assert!(!aside.moved.contains(&"history"));
        let nothing = set_aside(dir.path()).unwrap_err();
        assert!(matches!(nothing, OpenError::NothingToSetAside { .. }));
    }

    #[test]
    fn a_start_is_refused_until_the_damage_is_seen_to() {
        let dir = begun(7);
        check_undamaged(dir.path()).unwrap();
        note_damage(dir.path(), "history/1.ndjson is damaged at byte 5").unwrap();
        note_damage(dir.path(), "something else").unwrap();
        let refused = check_undamaged(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("damaged at byte 5"), "{refused}");
        assert!(refused.contains("tidings rebuild --data-dir"), "{refused}");
        set_aside(dir.path()).unwrap();
        check_undamaged(dir.path()).unwrap();
    }
}
