//! Requests that an agent without a timeline hands on to a server.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, header};

use crate::app::App;
use crate::error::ApiError;
use crate::publish::read_body;
use crate::upstream::{ForwardRequest, Upstream};

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

async fn pass_on(
    app: &App,
    upstream: &Arc<dyn Upstream>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = read_body(app, body, app.config.publish.body_bytes).await?;
    let mut headers = HeaderMap::new();
    for name in REQUEST_HEADERS {
        for value in parts.headers.get_all(&name) {
            headers.append(name.clone(), value.clone());
        }
    }
    let target = parts.uri.path_and_query();
    let answer = upstream
        .forward(ForwardRequest {
            method: parts.method,
            target: target.map_or("/", |target| target.as_str()).to_owned(),
            headers,
            body: bytes::Bytes::copy_from_slice(&body),
        })
        .await?;
    let mut response = Response::new(Body::from_stream(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    for name in HOP_HEADERS {
        response.headers_mut().remove(name);
    }
    Ok(response)
}
