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
/// that is known: the next start tells the others before it has read its log.
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
        let written = tidings_host::spawn_blocking(move || {
            identity::record(&data_dir, id)?;
            let stored = identity::stored_timeline(&data_dir)?;
            if let Some(timeline) = timeline.filter(|_| stored.is_none()) {
                identity::record_timeline(&data_dir, timeline)?;
            }
            Ok(timeline.is_some())
        });
        // a panic there is told; the next look tries again
        written.await.unwrap_or(Ok(false))
    }
}
