//! The timeline as one file, and its entries brought back from one.

use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Response};
use serde::{Deserialize, Serialize};
use tidings_event::Index;

use crate::client::{Client, Here};
use crate::error::ClientError;

/// Beyond the request timeout, until a snapshot begins: a large state is put into words first.
const SAVE_EXTRA: Duration = Duration::from_secs(60);

/// How long a snapshot may stop coming: a slow disk that is busy with others.
const PIECE_WAIT_MAX: Duration = Duration::from_secs(60);

/// How long a restore may take, the sending included: as long as a server lets it.
const RESTORE_WAIT_MAX: Duration = Duration::from_secs(6 * 3600);

/// How fresh what is saved must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFreshness {
    /// What the server has, also when it is cut off from the others.
    Stale,
    /// What the server has, while somebody leads.
    #[default]
    Led,
    /// Everything that was acknowledged before, whoever took it.
    Consistent,
}

/// What is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaveRequest {
    /// Whether the history goes along with the state.
    pub history: bool,
    /// How fresh it must be.
    pub freshness: SaveFreshness,
}

/// A snapshot as it comes. It is whole when its last block is there, which whoever reads it checks.
#[derive(Debug)]
pub struct SnapshotPieces {
    response: Response,
    here: Here,
}

impl SnapshotPieces {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// When the connection breaks, which it also does when the server cannot go on, and when nothing
    /// comes for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = tokio::time::timeout(PIECE_WAIT_MAX, self.response.chunk()).await;
        let piece = piece.map_err(|_| ClientError::TimedOut {
            address: self.here.address().to_owned(),
            limit: PIECE_WAIT_MAX,
        })?;
        piece.map_err(|error| self.here.transport_error(PIECE_WAIT_MAX, error))
    }
}

/// What a restore has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct StateRestored {
    /// The frame that tells of the restore; all its changes are before it.
    pub index: Index,
    /// Entries that were written as they were.
    pub written: u64,
    /// Entries that were removed, as there were none then.
    pub removed: u64,
}

impl Client {
    /// Begins to save the timeline: as one server has it, for as long as it takes.
    ///
    /// # Errors
    /// When no server begins.
    pub async fn save_snapshot(&self, request: SaveRequest) -> Result<SnapshotPieces, ClientError> {
        let mut query = Vec::new();
        if !request.history {
            query.push(("history", "false"));
        }
        match request.freshness {
            SaveFreshness::Stale => query.push(("stale", "true")),
            SaveFreshness::Led => {}
            SaveFreshness::Consistent => query.push(("consistent", "true")),
        }
        let query = &query;
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "snapshot"], query);
            let request = here.request(Method::GET, url);
            let response = here.open_within(request, SAVE_EXTRA).await?;
            Ok(SnapshotPieces { response, here })
        };
        self.anywhere(ask).await
    }

    /// Brings the entries of the state back to what they are in a snapshot. `body` begins the file
    /// anew: another server is asked when the one before certainly has changed nothing.
    ///
    /// # Errors
    /// [`ClientError::Refused`]: with the code `other_timeline` unless `any_timeline` was given, and
    /// with a sentence that says what is wrong with the file. When it is not known what became of it,
    /// the same again does what is left.
    pub async fn restore_snapshot<S>(
        &self,
        any_timeline: bool,
        body: impl Fn() -> S,
    ) -> Result<StateRestored, ClientError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let query: &[(&str, &str)] = match any_timeline {
            true => &[("any_timeline", "true")],
            false => &[],
        };
        let ask = |here: Here| {
            let url = here.url(&["v1", "snapshot"], query);
            let octets = HeaderValue::from_static("application/octet-stream");
            let request = here
                .request(Method::POST, url)
                .header(CONTENT_TYPE, octets)
                .body(Body::wrap_stream(body()));
            async move {
                match here.exchange(request, RESTORE_WAIT_MAX).await {
                    Ok((_, body)) => here.decode(&body).map(Ok),
                    Err(error) if error.is_transient() && !error.did_not_happen() => Ok(Err(error)),
                    Err(error) => Err(error),
                }
            }
        };
        self.anywhere(ask).await?
    }
}
