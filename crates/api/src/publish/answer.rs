use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use tidings_event::Index;
use tidings_timeline::Outcome;

use crate::error::ApiError;
use crate::metrics::Metrics;
use crate::timeline::Answer;

/// A transaction that has its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) index: Index,
    /// It had it before.
    pub(crate) duplicate: bool,
    /// It has none yet: this agent keeps it until a server is reached.
    pub(crate) spooled: bool,
}

impl Published {
    /// What an outcome means to a publisher; it is counted here.
    ///
    /// # Errors
    /// What a publisher is told when the timeline refused.
    pub(crate) fn of(answer: Answer, metrics: &Metrics) -> Result<Published, ApiError> {
        let outcome = match answer {
            Answer::Outcome(outcome) => outcome,
            Answer::Refused { code, message } => {
                metrics.publish_refused.one();
                return Err(ApiError::new(refused_status(&code), code, message));
            }
            Answer::Spooled => {
                metrics.published_spooled.one();
                return Ok(Published {
                    index: Index::ZERO,
                    duplicate: false,
                    spooled: true,
                });
            }
        };
        match outcome {
            Outcome::Published { index } => {
                metrics.published_transactions.one();
                Ok(Published {
                    index,
                    duplicate: false,
                    spooled: false,
                })
            }
            Outcome::Duplicate { index } => {
                metrics.published_duplicates.one();
                Ok(Published {
                    index,
                    duplicate: true,
                    spooled: false,
                })
            }
            Outcome::Refused(refusal) => {
                metrics.publish_refused.one();
                Err(ApiError::from(*refusal))
            }
            other => Err(ApiError::internal(format!(
                "the timeline answered {other:?} to a publish"
            ))),
        }
    }

    /// Appends the line that answers it.
    pub(crate) fn push_line(self, out: &mut BytesMut) {
        let Published {
            index,
            duplicate,
            spooled,
        } = self;
        out.reserve(48);
        if spooled {
            out.extend_from_slice(b"{\"Spooled\":true}\n");
            return;
        }
        out.extend_from_slice(b"{\"Index\":");
        out.extend_from_slice(itoa::Buffer::new().format(index.get()).as_bytes());
        let end: &[u8] = if duplicate {
            b",\"Duplicate\":true}\n"
        } else {
            b"}\n"
        };
        out.extend_from_slice(end);
    }
}

/// The status for what a server refused by this code.
fn refused_status(code: &str) -> StatusCode {
    match code {
        "partly_duplicate" => StatusCode::CONFLICT,
        code if code.ends_with("_too_large") => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

impl IntoResponse for Published {
    fn into_response(self) -> Response {
        let mut line = BytesMut::new();
        self.push_line(&mut line);
        let mut response = json_response(line.freeze());
        if self.spooled {
            *response.status_mut() = StatusCode::ACCEPTED;
        }
        response
    }
}

/// 200 with a JSON body that is already text.
pub(crate) fn json_response(body: Bytes) -> Response {
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}
