use std::borrow::Cow;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use tidings_event::{EventError, Index};
use tidings_timeline::Refusal;

use crate::timeline::{ProposeFailure, ReadFailure};
use crate::upstream::UpstreamFailure;

/// How long a client is asked to wait when a disk is full: somebody has to make room.
const DISK_FULL_RETRY: Duration = Duration::from_secs(30);
/// How long when an agent's spool takes nothing: servers have to come back, or room.
const SPOOL_RETRY: Duration = Duration::from_secs(10);
/// How long while there is no leader or the server stops.
const AWAY_RETRY: Duration = Duration::from_secs(1);

/// What a client is told when something is wrong: a status, a stable code, and one sentence that
/// says what is wrong and what would be right.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: Cow<'static, str>,
    pub(crate) message: String,
    retry_after: Option<Duration>,
    details: Map<String, Value>,
}

impl ApiError {
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError {
            status,
            code: code.into(),
            message: message.into(),
            retry_after: None,
            details: Map::new(),
        }
    }

    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A fact that programs can read, beside `Code` and `Message`.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> ApiError {
        self.details.insert(String::from(name), value.into());
        self
    }

    /// Whether it only says that too much happens at once.
    pub(crate) fn is_overload(&self) -> bool {
        self.code == "overloaded"
    }

    /// Too much of something happens at once.
    pub(crate) fn overloaded(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
            .retry_after(AWAY_RETRY)
    }

    /// Too many bodies arrive at once.
    pub(crate) fn bodies_overloaded() -> ApiError {
        ApiError::overloaded("too many requests are being received: send again later")
    }

    /// Too many streams are open.
    pub(crate) fn too_many_streams(limit: u64) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too_many_streams",
            format!("{limit} streams are open, as many as are allowed: try again later, or raise stream.streams_max"),
        )
        .retry_after(AWAY_RETRY)
    }

    /// The body, or a line of it, takes too long.
    pub(crate) fn body_timeout(message: String) -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    }

    /// A strict reader has seen more than there is: this is another timeline, or it was reset.
    pub(crate) fn ahead(wanted: Index, newest: Index) -> ApiError {
        ApiError::new(
            StatusCode::CONFLICT,
            "index_ahead",
            format!("index {wanted} is beyond the next one: the newest is {newest}, the timeline is another one or was reset, start there or with from=snapshot"),
        )
        .with("Newest", newest.get())
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> ApiError {
        self.retry_after = Some(wait);
        self
    }

    /// Ask again in a moment.
    pub(crate) fn retry_soon(self) -> ApiError {
        self.retry_after(AWAY_RETRY)
    }

    /// `{"Error":{…}}`.
    pub(crate) fn to_json(&self) -> Value {
        let mut error = Map::new();
        error.insert(String::from("Code"), json!(self.code));
        error.insert(String::from("Message"), json!(self.message));
        error.extend(self.details.clone());
        json!({ "Error": error })
    }

    pub(crate) fn body_too_large(limit: usize) -> ApiError {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "transaction_too_large",
            format!(
                "the request's body has more than {limit} bytes: split it, or stream it as application/x-ndjson"
            ),
        )
    }

    /// Retention has removed what was asked for.
    pub(crate) fn gone(wanted: Index, oldest: Index) -> ApiError {
        ApiError::new(
            StatusCode::GONE,
            "index_gone",
            format!("index {wanted} is no longer retained: the oldest is {oldest}, start there or with from=snapshot"),
        )
        .with("Oldest", oldest.get())
    }

    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    /// This server does not know whether there is such a frame.
    pub(crate) fn behind(wanted: Index, failure: &ReadFailure) -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "behind",
            format!(
                "index {wanted} is not here yet, if there is such a one: {failure}; ask again later, or another server"
            ),
        )
        .retry_after(AWAY_RETRY)
    }

    pub(crate) fn stopping() -> ApiError {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "the server is stopping: ask again, or ask another one",
        )
        .retry_after(AWAY_RETRY)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.to_json().to_string();
        body.push('\n');
        let mut response = (
            self.status,
            [(header::CONTENT_TYPE, "application/json")],
            body,
        )
            .into_response();
        if let Some(wait) = self.retry_after {
            // Whole seconds, and never zero, which would mean at once.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

impl From<EventError> for ApiError {
    fn from(error: EventError) -> ApiError {
        let status = if error.is_size() {
            StatusCode::PAYLOAD_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        };
        ApiError::new(status, error.code(), error.to_string())
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let status = match refusal {
            Refusal::NoEntry => StatusCode::NOT_FOUND,
            Refusal::CasMismatch { .. }
            | Refusal::PartlyDuplicate { .. }
            | Refusal::SenderGap { .. }
            | Refusal::SenderForgotten { .. }
            | Refusal::SenderAhead { .. } => StatusCode::CONFLICT,
            Refusal::TooManySenders { .. } => StatusCode::INSUFFICIENT_STORAGE,
        };
        let error = ApiError::new(status, refusal.code(), refusal.to_string());
        match refusal {
            Refusal::CasMismatch { current, .. } => error.with("ModifyIndex", current),
            Refusal::PartlyDuplicate { index } => error.with("Index", index.get()),
            Refusal::SenderGap { expected, .. } => error.with("Expected", expected),
            Refusal::TooManySenders { .. } => error.retry_after(DISK_FULL_RETRY),
            Refusal::NoEntry | Refusal::SenderForgotten { .. } | Refusal::SenderAhead { .. } => {
                error
            }
        }
    }
}

impl From<ProposeFailure> for ApiError {
    fn from(failure: ProposeFailure) -> ApiError {
        let message = failure.to_string();
        match failure {
            ProposeFailure::Overloaded { retry_after } => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message)
                    .retry_after(retry_after)
            }
            ProposeFailure::DiskFull { .. } => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
                    .retry_after(DISK_FULL_RETRY)
            }
            ProposeFailure::TooLarge { .. } => ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "transaction_too_large",
                message,
            ),
            ProposeFailure::NoLeader => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_leader", message)
                    .retry_after(AWAY_RETRY)
            }
            ProposeFailure::SpoolFull { .. } => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "spool_full", message)
                    .retry_after(SPOOL_RETRY)
            }
            ProposeFailure::SpoolFailed { .. } => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "spool_failed", message)
                    .retry_after(SPOOL_RETRY)
            }
            ProposeFailure::Stopped => ApiError::stopping(),
            ProposeFailure::Unknown => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", message)
                    .retry_after(AWAY_RETRY)
            }
        }
    }
}

impl From<UpstreamFailure> for ApiError {
    fn from(failure: UpstreamFailure) -> ApiError {
        let message = failure.to_string();
        match failure {
            UpstreamFailure::Refused { status, code, .. } => ApiError::new(status, code, message),
            UpstreamFailure::NoServer { .. } => {
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_server", message)
                    .retry_after(AWAY_RETRY)
            }
            UpstreamFailure::Unknown { .. } => {
                ApiError::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", message)
            }
        }
    }
}

/// An error in the form that clients of Nomad expect: the status and a plain text.
#[derive(Clone, Debug)]
pub(crate) struct TextError {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl TextError {
    pub(crate) fn new(status: StatusCode, text: impl Into<String>) -> TextError {
        TextError {
            status,
            text: text.into(),
        }
    }
}

impl IntoResponse for TextError {
    fn into_response(self) -> Response {
        // The string's own content type is `text/plain; charset=utf-8`, which is Nomad's too.
        (self.status, self.text).into_response()
    }
}
