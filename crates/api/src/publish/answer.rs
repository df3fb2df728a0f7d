use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, header};
use tidings_event::Index;
use tidings_timeline::Outcome;

use crate::error::ApiError;
use crate::metrics::Metrics;

/// A transaction that has its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) index: Index,
    /// It had it before.
    pub(crate) duplicate: bool,
}

impl Published {
    /// What an outcome means to a publisher; it is counted here.
    ///
    /// # Errors
    /// What a publisher is told when the timeline refused.
    pub(crate) fn of(outcome: Outcome, metrics: &Metrics) -> Result<Published, ApiError> {
        match outcome {
            Outcome::Published { index } => {
                metrics.published_transactions.one();
                Ok(Published {
                    index,
                    duplicate: false,
                })
            }
            Outcome::Duplicate { index } => {
                metrics.published_duplicates.one();
                Ok(Published {
                    index,
                    duplicate: true,
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
        let Published { index, duplicate } = self;
        out.reserve(48);
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

impl IntoResponse for Published {
    fn into_response(self) -> Response {
        let mut line = BytesMut::new();
        self.push_line(&mut line);
        json_response(line.freeze())
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
