use std::sync::Arc;

use tidings_store::{PinnedHistory, StoreError};
use tokio::runtime::Handle;

/// The files of the history, read where waiting does no harm, and let go of there too.
pub(crate) struct Pinned(Option<Arc<PinnedHistory>>);

/// Why the history was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PinnedError {
    #[error("the history cannot be read")]
    Store(#[from] StoreError),
    #[error("reading the history ended with a panic")]
    Panic,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Retention may have left files for the last reader to remove.
        if let (Some(pinned), true) = (self.0.take(), Handle::try_current().is_ok()) {
            tidings_host::spawn_blocking(move || drop(pinned));
        }
    }
}

impl Pinned {
    pub fn new(pinned: PinnedHistory) -> Pinned {
        Pinned(Some(Arc::new(pinned)))
    }

    /// Works with the files on a thread that may wait.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PinnedHistory) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, PinnedError> {
        // there until it is dropped
        let Some(pinned) = self.0.clone() else {
            return Err(PinnedError::Panic);
        };
        let worked = tidings_host::spawn_blocking(move || work(&pinned)).await;
        Ok(worked.map_err(|_| PinnedError::Panic)??)
    }
}
