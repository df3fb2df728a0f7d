use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time;

use super::me::Me;
use crate::{
    error::{OpenError, chain},
    identity,
};

/// How often it is looked whether there is something to note.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Notes in the data directory whose it is, once the log has begun, and which timeline it holds, once
/// that is known: the next start tells the others before it has read its log. Forgets the server whose
/// place this one takes when it is gone.
pub(crate) struct Keeper {
    pub me: Arc<Me>,
    pub data_dir: PathBuf,
}

impl Keeper {
    pub async fn run(self) {
        loop {
            let kept = self.keep().await.unwrap_or_else(|error| {
                tracing::warn!(error = %chain(&error), "cannot note whose the data directory is");
                false
            });
            if kept {
                return;
            }
            time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Notes what is known; `true` when there is nothing more to note.
    async fn keep(&self) -> Result<bool, OpenError> {
        if self.me.machine.log.is_new() {
            return Ok(false);
        }
        let (data_dir, id) = (self.data_dir.clone(), self.me.server.id);
        let timeline = self.me.timeline();
        let members = self.me.members();
        let written = tidings_host::spawn_blocking(move || {
            identity::record(&data_dir, id)?;
            let stored = identity::stored_timeline(&data_dir)?;
            if let Some(timeline) = timeline.filter(|_| stored.is_none()) {
                identity::record_timeline(&data_dir, timeline)?;
            }
            // A server whose place this one takes is gone once this one is there without it.
            let replaces = identity::replaces(&data_dir)?;
            let is_replaced = |old| members.contains_key(&id) && !members.contains_key(&old);
            if replaces.is_some_and(is_replaced) {
                identity::forget_replaces(&data_dir)?;
                return Ok(timeline.is_some());
            }
            Ok(timeline.is_some() && replaces.is_none())
        });
        // a panic there is told; the next look tries again
        written.await.unwrap_or(Ok(false))
    }
}
