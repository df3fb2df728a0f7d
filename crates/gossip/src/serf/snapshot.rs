//! What an agent writes down to find its pool again: lines in, lines out.
//!
//! ```text
//! alive: NAME ADDR:PORT      not-alive: NAME      clock: N   event-clock: N   query-clock: N
//! leave                      # a remark           coordinate: …  (older agents; passed over)
//! ```
//!
//! The file only grows; when it has become large it is written anew ([`Snapshot::lines`]). A real agent
//! reads what we write, and we read what it wrote.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::name::Name;
use crate::wire::serf::LamportTime;

/// A file is not written anew before it has this size (serf: snapshot.go `snapshotSizeLimit`).
const FILE_BYTES_MIN: u64 = 128 << 10;

/// Bytes for each node (serf: snapshot.go `snapshotBytesPerNode` and its doubling).
const NODE_BYTES: u64 = 256;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotLine {
    /// A member is there.
    Alive(Name, SocketAddr),
    /// A member is not there any more.
    NotAlive(Name),
    /// The clock of members.
    Clock(LamportTime),
    /// The clock of events.
    EventClock(LamportTime),
    /// The clock of queries.
    QueryClock(LamportTime),
    /// We left.
    Leave,
}

impl SnapshotLine {
    /// Reads a line, without its end. `None` for a remark, and for what cannot be understood.
    pub fn parse(line: &[u8]) -> Option<SnapshotLine> {
        let number = |text: &[u8]| {
            std::str::from_utf8(text)
                .ok()?
                .parse()
                .ok()
                .map(LamportTime)
        };
        if line == b"leave" {
            return Some(SnapshotLine::Leave);
        }
        if let Some(rest) = line.strip_prefix(b"alive: ") {
            // A name may have spaces, an address has none.
            let space = rest.iter().rposition(|byte| *byte == b' ')?;
            let addr = std::str::from_utf8(&rest[space + 1..]).ok()?.parse().ok()?;
            return Some(SnapshotLine::Alive(name(&rest[..space]), addr));
        }
        if let Some(rest) = line.strip_prefix(b"not-alive: ") {
            return Some(SnapshotLine::NotAlive(name(rest)));
        }
        if let Some(rest) = line.strip_prefix(b"clock: ") {
            return number(rest).map(SnapshotLine::Clock);
        }
        if let Some(rest) = line.strip_prefix(b"event-clock: ") {
            return number(rest).map(SnapshotLine::EventClock);
        }
        let rest = line.strip_prefix(b"query-clock: ")?;
        number(rest).map(SnapshotLine::QueryClock)
    }

    /// The line with its end. Empty when it cannot be written: a name with a line's end in it would
    /// be two lines.
    pub fn encode(&self) -> Vec<u8> {
        let named = |word: &str, name: &Name, rest: &str| {
            if name.as_ref().contains(&b'\n') {
                return Vec::new();
            }
            [word.as_bytes(), name.as_ref(), rest.as_bytes(), b"\n"].concat()
        };
        let mut text = String::new();
        let written = match self {
            SnapshotLine::Alive(name, addr) => return named("alive: ", name, &format!(" {addr}")),
            SnapshotLine::NotAlive(name) => return named("not-alive: ", name, ""),
            SnapshotLine::Clock(time) => writeln!(text, "clock: {time}"),
            SnapshotLine::EventClock(time) => writeln!(text, "event-clock: {time}"),
            SnapshotLine::QueryClock(time) => writeln!(text, "query-clock: {time}"),
            SnapshotLine::Leave => writeln!(text, "leave"),
        };
        debug_assert!(written.is_ok(), "a string takes all");
        text.into_bytes()
    }
}

fn name(bytes: &[u8]) -> Name {
    Name::new(bytes::Bytes::copy_from_slice(bytes))
}

/// What all lines together say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The members that were there, and where.
    pub alive: BTreeMap<Name, SocketAddr>,
    /// The last moment of each clock that was seen.
    pub clock: LamportTime,
    /// Events up to here have been handed on.
    pub event_clock: LamportTime,
    /// Queries up to here have been handed on.
    pub query_clock: LamportTime,
    /// Lines that could not be understood.
    pub strange_lines: u64,
}

impl Snapshot {
    /// Reads a file. After having left one does not come back, unless `rejoin_after_leave`.
    pub fn replay(file: &[u8], rejoin_after_leave: bool) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for line in file.split_inclusive(|byte| *byte == b'\n') {
            // The last line of a file whose writer was stopped may be half a line.
            let Some(line) = line.strip_suffix(b"\n") else {
                snapshot.strange_lines += 1;
                break;
            };
            match SnapshotLine::parse(line) {
                Some(SnapshotLine::Leave) if rejoin_after_leave => {}
                Some(line) => snapshot.apply(&line),
                None => {
                    let expected = [&b"#"[..], b"coordinate: "];
                    let is_expected = expected.iter().any(|word| line.starts_with(word));
                    snapshot.strange_lines += u64::from(!line.is_empty() && !is_expected);
                }
            }
        }
        snapshot
    }

    /// Takes one more line.
    pub fn apply(&mut self, line: &SnapshotLine) {
        match line {
            SnapshotLine::Alive(name, addr) => {
                self.alive.insert(name.clone(), *addr);
            }
            SnapshotLine::NotAlive(name) => {
                self.alive.remove(name);
            }
            SnapshotLine::Clock(time) => self.clock = *time,
            SnapshotLine::EventClock(time) => self.event_clock = *time,
            SnapshotLine::QueryClock(time) => self.query_clock = *time,
            SnapshotLine::Leave => {
                *self = Snapshot {
                    strange_lines: self.strange_lines,
                    ..Snapshot::default()
                }
            }
        }
    }

    /// The shortest file that says the same.
    pub fn lines(&self) -> Vec<u8> {
        let alive = self
            .alive
            .iter()
            .map(|(name, addr)| SnapshotLine::Alive(name.clone(), *addr));
        let clocks = [
            SnapshotLine::Clock(self.clock),
            SnapshotLine::EventClock(self.event_clock),
            SnapshotLine::QueryClock(self.query_clock),
        ];
        alive.chain(clocks).flat_map(|line| line.encode()).collect()
    }

    /// Whether a file of this size is to be written anew.
    pub fn is_too_long(&self, file_bytes: u64) -> bool {
        file_bytes > FILE_BYTES_MIN.max(NODE_BYTES * self.alive.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As a real agent wrote it.
    const FILE: &[u8] = b"alive: s1 127.0.0.1:19001\nalive: s2 127.0.0.2:19002\nclock: 1\nevent-clock: 1\nquery-clock: 1\nclock: 2\nnot-alive: s2\n";

    #[test]
    fn a_real_agents_file_is_read() {
        let snapshot = Snapshot::replay(FILE, false);
        let alive = BTreeMap::from([(Name::from("s1"), "127.0.0.1:19001".parse().unwrap())]);
        let one = LamportTime(1);
        let expected = Snapshot {
            alive,
            clock: LamportTime(2),
            event_clock: one,
            query_clock: one,
            strange_lines: 0,
        };
        assert_eq!(snapshot, expected);
        assert_eq!(Snapshot::replay(&snapshot.lines(), false), snapshot);
    }

    #[test]
    fn after_leaving_nobody_is_remembered_unless_one_comes_back() {
        let left = [FILE, b"leave\nclock: 5\n"].concat();
        let snapshot = Snapshot::replay(&left, false);
        assert_eq!(
            (snapshot.alive.len(), snapshot.clock, snapshot.event_clock.0),
            (0, LamportTime(5), 0)
        );
        let snapshot = Snapshot::replay(&left, true);
        assert_eq!((snapshot.alive.len(), snapshot.event_clock.0), (1, 1));
    }

    #[test]
    fn odd_lines_are_counted_and_do_no_harm() {
        let file = b"# remark\ncoordinate: {}\nalive: my node \xff 10.0.0.1:7946\nalive: x\nclock: -1\nnonsense\n\nalive: half 10.0.";
        let snapshot = Snapshot::replay(file, false);
        assert_eq!(snapshot.strange_lines, 4);
        let names: Vec<_> = snapshot
            .alive
            .keys()
            .map(|name| name.bytes().clone())
            .collect();
        assert_eq!(names, [&b"my node \xff"[..]]);
        assert_eq!(SnapshotLine::NotAlive(Name::from("a\nleave")).encode(), b"");
        assert!(!snapshot.is_too_long(128 << 10));
        assert!(snapshot.is_too_long((128 << 10) + 1));
    }

    proptest! {
        #[test]
        fn g9_any_file_is_read(file: Vec<u8>, rejoin: bool) {
            let snapshot = Snapshot::replay(&file, rejoin);
            let again = Snapshot::replay(&snapshot.lines(), rejoin);
            prop_assert_eq!((again.alive, again.clock), (snapshot.alive, snapshot.clock));
        }
    }
}
