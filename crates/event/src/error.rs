use thiserror::Error;

/// Why an event or a transaction is refused. Each says what is wrong and what would be right.
#[derive(Debug, Error)]
pub enum EventError {
    /// The text is not JSON of the expected shape.
    #[error("the {what} is not valid JSON of the expected form: {detail}")]
    Malformed {
        /// `event`, `transaction`, `CloudEvent` …
        what: &'static str,
        /// Where and how, from the parser.
        detail: String,
    },
    /// A field must be there and is not.
    #[error("the event has no {field}: give it a non-empty string")]
    Missing {
        /// The field's name on the wire.
        field: &'static str,
    },
    /// A field is longer than its limit.
    #[error("{field} has {bytes} bytes: at most {limit} are allowed")]
    FieldTooLong {
        /// The field's name on the wire.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// A field contains something that could not be subscribed to or shown.
    #[error("{field} {value:?} contains {found}: {allowed}")]
    FieldText {
        /// The field's name on the wire.
        field: &'static str,
        /// Its beginning.
        value: String,
        /// What was found in it.
        found: &'static str,
        /// What would be right.
        allowed: &'static str,
    },
    /// Too many entries in `FilterKeys`.
    #[error("FilterKeys has more than {limit} entries: give fewer, or raise limits.filter_keys")]
    TooManyFilterKeys {
        /// How many there may be.
        limit: usize,
    },
    /// Nomad's clients cannot read a payload that is neither an object nor null.
    #[error("Payload is {found}: it must be a JSON object or null")]
    PayloadKind {
        /// What was found instead.
        found: &'static str,
    },
    /// The payload is nested too deeply.
    #[error("Payload is nested deeper than {limit} levels")]
    PayloadDepth {
        /// How deep it may be.
        limit: usize,
    },
    /// One event is too large.
    #[error("the event has {bytes} bytes: at most {limit} are allowed")]
    EventTooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// All events of a transaction together are too large.
    #[error("the transaction has {bytes} bytes: at most {limit} are allowed, split it")]
    TransactionTooLarge {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// Too many events in one transaction.
    #[error("the transaction has more than {limit} events: split it")]
    TooManyEvents {
        /// How many there may be.
        limit: usize,
    },
    /// A transaction without events has nothing to bear an index.
    #[error("the transaction has no events: give at least one in Events")]
    NoEvents,
    /// Two events of one transaction bear the same Id.
    #[error("the Id {id:?} is used twice in one transaction: give each event its own")]
    RepeatedId {
        /// The Id.
        id: String,
    },
    /// Some events of a transaction bear an Id of their publisher, others do not.
    #[error(
        "{with} events of the transaction have an Id and {without} have none: give every event one, or none"
    )]
    SomeIds {
        /// How many have one.
        with: usize,
        /// How many have none.
        without: usize,
    },
    /// A CloudEvent of another version.
    #[error("the CloudEvent has specversion {found:?}: only \"1.0\" is understood")]
    CloudEventVersion {
        /// What it says.
        found: String,
    },
}

impl EventError {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            EventError::Malformed { .. } => "malformed_json",
            EventError::Missing { .. } => "field_missing",
            EventError::FieldTooLong { .. } => "field_too_long",
            EventError::FieldText { .. } => "field_text",
            EventError::TooManyFilterKeys { .. } => "too_many_filter_keys",
            EventError::PayloadKind { .. } => "payload_kind",
            EventError::PayloadDepth { .. } => "payload_depth",
            EventError::EventTooLarge { .. } => "event_too_large",
            EventError::TransactionTooLarge { .. } => "transaction_too_large",
            EventError::TooManyEvents { .. } => "too_many_events",
            EventError::NoEvents => "no_events",
            EventError::RepeatedId { .. } => "repeated_id",
            EventError::SomeIds { .. } => "some_ids",
            EventError::CloudEventVersion { .. } => "cloudevent_version",
        }
    }

    /// Whether the thing is refused for its size alone (HTTP 413).
    pub fn is_size(&self) -> bool {
        matches!(
            self,
            EventError::EventTooLarge { .. }
                | EventError::TransactionTooLarge { .. }
                | EventError::TooManyEvents { .. }
        )
    }
}
