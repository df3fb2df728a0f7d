use std::{fmt, sync::Arc};

use openraft::{
    Entry, EntryPayload, Membership, OptionalSend, RaftTypeConfig, StoredMembership, Vote,
    impls::{BoxedErrorSource, InlineBatch, leader_id_adv},
    log_id::LogId,
    raft::responder::Responder,
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use tidings_timeline::{Batch, Outcome};
use tokio::sync::OwnedSemaphorePermit;

/// What the consensus engine is made of here: which node ids, entries, answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding;

/// (term, node id): two candidates of one term do not block each other.
pub(crate) type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub(crate) type EntryId = LogId<LeaderId>;
pub(crate) type Ballot = Vote<LeaderId>;
pub(crate) type Payload = EntryPayload<Proposal, u64, Peer>;
pub(crate) type LogEntry = Entry<LeaderId, Payload>;
pub(crate) type Members = Membership<u64, Peer>;
pub(crate) type StoredMembers = StoredMembership<LeaderId, u64, Peer>;

impl RaftTypeConfig for Binding {
    type D = Proposal;
    type R = Answer;
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Ballot;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = crate::runtime::Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A server of the cluster: what the others need to know to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    /// The node's name, for people.
    pub name: String,
    /// Where it listens for peers; empty while it has none.
    pub address: String,
    /// Where it answers clients; empty when that is not known.
    pub http: String,
    /// Whether it waits to be promoted by a person before it may vote.
    pub standby: bool,
    /// The number of the server that it takes the place of, as soon as it has the log.
    pub replaces: Option<u64>,
}

// === impl Proposal ===

/// The payload of one log entry.
///
/// On this node the batch is shared, never re-encoded: the log writes its parts, the state machine
/// reads them.
#[derive(Clone)]
pub(crate) struct Proposal {
    pub batch: Arc<Batch>,
    /// Held until the entry is on disk; `None` for entries that did not come from our proposer.
    unflushed: Option<Arc<Mutex<Option<OwnedSemaphorePermit>>>>,
}

impl Proposal {
    /// An entry that was read back or came from another node.
    pub fn stored(batch: Batch) -> Proposal {
        Proposal {
            batch: Arc::new(batch),
            unflushed: None,
        }
    }

    /// An entry of our own proposer, which waits for `permit` to come back from the disk.
    pub fn new(batch: Batch, permit: OwnedSemaphorePermit) -> Proposal {
        Proposal {
            batch: Arc::new(batch),
            unflushed: Some(Arc::new(Mutex::new(Some(permit)))),
        }
    }

    /// The permit to give back once the entry is on disk.
    pub fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.unflushed.as_ref().and_then(|slot| slot.lock().take())
    }

    /// How many bytes the entry takes in memory and, within a few, on disk.
    pub fn bytes_len(&self) -> usize {
        self.batch.groups.iter().map(|group| group.len()).sum()
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} groups, {} bytes",
            self.batch.groups.len(),
            self.bytes_len()
        )
    }
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.batch.parts().concat())
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Proposal, D::Error> {
        let bytes: Vec<u8> = deserializer.deserialize_byte_buf(ByteBuf)?;
        let batch = Batch::decode(bytes.into()).map_err(de::Error::custom)?;
        Ok(Proposal::stored(batch))
    }
}

/// Takes bytes in whatever shape a format has for them.
struct ByteBuf;

impl<'de> de::Visitor<'de> for ByteBuf {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a batch")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<u8>, A::Error> {
        let mut out = Vec::new();
        while let Some(byte) = bytes.next_element()? {
            out.push(byte);
        }
        Ok(out)
    }
}

// === impl Answer ===

/// What applying an entry answered, command by command; empty for entries without commands.
#[derive(Debug)]
pub(crate) struct Answer(pub Vec<Outcome>);

/// Answers go to waiting callers of this process; the engine's bounds ask for serde all the same.
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("answers stay in the process"))
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Answer, D::Error> {
        Err(de::Error::custom("answers stay in the process"))
    }
}

// === impl Reply ===

/// Called once with the result of a request, on the task that has it.
///
/// Dropped without a call when the engine stops before it has one.
pub(crate) struct Reply<T>(pub Box<dyn FnOnce(T) + Send>);

impl<T: OptionalSend + 'static> Responder<Binding, T> for Reply<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}
