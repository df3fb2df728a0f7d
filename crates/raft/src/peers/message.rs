//! What servers say to each other, in forms of our own: another version of the consensus engine
//! changes nothing on the wire.
//!
//! The body of a frame is postcard of the struct here; [`Append`] and [`Propose`] are followed by
//! bytes that go as they lie in the log or came from a client.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    frame::{BODY_BYTES_MAX, Parts, SMALL_BODY_BYTES_MAX},
    transfer::{CHUNK_BYTES_MAX, OFFER_BYTES_MAX},
};

/// What a message is. Wire value: append only.
pub(crate) mod kind {
    pub const HELLO: u8 = 1;
    pub const WELCOME: u8 = 2;
    pub const REFUSED: u8 = 3;
    pub const APPEND: u8 = 4;
    pub const APPENDED: u8 = 5;
    pub const VOTE: u8 = 6;
    pub const PRE_VOTE: u8 = 7;
    pub const VOTED: u8 = 8;
    pub const TRANSFER: u8 = 9;
    pub const TRANSFERRED: u8 = 10;
    pub const PROPOSE: u8 = 11;
    pub const PROPOSED: u8 = 12;
    pub const JOIN: u8 = 13;
    pub const JOINED: u8 = 14;
    pub const FORM: u8 = 15;
    pub const FORMED: u8 = 16;

    // 20 to 29: snapshots. From version 2 on.
    pub const OFFER: u8 = 20;
    pub const WANTED: u8 = 21;
    pub const CHUNK: u8 = 22;
    pub const TAKEN: u8 = 23;
    pub const INSTALL: u8 = 24;
    pub const INSTALLED: u8 = 25;

    // From version 2 on.
    pub const CHANGE: u8 = 30;
    pub const CHANGED: u8 = 31;
    pub const READ: u8 = 32;
    pub const READ_AT: u8 = 33;
    pub const STANDING: u8 = 34;
    pub const STANDS: u8 = 35;
    /// In place of `HELLO`, from somebody who is no server.
    pub const FIND: u8 = 36;
    pub const FOUND: u8 = 37;
    pub const LIST: u8 = 38;
    pub const LISTED: u8 = 39;
}

/// The versions of these messages that this program speaks.
pub(crate) const VERSION_MIN: u8 = 1;
pub(crate) const VERSION_MAX: u8 = 2;
/// Since when snapshots are sent.
pub(crate) const VERSION_SNAPSHOTS: u8 = 2;
/// Since when a greeting tells more, and the membership can be changed from every server.
pub(crate) const VERSION_MEMBERS: u8 = 2;

/// How large a body of a kind may be.
pub(crate) fn bytes_max(kind: u8) -> usize {
    match kind {
        kind::APPEND | kind::PROPOSE | kind::PROPOSED => BODY_BYTES_MAX,
        kind::OFFER | kind::WANTED => OFFER_BYTES_MAX,
        kind::CHUNK => CHUNK_BYTES_MAX + SMALL_BODY_BYTES_MAX,
        _ => SMALL_BODY_BYTES_MAX,
    }
}

pub(crate) type EntryIdBytes = [u8; 24];
/// A ballot as the log stores it: 17 bytes, in two pieces that serde knows.
pub(crate) type BallotBytes = ([u8; 16], u8);

/// The first message in each direction: who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version_min: u8,
    pub version_max: u8,
    pub timeline: Option<u128>,
    pub server: Server,
    pub stage: Stage,
    /// How many servers form a cluster.
    pub expects: u32,
    /// The fresh servers that this one could reach a moment ago; itself is among them.
    pub fresh: Vec<u64>,
    /// Everybody that it knows of.
    pub known: Vec<Server>,
    pub leader: Option<u64>,
}

/// What a server says of itself besides, from version 2 on: it follows the `Hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct More {
    /// Where it answers clients.
    pub http: String,
    /// It waits to be promoted by a person.
    pub standby: bool,
    /// The server whose place it takes.
    pub replaces: Option<u64>,
    /// What its clock shows, in microseconds since 1970.
    pub time: i64,
    /// Bytes free on its disk, and how many must be.
    pub disk_free: u64,
    pub disk_reserve: u64,
    /// Where the servers that it knows answer clients.
    pub known_http: Vec<(u64, String)>,
}

/// A greeting as it goes over the wire, in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub hello: Hello,
    pub more: More,
}

impl Greeting {
    pub fn encode(&self) -> Result<Bytes, postcard::Error> {
        let hello = postcard::to_extend(&self.hello, Vec::new())?;
        let bytes = match self.hello.version_max < VERSION_MEMBERS {
            true => hello,
            false => postcard::to_extend(&self.more, hello)?,
        };
        Ok(bytes.into())
    }

    pub fn decode(body: &Bytes) -> Result<Greeting, postcard::Error> {
        let (hello, rest) = decode_with::<Hello>(body)?;
        let more = match hello.version_max < VERSION_MEMBERS {
            true => More::default(),
            false => decode(&rest)?,
        };
        Ok(Greeting { hello, more })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Server {
    pub id: u64,
    pub name: String,
    /// Where it listens for peers.
    pub address: String,
}

/// How far a server has come. Wire value: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// It has never been in a cluster.
    Fresh,
    /// It has been spoken to by a cluster and does not know its members yet.
    Begun,
    /// It knows the members of its cluster.
    Member,
}

/// Why nothing more is said, or why one request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    pub reason: RefusedReason,
    /// For people: what is wrong and what to do.
    pub sentence: String,
}

/// Wire value: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RefusedReason {
    Malformed,
    Versions,
    OtherTimeline,
    /// The server that is spoken to is the one that speaks.
    Itself,
    TooManyConnections,
    /// The consensus engine has stopped.
    Stopped,
    Unexpected,
    /// The name belongs to another server of the cluster.
    NameTaken,
    /// The clocks of the two servers are too far apart.
    Clock,
    /// The server that is to be replaced is still there.
    Alive,
    /// The server was removed from the cluster.
    Removed,
}

/// Entries, or none as a sign of life. The records follow, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Append {
    pub ballot: BallotBytes,
    pub before: Option<EntryIdBytes>,
    pub committed: Option<EntryIdBytes>,
    pub records: Vec<RecordHead>,
}

/// A record of the log without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordHead {
    pub id: EntryIdBytes,
    pub kind: u8,
    pub bytes: u32,
}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Appended {
    Done,
    Conflict,
    HigherBallot(BallotBytes),
}

/// Asks for a vote, or whether it would be given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vote {
    pub ballot: BallotBytes,
    pub last: Option<EntryIdBytes>,
    pub transfer: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Voted {
    pub ballot: BallotBytes,
    pub granted: bool,
    pub last: Option<EntryIdBytes>,
}

/// The leader hands over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transfer {
    pub ballot: BallotBytes,
    pub to: u64,
    pub last: Option<EntryIdBytes>,
}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Transferred {
    Done,
    BallotChanged {
        expected: BallotBytes,
        actual: BallotBytes,
    },
    NotFlushed {
        expected: Option<EntryIdBytes>,
        actual: Option<EntryIdBytes>,
    },
}

/// Commands for the leader. They follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Propose {
    pub commands: u32,
    pub takes_reserve: bool,
}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Proposed {
    Outcomes(Vec<OutcomeRecord>),
    Overloaded { retry_after_ms: u64 },
    DiskFull { free: u64, reserve: u64 },
    TooLarge { bytes: u64, bytes_max: u64 },
    NotLeader { leader: Option<u64> },
    Unknown { leader: Option<u64> },
}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum OutcomeRecord {
    Published { index: u64 },
    Duplicate { index: u64 },
    Stored { index: u64 },
    Deleted { index: u64 },
    Done,
    CasMismatch { expected: u64, current: u64 },
    NoEntry,
    PartlyDuplicate { index: u64 },
    SenderGap { expected: u64, number: u64 },
    SenderForgotten { epoch: u64 },
    SenderAhead { epoch: u64 },
    TooManySenders { limit: u64 },
}

/// Asks the leader to take the server that speaks into the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Join {}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Joined {
    /// It belongs to the cluster; entries come by themselves.
    Done,
    NotLeader {
        leader: Option<Server>,
    },
    /// The membership is changing already: ask again.
    Busy,
}

/// Asks the leader to change who belongs to the cluster, or who leads. Servers go by name or number.
/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Remove { server: String },
    Promote { server: String },
    Transfer { to: Option<String> },
}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Changed {
    Done,
    NotLeader {
        leader: Option<u64>,
    },
    /// It cannot be done as things are, and nothing was changed.
    Refused {
        sentence: String,
    },
    /// It was begun, and its end has not been seen.
    Unfinished {
        sentence: String,
    },
}

/// Asks the leader up to where to read, for everything that was acknowledged to be seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Read {}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadAt {
    /// The last entry that was acknowledged; `None`: none was.
    Index(Option<u64>),
    NotLeader {
        leader: Option<u64>,
    },
    /// No majority has confirmed that this server leads.
    Unconfirmed,
}

/// Asks the leader whether the server that speaks belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stands {
    Member,
    /// A majority agrees that it does not.
    Removed,
    /// This server cannot tell.
    Unknown,
}

/// Asks the leader what only it knows of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct List {}

/// Wire value: append only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Listed {
    Members(Vec<Heard>),
    NotLeader { leader: Option<u64> },
}

/// How far a member is, as its leader knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Heard {
    pub server: u64,
    /// How long ago it was heard; `None`: not since this one leads.
    pub contact_ms: Option<u64>,
    /// The last entry that it is known to have.
    pub matched: Option<u64>,
}

/// Somebody who is no server asks for servers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Find {
    pub version_min: u8,
    pub version_max: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub timeline: Option<u128>,
    pub servers: Vec<FoundServer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundServer {
    pub server: Server,
    pub http: String,
    pub leader: bool,
}

/// Asks a fresh server for its word to form a cluster of these servers and no other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Form {
    pub servers: Vec<u64>,
}

/// From version 2 on it follows the `Form`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormMore {
    /// Those who have given their word to the server that asks.
    pub agreed: Vec<u64>,
}

/// Whether the word is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Formed {
    pub agreed: bool,
}

/// The body of `message`.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, postcard::Error> {
    postcard::to_extend(message, Vec::new()).map(Bytes::from)
}

/// The body of `message`, with `rest` after it.
pub(crate) fn encode_with<T: Serialize>(
    message: &T,
    rest: impl IntoIterator<Item = Bytes>,
) -> Result<Parts, postcard::Error> {
    let mut parts = vec![encode(message)?];
    parts.extend(rest);
    Ok(parts)
}

/// The message that `body` is. What a later version has added at its end is not looked at.
pub(crate) fn decode<T: DeserializeOwned>(body: &Bytes) -> Result<T, postcard::Error> {
    decode_with(body).map(|(message, _)| message)
}

/// The message that `body` begins with, and what follows.
pub(crate) fn decode_with<T: DeserializeOwned>(
    body: &Bytes,
) -> Result<(T, Bytes), postcard::Error> {
    let (message, rest) = postcard::take_from_bytes(body)?;
    Ok((message, body.slice(body.len() - rest.len()..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pinned<T>(message: T, bytes: &[u8])
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let encoded = encode(&message).unwrap();
        assert_eq!(encoded, bytes, "{message:?}");
        assert_eq!(decode::<T>(&encoded).unwrap(), message);
    }

    const BALLOT: BallotBytes = ([7; 16], 1);
    const ID: EntryIdBytes = [9; 24];

    fn joined(pieces: &[&[u8]]) -> Vec<u8> {
        pieces.concat()
    }

    /// These bytes go between servers of different versions: they may not change.
    #[test]
    fn messages_are_pinned() {
        let server = Server {
            id: 300,
            name: "n".into(),
            address: "a".into(),
        };
        pinned(
            Hello {
                version_min: 1,
                version_max: 2,
                timeline: Some(5),
                server: server.clone(),
                stage: Stage::Member,
                expects: 3,
                fresh: vec![300],
                known: vec![server],
                leader: Some(4),
            },
            b"\x01\x02\x01\x05\xac\x02\x01n\x01a\x02\x03\x01\xac\x02\x01\xac\x02\x01n\x01a\x01\x04",
        );
        pinned(List {}, b"");
        pinned(Listed::NotLeader { leader: Some(4) }, &[1, 1, 4]);
        pinned(
            Listed::Members(vec![Heard {
                server: 300,
                contact_ms: Some(7),
                matched: None,
            }]),
            &[0, 1, 0xac, 2, 1, 7, 0],
        );
        pinned(
            Refused {
                reason: RefusedReason::Itself,
                sentence: "no".into(),
            },
            b"\x03\x02no",
        );
        let head = RecordHead {
            id: ID,
            kind: 1,
            bytes: 2,
        };
        pinned(
            Append {
                ballot: BALLOT,
                before: None,
                committed: Some(ID),
                records: vec![head],
            },
            &joined(&[&[7; 16], &[1, 0, 1], &ID, &[1], &ID, &[1, 2]]),
        );
        pinned(Appended::Done, &[0]);
        pinned(Appended::Conflict, &[1]);
        pinned(
            Appended::HigherBallot(BALLOT),
            &joined(&[&[2], &[7; 16], &[1]]),
        );
        pinned(
            Vote {
                ballot: BALLOT,
                last: Some(ID),
                transfer: true,
            },
            &joined(&[&[7; 16], &[1, 1], &ID, &[1]]),
        );
        pinned(
            Voted {
                ballot: BALLOT,
                granted: true,
                last: None,
            },
            &joined(&[&[7; 16], &[1, 1, 0]]),
        );
        pinned(
            Transfer {
                ballot: BALLOT,
                to: 2,
                last: None,
            },
            &joined(&[&[7; 16], &[1, 2, 0]]),
        );
        pinned(Transferred::Done, &[0]);
        pinned(
            Transferred::NotFlushed {
                expected: None,
                actual: None,
            },
            &[2, 0, 0],
        );
        pinned(
            Propose {
                commands: 2,
                takes_reserve: true,
            },
            &[2, 1],
        );
        pinned(
            Proposed::Outcomes(vec![
                OutcomeRecord::Published { index: 1 },
                OutcomeRecord::Duplicate { index: 2 },
                OutcomeRecord::Stored { index: 3 },
                OutcomeRecord::Deleted { index: 4 },
                OutcomeRecord::Done,
                OutcomeRecord::CasMismatch {
                    expected: 5,
                    current: 6,
                },
                OutcomeRecord::NoEntry,
                OutcomeRecord::PartlyDuplicate { index: 7 },
                OutcomeRecord::SenderGap {
                    expected: 8,
                    number: 9,
                },
                OutcomeRecord::SenderForgotten { epoch: 1 },
                OutcomeRecord::SenderAhead { epoch: 2 },
                OutcomeRecord::TooManySenders { limit: 3 },
            ]),
            &[
                0, 12, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 1, 10, 2, 11, 3,
            ],
        );
        pinned(Proposed::Overloaded { retry_after_ms: 1 }, &[1, 1]);
        pinned(
            Proposed::DiskFull {
                free: 1,
                reserve: 2,
            },
            &[2, 1, 2],
        );
        pinned(
            Proposed::TooLarge {
                bytes: 2,
                bytes_max: 1,
            },
            &[3, 2, 1],
        );
        pinned(Proposed::NotLeader { leader: None }, &[4, 0]);
        pinned(Proposed::Unknown { leader: Some(1) }, &[5, 1, 1]);
        pinned(Join {}, &[]);
        pinned(Joined::Done, &[0]);
        pinned(Joined::NotLeader { leader: None }, &[1, 0]);
        pinned(Joined::Busy, &[2]);
        pinned(
            Form {
                servers: vec![1, 2],
            },
            &[2, 1, 2],
        );
        pinned(Formed { agreed: true }, &[1]);
    }

    #[test]
    fn messages_of_version_2_are_pinned() {
        pinned(
            More {
                http: "h".into(),
                standby: true,
                replaces: Some(7),
                time: -1,
                disk_free: 3,
                disk_reserve: 4,
                known_http: vec![(300, "k".into())],
            },
            b"\x01h\x01\x01\x07\x01\x03\x04\x01\xac\x02\x01k",
        );
        pinned(
            FormMore {
                agreed: vec![1, 300],
            },
            &[2, 1, 0xac, 2],
        );
        let server = || "n".to_owned();
        pinned(Change::Remove { server: server() }, b"\x00\x01n");
        pinned(Change::Promote { server: server() }, b"\x01\x01n");
        pinned(Change::Transfer { to: Some(server()) }, b"\x02\x01\x01n");
        pinned(Changed::Done, &[0]);
        pinned(Changed::NotLeader { leader: Some(1) }, &[1, 1, 1]);
        pinned(Changed::Refused { sentence: server() }, b"\x02\x01n");
        pinned(Changed::Unfinished { sentence: server() }, b"\x03\x01n");
        pinned(Read {}, &[]);
        pinned(ReadAt::Index(Some(5)), &[0, 1, 5]);
        pinned(ReadAt::NotLeader { leader: None }, &[1, 0]);
        pinned(ReadAt::Unconfirmed, &[2]);
        pinned(Standing {}, &[]);
        pinned(Stands::Member, &[0]);
        pinned(Stands::Removed, &[1]);
        pinned(Stands::Unknown, &[2]);
        let find = Find {
            version_min: 1,
            version_max: 2,
        };
        pinned(find, &[1, 2]);
        let found = Found {
            timeline: Some(5),
            servers: vec![FoundServer {
                server: Server {
                    id: 1,
                    name: "n".into(),
                    address: "a".into(),
                },
                http: "h".into(),
                leader: true,
            }],
        };
        pinned(found, b"\x01\x05\x01\x01\x01n\x01a\x01h\x01");
    }

    /// As a server of version 1 sends it: recorded, and never to be changed.
    #[test]
    fn a_recorded_greeting_of_version_1_is_read() {
        let recorded =
            b"\x01\x01\x01\x05\xac\x02\x01n\x01a\x02\x03\x01\xac\x02\x01\xac\x02\x01n\x01a\x01\x04";
        let body = Bytes::from_static(recorded);
        let mut greeting = Greeting::decode(&body).unwrap();
        assert_eq!(greeting.more, More::default());
        assert_eq!(greeting.hello.version_max, 1);
        assert_eq!(greeting.encode().unwrap(), body, "and said in the same way");
        // One of version 2 is read by version 1 as well, which looks only at what it knows.
        greeting.hello.version_max = 2;
        greeting.more.http = "h".into();
        let body = greeting.encode().unwrap();
        assert_eq!(decode::<Hello>(&body).unwrap(), greeting.hello);
        assert_eq!(Greeting::decode(&body).unwrap(), greeting);
    }

    #[test]
    fn what_follows_a_message_is_handed_on_without_a_copy() {
        let message = Propose {
            commands: 1,
            takes_reserve: false,
        };
        let parts = encode_with(&message, [Bytes::from_static(b"commands")]).unwrap();
        let body = Bytes::from(parts.concat());
        let (read, rest) = decode_with::<Propose>(&body).unwrap();
        assert_eq!((read, &rest[..]), (message, &b"commands"[..]));
        assert!(decode::<Append>(&body).is_err());
    }
}
