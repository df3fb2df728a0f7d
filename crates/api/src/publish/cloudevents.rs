use axum::body::Body;
use tidings_event::{from_cloudevent, from_cloudevent_batch};

use super::answer::Published;
use super::json::publish_one;
use super::read_body;
use crate::app::App;
use crate::error::ApiError;

/// `application/cloudevents+json`: one CloudEvent, in structured mode.
pub(crate) async fn publish(app: &App, body: Body) -> Result<Published, ApiError> {
    let body = read_body(app, body, app.config.publish.body_bytes).await?;
    publish_one(app, None, || {
        from_cloudevent(&body).map(|event| vec![event])
    })
    .await
}

/// `application/cloudevents-batch+json`: a list of CloudEvents, which becomes one transaction.
pub(crate) async fn publish_batch(app: &App, body: Body) -> Result<Published, ApiError> {
    let body = read_body(app, body, app.config.publish.body_bytes).await?;
    publish_one(app, None, || {
        from_cloudevent_batch(&body, &app.config.limits)
    })
    .await
}
