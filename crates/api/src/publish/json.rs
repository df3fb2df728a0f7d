use axum::body::Body;
use tidings_event::{EventError, NewEvent};
use tidings_timeline::{CommandGroup, SenderNumber};

use super::answer::Published;
use super::{propose, read_body};
use crate::app::App;
use crate::error::ApiError;

/// `application/json`: `{"Events":[…]}`, or one bare event.
pub(crate) async fn publish(
    app: &App,
    sender: Option<SenderNumber>,
    body: Body,
) -> Result<Published, ApiError> {
    let body = read_body(app, body, app.config.publish.body_bytes).await?;
    publish_one(app, sender, || {
        NewEvent::parse_line(&body, &app.config.limits)
    })
    .await
}

/// Publishes the events of one transaction.
pub(crate) async fn publish_one<'a>(
    app: &App,
    sender: Option<SenderNumber>,
    parse: impl FnOnce() -> Result<Vec<NewEvent<'a>>, EventError>,
) -> Result<Published, ApiError> {
    let group = parse().and_then(|events| {
        let mut group = CommandGroup::new();
        let (stamper, limits) = (&mut app.stamper(), &app.config.limits);
        match sender {
            None => group.publish(&events, stamper, limits)?,
            Some(of) => group.publish_numbered(of, &events, stamper, limits)?,
        }
        Ok(group)
    });
    let group = group.map_err(|error| {
        app.metrics.publish_refused.one();
        ApiError::from(error)
    })?;
    let outcome = propose(app, group).await?.pop();
    let outcome =
        outcome.ok_or_else(|| ApiError::internal("the timeline gave no outcome for a publish"))?;
    Published::of(outcome, &app.metrics)
}
