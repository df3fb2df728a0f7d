use std::{
    fmt::Display,
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use tidings_host::fs::{self, File};
use tidings_timeline::TimelineId;

use crate::error::OpenError;

/// The file that says whose data directory it is: the server's number, decimal, and a newline.
pub(crate) const NODE_FILE: &str = "node";
/// The number of a server whose log has not begun: others may know it by that already.
pub(crate) const CANDIDATE_FILE: &str = "node.candidate";
/// Which timeline the log is of, before the log is read.
pub(crate) const TIMELINE_FILE: &str = "timeline";

/// The number of the server that this one takes the place of: one whose files were set aside.
pub(crate) const REPLACES_FILE: &str = "node.replaces";
/// The number of the server that has this one's word to form a cluster.
pub(crate) const WORD_FILE: &str = "word";
/// The number of a server that has belonged to a cluster: one that is removed does not join again.
pub(crate) const MEMBER_FILE: &str = "member";
/// The number of a server that was removed from its cluster.
pub(crate) const REMOVED_FILE: &str = "removed";

/// Whose data directory `data_dir` is; `None` while it is nobody's.
///
/// # Errors
///
/// When the file cannot be read or holds no number.
pub fn stored_node_id(data_dir: &Path) -> Result<Option<u64>, OpenError> {
    read_number(data_dir.join(NODE_FILE))
}

/// The number in a file; `None` when there is no file.
fn read_number<N: FromStr>(path: PathBuf) -> Result<Option<N>, OpenError> {
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::NodeFile { path, source }),
    };
    match text.trim_end().parse() {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err(OpenError::NodeFileContent {
            path,
            found: text.chars().take(64).collect(),
        }),
    }
}

/// Checks that a server may use a data directory. `true` when it is its first start.
///
/// A directory that has an owner but no log is refused: the number would go on with an empty log.
pub(crate) fn admit(data_dir: &Path, node_id: u64, log_is_new: bool) -> Result<bool, OpenError> {
    check_owner(data_dir, node_id)?;
    match stored_node_id(data_dir)? {
        Some(node) if log_is_new => Err(OpenError::LogMissing {
            node,
            path: data_dir.to_path_buf(),
        }),
        // without the file: a first start that was interrupted after the log began
        _ => Ok(log_is_new),
    }
}

/// Checks that a data directory does not belong to another server.
pub(crate) fn check_owner(data_dir: &Path, node_id: u64) -> Result<(), OpenError> {
    match stored_node_id(data_dir)? {
        Some(stored) if stored != node_id => Err(OpenError::OtherNode {
            stored,
            configured: node_id,
        }),
        _ => Ok(()),
    }
}

/// Makes `node_id` the owner of `data_dir`, durably. Called once its log has begun.
pub(crate) fn record(data_dir: &Path, node_id: u64) -> Result<(), OpenError> {
    if stored_node_id(data_dir)?.is_some() {
        return Ok(());
    }
    let path = data_dir.join(NODE_FILE);
    write_durably(data_dir, &path, node_id).map_err(|source| OpenError::NodeFile { path, source })
}

/// The number of a server that has peers: made of chance at its first start, and kept from then on.
pub(crate) fn own_or_new(data_dir: &Path) -> Result<u64, OpenError> {
    check_not_removed(data_dir)?;
    if let Some(id) = stored_node_id(data_dir)? {
        return Ok(id);
    }
    let path = data_dir.join(CANDIDATE_FILE);
    if let Some(id) = read_number(path.clone())? {
        return Ok(id);
    }
    let id = tidings_host::random();
    fs::create_dir_all(data_dir)
        .and_then(|()| write_durably(data_dir, &path, id))
        .map_err(|source| OpenError::NodeFile { path, source })?;
    Ok(id)
}

/// Which timeline a data directory holds, as far as it was noted.
pub(crate) fn stored_timeline(data_dir: &Path) -> Result<Option<TimelineId>, OpenError> {
    Ok(read_number(data_dir.join(TIMELINE_FILE))?.map(TimelineId))
}

/// Notes which timeline a data directory holds, durably.
pub(crate) fn record_timeline(data_dir: &Path, timeline: TimelineId) -> Result<(), OpenError> {
    let path = data_dir.join(TIMELINE_FILE);
    write_durably(data_dir, &path, timeline.0)
        .map_err(|source| OpenError::NodeFile { path, source })
}

/// To whom a fresh server has given its word to form a cluster.
pub(crate) fn stored_word(data_dir: &Path) -> Result<Option<u64>, OpenError> {
    read_number(data_dir.join(WORD_FILE))
}

/// Notes a word before it is given, durably.
pub(crate) fn record_word(data_dir: &Path, to: u64) -> Result<(), OpenError> {
    let path = data_dir.join(WORD_FILE);
    write_durably(data_dir, &path, to).map_err(|source| OpenError::NodeFile { path, source })
}

/// Whether this server belonged to a cluster once.
pub(crate) fn was_member(data_dir: &Path) -> Result<bool, OpenError> {
    Ok(read_number::<u64>(data_dir.join(MEMBER_FILE))?.is_some())
}

/// Notes that this server belongs to a cluster, durably.
pub(crate) fn record_member(data_dir: &Path, node_id: u64) -> Result<(), OpenError> {
    let path = data_dir.join(MEMBER_FILE);
    write_durably(data_dir, &path, node_id).map_err(|source| OpenError::NodeFile { path, source })
}

/// Refuses the data directory of a server that was removed from its cluster.
pub(crate) fn check_not_removed(data_dir: &Path) -> Result<(), OpenError> {
    match read_number(data_dir.join(REMOVED_FILE))? {
        Some(node) => Err(OpenError::Removed {
            node,
            path: data_dir.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Notes that a server was removed from its cluster, durably.
pub(crate) fn record_removed(data_dir: &Path, node_id: u64) -> Result<(), OpenError> {
    let path = data_dir.join(REMOVED_FILE);
    write_durably(data_dir, &path, node_id).map_err(|source| OpenError::NodeFile { path, source })
}

/// The server that the one of this data directory takes the place of.
pub(crate) fn replaces(data_dir: &Path) -> Result<Option<u64>, OpenError> {
    read_number(data_dir.join(REPLACES_FILE))
}

/// Notes which server the next one in this directory takes the place of, durably.
pub(crate) fn record_replaces(data_dir: &Path, node_id: u64) -> Result<(), OpenError> {
    let path = data_dir.join(REPLACES_FILE);
    write_durably(data_dir, &path, node_id).map_err(|source| OpenError::NodeFile { path, source })
}

/// Forgets it: the other one is gone.
pub(crate) fn forget_replaces(data_dir: &Path) -> Result<(), OpenError> {
    let path = data_dir.join(REPLACES_FILE);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(OpenError::NodeFile { path, source })
        }
        _ => Ok(()),
    }
}

fn write_durably(data_dir: &Path, path: &PathBuf, number: impl Display) -> io::Result<()> {
    let unfinished = path.with_extension("tmp");
    let mut file = File::create(&unfinished)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stored_node_id(dir.path()).unwrap(), None);
        assert!(admit(dir.path(), 7, true).unwrap(), "first start");
        assert!(
            !admit(dir.path(), 7, false).unwrap(),
            "interrupted first start"
        );
        record(dir.path(), 7).unwrap();
        record(dir.path(), 7).unwrap();
        assert_eq!(stored_node_id(dir.path()).unwrap(), Some(7));
        assert!(!admit(dir.path(), 7, false).unwrap());
        assert!(matches!(
            admit(dir.path(), 8, false),
            Err(OpenError::OtherNode {
                stored: 7,
                configured: 8
            })
        ));
        assert!(matches!(
            admit(dir.path(), 7, true),
            Err(OpenError::LogMissing { node: 7, .. })
        ));
    }

    #[test]
    fn a_server_with_peers_keeps_the_number_of_its_first_start() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let id = own_or_new(&data_dir).unwrap();
        assert_eq!(own_or_new(&data_dir).unwrap(), id);
        assert!(admit(&data_dir, id, true).unwrap(), "its log may begin");
        record(&data_dir, id).unwrap();
        assert_eq!(own_or_new(&data_dir).unwrap(), id);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(own_or_new(other.path()).unwrap(), id);

        assert_eq!(stored_word(&data_dir).unwrap(), None);
        record_word(&data_dir, 4).unwrap();
        record_word(&data_dir, 5).unwrap();
        assert_eq!(stored_word(&data_dir).unwrap(), Some(5));
        assert!(!was_member(&data_dir).unwrap());
        record_member(&data_dir, id).unwrap();
        assert!(was_member(&data_dir).unwrap());

        assert_eq!(stored_timeline(&data_dir).unwrap(), None);
        record_timeline(&data_dir, TimelineId(u128::MAX)).unwrap();
        let stored = stored_timeline(&data_dir).unwrap();
        assert_eq!(stored, Some(TimelineId(u128::MAX)));
    }

    #[test]
    fn a_spoilt_file_is_not_guessed_at() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NODE_FILE), "seven").unwrap();
        assert!(matches!(
            stored_node_id(dir.path()),
            Err(OpenError::NodeFileContent { .. })
        ));
    }
}
