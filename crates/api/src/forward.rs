//! Requests that an agent without a timeline hands on to a server.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, header};

use crate::app::App;
use crate::error::ApiError;
use crate::publish::{SENDER_HEADER, read_body};
use crate::upstream::{ForwardAnswer, ForwardRequest, Upstream, UpstreamFailure};

/// What of a request is handed on. Tokens are not: the agent has its own for servers.
const REQUEST_HEADERS: [HeaderName; 3] =
    [header::CONTENT_TYPE, header::ACCEPT, header::IF_NONE_MATCH];

/// What of an answer stays between the agent and the server.
const HOP_HEADERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::DATE,
];

/// Whether a path, as it stands in the table of routes, is about what only servers have.
pub(crate) fn is_of_servers(path: &str) -> bool {
    ["/v1/state/", "/v1/servers", "/v1/history/", "/v1/snapshot"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

/// Hands the request on.
pub(crate) async fn forward(app: &App, upstream: &Arc<dyn Upstream>, request: Request) -> Response {
    match pass_on(app, upstream, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

/// Hands on what is numbered by its sender. It is numbered for the timeline: nothing of it is kept
/// here, where it would get other numbers.
pub(crate) async fn publish(
    upstream: &Arc<dyn Upstream>,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let mut passed = HeaderMap::new();
    for name in [header::CONTENT_TYPE, HeaderName::from_static(SENDER_HEADER)] {
        if let Some(value) = headers.get(&name) {
            passed.insert(name, value.clone());
        }
    }
    let lines = body.into_data_stream().map_err(std::io::Error::other);
    let target = String::from("/v1/events");
    let answer = upstream.stream(target, passed, lines.boxed()).await?;
    Ok(respond(answer))
}

/// Hands on what is too large to be kept here, while it comes.
pub(crate) async fn stream(upstream: &Arc<dyn Upstream>, request: Request) -> Response {
    if request.method() != Method::POST {
        let (parts, _) = request.into_parts();
        let asked = upstream.forward(request_of(parts, Bytes::new())).await;
        return answered(asked);
    }
    let (parts, body) = request.into_parts();
    let ForwardRequest {
        target, headers, ..
    } = request_of(parts, Bytes::new());
    let pieces = body.into_data_stream().map_err(std::io::Error::other);
    answered(upstream.stream(target, headers, pieces.boxed()).await)
}

fn answered(answer: Result<ForwardAnswer, UpstreamFailure>) -> Response {
    match answer {
        Ok(answer) => respond(answer),
        Err(failure) => ApiError::from(failure).into_response(),
    }
}

fn respond(answer: ForwardAnswer) -> Response {
    let mut response = Response::new(Body::from_stream(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    for name in HOP_HEADERS {
        response.headers_mut().remove(name);
    }
    response
}

async fn pass_on(
    app: &App,
    upstream: &Arc<dyn Upstream>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read_body(app, body, app.config.publish.body_bytes).await?;
    let request = request_of(parts, Bytes::copy_from_slice(&body));
    Ok(respond(upstream.forward(request).await?))
}

fn request_of(parts: Parts, body: Bytes) -> ForwardRequest {
    let mut headers = HeaderMap::new();
    for name in REQUEST_HEADERS {
        for value in parts.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let target = parts.uri.path_and_query();
    ForwardRequest {
        method: parts.method,
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        headers,
        body,
    }
}
