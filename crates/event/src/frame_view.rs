use std::borrow::Cow;

use thiserror::Error;

use crate::digest::{Digest, RouteHash};
use crate::json_text::end_of_string;
use crate::{Index, Timestamp};

/// A frame's line, cut into its parts. Payloads are found, not decoded.
#[derive(Clone, Debug)]
pub struct FrameView<'a> {
    index: Index,
    events: Vec<EventView<'a>>,
}

/// One event of a frame, as slices of its line.
#[derive(Clone, Copy, Debug)]
pub struct EventView<'a> {
    raw: &'a str,
    body: &'a str,
    index: Index,
    topic: &'a str,
    r#type: &'a str,
    key: &'a str,
    namespace: &'a str,
    filter_keys: &'a str,
    id: &'a str,
    time: &'a str,
    node: &'a str,
    source: &'a str,
    payload: &'a str,
}

/// A line that is not in the one form in which frames are written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The bytes are no UTF-8 text.
    #[error("the line is not UTF-8 from byte {at} on")]
    NotText {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// Something else stands where a part was expected.
    #[error("the line has no {expected} at byte {at}")]
    Unexpected {
        /// What should stand there.
        expected: &'static str,
        /// Where.
        at: usize,
    },
    /// An event bears another index than its frame.
    #[error("an event bears index {event} in frame {frame}")]
    IndexMismatch {
        /// The frame's.
        frame: Index,
        /// The event's.
        event: Index,
    },
}

impl<'a> FrameView<'a> {
    /// Reads a line, with or without the newline at its end.
    ///
    /// # Errors
    /// When the line is not exactly what this crate writes.
    pub fn parse(line: &'a [u8]) -> Result<FrameView<'a>, FrameError> {
        let mut walk = FrameWalk::new(line)?;
        let mut events = Vec::with_capacity(1);
        while let Some(event) = walk.next_event()? {
            events.push(event);
        }
        Ok(FrameView {
            index: walk.index,
            events,
        })
    }

    /// The frame's index.
    pub fn index(&self) -> Index {
        self.index
    }

    /// The events, in the order of their transaction.
    pub fn events(&self) -> &[EventView<'a>] {
        &self.events
    }

    /// The digest that belongs beside this frame in a segment's index.
    pub fn digest(&self) -> Digest {
        let mut digest = Digest::EMPTY;
        for event in &self.events {
            digest.add_topic(event.topic_hash());
            digest.add_namespace(RouteHash::of_escaped(event.namespace.as_bytes()));
            digest.add_key(event.key_hash());
            event
                .filter_key_hashes()
                .for_each(|key| digest.add_key(key));
        }
        digest
    }
}

impl<'a> EventView<'a> {
    /// The whole object, with its index.
    pub fn raw(&self) -> &'a str {
        self.raw
    }
    /// What a command carries: all that follows the index, with the closing brace.
    pub fn body(&self) -> &'a str {
        self.body
    }
    /// The frame's index.
    pub fn index(&self) -> Index {
        self.index
    }
    /// Topic.
    pub fn topic(&self) -> Cow<'a, str> {
        unescape(self.topic)
    }
    /// Type.
    pub fn type_(&self) -> Cow<'a, str> {
        unescape(self.r#type)
    }
    /// Key; may be empty.
    pub fn key(&self) -> Cow<'a, str> {
        unescape(self.key)
    }
    /// Namespace; may be empty.
    pub fn namespace(&self) -> Cow<'a, str> {
        unescape(self.namespace)
    }
    /// Id.
    pub fn id(&self) -> Cow<'a, str> {
        unescape(self.id)
    }
    /// Node.
    pub fn node(&self) -> Cow<'a, str> {
        unescape(self.node)
    }
    /// Source.
    pub fn source(&self) -> Cow<'a, str> {
        unescape(self.source)
    }
    /// Time; the epoch when the text is not one of ours.
    pub fn time(&self) -> Timestamp {
        self.time.parse().unwrap_or_default()
    }
    /// Filter keys; empty for `null`.
    pub fn filter_keys(&self) -> Vec<Cow<'a, str>> {
        self.filter_keys_escaped().map(unescape).collect()
    }
    /// Whether `FilterKeys` is `null` rather than a list.
    pub fn has_null_filter_keys(&self) -> bool {
        self.filter_keys == "null"
    }
    /// The payload's JSON text: an object or `null`.
    pub fn payload(&self) -> &'a str {
        self.payload
    }
    /// The hash of the topic.
    pub fn topic_hash(&self) -> RouteHash {
        RouteHash::of_escaped(self.topic.as_bytes())
    }
    /// The hash of the key.
    pub fn key_hash(&self) -> RouteHash {
        RouteHash::of_escaped(self.key.as_bytes())
    }
    /// The hashes of the filter keys.
    pub fn filter_key_hashes(&self) -> impl Iterator<Item = RouteHash> + use<'a> {
        self.filter_keys_escaped()
            .map(|key| RouteHash::of_escaped(key.as_bytes()))
    }

    pub(crate) fn topic_escaped(&self) -> &'a str {
        self.topic
    }
    pub(crate) fn key_escaped(&self) -> &'a str {
        self.key
    }
    pub(crate) fn namespace_escaped(&self) -> &'a str {
        self.namespace
    }
    pub(crate) fn filter_keys_escaped(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let text = self.filter_keys;
        let mut at = 1; // behind the bracket; `null` has no quote to be found
        std::iter::from_fn(move || {
            let open = at + memchr::memchr(b'"', text.as_bytes().get(at..)?)?;
            let end = end_of_string(text.as_bytes(), open);
            at = end;
            text.get(open + 1..end - 1)
        })
    }
}

fn unescape(escaped: &str) -> Cow<'_, str> {
    if !escaped.as_bytes().contains(&b'\\') {
        return Cow::Borrowed(escaped);
    }
    // A text that only looks escaped is given as it stands.
    serde_json::from_str::<String>(&format!("\"{escaped}\""))
        .map_or(Cow::Borrowed(escaped), Cow::Owned)
}

/// Reads a frame's events one after the other, without allocation.
pub(crate) struct FrameWalk<'a> {
    pub(crate) index: Index,
    text: &'a str,
    at: usize,
    first: bool,
    done: bool,
}

impl<'a> FrameWalk<'a> {
    pub(crate) fn new(line: &'a [u8]) -> Result<FrameWalk<'a>, FrameError> {
        let text = std::str::from_utf8(line).map_err(|source| FrameError::NotText {
            at: source.valid_up_to(),
        })?;
        let mut walk = FrameWalk {
            index: Index::ZERO,
            text,
            at: 0,
            first: true,
            done: false,
        };
        walk.expect("{\"Index\":", "frame index")?;
        walk.index = walk.number()?;
        walk.expect(",\"Events\":[", "list of events")?;
        Ok(walk)
    }

    pub(crate) fn next_event(&mut self) -> Result<Option<EventView<'a>>, FrameError> {
        if self.done {
            return Ok(None);
        }
        if !self.first {
            match self.text.as_bytes().get(self.at) {
                Some(b',') => self.at += 1,
                _ => return self.finish(),
            }
        } else if self.text.as_bytes().get(self.at) == Some(&b']') {
            return self.finish();
        }
        self.first = false;
        let start = self.at;
        self.expect("{\"Index\":", "event index")?;
        let index = self.number()?;
        if index != self.index {
            return Err(FrameError::IndexMismatch {
                frame: self.index,
                event: index,
            });
        }
        self.expect(",", "event body")?;
        let body = self.at;
        let topic = self.string("\"Topic\":", "Topic")?;
        let r#type = self.string(",\"Type\":", "Type")?;
        let key = self.string(",\"Key\":", "Key")?;
        let namespace = self.string(",\"Namespace\":", "Namespace")?;
        self.expect(",\"FilterKeys\":", "FilterKeys")?;
        let filter_keys = self.filter_keys()?;
        let id = self.string(",\"Id\":", "Id")?;
        let time = self.string(",\"Time\":", "Time")?;
        let node = self.string(",\"Node\":", "Node")?;
        let source = self.string(",\"Source\":", "Source")?;
        self.expect(",\"Payload\":", "Payload")?;
        let payload = self.payload()?;
        self.expect("}", "end of event")?;
        Ok(Some(EventView {
            raw: &self.text[start..self.at],
            body: &self.text[body..self.at],
            index,
            topic,
            r#type,
            key,
            namespace,
            filter_keys,
            id,
            time,
            node,
            source,
            payload,
        }))
    }

    fn finish<T>(&mut self) -> Result<Option<T>, FrameError> {
        self.expect("]}", "end of frame")?;
        if self.text.as_bytes().get(self.at) == Some(&b'\n') {
            self.at += 1;
        }
        if self.at != self.text.len() {
            return Err(FrameError::Unexpected {
                expected: "end of line",
                at: self.at,
            });
        }
        self.done = true;
        Ok(None)
    }

    fn expect(&mut self, token: &'static str, expected: &'static str) -> Result<(), FrameError> {
        if !self.text.as_bytes()[self.at..].starts_with(token.as_bytes()) {
            return Err(FrameError::Unexpected {
                expected,
                at: self.at,
            });
        }
        self.at += token.len();
        Ok(())
    }

    fn number(&mut self) -> Result<Index, FrameError> {
        let start = self.at;
        let digits = self.text.as_bytes()[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += digits;
        let text = &self.text[start..self.at];
        let canonical = !text.starts_with('0');
        match text.parse() {
            Ok(number) if canonical => Ok(Index(number)),
            _ => Err(FrameError::Unexpected {
                expected: "index",
                at: start,
            }),
        }
    }

    fn string(
        &mut self,
        name: &'static str,
        expected: &'static str,
    ) -> Result<&'a str, FrameError> {
        self.expect(name, expected)?;
        let open = self.at;
        if self.text.as_bytes().get(open) != Some(&b'"') {
            return Err(FrameError::Unexpected { expected, at: open });
        }
        let end = end_of_string(self.text.as_bytes(), open);
        if end - open < 2 || self.text.as_bytes()[end - 1] != b'"' {
            return Err(FrameError::Unexpected { expected, at: open });
        }
        self.at = end;
        // An escaped quote at the very end of the text looks like a closing one.
        self.text
            .get(open + 1..end - 1)
            .ok_or(FrameError::Unexpected { expected, at: open })
    }

    fn filter_keys(&mut self) -> Result<&'a str, FrameError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        if bytes[start..].starts_with(b"null") {
            self.at += 4;
        } else {
            self.expect("[", "FilterKeys")?;
            let mut comma_allowed = false;
            loop {
                match bytes.get(self.at) {
                    Some(b'"') => self.at = end_of_string(bytes, self.at),
                    Some(b',') if comma_allowed => self.at += 1,
                    Some(b']') => break,
                    _ => {
                        return Err(FrameError::Unexpected {
                            expected: "FilterKeys",
                            at: self.at,
                        });
                    }
                }
                comma_allowed = true;
            }
            self.at += 1;
        }
        self.text.get(start..self.at).ok_or(FrameError::Unexpected {
            expected: "FilterKeys",
            at: start,
        })
    }

    fn payload(&mut self) -> Result<&'a str, FrameError> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        if bytes[start..].starts_with(b"null") {
            self.at += 4;
            return Ok("null");
        }
        let wrong = FrameError::Unexpected {
            expected: "Payload",
            at: start,
        };
        if bytes.get(start) != Some(&b'{') {
            return Err(wrong);
        }
        let mut depth = 0_usize;
        let mut at = start;
        // Only quotes, braces and the end matter; brackets cannot hide an object's end.
        while let Some(found) =
            memchr::memchr3(b'"', b'{', b'}', bytes.get(at..).unwrap_or_default())
        {
            at += found;
            match bytes[at] {
                b'"' => at = end_of_string(bytes, at),
                b'{' => {
                    depth += 1;
                    at += 1;
                }
                _ => {
                    depth -= 1;
                    at += 1;
                    if depth == 0 {
                        self.at = at;
                        return self.text.get(start..at).ok_or(wrong);
                    }
                }
            }
        }
        Err(wrong)
    }
}
