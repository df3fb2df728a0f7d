use tidings_event::{TimeText, Timestamp};
use ulid::{ULID_LEN, Ulid};

/// Gives events what their publishers left out. Randomness comes in once, time with every call.
#[derive(Clone, Debug)]
pub struct Stamper {
    node: String,
    source: String,
    time: Timestamp,
    time_text: TimeText,
    random: u128,
}

impl Stamper {
    /// Random bits of a ULID; the rest is milliseconds.
    const RANDOM_BITS: u32 = 80;

    /// A source of stamps. `seed` must be random and used once: ids are counted up from it.
    pub fn new(node: impl Into<String>, source: impl Into<String>, seed: u128) -> Stamper {
        Stamper {
            node: node.into(),
            source: source.into(),
            time: Timestamp::default(),
            time_text: Timestamp::default().text(),
            random: seed,
        }
    }

    /// The time that the next stamps bear.
    pub fn set_time(&mut self, time: Timestamp) {
        if time != self.time {
            self.time = time;
            self.time_text = time.text();
        }
    }

    /// The same as text.
    pub(crate) fn time_text(&self) -> &TimeText {
        &self.time_text
    }

    /// The time that stamps bear now.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// The node that stamps bear.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The source that stamps bear.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes the next id, in the text form of ULIDs.
    pub fn next_id<'a>(&mut self, text: &'a mut [u8; ULID_LEN]) -> &'a str {
        let mask = (1_u128 << Stamper::RANDOM_BITS) - 1;
        self.random = self.random.wrapping_add(1) & mask;
        Ulid::from_parts(self.time.as_unix_millis(), self.random).array_to_str(text)
    }
}
