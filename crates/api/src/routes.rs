use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use http::{HeaderValue, Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use tracing::debug;

use crate::app::App;
use crate::auth::{Action, Denied};
use crate::error::{ApiError, TextError};
use crate::upstream::Upstream;
use crate::{forward, history, publish, servers, snapshot, state, status, stream};

/// The one path that speaks as Nomad does, errors included.
const NOMAD_STREAM: &str = "/v1/event/stream";

/// What comes here may be larger than any other body.
const SNAPSHOT: &str = "/v1/snapshot";

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    /// What asking it does, for authorization. A route of the router that is not in the table is
    /// denied to everyone.
    pub(crate) action: Action,
    handler: fn() -> MethodRouter<Arc<App>>,
}

/// Every route there is.
pub(crate) fn table() -> Vec<Route> {
    let route = |method, path, action, handler| Route {
        method,
        path,
        action,
        handler,
    };
    vec![
        route(Method::GET, NOMAD_STREAM, Action::ReadEvents, || {
            get(stream::event_stream)
        }),
        route(Method::GET, "/v1/events", Action::ReadEventsSocket, || {
            get(stream::events_websocket)
        }),
        route(Method::POST, "/v1/events", Action::WriteEvents, || {
            post(publish::publish)
        }),
        route(Method::GET, "/v1/state/{topic}", Action::ReadState, || {
            get(state::list)
        }),
        route(
            Method::GET,
            "/v1/state/{topic}/{*key}",
            Action::ReadState,
            || get(state::get),
        ),
        route(
            Method::PUT,
            "/v1/state/{topic}/{*key}",
            Action::WriteState,
            || put(state::put),
        ),
        route(
            Method::DELETE,
            "/v1/state/{topic}/{*key}",
            Action::WriteState,
            || delete(state::delete),
        ),
        route(Method::GET, "/v1/servers", Action::ReadStatus, || {
            get(servers::list)
        }),
        route(
            Method::POST,
            "/v1/servers/transfer-leader",
            Action::Operate,
            || post(servers::transfer_leader),
        ),
        route(
            Method::POST,
            "/v1/servers/{name}/promote",
            Action::Operate,
            || post(servers::promote),
        ),
        route(
            Method::DELETE,
            "/v1/servers/{name}",
            Action::Operate,
            || delete(servers::remove),
        ),
        route(
            Method::GET,
            "/v1/history/digests",
            Action::ReadStatus,
            || get(history::digests),
        ),
        route(Method::GET, SNAPSHOT, Action::Operate, || {
            get(snapshot::save)
        }),
        route(Method::POST, SNAPSHOT, Action::Operate, || {
            post(snapshot::restore)
        }),
        route(Method::GET, "/v1/status", Action::ReadStatus, || {
            get(status::status)
        }),
        route(Method::GET, "/v1/health/live", Action::ReadHealth, || {
            get(status::live)
        }),
        route(Method::GET, "/v1/health/ready", Action::ReadHealth, || {
            get(status::ready)
        }),
        route(Method::GET, "/v1/metrics", Action::ReadStatus, || {
            get(status::metrics)
        }),
        route(
            Method::GET,
            "/v1/openapi.json",
            Action::ReadDescription,
            || get(status::description),
        ),
    ]
}

/// The router: the table's routes behind the one layer that decides about all of them.
pub(crate) fn router(app: &Arc<App>) -> Router {
    assemble(app, Router::new())
}

fn assemble(app: &Arc<App>, mut router: Router<Arc<App>>) -> Router {
    let table = table();
    for route in &table {
        router = router.route(route.path, (route.handler)());
    }
    let gate = Gate {
        app: Arc::clone(app),
        table: table.into(),
    };
    router
        .fallback(|| async { not_found() })
        .layer(from_fn_with_state(gate, admit))
        .with_state(Arc::clone(app))
}

/// What stands before every handler.
#[derive(Clone)]
struct Gate {
    app: Arc<App>,
    table: Arc<[Route]>,
}

/// Lets a request through to its handler when its route is declared and its sender may.
async fn admit(
    State(gate): State<Gate>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let metrics = &gate.app.metrics;
    metrics.requests.one();
    let response = match gate.decide(path.as_ref().map(MatchedPath::as_str), request) {
        Ok(request) => match gate.upstream(path.as_ref()) {
            Some(upstream) if path.is_some_and(|path| path.as_str() == SNAPSHOT) => {
                forward::stream(&upstream, request).await
            }
            Some(upstream) => forward::forward(&gate.app, &upstream, request).await,
            None => next.run(request).await,
        },
        Err(response) => *response,
    };
    match response.status().as_u16() {
        400..=499 => metrics.answers_4xx.one(),
        500..=599 => metrics.answers_5xx.one(),
        _ => {}
    }
    response
}

impl Gate {
    /// Who is asked in turn, when this agent does not hold what the path is about.
    fn upstream(&self, path: Option<&MatchedPath>) -> Option<Arc<dyn Upstream>> {
        path.filter(|path| forward::is_of_servers(path.as_str()))?;
        self.app.timeline.upstream()
    }

    fn decide(&self, path: Option<&str>, request: Request) -> Result<Request, Box<Response>> {
        let Some(path) = path else {
            return Err(Box::new(not_found()));
        };
        let query_max = self.app.config.http.query_bytes_max;
        if request
            .uri()
            .query()
            .is_some_and(|query| query.len() > query_max)
        {
            let error = ApiError::new(
                StatusCode::URI_TOO_LONG,
                "query_too_long",
                format!("the query has more than {query_max} bytes: ask for less at once"),
            );
            return Err(Box::new(as_spoken_at(path, error)));
        }
        if percent_decode_str(request.uri().path())
            .decode_utf8()
            .is_err()
        {
            let error = ApiError::bad_request(
                "path_invalid",
                "the path is not UTF-8 once it is decoded: write names in UTF-8, percent-encoded",
            );
            return Err(Box::new(as_spoken_at(path, error)));
        }
        let declared: Vec<&Route> = self
            .table
            .iter()
            .filter(|route| route.path == path)
            .collect();
        // A HEAD is a GET without a body; a stream has nothing else, so there it makes no sense.
        let method = match request.method() {
            &Method::HEAD if path != NOMAD_STREAM => &Method::GET,
            method => method,
        };
        let action = declared
            .iter()
            .find(|route| route.method == *method)
            .map(|route| route.action);
        if action.is_none() && !declared.is_empty() {
            return Err(Box::new(method_not_allowed(path, &declared)));
        }
        let (parts, body) = request.into_parts();
        match self.app.authorizer.authorize(action, &parts) {
            Ok(identity) => {
                let mut request = Request::from_parts(parts, body);
                request.extensions_mut().insert(identity);
                Ok(request)
            }
            Err(denied) => {
                self.app.metrics.requests_denied.one();
                debug!(?denied, path, "a request is denied");
                Err(Box::new(as_spoken_at(path, refusal(denied))))
            }
        }
    }
}

/// Plain text where Nomad is spoken, JSON elsewhere.
fn as_spoken_at(path: &str, error: ApiError) -> Response {
    if path == NOMAD_STREAM {
        return TextError::new(error.status, error.message).into_response();
    }
    error.into_response()
}

fn refusal(denied: Denied) -> ApiError {
    match denied {
        // A secret is no reason to be silent here: there is none.
        Denied::ForeignHost => ApiError::new(
            StatusCode::FORBIDDEN,
            "host_unknown",
            "the request's Host is none of this server's: use localhost or its IP address, add the name to http.host_names, or set http.token_file",
        ),
        _ => ApiError::new(
            StatusCode::FORBIDDEN,
            "permission_denied",
            "Permission denied",
        ),
    }
}

fn not_found() -> Response {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "no_such_path",
        "there is nothing at this path: GET /v1/openapi.json says what there is",
    )
    .into_response()
}

fn method_not_allowed(path: &str, declared: &[&Route]) -> Response {
    let allowed: Vec<&str> = declared.iter().map(|route| route.method.as_str()).collect();
    let allowed = allowed.join(", ");
    let mut response = if path == NOMAD_STREAM {
        TextError::new(StatusCode::METHOD_NOT_ALLOWED, "Invalid method").into_response()
    } else {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("this path does not know that method: use {allowed}"),
        )
        .into_response()
    };
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;
    use crate::config::ApiConfig;
    use crate::memory_timeline::MemoryTimeline;
    use crate::{ApiShared, HttpConfig, Token};

    #[tokio::test]
    async fn a_route_that_declares_no_action_is_denied() {
        for token in [None, Token::new("secret")] {
            let http = HttpConfig {
                token,
                ..HttpConfig::default()
            };
            let config = ApiConfig {
                http,
                ..ApiConfig::default()
            };
            let shared = ApiShared::new();
            let app = Arc::new(App::new(Arc::new(MemoryTimeline::new()), config, &shared));
            let forgotten = Router::new().route("/v1/forgotten", get(|| async { "secret" }));
            let request = http::Request::get("/v1/forgotten")
                .header("x-nomad-token", "secret")
                .body(Body::empty())
                .unwrap();
            let response = assemble(&app, forgotten).oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
        }
    }
}
