use std::time::Duration;

use http::StatusCode;
use tidings_event::{Expression, Filter, Index, NamespaceSet, TopicSet};

use super::body::Beats;
use crate::app::App;
use crate::error::ApiError;
use crate::go_text;
use crate::query_text::QueryText;

/// Heartbeats are written no more often, unless the server does so by itself: a reader that wants to know
/// sooner that its server stands still costs every server that it asks.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);

/// By which of the three ways a stream is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    Lines,
    Sse,
    WebSocket,
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Some of the newest frames, as Nomad's buffer.
    Backlog,
    /// This frame, or the oldest after it.
    At(Index),
    /// The oldest frame.
    Beginning,
    /// What comes from now on.
    Now,
    /// The state as it is, then every change of it.
    Snapshot,
}

/// What a message bears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Frames,
    Events,
    CloudEvents,
}

/// What a subscriber asked for.
#[derive(Clone, Debug)]
pub(crate) struct StreamRequest {
    pub(crate) filter: Filter,
    pub(crate) start: Start,
    /// Whether a resuming reader began with a snapshot: then that is sent again where its frames
    /// are gone.
    pub(crate) or_snapshot: bool,
    pub(crate) progress: bool,
    pub(crate) strict: bool,
    /// How often a heartbeat is written.
    pub(crate) heartbeat: Duration,
    pub(crate) format: Format,
    /// The filter in the words of the request.
    pub(crate) asked: Asked,
}

impl StreamRequest {
    pub(crate) fn beats(&self) -> Beats {
        Beats {
            period: self.heartbeat,
            progress: self.progress,
        }
    }
}

/// A filter in the words of the request, for a server that is asked in turn.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) topics: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) expression: Option<String>,
}

/// Reads the parameters. Texts of errors that Nomad has too are Nomad's, in its order of checks;
/// parameters that nobody knows are ignored, as there.
pub(crate) async fn parse(
    app: &App,
    query: Option<&str>,
    surface: Surface,
    resume: Option<Index>,
) -> Result<StreamRequest, ApiError> {
    let query = QueryText::parse(query);
    let index = match query.get("index") {
        None => 0,
        Some(text) => go_text::parse_int(text).map_err(|error| {
            ApiError::bad_request("index_invalid", format!("Unable to parse index: {error}"))
        })?,
    };
    let topics: Vec<&str> = query.all("topic").collect();
    if topics.len() > app.config.stream.topics_max {
        return Err(ApiError::bad_request(
            "too_many_topics",
            format!(
                "the request names {} topics: at most {} are allowed",
                topics.len(),
                app.config.stream.topics_max
            ),
        ));
    }
    let asked = Asked {
        topics: topics.iter().map(ToString::to_string).collect(),
        namespace: query.first("namespace").map(str::to_owned),
        expression: query.get("filter").map(str::to_owned),
    };
    let topics = TopicSet::parse(topics)
        .map_err(|error| ApiError::bad_request("topic_invalid", error.to_string()))?;
    let index = u64::try_from(index)
        .map_err(|_| ApiError::bad_request("index_invalid", "Invalid index"))?;
    let region = query.get("region").unwrap_or_default();
    if !region.is_empty() && region != "global" && region != app.config.region {
        return Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no_path_to_region",
            "No path to region",
        ));
    }
    if !app.config.stream.enabled {
        return Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "stream_disabled",
            "EventBroker not configured",
        ));
    }
    let resume = match query.get("last_index") {
        None => resume,
        Some(text) => Some(last_index(text)?),
    };
    let from = start(&query, index)?;
    let format = format(&query, surface)?;
    let progress = flag(&query, "progress")?;
    let strict = flag(&query, "strict")?;
    let heartbeat = heartbeat(&query, app.config.stream.heartbeat)?;
    let namespaces = NamespaceSet::parse(query.first("namespace"));
    let expression = match query.get("filter") {
        None => None,
        Some(text) => Some(compile(text).await?),
    };
    Ok(StreamRequest {
        filter: Filter::new(topics, namespaces, expression),
        start: resume.map_or(from, |last| Start::At(last.next())),
        or_snapshot: resume.is_some() && from == Start::Snapshot,
        progress,
        strict,
        heartbeat,
        format,
        asked,
    })
}

/// Compiles a filter where the parser's stack and time are nobody else's.
pub(crate) async fn compile(text: &str) -> Result<Expression, ApiError> {
    let text = text.to_owned();
    tokio::task::spawn_blocking(move || Expression::compile(&text))
        .await
        .map_err(|_| ApiError::internal("the filter could not be compiled"))?
        .map_err(|error| ApiError::bad_request("filter_invalid", error.to_string()))
}

/// The index after which a reader goes on.
pub(crate) fn last_index(text: &str) -> Result<Index, ApiError> {
    // The greatest index has no next one; Nomad's parser ends at 2^63-1 too.
    text.trim()
        .parse()
        .ok()
        .filter(|last| i64::try_from(*last).is_ok())
        .map(Index)
        .ok_or_else(|| {
            ApiError::bad_request(
                "last_index_invalid",
                format!(
                    "the last index {:?} is not a number: give the last id that you have seen",
                    text.chars().take(32).collect::<String>()
                ),
            )
        })
}

fn start(query: &QueryText<'_>, index: u64) -> Result<Start, ApiError> {
    let start = match query.get("from") {
        None if index == 0 => return Ok(Start::Backlog),
        None => return Ok(Start::At(Index(index))),
        Some("beginning") => Start::Beginning,
        Some("now") => Start::Now,
        Some("snapshot") => Start::Snapshot,
        Some(other) => {
            return Err(ApiError::bad_request(
                "from_invalid",
                format!(
                    "from={} is not known: use beginning, now or snapshot",
                    other.chars().take(32).collect::<String>()
                ),
            ));
        }
    };
    // Nomad's Go client always sends an index, 0 when it has none.
    if index != 0 {
        return Err(ApiError::bad_request(
            "from_and_index",
            "from and index both say where to begin: give one of them",
        ));
    }
    Ok(start)
}

fn format(query: &QueryText<'_>, surface: Surface) -> Result<Format, ApiError> {
    let is_websocket = surface == Surface::WebSocket;
    match query.get("format") {
        None if is_websocket => Ok(Format::Events),
        None | Some("frame") => Ok(Format::Frames),
        Some("event") if is_websocket => Ok(Format::Events),
        Some("cloudevents") => Ok(Format::CloudEvents),
        Some(other) => Err(ApiError::bad_request(
            "format_invalid",
            format!(
                "format={} is not known here: use {}frame or cloudevents",
                other.chars().take(32).collect::<String>(),
                if is_websocket { "event, " } else { "" }
            ),
        )),
    }
}

/// As often as is asked for, but not more often than once in [`HEARTBEAT_MIN`] and not less often than
/// this server does by itself.
fn heartbeat(query: &QueryText<'_>, own: Duration) -> Result<Duration, ApiError> {
    let Some(text) = query.get("heartbeat") else {
        return Ok(own);
    };
    match go_text::parse_duration(text).filter(|asked| !asked.is_zero()) {
        Some(asked) => Ok(asked.max(HEARTBEAT_MIN).min(own)),
        None => Err(ApiError::bad_request(
            "heartbeat_invalid",
            format!(
                "heartbeat={} is no time between heartbeats: use 5s, say",
                text.chars().take(32).collect::<String>()
            ),
        )),
    }
}

fn flag(query: &QueryText<'_>, name: &'static str) -> Result<bool, ApiError> {
    query.flag(name).map_err(|value| {
        ApiError::bad_request(
            "flag_invalid",
            format!(
                "{name}={} is neither true nor false",
                value.chars().take(32).collect::<String>()
            ),
        )
    })
}
