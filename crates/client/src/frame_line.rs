//! One line of a stream.

use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidings_event::{Frame, Index, MARKER_SNAPSHOT_END};

/// A frame as it came: its index is known, the rest is decoded only when asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameLine {
    index: Index,
    line: Bytes,
}

impl FrameLine {
    /// Where it stands.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The JSON as the agent sent it, without its line end.
    pub fn line(&self) -> &Bytes {
        &self.line
    }

    /// The events in it.
    ///
    /// # Errors
    /// When the line is not a frame of the form this version knows.
    pub fn decode(&self) -> Result<Frame, serde_json::Error> {
        serde_json::from_slice(&self.line)
    }
}

/// What a line of a stream says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// `{}`: the connection lives.
    Heartbeat,
    /// No events, but everything up to here has been looked at.
    Progress(Index),
    /// The snapshot is complete; what follows is newer than this.
    SnapshotEnd(Index),
    /// Something happened.
    Frame(FrameLine),
}

/// The members that tell the kinds apart.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Head<'a> {
    #[serde(default)]
    index: Option<Index>,
    #[serde(default)]
    events: Option<Vec<IgnoredAny>>,
    #[serde(default, borrow)]
    marker: Option<std::borrow::Cow<'a, str>>,
}

impl Line {
    pub(crate) fn parse(line: Bytes) -> Result<Self, serde_json::Error> {
        if let Some(index) = index_of_canonical_frame(&line) {
            return Ok(Self::Frame(FrameLine { index, line }));
        }
        let head: Head<'_> = serde_json::from_slice(&line)?;
        Ok(match head {
            Head { index: None, .. } => Self::Heartbeat,
            Head {
                index: Some(index),
                marker: Some(marker),
                ..
            } if marker == MARKER_SNAPSHOT_END => Self::SnapshotEnd(index),
            Head {
                index: Some(index),
                events,
                ..
            } if events.as_ref().is_none_or(Vec::is_empty) => Self::Progress(index),
            Head {
                index: Some(index), ..
            } => Self::Frame(FrameLine { index, line }),
        })
    }
}

/// The index of a line in the agent's own form that has events, without reading the events: it
/// begins `{"Index":7,"Events":[{`. Anything else is left to the full parse.
fn index_of_canonical_frame(line: &[u8]) -> Option<Index> {
    let rest = line.strip_prefix(br#"{"Index":"#)?;
    // 20 digits hold every u64.
    let digits = rest
        .iter()
        .take(20)
        .take_while(|byte| byte.is_ascii_digit());
    let digits = digits.count();
    let rest_of_line = &rest[digits..];
    if !rest_of_line.starts_with(br#","Events":[{"#) || !line.ends_with(b"}]}") {
        return None;
    }
    let number = std::str::from_utf8(&rest[..digits]).ok()?;
    number.parse().ok().map(Index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Line {
        Line::parse(Bytes::from_static(text.as_bytes())).unwrap()
    }

    fn frame(index: u64, text: &'static str) -> Line {
        Line::Frame(FrameLine {
            index: Index(index),
            line: Bytes::from_static(text.as_bytes()),
        })
    }

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(parse("{}"), Line::Heartbeat);
        assert_eq!(
            parse(r#"{"Index":9,"Events":[]}"#),
            Line::Progress(Index(9))
        );
        assert_eq!(
            parse(r#"{"Index":9,"Events":[],"Marker":"SnapshotEnd"}"#),
            Line::SnapshotEnd(Index(9))
        );
        let canonical = r#"{"Index":7,"Events":[{"Index":7,"Topic":"T","Payload":null}]}"#;
        assert_eq!(parse(canonical), frame(7, canonical));
        // As Nomad orders it, with spaces.
        let foreign = r#"{ "Events" : [ {"Topic":"T"} ], "Index" : 18446744073709551615 }"#;
        assert_eq!(parse(foreign), frame(u64::MAX, foreign));
    }

    #[test]
    fn half_a_frame_and_other_text_are_no_lines() {
        for text in [
            r#"{"Index":7,"Events":[{"Index":7,"Topic""#,
            "subscription closed by server, client should resubscribe",
            "",
            r#"{"Index":99999999999999999999,"Events":[{}]}"#,
        ] {
            let line = Bytes::from_static(text.as_bytes());
            assert!(Line::parse(line).is_err(), "{text}");
        }
    }
}
