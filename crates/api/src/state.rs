use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::value::RawValue;
use tidings_event::{
    DEFAULT_NAMESPACE, EventError, Expression, FrameView, Index, NamespaceSet, NewEvent,
    push_json_string,
};
use tidings_timeline::{CommandGroup, Entry, EntryChange, EntryName, Outcome, StateView};
use tokio::time::{Instant, sleep_until};
use ulid::Ulid;

use crate::app::App;
use crate::error::ApiError;
use crate::go_text;
use crate::metrics::Counted;
use crate::publish::{json_response, propose, read_body};
use crate::query_text::QueryText;
use crate::reading::{Freshness, with_index};
use crate::stream::compile;
use crate::timeline::Answer;

/// The types of events that tell of changes which name none.
const TYPE_PUT: &str = "EntryPut";
const TYPE_DELETED: &str = "EntryDeleted";

/// Waits are lengthened by up to this part, so that queries that began together do not end
/// together (Nomad: `rpc.go`).
const WAIT_JITTER_PART: u32 = 16;

/// `PUT /v1/state/{topic}/{key}`.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    Path((topic, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let config = &app.config.publish;
    let body = read_body(&app, request.into_body(), config.body_bytes).await?;
    let payload: &RawValue = serde_json::from_slice(&body).map_err(|error| {
        ApiError::from(EventError::Malformed {
            what: "body",
            detail: error.to_string(),
        })
    })?;
    if !payload.get().starts_with('{') {
        return Err(ApiError::bad_request(
            "payload_kind",
            "the body is no JSON object: give the entry's payload as an object",
        ));
    }
    change(&app, &topic, &key, query.as_deref(), Change::Put(payload)).await
}

/// `DELETE /v1/state/{topic}/{key}`.
pub(crate) async fn delete(
    State(app): State<Arc<App>>,
    Path((topic, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    change(&app, &topic, &key, query.as_deref(), Change::Delete).await
}

enum Change<'a> {
    Put(&'a RawValue),
    Delete,
}

async fn change(
    app: &App,
    topic: &str,
    key: &str,
    query: Option<&str>,
    change: Change<'_>,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query);
    // A condition that cannot be read must never be taken for none.
    let cas = match query.first("cas") {
        None => None,
        Some(text) => Some(text.parse().ok().filter(|cas| *cas != u64::MAX).map(Index).ok_or_else(|| {
            ApiError::bad_request(
                "cas_invalid",
                "cas is not an index: give the ModifyIndex that you have read, or 0 for an entry that must not exist",
            )
        })?),
    };
    let (payload, default_type) = match change {
        Change::Put(payload) => (payload, TYPE_PUT),
        Change::Delete => (RawValue::NULL, TYPE_DELETED),
    };
    let event = NewEvent {
        topic: topic.into(),
        r#type: query.get("type").unwrap_or(default_type).into(),
        key: key.into(),
        namespace: query.get("namespace").unwrap_or(DEFAULT_NAMESPACE).into(),
        filter_keys: None,
        id: None,
        time: None,
        node: None,
        source: None,
        payload: std::borrow::Cow::Borrowed(payload),
    };
    let group = {
        let mut group = CommandGroup::new();
        let entry = EntryChange { cas, event: &event };
        let (stamper, limits) = (&mut app.stamper(), &app.config.limits);
        match change {
            Change::Put(_) => group.put_entry(entry, stamper, limits),
            Change::Delete => group.delete_entry(entry, stamper, limits),
        }
        .map_err(|error| {
            app.metrics.publish_refused.one();
            ApiError::from(error)
        })?;
        group
    };
    let index = match propose(app, group).await?.pop() {
        Some(Answer::Outcome(Outcome::Stored { index } | Outcome::Deleted { index })) => index,
        Some(Answer::Outcome(Outcome::Refused(refusal))) => {
            app.metrics.publish_refused.one();
            return Err(ApiError::from(*refusal));
        }
        other => {
            return Err(ApiError::internal(format!(
                "the timeline answered {other:?} to a change of an entry"
            )));
        }
    };
    app.metrics.state_changes.one();
    Ok(json_response(Bytes::from(format!(
        "{{\"Index\":{index}}}\n"
    ))))
}

/// `GET /v1/state/{topic}/{key}`.
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    Path((topic, key)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query.as_deref());
    let namespace = query.get("namespace").unwrap_or(DEFAULT_NAMESPACE);
    if namespace == "*" {
        return Err(ApiError::bad_request(
            "namespace_invalid",
            "one entry is in one namespace: name it instead of *",
        ));
    }
    let blocking = Blocking::parse(&app, &query)?;
    Freshness::parse(&query)?.wait(&app).await?;
    let view = blocking
        .wait(&app, |view| match view.entry(&topic, namespace, &key) {
            Some(entry) => entry.modify_index,
            None => view.topic_index(&topic),
        })
        .await;
    let mut response = match view.entry(&topic, namespace, &key) {
        Some(entry) => {
            let mut body = BytesMut::new();
            push_entry(&mut body, entry, &entry.line())?;
            body.extend_from_slice(b"\n");
            with_index(
                &app,
                json_response(body.freeze()),
                &view,
                entry.modify_index,
            )
        }
        None => {
            let error = ApiError::new(
                StatusCode::NOT_FOUND,
                "no_entry",
                format!(
                    "there is no entry {:?} of topic {:?} in namespace {:?}",
                    shortened(&key),
                    shortened(&topic),
                    shortened(namespace)
                ),
            );
            with_index(&app, error.into_response(), &view, view.topic_index(&topic))
        }
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// `GET /v1/state/{topic}`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Path(topic): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query.as_deref());
    let blocking = Blocking::parse(&app, &query)?;
    let freshness = Freshness::parse(&query)?;
    let per_page = match query.get("per_page") {
        None => None,
        Some(text) => Some(text.parse::<i32>().map_err(|_| {
            ApiError::bad_request(
                "per_page_invalid",
                "Expect a number for `per_page` query string parameter",
            )
        })?),
    };
    let most = app.config.state.page_entries_max.max(1);
    let per_page = per_page
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0);
    let from = match query.get("next_token") {
        None => EntryName {
            topic: topic.as_str().into(),
            namespace: "".into(),
            key: "".into(),
        },
        Some(token) => read_token(&topic, token)?,
    };
    let page = Page {
        from,
        namespaces: NamespaceSet::parse(query.first("namespace")),
        prefix: String::from(query.first("prefix").unwrap_or_default()),
        expression: match query.get("filter") {
            None => None,
            Some(text) => Some(compile(text).await?),
        },
        entries_max: per_page.unwrap_or(most).min(most),
        bytes_max: app.config.state.page_bytes_max,
        scan_max: app.config.state.scan_entries_max.max(1),
    };
    freshness.wait(&app).await?;
    let view = blocking.wait(&app, |view| view.topic_index(&topic)).await;
    // Filters and many entries take time that other requests should not wait for.
    let (body, next) = {
        let view = Arc::clone(&view);
        tokio::task::spawn_blocking(move || page.read(&view))
            .await
            .map_err(|_| ApiError::internal("the list could not be made"))??
    };
    let mut response = with_index(&app, json_response(body), &view, view.topic_index(&topic));
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(next) = next.and_then(|next| HeaderValue::from_str(&next_token(&next)).ok()) {
        headers.insert("x-nomad-nexttoken", next);
    }
    Ok(response)
}

/// Which entries a list shows.
struct Page {
    from: EntryName,
    namespaces: NamespaceSet,
    prefix: String,
    expression: Option<Expression>,
    entries_max: usize,
    bytes_max: usize,
    scan_max: usize,
}

impl Page {
    /// The JSON array, and the entry with which the next page begins.
    fn read(self, view: &StateView) -> Result<(Bytes, Option<EntryName>), ApiError> {
        let mut body = BytesMut::from(&b"["[..]);
        let mut shown = 0;
        for (scanned, entry) in view.list_from(self.from.clone()).enumerate() {
            let full = shown >= self.entries_max
                || scanned >= self.scan_max
                || body.len() >= self.bytes_max;
            let is_named = self.namespaces.contains(&entry.name.namespace)
                && entry.name.key.starts_with(&self.prefix);
            if full && (is_named || scanned >= self.scan_max) {
                body.extend_from_slice(b"]\n");
                return Ok((body.freeze(), Some(entry.name.clone())));
            }
            if !is_named {
                continue;
            }
            let line = entry.line();
            if let Some(expression) = &self.expression
                && !matches(expression, &line)?
            {
                continue;
            }
            if shown > 0 {
                body.extend_from_slice(b",");
            }
            push_entry(&mut body, entry, &line)?;
            shown += 1;
        }
        body.extend_from_slice(b"]\n");
        Ok((body.freeze(), None))
    }
}

fn matches(expression: &Expression, line: &[u8]) -> Result<bool, ApiError> {
    let frame = FrameView::parse(line).map_err(|_| unreadable())?;
    Ok(frame.events().iter().any(|event| expression.matches(event)))
}

/// Appends the entry as an object.
fn push_entry(out: &mut BytesMut, entry: &Entry, line: &[u8]) -> Result<(), ApiError> {
    let frame = FrameView::parse(line).map_err(|_| unreadable())?;
    let event = frame.events().first().ok_or_else(unreadable)?;
    let mut text = Vec::with_capacity(line.len() + 128);
    for (name, value) in [
        (&b"{\"Topic\":"[..], &entry.name.topic),
        (b",\"Namespace\":", &entry.name.namespace),
        (b",\"Key\":", &entry.name.key),
    ] {
        text.extend_from_slice(name);
        push_json_string(value, &mut text);
    }
    out.extend_from_slice(&text);
    out.extend_from_slice(
        format!(
            ",\"CreateIndex\":{},\"ModifyIndex\":{},\"Time\":\"{}\",\"Payload\":",
            entry.create_index, entry.modify_index, entry.time
        )
        .as_bytes(),
    );
    out.extend_from_slice(event.payload().as_bytes());
    out.extend_from_slice(b"}");
    Ok(())
}

fn unreadable() -> ApiError {
    ApiError::internal("an entry of the state is not in the form in which entries are written")
}

/// The first characters of what a caller gave, for a sentence about it.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Where the next page begins; opaque to clients.
fn next_token(name: &EntryName) -> String {
    format!(
        "{}.{}",
        utf8_percent_encode(&name.namespace, NON_ALPHANUMERIC),
        utf8_percent_encode(&name.key, NON_ALPHANUMERIC)
    )
}

fn read_token(topic: &str, token: &str) -> Result<EntryName, ApiError> {
    let wrong = || {
        ApiError::bad_request(
            "next_token_invalid",
            "next_token is not one of ours: give X-Nomad-NextToken of the page before, unchanged",
        )
    };
    let (namespace, key) = token.split_once('.').ok_or_else(wrong)?;
    let decode = |text| percent_decode_str(text).decode_utf8().map_err(|_| wrong());
    Ok(EntryName {
        topic: topic.into(),
        namespace: (*decode(namespace)?).into(),
        key: (*decode(key)?).into(),
    })
}

/// A query that waits for a change.
struct Blocking {
    /// It waits until the index is greater than this; 0: not at all.
    index: Index,
    wait: Duration,
}

impl Blocking {
    /// Reads `index` and `wait`; the texts of errors are Nomad's.
    fn parse(app: &App, query: &QueryText<'_>) -> Result<Blocking, ApiError> {
        let wait_max = app.config.state.wait_max;
        let wait = match query.get("wait") {
            None => wait_max,
            Some(text) => go_text::parse_duration(text)
                .ok_or_else(|| ApiError::bad_request("wait_invalid", "Invalid wait time"))?,
        };
        let index = match query.get("index") {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| ApiError::bad_request("index_invalid", "Invalid index"))?,
        };
        let wait = if wait.is_zero() {
            wait_max
        } else {
            wait.min(wait_max)
        };
        Ok(Blocking {
            index: Index(index),
            wait,
        })
    }

    /// The state as soon as `index_of` it is greater than the index or another than when the wait
    /// began, or when the time is over, or when the server stops.
    ///
    /// Another, because a client is never told 0: what it has from an empty topic is 1, which is
    /// also what the first change may have, and after a reset indexes are lower than what it knows.
    async fn wait(&self, app: &App, index_of: impl Fn(&StateView) -> Index) -> Arc<StateView> {
        if self.index == Index::ZERO {
            return app.state();
        }
        let mut applied = app.timeline.applied();
        let deadline = Instant::now() + self.wait + jitter(self.wait);
        let _counted = Counted::new(&app.metrics, |metrics| &metrics.blocking_queries);
        let mut began = None;
        loop {
            // Marked as seen before it is looked at: a change after that wakes.
            applied.mark_unchanged();
            let view = app.state();
            let index = index_of(&view);
            if index > self.index || index != *began.get_or_insert(index) {
                return view;
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() {
                    return app.state();
                },
                () = sleep_until(deadline) => return app.state(),
                () = app.closing.begun() => return app.state(),
            }
        }
    }
}

/// Up to a sixteenth of the wait.
fn jitter(wait: Duration) -> Duration {
    let most = (wait / WAIT_JITTER_PART).as_millis();
    let random = Ulid::generate().random() % (most + 1);
    Duration::from_millis(u64::try_from(random).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_any_name() {
        for (namespace, key) in [("", ""), ("default", "a.b/c %"), ("n.s", "ä")] {
            let name = EntryName {
                topic: "T".into(),
                namespace: namespace.into(),
                key: key.into(),
            };
            assert_eq!(read_token("T", &next_token(&name)).unwrap(), name);
        }
        assert_eq!(read_token("T", "x").unwrap_err().code, "next_token_invalid");
    }

    #[test]
    fn jitter_is_at_most_a_sixteenth() {
        for _ in 0..100 {
            assert!(jitter(Duration::from_secs(16)) <= Duration::from_secs(1));
        }
        assert_eq!(jitter(Duration::ZERO), Duration::ZERO);
    }
}
