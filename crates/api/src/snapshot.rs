//! `/v1/snapshot`: the timeline as one file, and its entries brought back from one.
//!
//! ```text
//!  GET   files, state ──pieces──▶ pipe ──▶ body      no further than the client reads
//!  POST  body ──▶ pipe ──▶ read and checked to its end ──▶ changes, to their end
//!                 └ the client goes: nothing changes       └ the client goes: they go on
//! ```

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use tidings_raft::{RestoreScope, SaveHistory, SnapshotFileError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::app::App;
use crate::error::ApiError;
use crate::publish::json_response;
use crate::query_text::QueryText;
use crate::reading::{Freshness, with_index};

/// Snapshots that are written at the same time: each keeps files that retention wants to remove.
const SAVES_AT_ONCE_MAX: usize = 2;
/// Snapshots that are restored at the same time: each has a state in memory.
const RESTORES_AT_ONCE_MAX: usize = 1;
/// How long one may be on its way, in either direction: 100 GiB at 5 MB/s.
const TRANSFER_MAX: Duration = Duration::from_secs(6 * 3600);
/// Bytes between the files and the connection.
const PIPE_BYTES: usize = 256 << 10;
/// Bytes of one piece of a body.
const PIECE_BYTES: usize = 64 << 10;
/// What is still read of a body that is refused, so that its sender gets to read why: most clients do
/// not look before all is sent.
const REFUSED_BYTES_MAX: usize = 64 << 20;
/// And for how long.
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(5);

/// Permits for snapshots on their way.
#[derive(Debug)]
pub(crate) struct SnapshotPlaces {
    saves: Arc<Semaphore>,
    restores: Arc<Semaphore>,
}

impl SnapshotPlaces {
    pub(crate) fn new() -> SnapshotPlaces {
        SnapshotPlaces {
            saves: Arc::new(Semaphore::new(SAVES_AT_ONCE_MAX)),
            restores: Arc::new(Semaphore::new(RESTORES_AT_ONCE_MAX)),
        }
    }
}

/// A snapshot that is being written.
struct Saving {
    pipe: DuplexStream,
    task: JoinHandle<Result<(), ApiError>>,
}

impl Saving {
    /// The next piece; `None` after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        // a pipe in memory does not fail
        if self.pipe.read_buf(&mut piece).await.unwrap_or(0) > 0 {
            return Ok(Some(piece.freeze()));
        }
        match (&mut self.task).await {
            Ok(saved) => saved.map(|()| None),
            Err(_) => Err(ApiError::internal("the snapshot could not be made")),
        }
    }
}

/// `GET /v1/snapshot`.
pub(crate) async fn save(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query.as_deref());
    let freshness = Freshness::parse(&query)?;
    let history = match query.first("history") {
        None | Some("" | "true") => SaveHistory::Included,
        Some("false") => SaveHistory::LeftOut,
        Some(_) => {
            return Err(ApiError::bad_request(
                "history_invalid",
                "history is neither true, which is the default, nor false, which leaves it out: give one of them",
            ));
        }
    };
    let Ok(permit) = Arc::clone(&app.snapshots.saves).try_acquire_owned() else {
        return Err(ApiError::overloaded(format!(
            "{SAVES_AT_ONCE_MAX} snapshots are being saved, as many as are allowed: ask again later, or another server"
        )));
    };
    freshness.wait(&app).await?;
    let view = app.state();
    let (pipe, writer) = duplex(PIPE_BYTES);
    let saving = app.timeline.snapshot_save(Box::new(writer), history);
    let task = tokio::spawn(async move {
        let _permit = permit;
        match timeout(TRANSFER_MAX, saving).await {
            Ok(Ok(_)) => Ok(()),
            // Nobody reads it any more.
            Ok(Err(error @ SnapshotFileError::Write(_))) => Err(refusal(&error)),
            Ok(Err(error)) => {
                warn!(error = %chain(&error), "a snapshot is not complete");
                Err(refusal(&error))
            }
            Err(_) => Err(ApiError::internal(format!(
                "the snapshot was not taken within {} h",
                TRANSFER_MAX.as_secs() / 3600
            ))),
        }
    });
    let mut saving = Saving { pipe, task };
    // What fails at once is told; what fails later cuts the answer, which has no end then.
    let first = saving.next().await?.unwrap_or_default();
    let pieces = stream::try_unfold((Some(first), saving), async |(first, mut saving)| {
        let piece = match first {
            Some(first) => Some(first),
            None => saving
                .next()
                .await
                .map_err(|error| io::Error::other(error.message))?,
        };
        Ok::<_, io::Error>(piece.map(|piece| (piece, (None, saving))))
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let headers = response.headers_mut();
    let octets = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, octets);
    // At least as far as this: the file says how far.
    Ok(with_index(&app, response, &view, view.index))
}

/// `POST /v1/snapshot`.
pub(crate) async fn restore(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    body: Body,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query.as_deref());
    let scope = match query.first("any_timeline") {
        None | Some("false") => RestoreScope::OwnTimeline,
        Some("" | "true") => RestoreScope::AnyTimeline,
        Some(_) => {
            return Err(ApiError::bad_request(
                "any_timeline_invalid",
                "any_timeline is neither false, which is the default, nor true, which takes the snapshot of another timeline: give one of them",
            ));
        }
    };
    let Ok(permit) = Arc::clone(&app.snapshots.restores).try_acquire_owned() else {
        return Err(ApiError::overloaded(
            "a snapshot is being restored already: wait until that is done",
        ));
    };
    let (mut writer, reader) = duplex(PIPE_BYTES);
    let bytes_max = app.config.state.restore_bytes_max;
    let restoring = app
        .timeline
        .snapshot_restore(Box::new(reader), scope, bytes_max);
    // Aborted before the pipe ends, so that what breaks off is never taken for the whole.
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let restored = restoring.await;
        drop(permit);
        restored
    }));
    receive(&app, body, &mut writer).await?;
    // Whoever asked may go now: half of the changes is of no use to anybody.
    let task = task.detach();
    drop(writer);
    let restored = task.await;
    let restored = restored.map_err(|_| ApiError::internal("the restore has failed"))?;
    let restored = restored.map_err(|error| {
        warn!(error = %chain(&error), "a snapshot is not restored");
        refusal(&error)
    })?;
    info!(index = %restored.index, "the state was restored as asked over HTTP");
    let answer = serde_json::to_string(&restored)
        .map_err(|_| ApiError::internal("the answer cannot be written"))?;
    Ok(json_response(Bytes::from(format!("{answer}\n"))))
}

/// Hands the body on as it comes. When nobody takes any more of it, what is on its way is let come, for
/// a while: why it is refused is told afterwards.
async fn receive(app: &App, mut body: Body, writer: &mut DuplexStream) -> Result<(), ApiError> {
    let mut deadline = Instant::now() + TRANSFER_MAX;
    let pause = app.config.publish.body_pause;
    // Bytes that came after it was refused.
    let mut refused: Option<usize> = None;
    loop {
        let until = deadline.min(Instant::now() + pause);
        let frame = match timeout_at(until, body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
            _ if refused.is_some() => return Ok(()),
            Ok(Some(Err(_))) => {
                return Err(ApiError::bad_request(
                    "body_incomplete",
                    "the snapshot ended before it was complete, and nothing was changed: send it again",
                ));
            }
            Err(_) => {
                return Err(ApiError::body_timeout(format!(
                    "the snapshot stopped coming for {} s, or took more than {} h, and nothing was changed: send it again",
                    pause.as_secs(),
                    TRANSFER_MAX.as_secs() / 3600
                )));
            }
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        refused = match refused {
            None if writer.write_all(&data).await.is_ok() => continue,
            None => {
                deadline = Instant::now() + REFUSED_WAIT_MAX;
                Some(data.len())
            }
            Some(bytes) => Some(bytes + data.len()),
        };
        if refused.is_some_and(|bytes| bytes > REFUSED_BYTES_MAX) {
            return Ok(());
        }
    }
}

/// The whole chain in one sentence.
fn chain(error: &SnapshotFileError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        next = error.source();
    }
    text
}

fn refusal(error: &SnapshotFileError) -> ApiError {
    let (code, sentence) = (error.code(), chain(error));
    match code {
        "not_a_snapshot" | "snapshot_damaged" | "snapshot_entry" => {
            ApiError::bad_request(code, sentence)
        }
        "other_timeline" => ApiError::new(
            StatusCode::CONFLICT,
            code,
            format!("{sentence}; any_timeline=true asks for that"),
        ),
        "snapshot_too_large" => ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            code,
            format!("{sentence}: raise limits.restore_state_bytes on a server that has the memory"),
        ),
        "disk_full" => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, code, sentence),
        "not_leader" => ApiError::away("no_leader", sentence),
        "stopped" => ApiError::away("stopping", sentence),
        "no_leader" | "overloaded" | "outcome_unknown" => ApiError::away(code, sentence),
        "no_timeline" => ApiError::new(StatusCode::CONFLICT, code, sentence),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, code, sentence),
    }
}
