//! What a publisher was told of its events.

use anyhow::{Result, ensure};

use super::verify::Timeline;

/// The answer to one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is on the timeline, at this index.
    At(u64),
    /// An agent keeps it, and will bring it there.
    Kept,
}

/// One publisher's events, in the order in which it sent them: each only when the one before it
/// had been taken.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub publisher: String,
    /// What it was told of each.
    pub taken: Vec<Taken>,
}

impl Account {
    /// The id of an event.
    pub fn id(publisher: &str, number: usize) -> String {
        format!("{publisher}-{number}")
    }

    /// Checks that all of it is on the timeline once, where it was said to be, in order; at the end
    /// one more may be there, to which no answer came.
    pub fn check(&self, timeline: &Timeline) -> Result<()> {
        let mut last = 0;
        for (number, taken) in self.taken.iter().enumerate() {
            let id = Self::id(&self.publisher, number);
            let places = timeline.places(&id);
            ensure!(
                places.len() == 1,
                "{id} was taken ({taken:?}) and is there {} times: at {places:?}",
                places.len()
            );
            let place = places[0];
            if let Taken::At(index) = taken {
                ensure!(
                    place == *index,
                    "{id} was acknowledged at {index} and is at {place}"
                );
            }
            ensure!(
                last < place,
                "{id} is at {place}, and the event before it of the same publisher at {last}"
            );
            last = place;
        }
        let sent = self.taken.len();
        ensure!(
            timeline.places(&Self::id(&self.publisher, sent)).len() <= 1,
            "the last event of {} is there twice",
            self.publisher
        );
        ensure!(
            timeline
                .places(&Self::id(&self.publisher, sent + 1))
                .is_empty(),
            "{} has events on the timeline that it did not send",
            self.publisher
        );
        Ok(())
    }
}
