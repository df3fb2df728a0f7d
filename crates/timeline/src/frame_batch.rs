use bytes::Bytes;
use tidings_event::{Digest, Filter, Index, RouteHash, Timestamp};

/// How many different pairs of topic and namespace a batch may have for its names to be kept.
const NAMES_MAX: usize = 8;

/// What a small event takes as a line: by it the room for the numbers of each is guessed.
const LINE_BYTES_LEAST: usize = 320;

/// The frames of one batch, encoded: the same bytes for disk, memory and every subscriber.
#[derive(Debug)]
pub struct FrameBatch {
    /// The first frame's index; the others follow it.
    pub first: Index,
    /// Their lines, one after the other.
    pub bytes: Bytes,
    /// Where each line ends in `bytes`.
    pub ends: Box<[u32]>,
    /// CRC-32 of each line, its newline included.
    pub crcs: Box<[u32]>,
    /// The digest of each line.
    pub digests: Box<[Digest]>,
    /// The time of the batch that made them.
    pub time: Timestamp,
    /// By which routes their events find subscribers.
    pub routes: Routes,
    names: Names,
}

/// The route hashes of a batch's events, in order.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// For each event: ordinal of its frame, count of keys.
    events: Vec<(u32, u32)>,
    /// For each event: its topic, then its keys.
    hashes: Vec<RouteHash>,
}

impl Routes {
    /// With room for so many events of one key.
    fn with_capacity(events: usize) -> Routes {
        Routes {
            events: Vec::with_capacity(events),
            hashes: Vec::with_capacity(2 * events),
        }
    }

    pub(crate) fn push(
        &mut self,
        frame: u32,
        topic: RouteHash,
        keys: impl Iterator<Item = RouteHash>,
    ) {
        self.hashes.push(topic);
        let before = self.hashes.len();
        self.hashes.extend(keys);
        self.events
            .push((frame, (self.hashes.len() - before) as u32));
    }

    /// For each event: the ordinal of its frame in the batch, its topic, its keys.
    pub fn iter(&self) -> impl Iterator<Item = (usize, RouteHash, &[RouteHash])> {
        let mut rest = &self.hashes[..];
        self.events.iter().map_while(move |&(frame, keys)| {
            let (topic, behind) = rest.split_first()?;
            let (keys, behind) = behind.split_at_checked(keys as usize)?;
            rest = behind;
            Some((frame as usize, *topic, keys))
        })
    }

    fn memory(&self) -> usize {
        self.events.len() * 8 + self.hashes.len() * 8
    }
}

/// The topics and namespaces in a batch, so that a subscriber who wants all of them need not look
/// at each event.
#[derive(Clone, Debug)]
enum Names {
    /// All of them.
    Few(Vec<Name>),
    /// Too many to list.
    Many,
}

/// A topic and a namespace: their hashes, and their texts as they stand in a line.
#[derive(Clone, Debug)]
struct Name {
    hashes: (RouteHash, RouteHash),
    topic: Box<[u8]>,
    namespace: Box<[u8]>,
}

/// Collects a batch's frames while it is applied.
pub(crate) struct FrameBatchBuilder {
    first: Index,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    crcs: Vec<u32>,
    digests: Vec<Digest>,
    routes: Routes,
    names: Names,
}

impl FrameBatchBuilder {
    /// With room for lines of `bytes` together.
    pub(crate) fn new(first: Index, bytes: usize) -> FrameBatchBuilder {
        let frames = bytes / LINE_BYTES_LEAST + 1;
        FrameBatchBuilder {
            first,
            bytes: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(frames),
            crcs: Vec::with_capacity(frames),
            digests: Vec::with_capacity(frames),
            routes: Routes::with_capacity(frames),
            names: Names::Few(Vec::new()),
        }
    }

    /// Adds a frame with these events under the next index.
    pub(crate) fn push<'a>(
        &mut self,
        events: impl Iterator<Item = crate::command::EncodedEvent<'a>>,
    ) {
        let ordinal = self.ends.len() as u32;
        let start = self.bytes.len();
        let mut digits = itoa::Buffer::new();
        let digits = digits
            .format(self.first.get() + u64::from(ordinal))
            .as_bytes();
        self.bytes.extend_from_slice(b"{\"Index\":");
        self.bytes.extend_from_slice(digits);
        self.bytes.extend_from_slice(b",\"Events\":[");
        let mut digest = Digest::EMPTY;
        for (at, event) in events.enumerate() {
            if at > 0 {
                self.bytes.push(b',');
            }
            self.bytes.extend_from_slice(b"{\"Index\":");
            self.bytes.extend_from_slice(digits);
            self.bytes.push(b',');
            self.bytes.extend_from_slice(event.body);
            digest.add_topic(event.topic);
            digest.add_namespace(event.namespace);
            event.keys().for_each(|key| digest.add_key(key));
            self.routes.push(ordinal, event.topic, event.keys());
            self.names.add(&event);
        }
        self.bytes.extend_from_slice(b"]}\n");
        self.crcs.push(crc32fast::hash(&self.bytes[start..]));
        self.ends.push(self.bytes.len() as u32);
        self.digests.push(digest);
    }

    /// For how many frames there is room, as far as anybody can guess.
    pub(crate) fn room(&self) -> usize {
        self.ends.capacity()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The index of the frame pushed last.
    pub(crate) fn last(&self) -> Index {
        Index(self.first.get() + self.ends.len() as u64 - 1)
    }

    pub(crate) fn finish(self, time: Timestamp) -> FrameBatch {
        FrameBatch {
            first: self.first,
            bytes: self.bytes.into(),
            ends: self.ends.into(),
            crcs: self.crcs.into(),
            digests: self.digests.into(),
            time,
            routes: self.routes,
            names: self.names,
        }
    }
}

impl Names {
    fn add(&mut self, event: &crate::command::EncodedEvent<'_>) {
        let Names::Few(few) = self else { return };
        let hashes = (event.topic, event.namespace);
        if few.iter().any(|name| name.hashes == hashes) {
            return;
        }
        match event.names() {
            Some((topic, namespace)) if few.len() < NAMES_MAX => {
                few.push(Name {
                    hashes,
                    topic: topic.into(),
                    namespace: namespace.into(),
                });
            }
            _ => *self = Names::Many,
        }
    }
}

impl FrameBatch {
    /// How many frames there are; at least one.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Never true: a batch without frames is not made.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The last frame's index.
    pub fn last(&self) -> Index {
        Index(self.first.get() + self.ends.len() as u64 - 1)
    }

    /// Where the line of the `ordinal`th frame begins.
    pub fn start(&self, ordinal: usize) -> usize {
        if ordinal == 0 {
            0
        } else {
            self.ends[ordinal - 1] as usize
        }
    }

    /// The line of a frame of this batch, shared.
    pub fn line(&self, ordinal: usize) -> Bytes {
        self.bytes
            .slice(self.start(ordinal)..self.ends[ordinal] as usize)
    }

    /// The ordinal of a frame of this batch.
    pub fn ordinal(&self, index: Index) -> Option<usize> {
        let ordinal = index.get().checked_sub(self.first.get())? as usize;
        (ordinal < self.len()).then_some(ordinal)
    }

    /// How much memory it takes, nearly.
    pub fn memory(&self) -> usize {
        self.bytes.len() + self.len() * 16 + self.routes.memory() + 128
    }

    /// Whether the filter lets every event through, as far as topics and namespaces tell.
    pub fn is_all_wanted_by(&self, filter: &Filter) -> bool {
        match &self.names {
            Names::Many => filter.is_everything(),
            Names::Few(few) => filter.wants_all_of(
                few.iter().map(|name| &*name.topic),
                few.iter().map(|name| &*name.namespace),
            ),
        }
    }
}
