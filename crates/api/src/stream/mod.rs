//! Following events: `GET /v1/event/stream` as lines or Server-Sent Events, and `GET /v1/events`
//! as a WebSocket.

mod body;
mod encoding;
mod query;
mod snapshot;
mod source;
mod sse;
mod websocket;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::app::{App, name_timeline};
use crate::error::{ApiError, TextError};
use body::StreamBody;
use encoding::Encoding;
pub(crate) use query::compile;
use query::{Format, Surface};
pub(crate) use websocket::events_websocket;

/// `GET /v1/event/stream`.
pub(crate) async fn event_stream(State(app): State<Arc<App>>, request: Request) -> Response {
    // The body, if any, says nothing here.
    let (parts, _) = request.into_parts();
    let result = if accepts_sse(&parts.headers) {
        open(
            &app,
            &parts,
            Surface::Sse,
            Encoding::Sse,
            Encoding::SseCloudEvents,
        )
        .await
    } else {
        open(
            &app,
            &parts,
            Surface::Lines,
            Encoding::Lines,
            Encoding::CloudEvents,
        )
        .await
    };
    match result {
        Ok(response) => response,
        // What only those are told who ask for it, with more than Nomad's clients look at.
        Err(error) if matches!(error.status, StatusCode::GONE | StatusCode::CONFLICT) => {
            error.into_response()
        }
        Err(error) => TextError::new(error.status, error.message).into_response(),
    }
}

async fn open(
    app: &Arc<App>,
    request: &Parts,
    surface: Surface,
    frames: Encoding,
    cloudevents: Encoding,
) -> Result<Response, ApiError> {
    let resume = sse::last_event_id(&request.headers, surface)?;
    let asked = query::parse(app, request.uri.query(), surface, resume).await?;
    let encoding = if asked.format == Format::CloudEvents {
        cloudevents
    } else {
        frames
    };
    let content_type = match surface {
        Surface::Sse => "text/event-stream",
        Surface::Lines | Surface::WebSocket if encoding == Encoding::CloudEvents => {
            "application/x-ndjson"
        }
        // What Nomad says, although it is a line each.
        Surface::Lines | Surface::WebSocket => "application/json",
    };
    let beats = asked.beats();
    let source = source::open(app, asked).await?;
    let view = app.state();
    let body = StreamBody::new(app, source, encoding, beats);
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Never compressed; said because Nomad says it.
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    name_timeline(headers, &view);
    // Proxies that gather answers would keep events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn accepts_sse(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            kind.eq_ignore_ascii_case("text/event-stream")
        })
}
