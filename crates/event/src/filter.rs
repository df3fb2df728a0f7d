use bytes::Bytes;

use crate::DEFAULT_NAMESPACE;
use crate::digest::{DigestFilter, RouteKey};
use crate::expression::Expression;
use crate::frame_view::{EventView, FrameError, FrameWalk};
use crate::namespace_set::NamespaceSet;
use crate::topic_set::TopicSet;

/// What a subscriber asked for: topics and keys, namespaces, and an expression. All must hold.
#[derive(Clone, Debug)]
pub struct Filter {
    topics: TopicSet,
    namespaces: NamespaceSet,
    expression: Option<Expression>,
}

/// What of a line a filter lets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it.
    All,
    /// None of it.
    None,
    /// A line with some of its events.
    Some(Bytes),
}

impl Filter {
    /// Lets everything through, in every namespace.
    pub fn everything() -> Filter {
        Filter::new(TopicSet::everything(), NamespaceSet::All, None)
    }

    /// A filter of three parts.
    pub fn new(
        topics: TopicSet,
        namespaces: NamespaceSet,
        expression: Option<Expression>,
    ) -> Filter {
        Filter {
            topics,
            namespaces,
            expression,
        }
    }

    /// The topics and keys.
    pub fn topics(&self) -> &TopicSet {
        &self.topics
    }

    /// The namespaces.
    pub fn namespaces(&self) -> &NamespaceSet {
        &self.namespaces
    }

    /// Whether the event is wanted.
    pub fn matches(&self, event: &EventView<'_>) -> bool {
        self.namespaces
            .contains_escaped(event.namespace_escaped().as_bytes())
            && self.topics.matches(event)
            && self
                .expression
                .as_ref()
                .is_none_or(|expression| expression.matches(event))
    }

    /// Whether every event whose topic and namespace are among these (escaped) is wanted, so that
    /// nobody has to look at it.
    pub fn wants_all_of<'a>(
        &self,
        topics: impl IntoIterator<Item = &'a [u8]>,
        namespaces: impl IntoIterator<Item = &'a [u8]>,
    ) -> bool {
        self.expression.is_none()
            && (self.topics.is_everything()
                || topics
                    .into_iter()
                    .all(|topic| self.topics.wants_whole_topic(topic)))
            && namespaces
                .into_iter()
                .all(|name| self.namespaces.contains_escaped(name))
    }

    /// Whether every event is wanted, whatever it is.
    pub fn is_everything(&self) -> bool {
        self.expression.is_none()
            && self.topics.is_everything()
            && self.namespaces == NamespaceSet::All
    }

    /// Whether every event of the namespace `default`, or of none, is wanted, whatever it is.
    pub fn wants_default_namespace(&self) -> bool {
        self.topics.is_everything()
            && self.wants_all_of(std::iter::empty(), [DEFAULT_NAMESPACE.as_bytes()])
    }

    /// The routes by which matching events arrive; `None` when any event may match.
    pub fn routes(&self) -> Option<Vec<RouteKey>> {
        self.topics.routes()
    }

    /// The digests that frames with matching events may have.
    pub fn digests(&self) -> DigestFilter {
        self.topics.digests()
    }

    /// What of a line is let through. The line may or may not end with a newline; what comes out
    /// has one.
    ///
    /// # Errors
    /// When the line is not in the form in which frames are written.
    pub fn select(&self, line: &[u8]) -> Result<Selected, FrameError> {
        if self.is_everything() {
            return Ok(Selected::All);
        }
        let mut walk = FrameWalk::new(line)?;
        let mut total = 0_usize;
        let mut wanted: Vec<EventView<'_>> = Vec::new();
        while let Some(event) = walk.next_event()? {
            total += 1;
            if self.matches(&event) {
                wanted.push(event);
            }
        }
        if wanted.is_empty() {
            return Ok(Selected::None);
        }
        if wanted.len() == total {
            return Ok(Selected::All);
        }
        let mut out = Vec::with_capacity(line.len());
        out.extend_from_slice(format!("{{\"Index\":{},\"Events\":[", walk.index).as_bytes());
        for (at, event) in wanted.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(event.raw().as_bytes());
        }
        out.extend_from_slice(b"]}\n");
        Ok(Selected::Some(out.into()))
    }
}
