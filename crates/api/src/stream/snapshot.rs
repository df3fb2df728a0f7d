use std::sync::Arc;
use std::vec::IntoIter;

use bytes::{Bytes, BytesMut};
use tidings_event::{Filter, FrameError, Index, MARKER_SNAPSHOT_END, Selected};
use tidings_timeline::{Entry, StateView};

/// Bytes of entries that one turn looks at before it lets others have theirs.
const LOOK_BYTES: usize = 256 << 10;

/// The state as frames: each entry as the event that changed it last, in the order of the changes.
pub(crate) struct Snapshot {
    entries: IntoIter<Arc<Entry>>,
    filter: Filter,
    index: Index,
}

/// What a turn of a snapshot gave.
pub(crate) enum Turn {
    Lines(Bytes),
    /// Nothing that is wanted yet; there is more to look at.
    Nothing,
    End,
}

impl Snapshot {
    /// The state of `view`. Changes after it are frames after its index. Sorts all entries: not for
    /// a thread on which others wait.
    pub(crate) fn new(view: &StateView, filter: Filter) -> Snapshot {
        Snapshot {
            entries: view.entries_by_index().into_iter(),
            filter,
            index: view.index,
        }
    }

    /// The next lines, about `bytes` of them.
    ///
    /// # Errors
    /// When an entry is not in the form in which events are written.
    pub(crate) fn next(&mut self, bytes: usize) -> Result<Turn, FrameError> {
        let mut lines = BytesMut::new();
        let mut looked = 0;
        for entry in self.entries.by_ref() {
            let line = entry.line();
            looked += line.len();
            match self.filter.select(&line)? {
                Selected::All => lines.extend_from_slice(&line),
                Selected::Some(line) => lines.extend_from_slice(&line),
                Selected::None => {}
            }
            if lines.len() >= bytes || looked >= LOOK_BYTES {
                break;
            }
        }
        Ok(if !lines.is_empty() {
            Turn::Lines(lines.freeze())
        } else if looked > 0 {
            Turn::Nothing
        } else {
            Turn::End
        })
    }

    /// The line that says that the snapshot is complete.
    pub(crate) fn end_marker(&self) -> Bytes {
        let index = self.index;
        Bytes::from(format!(
            "{{\"Index\":{index},\"Events\":[],\"Marker\":\"{MARKER_SNAPSHOT_END}\"}}\n"
        ))
    }
}
