use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use tidings_host::fs;
use tidings_store::{
    DataDir, Incoming, IncomingError, IncomingFile, RaftLog, RaftLogConfig, SnapshotOffer,
    StoreError,
};
use tidings_timeline::{StateMachine, TimelineId};
use tokio::io::AsyncRead;

use super::{STATE_BYTES_MAX, SnapshotFileError, SnapshotInfo, blocking, read::Archive};
use crate::{
    binding::{Ballot, EntryId, LeaderId, Members, Peer, StoredMembers},
    codec::{self, SnapshotHead},
    identity,
    rebuild::{INCOMING_FOLDER, SERVER_FILES},
};

/// Fills an empty data directory with a snapshot, for a new cluster of one server to begin with it:
/// for when all servers are lost. Start an agent on it; others join it with empty directories.
///
/// State and history are as they were. The timeline is another one, with an id of its own: frames that
/// came after the snapshot are lost, and their indexes are given to others. Whoever followed the old
/// one is told by the id, and servers of the old one are refused.
///
/// # Errors
///
/// When the directory is not empty, or the file is damaged. When it is interrupted, the directory is
/// to be emptied.
pub async fn found_from_snapshot<R>(
    data_dir: &Path,
    node_name: &str,
    reader: R,
) -> Result<SnapshotInfo, SnapshotFileError>
where
    R: AsyncRead + Unpin + Send,
{
    let mut archive = Archive::open(reader, STATE_BYTES_MAX).await?;
    let last = archive.head.covered()?.last;
    let last = last.ok_or(SnapshotFileError::Nothing)?;
    let state = archive.state().await?;
    let timeline = archive.decode(state.clone()).await?;
    let data_dir = data_dir.to_owned();
    let data = blocking({
        let data_dir = data_dir.clone();
        move || open_empty(&data_dir)
    })
    .await?;
    let offer = SnapshotOffer {
        state_bytes: archive.head.state_bytes,
        state_crc: archive.head.state_crc,
        frame: timeline.index(),
        segments: archive.segments.clone(),
    };
    let beginning = move |incoming: &mut Incoming| {
        // of an attempt before, with another file perhaps
        incoming.discard()?;
        incoming.begin(offer).map(drop)
    };
    let mut incoming = gathered(Incoming::new(&data_dir), beginning).await?;
    let writing =
        move |incoming: &mut Incoming| incoming.write(IncomingFile::State, 0, &state).map(drop);
    incoming = gathered(incoming, writing).await?;
    while let Some(lines) = archive.lines().await? {
        let writing = move |incoming: &mut Incoming| {
            let file = IncomingFile::Segment(lines.first);
            incoming.write(file, lines.offset, &lines.bytes).map(drop)
        };
        incoming = gathered(incoming, writing).await?;
    }
    let info = archive.info()?;
    let founding = Founding {
        node_id: tidings_host::random(),
        node_name: node_name.to_owned(),
        timeline: TimelineId(tidings_host::ulid().0),
        last,
    };
    blocking(move || {
        let founded = founding.complete(&data_dir, timeline, incoming);
        // unlocked once it is whole
        drop(data);
        founded
    })
    .await?;
    Ok(info)
}

/// Works at what is gathered, on a thread that may wait.
async fn gathered(
    mut incoming: Incoming,
    work: impl FnOnce(&mut Incoming) -> Result<(), IncomingError> + Send + 'static,
) -> Result<Incoming, SnapshotFileError> {
    blocking(move || {
        work(&mut incoming)?;
        Ok(incoming)
    })
    .await
}

fn fill(data_dir: &Path) -> impl Fn(StoreError) -> SnapshotFileError + use<> {
    let path = data_dir.to_owned();
    move |source| SnapshotFileError::Fill {
        path: path.clone(),
        source,
    }
}

/// Opens a data directory in which there is nothing of a server.
fn open_empty(data_dir: &Path) -> Result<DataDir, SnapshotFileError> {
    // Before anything is made there; and once nobody else can come in between.
    check_empty(data_dir)?;
    let data = DataDir::open(data_dir).map_err(fill(data_dir))?;
    check_empty(data_dir)?;
    Ok(data)
}

fn check_empty(data_dir: &Path) -> Result<(), SnapshotFileError> {
    let found = SERVER_FILES.iter().find(|name| {
        // what was gathered only, is thrown away
        **name != INCOMING_FOLDER && holds_something(&data_dir.join(name))
    });
    match found {
        Some(name) => Err(SnapshotFileError::NotEmpty {
            path: data_dir.join(name),
        }),
        None => Ok(()),
    }
}

/// Whether there is such a file, or a folder with something in it.
fn holds_something(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut names) => names.next().is_some(),
        Err(_) => fs::exists(path),
    }
}

/// A cluster of one server that begins with a snapshot.
struct Founding {
    node_id: u64,
    node_name: String,
    timeline: TimelineId,
    /// The last entry of the log that is lost.
    last: EntryId,
}

impl Founding {
    fn complete(
        self,
        data_dir: &Path,
        mut timeline: StateMachine,
        mut incoming: Incoming,
    ) -> Result<(), SnapshotFileError> {
        // Its number first: without a log no other server goes on with it.
        identity::record(data_dir, self.node_id)?;
        identity::record_timeline(data_dir, self.timeline)?;
        // whose files were set aside here is not of this cluster
        identity::forget_replaces(data_dir)?;
        timeline.begin_anew(self.timeline);
        let head = SnapshotHead {
            last: Some(self.last),
            members: self.alone()?,
            frame: timeline.index(),
        };
        let meta = codec::encode_snapshot_head(&head)?;
        incoming.prepare(timeline.segment_bytes())?;
        incoming.install(self.last.index, &meta, &timeline.snapshot())?;
        self.begin_log(data_dir)
            .map_err(|source| SnapshotFileError::Fill {
                path: data_dir.to_owned(),
                source,
            })
    }

    fn alone(&self) -> Result<StoredMembers, SnapshotFileError> {
        let me = Peer {
            name: self.node_name.clone(),
            ..Peer::default()
        };
        let alone = Members::new(
            vec![BTreeSet::from([self.node_id])],
            BTreeMap::from([(self.node_id, me)]),
        );
        let alone = alone.map_err(|error| SnapshotFileError::Stopped {
            reason: error.to_string(),
        })?;
        Ok(StoredMembers::new(Some(self.last), alone))
    }

    /// A log that begins after the snapshot, in a term of its own.
    fn begin_log(&self, data_dir: &Path) -> Result<(), StoreError> {
        let folder = data_dir.join("raft");
        let (log, _) = RaftLog::open(&folder, RaftLogConfig::default())?;
        let ballot = Ballot {
            leader_id: LeaderId {
                term: self.last.leader_id.term + 1,
                node_id: self.node_id,
            },
            committed: false,
        };
        log.save_vote(&codec::encode_ballot(&ballot))?;
        log.purge_to(codec::log_id_of(&self.last))?;
        log.close();
        Ok(())
    }
}
