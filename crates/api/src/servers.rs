//! `/v1/servers`: which servers hold the timeline, and changes of that.

use std::sync::Arc;

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tracing::info;

use crate::app::App;
use crate::error::ApiError;
use crate::publish::json_response;
use crate::query_text::QueryText;
use crate::timeline::{ServerChange, ServerStatus, ServersFailure};

/// Longest name or number of a server that is looked for, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// `GET /v1/servers`.
pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let servers = app.timeline.servers().await;
    let leader = servers.iter().find(|server| server.leads);
    let leader = leader.map(|leader| leader.name.clone());
    let answer = json!({ "Servers": describe(&servers), "Leader": leader });
    json_response(Bytes::from(format!("{answer}\n")))
}

/// The servers as they are told of. Numbers of servers are texts: they have 64 bits, which not every
/// reader of JSON can tell apart.
pub(crate) fn describe(servers: &[ServerStatus]) -> Value {
    let describe = |server: &ServerStatus| {
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        json!({
            "Id": server.id.to_string(),
            "Name": server.name,
            "Peer": server.peer,
            "Http": server.http,
            "Role": server.role,
            "Leader": server.leads,
            "LastContactMs": server.last_contact.map(millis),
            "Matched": server.matched,
            "ClockAheadMs": server.clock_ahead_ms,
        })
    };
    servers.iter().map(describe).collect()
}

/// `POST /v1/servers/{name}/promote`.
pub(crate) async fn promote(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    change(&app, ServerChange::Promote(named(name)?)).await
}

/// `DELETE /v1/servers/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    change(&app, ServerChange::Remove(named(name)?)).await
}

/// `POST /v1/servers/transfer-leader`.
pub(crate) async fn transfer_leader(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = QueryText::parse(query.as_deref());
    let to = query.get("to").map(|name| named(name.to_owned()));
    change(&app, ServerChange::TransferLeader(to.transpose()?)).await
}

fn named(name: String) -> Result<String, ApiError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(ApiError::bad_request(
            "server_invalid",
            format!(
                "no server has a name of more than {NAME_BYTES_MAX} bytes: give a name or an Id of GET /v1/servers"
            ),
        ));
    }
    Ok(name)
}

async fn change(app: &App, change: ServerChange) -> Result<Response, ApiError> {
    app.timeline
        .change_servers(change.clone())
        .await
        .map_err(|failure| match failure {
            ServersFailure::Refused(sentence) => {
                ApiError::new(StatusCode::CONFLICT, "servers_refused", sentence)
            }
            ServersFailure::NoLeader(sentence) => ApiError::away("no_leader", sentence),
            ServersFailure::Unfinished(sentence) => ApiError::away("change_unfinished", sentence),
        })?;
    info!(?change, "the servers were changed as asked over HTTP");
    let leader = app.timeline.status().leader;
    let answer = json!({ "Done": true, "Leader": leader });
    Ok(json_response(Bytes::from(format!("{answer}\n"))))
}
