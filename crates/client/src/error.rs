//! What can go wrong between a program and an agent.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tidings_event::Index;

/// Settings that cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address is not one of an agent.
    #[error("{address:?} is not an address like http://127.0.0.1:7480")]
    Address {
        /// What was given, without what may be a secret in it.
        address: String,
    },
    /// The address asks for TLS.
    #[error(
        "https:// is not spoken: this version has no TLS; use http:// to an agent on this machine, or through a tunnel"
    )]
    Encrypted,
    /// The address holds a name or a password. They are not told.
    #[error("an address holds no name or password; the agent takes a token, see TIDINGS_TOKEN")]
    Credentials,
    /// The token cannot be sent. The token itself is not told.
    #[error("the token is empty or holds characters other than visible ASCII")]
    Token,
    /// No address was given at all.
    #[error("no address of an agent is given")]
    NoAddress,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// Codes of refusals that speak of the moment and not of what was asked: there is too much at once,
/// no leader, no server that the agent reaches, no room, the agent is stopping, or it cannot say what became of it. A transaction, whose
/// events bear ids, may be sent again after any of them: what is recorded already is answered as a
/// duplicate.
const TRANSIENT_CODES: [&str; 8] = [
    "overloaded",
    "no_server",
    "spool_full",
    "spool_failed",
    "no_leader",
    "stopping",
    "disk_full",
    "outcome_unknown",
];

/// Whether a refusal with this code may be a success a little later.
pub(crate) fn is_transient_code(code: &str) -> bool {
    TRANSIENT_CODES.contains(&code)
}

/// Why a connection failed: the innermost reason, without the layers of the HTTP library around it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{text}")]
pub struct TransportCause {
    text: String,
    kind: Option<io::ErrorKind>,
}

impl TransportCause {
    /// What the operating system called it, when it was its error.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        self.kind
    }

    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        let mut innermost = error;
        let mut kind = None;
        while let Some(source) = innermost.source() {
            innermost = source;
            if let Some(error) = innermost.downcast_ref::<io::Error>() {
                kind = Some(error.kind());
            }
        }
        Self {
            text: innermost.to_string(),
            kind,
        }
    }
}

/// Which servers were asked, and how each of them failed the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried(Vec<(String, String)>);

impl Tried {
    /// Notes how the server at an address failed.
    pub(crate) fn note(&mut self, address: &str, error: &ClientError) {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            text.push_str(": ");
            text.push_str(&source.to_string());
            cause = source.source();
        }
        // Which address it was is told in front.
        if let Some(why) = text.strip_prefix(&format!("cannot connect to {address}: ")) {
            text = format!("cannot connect: {why}");
        }
        match self.0.iter_mut().find(|(tried, _)| tried == address) {
            Some(known) => known.1 = text,
            None => self.0.push((address.to_owned(), text)),
        }
    }

    /// How many servers were asked.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Address and failure of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(address, failure)| (address.as_str(), failure.as_str()))
    }

    /// The error of the last try, with what the others said when there were any.
    pub(crate) fn into_error(self, last: ClientError) -> ClientError {
        if self.0.len() < 2 {
            return last;
        }
        ClientError::NoServer {
            tried: self,
            last: Box::new(last),
        }
    }
}

impl fmt::Display for Tried {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (address, failure)) in self.iter().enumerate() {
            let separator = if number > 0 { "; " } else { "" };
            write!(formatter, "{separator}{address}: {failure}")?;
        }
        Ok(())
    }
}

/// A request that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No connection: nothing was sent.
    #[error("cannot connect to {address}")]
    Connect {
        /// The agent's address.
        address: String,
        /// Why.
        #[source]
        source: TransportCause,
    },
    /// The connection broke before the answer was complete. What was asked may have happened.
    #[error("the connection to {address} broke before the answer was complete")]
    Broken {
        /// The agent's address.
        address: String,
        /// Why.
        #[source]
        source: TransportCause,
    },
    /// No complete answer in time. What was asked may have happened.
    #[error("no complete answer from {address} within {limit:?}")]
    TimedOut {
        /// The agent's address.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The agent answered with an error.
    #[error("the agent refused it: {message} ({code}, HTTP {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The agent's stable code, or `http_<status>` when the answer bore none.
        code: String,
        /// The agent's sentence.
        message: String,
        /// How long the agent asks to wait before a retry.
        retry_after: Option<Duration>,
    },
    /// The answer is not what this client understands.
    #[error("the answer of {address} is not understood")]
    Answer {
        /// The agent's address.
        address: String,
        /// Where it stops being understood.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is larger than this client takes.
    #[error("the answer is larger than {limit} bytes")]
    AnswerTooLarge {
        /// Limit in bytes.
        limit: usize,
    },
    /// One line of a stream is longer than this client takes.
    #[error("a line of the stream is longer than {limit} bytes")]
    LineTooLong {
        /// Limit in bytes.
        limit: usize,
    },
    /// A stream carried a line that is no frame: something between here and the agent wrote into
    /// it, or cut it.
    #[error("a line of the stream is not a frame: {gist:?}")]
    NotAFrame {
        /// The start of the line.
        gist: String,
    },
    /// The agent ended the stream.
    #[error("the agent ended the stream")]
    Ended,
    /// A stream said nothing, not even a heartbeat.
    #[error("nothing came on the stream for {limit:?}, not even a heartbeat")]
    Silent {
        /// How long was waited.
        limit: Duration,
    },
    /// The index asked for is no longer kept, and the request was strict.
    #[error("index {wanted} is no longer kept by the agent")]
    Gone {
        /// The index asked for.
        wanted: Index,
    },
    /// The agent keeps another timeline than the one that was followed, whose indexes mean nothing
    /// in it.
    #[error("the agent keeps another timeline now ({timeline}, it was {previous}): it was reset")]
    TimelineReset {
        /// The timeline that was followed.
        previous: String,
        /// The one that the agent keeps.
        timeline: String,
    },
    /// Each of several servers was asked, and none gave an answer.
    #[error("no server gave an answer: {tried}")]
    NoServer {
        /// What each of them did instead.
        tried: Tried,
        /// How the last try failed; no source, since it is told with the others.
        last: Box<ClientError>,
    },
    /// Tried until the time for it was over.
    #[error("given up after {tries} tries in {spent:.1?}")]
    GaveUp {
        /// How often it was tried.
        tries: u32,
        /// Time spent.
        spent: Duration,
        /// How the last try failed; [`ClientError::NoServer`] when several servers were asked.
        #[source]
        last: Box<ClientError>,
    },
}

impl ClientError {
    /// Whether the same request may succeed a little later: the agent is away, starting, or busy.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Ended
            | Self::Silent { .. }
            | Self::NotAFrame { .. } => true,
            Self::Refused { status, code, .. } => {
                matches!(status, 408 | 425 | 429 | 502 | 503 | 504) || is_transient_code(code)
            }
            Self::NoServer { last, .. } => last.is_transient(),
            _ => false,
        }
    }

    /// Whether another server may do better: this one is away, stops, or has lost the others. One
    /// that only has too much to do speaks for the leader, and so would another.
    pub(crate) fn is_of_the_server(&self) -> bool {
        match self {
            Self::Refused { status, code, .. } => {
                self.is_transient()
                    && !matches!(status, 408 | 425 | 429)
                    && !matches!(code.as_str(), "overloaded" | "disk_full")
            }
            Self::NoServer { .. } | Self::GaveUp { .. } => false,
            error => error.is_transient(),
        }
    }

    /// Whether it is certain that what was asked did not happen, so that asking elsewhere cannot make
    /// it happen twice.
    pub(crate) fn did_not_happen(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused { code, .. } => is_transient_code(code) && code != "outcome_unknown",
            _ => false,
        }
    }

    /// How long the agent asked to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// The stable code of the agent's refusal, also of the last try that was given up.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::GaveUp { last, .. } | Self::NoServer { last, .. } => last.code(),
            _ => None,
        }
    }

    /// The error of the last try, when it is one that was given up; else itself.
    pub fn last_try(&self) -> &ClientError {
        match self {
            Self::GaveUp { last, .. } | Self::NoServer { last, .. } => last.last_try(),
            error => error,
        }
    }

    /// Sorts an error of the HTTP library by what it means to the caller.
    pub(crate) fn from_transport(address: &str, limit: Duration, error: reqwest::Error) -> Self {
        let address = address.to_owned();
        let source = TransportCause::of(&error);
        if error.is_connect() {
            Self::Connect { address, source }
        } else if error.is_timeout() {
            Self::TimedOut { address, limit }
        } else {
            Self::Broken { address, source }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_moment_are_tried_again_by_status_or_code() {
        let refused = |status, code: &str| ClientError::Refused {
            status,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
        };
        for code in TRANSIENT_CODES {
            assert!(refused(500, code).is_transient(), "{code}");
        }
        assert!(refused(503, "http_503").is_transient());
        assert!(!refused(500, "internal").is_transient());
        assert!(!refused(409, "partly_duplicate").is_transient());
        assert!(refused(503, "no_leader").is_of_the_server());
        assert!(!refused(503, "overloaded").is_of_the_server());
        assert!(!refused(404, "no_entry").is_of_the_server());
        assert!(refused(507, "spool_full").is_of_the_server(), "another may");
        assert!(refused(503, "no_leader").did_not_happen());
        assert!(!refused(503, "outcome_unknown").did_not_happen());
        assert!(!refused(502, "http_502").did_not_happen());
    }

    #[test]
    fn several_servers_are_told_each_with_its_failure() {
        let silent = |address: &str| ClientError::TimedOut {
            address: address.to_owned(),
            limit: Duration::from_secs(3),
        };
        let mut tried = Tried::default();
        tried.note("http://a", &silent("http://a"));
        assert!(matches!(
            tried.clone().into_error(ClientError::Ended),
            ClientError::Ended
        ));
        tried.note("http://b", &ClientError::Ended);
        tried.note("http://a", &ClientError::Ended);
        let error = tried.into_error(ClientError::Ended);
        assert_eq!(
            error.to_string(),
            "no server gave an answer: http://a: the agent ended the stream; http://b: the agent ended the stream"
        );
        assert!(error.is_transient());
    }
}
