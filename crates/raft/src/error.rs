use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tidings_store::StoreError;

use crate::codec::CodecError;

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A setting that cannot work.
    #[error("{setting} must be {expected}, it is {found}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// The files could not be opened, or are damaged.
    #[error("cannot open the files in {}", path.display())]
    Store {
        /// The data directory.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: StoreError,
    },
    /// The file with the server's number could not be read or written.
    #[error("cannot use {}", path.display())]
    NodeFile {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The file with the server's number holds something else.
    #[error("{} holds no server number: {found:?}", path.display())]
    NodeFileContent {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
    /// The directory belongs to another server.
    #[error(
        "the data directory belongs to server {stored}, this one is configured as {configured}"
    )]
    OtherNode {
        /// Whose it is.
        stored: u64,
        /// Who asked.
        configured: u64,
    },
    /// The log of a server that has had one is gone.
    ///
    /// Starting it with an empty log could make it vote against what it has acknowledged.
    #[error(
        "server {node} has had a log in {}, which is gone; restore it from a backup, or, when there \
         are other servers, run `tidings rebuild --data-dir {}` and start it again",
        path.display(),
        path.display()
    )]
    LogMissing {
        /// The server.
        node: u64,
        /// The data directory.
        path: PathBuf,
    },
    /// The others hold the timeline without this server.
    #[error(
        "this server (number {node}) was removed from its cluster and takes no part in it; to let it \
         join again, as a new server, move {} aside and start it with an empty data directory",
        path.display()
    )]
    Removed {
        /// The server.
        node: u64,
        /// The data directory.
        path: PathBuf,
    },
    /// The snapshot or the log holds something that this program does not understand.
    #[error("cannot read the {what}")]
    Content {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log was cut after a snapshot that is no longer there, or cannot be read.
    #[error(
        "the log begins after entry {purged}, {}; restore the newest snapshot from a backup, or, when \
         there are other servers, rebuild this one with `tidings rebuild --data-dir DIR`",
        match covered { Some(last) => format!("the snapshot ends at {last}"), None => "and there is no snapshot".to_owned() }
    )]
    LogBehind {
        /// The last entry that was cut off.
        purged: u64,
        /// The last entry of the newest snapshot that can be read.
        covered: Option<u64>,
    },
    /// Something was found damaged while the server ran.
    #[error(
        "files of this server were found damaged: {what}; `tidings verify --data-dir {}` tells more. \
         Run `tidings rebuild --data-dir {}` and start it again to get everything from the other \
         servers, or restore the file from a backup and remove {}",
        data_dir.display(),
        data_dir.display(),
        note.display()
    )]
    FoundDamaged {
        /// The data directory.
        data_dir: PathBuf,
        /// The file that says so.
        note: PathBuf,
        /// What it says.
        what: String,
    },
    /// A file could not be moved out of the way.
    #[error("cannot set {} aside; run the command again when that is mended", path.display())]
    SetAside {
        /// The file, or the folder it was to go to.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// There are no files of a server in a data directory.
    #[error("there is nothing to set aside in {}: a server that starts there begins anew", path.display())]
    NothingToSetAside {
        /// The data directory.
        path: PathBuf,
    },
    /// The consensus engine did not start or did not become ready.
    #[error("the consensus engine did not start: {reason}")]
    Engine {
        /// What it said.
        reason: String,
    },
    /// Other servers hold the timeline as well, and this one was opened without them.
    #[error("the servers {members:?} hold the timeline together, none of them can alone")]
    NotAlone {
        /// All of them that vote.
        members: Vec<u64>,
    },
    /// No leader was found in time: the cluster has more members, and none of them answers.
    #[error("no leader within {} s; the cluster has the servers {members:?}", waited.as_secs())]
    NoLeader {
        /// How long.
        waited: Duration,
        /// Who was looked for.
        members: Vec<u64>,
    },
}

impl OpenError {
    pub(crate) fn content(what: &'static str, source: CodecError) -> OpenError {
        OpenError::Content {
            what,
            source: source.into(),
        }
    }
}

/// Why commands were not taken, or what became of them is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much waits already. Nothing was recorded; come back.
    #[error("too many commands wait to be recorded; try again in {} ms", retry_after.as_millis())]
    Overloaded {
        /// How long to stay away.
        retry_after: Duration,
    },
    /// The disk is nearly full. Nothing was recorded; goes on by itself when there is room.
    #[error("the disk has {free} bytes free, {reserve} are kept in reserve")]
    DiskFull {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        reserve: u64,
    },
    /// More than one group may hold. Nothing was recorded.
    #[error("{bytes} bytes in one request, {bytes_max} are allowed")]
    TooLarge {
        /// How many bytes came.
        bytes: usize,
        /// How many may.
        bytes_max: usize,
    },
    /// Another server leads. Nothing was recorded.
    #[error("this server does not lead the cluster")]
    NotLeader {
        /// The leader, if it is known.
        leader: Option<u64>,
    },
    /// The leader changed or the server stopped underway: it may have been recorded, or not. Send it
    /// again with the same ids.
    #[error("the leader changed or the server stopped before the commands were answered")]
    Unknown {
        /// The leader, if it is known.
        leader: Option<u64>,
    },
    /// The server stops or has failed. Nothing was recorded.
    #[error("the server has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: Arc<str>,
    },
}

impl ProposeError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ProposeError::Overloaded { .. } => "overloaded",
            ProposeError::DiskFull { .. } => "disk_full",
            ProposeError::TooLarge { .. } => "too_large",
            ProposeError::NotLeader { .. } => "not_leader",
            ProposeError::Unknown { .. } => "outcome_unknown",
            ProposeError::Stopped { .. } => "stopped",
        }
    }
}

/// The whole chain of an error in one line, for a reason that outlives the error itself.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
