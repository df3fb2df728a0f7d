//! What a follower asks for.

use std::fmt;
use std::str::FromStr;

use reqwest::Url;
use tidings_event::Index;

use crate::client::Here;

/// Where a stream begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum From {
    /// The newest frames that the agent keeps at hand (100 unless set otherwise), then what comes.
    #[default]
    Backlog,
    /// The oldest frame that is kept.
    Beginning,
    /// What comes from now on.
    Now,
    /// The frame with this index and everything after it.
    Index(Index),
    /// The state as it is, then everything that changes it.
    Snapshot,
}

impl fmt::Display for From {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backlog => formatter.write_str("backlog"),
            Self::Beginning => formatter.write_str("beginning"),
            Self::Now => formatter.write_str("now"),
            Self::Index(index) => write!(formatter, "{index}"),
            Self::Snapshot => formatter.write_str("snapshot"),
        }
    }
}

impl FromStr for From {
    type Err = String;

    /// `backlog`, `beginning`, `now`, `snapshot` or a number.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "backlog" => Ok(Self::Backlog),
            "beginning" => Ok(Self::Beginning),
            "now" => Ok(Self::Now),
            "snapshot" => Ok(Self::Snapshot),
            number => number
                .parse()
                .map(|index| Self::Index(Index(index)))
                .map_err(|_| {
                    format!("{text:?} is none of beginning, now, snapshot, backlog, nor an index")
                }),
        }
    }
}

/// Which events to follow, from where.
#[derive(Clone, Debug, Default)]
pub struct StreamRequest {
    /// `Topic` or `Topic:Key`; none is everything.
    pub topics: Vec<String>,
    /// One namespace, or `*` for all. `None` takes the client's.
    pub namespace: Option<String>,
    /// Where to begin.
    pub from: From,
    /// An expression (CEL) that an event has to fulfil, at most 2 KiB.
    pub filter: Option<String>,
    /// The timeline that an index in `from` belongs to, see
    /// [`EventStream::timeline`](crate::EventStream::timeline). When the agent keeps another one by
    /// now, the stream tells of a reset. `None` takes the index for one of whatever the agent keeps.
    pub timeline: Option<String>,
    /// Whether frames that are no longer kept, and a timeline that was reset, are an error. Without
    /// it the stream tells of the gap or reset and goes on at the oldest frame.
    pub strict: bool,
}

impl StreamRequest {
    /// The URL of a connection that begins at `from`, which is not what was asked once something has
    /// been received. Always strict: an agent that is not asked to be passes over what retention
    /// cuts off under a slow reader without a word.
    pub(crate) fn url(&self, here: &Here, from: From) -> Url {
        let index;
        let heartbeat = format!("{}ms", here.config().heartbeat.as_millis());
        let mut query: Vec<(&str, &str)> = vec![
            ("progress", "true"),
            ("strict", "true"),
            ("heartbeat", &heartbeat),
        ];
        query.extend(self.topics.iter().map(|topic| ("topic", topic.as_str())));
        let namespace = self.namespace.as_ref().or(here.config().namespace.as_ref());
        query.extend(namespace.map(|namespace| ("namespace", namespace.as_str())));
        query.extend(
            self.filter
                .as_ref()
                .map(|filter| ("filter", filter.as_str())),
        );
        match from {
            From::Backlog => {}
            From::Beginning => query.push(("from", "beginning")),
            From::Now => query.push(("from", "now")),
            From::Snapshot => query.push(("from", "snapshot")),
            From::Index(at) => {
                // On the wire index 0 asks for the backlog; the first frame is 1.
                index = at.max(Index::FIRST).to_string();
                query.push(("index", &index));
            }
        }
        here.url(&["v1", "event", "stream"], &query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_as_people_write_them() {
        for text in ["backlog", "beginning", "now", "snapshot", "42"] {
            assert_eq!(text.parse::<From>().unwrap().to_string(), text);
        }
        assert!("yesterday".parse::<From>().is_err());
        assert!("-1".parse::<From>().is_err());
    }
}
