//! Digests of a server's history, for comparing it with that of others.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use tidings_event::Index;

use crate::client::{Client, Here};
use crate::error::ClientError;

/// Beyond the request timeout: a slow disk reads a hundred megabytes for an answer.
const READING_EXTRA: Duration = Duration::from_secs(60);

/// Which digests are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestRequest {
    /// The first frame.
    pub from: Index,
    /// The last one, inclusive.
    pub to: Index,
    /// Frames of one digest; at least 1.
    pub step: u64,
    /// Whether the lines are read and checked; otherwise what was noted when they were written.
    pub reads_lines: bool,
}

/// What a server says of its history.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Digests {
    /// The last frame that the digests cover; before `from` when there is none of them.
    pub to: Index,
    /// One for each `step` frames from `from` on; the last may be of fewer.
    pub digests: Vec<String>,
    /// Frames that are not what was written, when lines were read.
    #[serde(default)]
    pub damaged: Vec<DamagedFrame>,
}

/// A frame that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DamagedFrame {
    /// Which.
    pub index: Index,
    /// Where it is, and what is wrong.
    pub message: String,
}

impl Client {
    /// Asks a server for digests of its history. Of the servers that this client knows, the one that
    /// it talks to answers for itself: to compare servers, make a client for each.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `index_gone` when the frames are no longer retained.
    pub async fn history_digests(&self, request: DigestRequest) -> Result<Digests, ClientError> {
        let number = |number: u64| number.to_string();
        let (from, to) = (number(request.from.get()), number(request.to.get()));
        let step = number(request.step);
        let of = match request.reads_lines {
            true => "lines",
            false => "checksums",
        };
        let query = [("from", &*from), ("to", &*to), ("step", &*step), ("of", of)];
        let query = &query;
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "history", "digests"], query);
            let request = here.request(Method::GET, url);
            let (_, body) = here.exchange(request, READING_EXTRA).await?;
            here.decode(&body)
        };
        self.anywhere(ask).await
    }
}
