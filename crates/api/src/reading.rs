//! How fresh what is read must be, and the headers that say how fresh it is.

use http::{HeaderValue, StatusCode};
use tidings_event::Index;
use tidings_timeline::StateView;

use crate::app::{App, name_timeline};
use crate::error::ApiError;
use crate::query_text::QueryText;

/// How fresh what is read must be.
///
/// ```text
///  stale       whatever this server has, also when it is cut off from the others
///  (default)   what this server has, while somebody leads
///  consistent  everything that was acknowledged before the request, whoever took it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    Stale,
    Led,
    Consistent,
}

impl Freshness {
    /// Reads `stale` and `consistent`.
    pub(crate) fn parse(query: &QueryText<'_>) -> Result<Freshness, ApiError> {
        // Nomad's own words for the one; the other is not checked there.
        let flag = |name: &str, code| match query.first(name) {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(_) => Err(ApiError::bad_request(
                code,
                format!("Expect `true` or `false` for `{name}` query string parameter"),
            )),
        };
        match (
            flag("stale", "stale_invalid")?,
            flag("consistent", "consistent_invalid")?,
        ) {
            (true, true) => Err(ApiError::bad_request(
                "stale_and_consistent",
                "stale answers with what this server has and consistent with everything that was acknowledged: give one of them",
            )),
            (true, false) => Ok(Freshness::Stale),
            (false, true) => Ok(Freshness::Consistent),
            (false, false) => Ok(Freshness::Led),
        }
    }

    /// Waits until the state is so fresh.
    pub(crate) async fn wait(self, app: &App) -> Result<(), ApiError> {
        match self {
            Freshness::Stale => Ok(()),
            Freshness::Led if app.timeline.has_leader() => Ok(()),
            Freshness::Led => Err(ApiError::away(
                "no_leader",
                "no leader is known, so what this server has may be old: ask again later, or with stale=true to read it nevertheless",
            )),
            Freshness::Consistent => app
                .timeline
                .read_barrier()
                .await
                .map_err(|failure| ApiError::away("no_leader", failure.sentence)),
        }
    }
}

/// Sets the headers by which clients of Nomad follow a list, and judge how old it may be.
pub(crate) fn with_index(
    app: &App,
    mut response: axum::response::Response,
    view: &StateView,
    index: Index,
) -> axum::response::Response {
    let headers = response.headers_mut();
    // Never 0: a client that asks with 0 is answered at once, and would ask for ever.
    headers.insert("x-nomad-index", HeaderValue::from(index.get().max(1)));
    // A leader that was never heard of has been silent since the start at least.
    let silence = app.timeline.last_contact();
    let silence = silence.unwrap_or_else(|| app.started.elapsed());
    let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    headers.insert("x-nomad-lastcontact", HeaderValue::from(silence_ms));
    headers.insert(
        "x-nomad-knownleader",
        HeaderValue::from_static(if app.timeline.has_leader() {
            "true"
        } else {
            "false"
        }),
    );
    headers.insert("x-tidings-index", HeaderValue::from(view.index.get()));
    name_timeline(headers, view);
    response
}

impl ApiError {
    /// Somebody who is needed cannot be reached.
    pub(crate) fn away(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message).retry_soon()
    }
}
