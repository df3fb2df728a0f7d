//! The fuzz targets' entry points hold for what proptest thinks of.

use proptest::prelude::*;
use tidings_store::fuzzing::{open_history_segment, open_raft_segment};

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(
        first in any::<u64>(),
        lines in prop::collection::vec(any::<u8>(), 0..200),
        index in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        open_history_segment(first, &lines, &index);
        open_raft_segment(first, &lines);
    }
}
