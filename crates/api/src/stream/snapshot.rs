use std::sync::Arc;
use std::vec::IntoIter;

use bytes::{Bytes, BytesMut};
use tidings_event::{Filter, FrameError, Index, MARKER_SNAPSHOT_END, Selected};
use tidings_timeline::{Entry, StateView};

/// The state as frames: each entry as the event that changed it last, in the order of the changes.
pub(crate) struct Snapshot {
    entries: IntoIter<Arc<Entry>>,
    filter: Filter,
    index: Index,
}

impl Snapshot {
    /// The state of `view`. Changes after it are frames after its index.
    pub(crate) fn new(view: &StateView, filter: Filter) -> Snapshot {
        Snapshot {
            entries: view.entries_by_index().into_iter(),
            filter,
            index: view.index,
        }
    }

    /// The next lines, about `bytes` of them; none at the end.
    ///
    /// # Errors
    /// When an entry is not in the form in which events are written.
    pub(crate) fn next(&mut self, bytes: usize) -> Result<Option<Bytes>, FrameError> {
        let mut lines = BytesMut::new();
        for entry in self.entries.by_ref() {
            let line = entry.line();
            match self.filter.select(&line)? {
                Selected::All => lines.extend_from_slice(&line),
                Selected::Some(line) => lines.extend_from_slice(&line),
                Selected::None => {}
            }
            if lines.len() >= bytes {
                break;
            }
        }
        Ok((!lines.is_empty()).then(|| lines.freeze()))
    }

    /// The line that says that the snapshot is complete.
    pub(crate) fn end_marker(&self) -> Bytes {
        let index = self.index;
        Bytes::from(format!(
            "{{\"Index\":{index},\"Events\":[],\"Marker\":\"{MARKER_SNAPSHOT_END}\"}}\n"
        ))
    }
}
