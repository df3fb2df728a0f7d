//! `POST /v1/events`: one transaction as JSON, a stream of them as lines, or CloudEvents.

mod answer;
mod cloudevents;
mod json;
mod ndjson;
mod sender;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tidings_timeline::CommandGroup;
use tokio::time::{Instant, sleep, timeout_at};

use crate::app::App;
use crate::error::ApiError;
use crate::forward;
use crate::metrics::Buffered;
use crate::timeline::{Answer, ProposeFailure};
pub(crate) use answer::json_response;
pub(crate) use sender::SENDER_HEADER;
use sender::sender_of;

/// The media types that are understood, for the answer to others.
const ACCEPTED: &str = "application/json, application/x-ndjson, application/cloudevents+json, application/cloudevents-batch+json";

/// `POST /v1/events`.
pub(crate) async fn publish(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let sender = match sender_of(&parts.headers) {
        Ok(sender) => sender,
        Err(error) => return error.into_response(),
    };
    if sender.is_some()
        && let Some(upstream) = app.timeline.upstream()
    {
        let passed = forward::publish(&upstream, &parts.headers, body).await;
        return passed.unwrap_or_else(IntoResponse::into_response);
    }
    let result = match media_type(&parts.headers).as_deref() {
        Some("application/json") => json::publish(&app, sender, body).await,
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            return ndjson::publish(app, &parts.headers, sender, body).await;
        }
        _ if sender.is_some() => Err(ApiError::bad_request(
            "sender_invalid",
            "X-Tidings-Sender goes with transactions: send application/json or application/x-ndjson",
        )),
        Some("application/cloudevents+json") => cloudevents::publish(&app, body).await,
        Some("application/cloudevents-batch+json") => cloudevents::publish_batch(&app, body).await,
        other => Err(unsupported(other)),
    };
    result.map_or_else(IntoResponse::into_response, IntoResponse::into_response)
}

/// The media type without its parameters, in lower case. Without any, `curl --data` and its like
/// would be guessed at: so it has to be named.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(
        value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase(),
    )
}

fn unsupported(found: Option<&str>) -> ApiError {
    let found = match found {
        None | Some("") => String::from("the request names no Content-Type"),
        Some(found) => format!(
            "Content-Type {} is not understood",
            found.chars().take(64).collect::<String>()
        ),
    };
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "content_type_unsupported",
        format!("{found}: use one of {ACCEPTED}"),
    )
}

/// A whole body. Its bytes count among those that requests have in memory until it is dropped.
pub(crate) struct Received {
    bytes: Bytes,
    _buffered: Buffered,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole body of bounded size that keeps coming and comes to its end in time.
///
/// # Errors
/// 413 beyond `limit`, 408 when nothing comes for `body_pause` or not all within `body_timeout`,
/// 503 when too many bodies arrive at once, 400 when the sender breaks off.
pub(crate) async fn read_body(app: &App, body: Body, limit: usize) -> Result<Received, ApiError> {
    use http_body::Body as _;
    let config = &app.config.publish;
    let deadline = Instant::now() + config.body_timeout;
    let mut buffered = Buffered::nothing(&app.metrics);
    let mut body = body;
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::body_too_large(limit));
    }
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    loop {
        let pause = Instant::now() + config.body_pause;
        let frame = match timeout_at(pause.min(deadline), body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                return Err(ApiError::bad_request(
                    "body_incomplete",
                    "the request's body ended before it was complete: send it again",
                ));
            }
            Err(_) if deadline <= Instant::now() => {
                return Err(ApiError::body_timeout(format!(
                    "the request's body was not complete after {} s: send it faster, in parts, or as application/x-ndjson",
                    config.body_timeout.as_secs()
                )));
            }
            Err(_) => {
                return Err(ApiError::body_timeout(format!(
                    "nothing of the request's body came for {} s: send it without pauses",
                    config.body_pause.as_secs()
                )));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if first.len() + joined.len() + data.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        let received = first.len() + joined.len() + data.len();
        if !buffered.set(received, config.buffered_bytes) {
            app.metrics.publish_overloaded.one();
            return Err(ApiError::bodies_overloaded());
        }
        // Most bodies come in one piece, which then need not be copied.
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if !first.is_empty() {
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    Ok(Received {
        bytes: if joined.is_empty() {
            first
        } else {
            joined.freeze()
        },
        _buffered: buffered,
    })
}

/// How long a request waits for somebody to lead. Longer than handing over and electing take.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How often it looks whether somebody does.
const LEADER_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Proposes a group and waits for its outcomes. When the leader changes before anything was recorded,
/// it goes to the next one: of one request at a time, that keeps the order.
pub(crate) async fn propose(app: &App, group: CommandGroup) -> Result<Vec<Answer>, ApiError> {
    let began = Instant::now();
    let group = group.complete();
    let outcomes = loop {
        let outcomes = match app.timeline.submit(group.clone()).await {
            Ok(submitted) => submitted.await,
            Err(failure) => Err(failure),
        };
        match outcomes {
            Err(ProposeFailure::NoLeader) if began.elapsed() < LEADER_WAIT_MAX => {
                sleep(LEADER_LOOK_INTERVAL).await;
            }
            outcomes => break outcomes,
        }
    };
    let outcomes = outcomes.map_err(|failure| {
        let error = ApiError::from(failure);
        if error.is_overload() {
            app.metrics.publish_overloaded.one();
        }
        error
    })?;
    app.metrics.publish_latency.observe(began.elapsed());
    Ok(outcomes)
}
