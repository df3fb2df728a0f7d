use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use openraft::Raft;
use tidings_host::spawn_blocking;
use tokio::time;

use super::{
    connection::CallError,
    formation::Formation,
    link::Links,
    message::{Standing, Stands, VERSION_MEMBERS, kind},
};
use crate::{
    binding::Binding,
    error::{OpenError, chain},
    fault::Fault,
    identity,
    machine::Machine,
    queue::Queue,
};

/// How often it is looked whether a leader is heard.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// After how long without a leader the others are asked. Longer than an election takes.
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// How long their answers may take.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(4);

/// Finds out whether this server was removed from its cluster: nobody tells it anything then.
///
/// Asking is enough to be told, wherever the removal went unnoticed: while this server was down or cut
/// off. Only a leader that a majority has confirmed says that a server is removed.
pub(crate) struct StandingWatch {
    pub links: Arc<Links>,
    pub raft: Raft<Binding, Machine>,
    pub queue: Arc<Queue>,
    pub formation: Arc<Formation>,
    pub fault: Fault,
    pub data_dir: PathBuf,
}

impl StandingWatch {
    pub async fn run(self) {
        loop {
            time::sleep(LOOK_INTERVAL).await;
            let me = self.links.me();
            let is_silent = me.last_contact().is_none_or(|heard| heard > SILENCE_MIN);
            if !is_silent {
                me.set_admission_lost(false);
                continue;
            }
            // with an empty log it never belonged to anybody
            if me.members().is_empty() && !self.formation.was_member() {
                continue;
            }
            // As it was before the question: of an admission that comes while the answers do, some of
            // them know nothing yet.
            let was_admitted = self.formation.was_member() || self.was_admitted().await;
            let others: Vec<u64> = me.others().into_keys().collect();
            let answers = join_all(others.iter().map(|&id| self.ask(id))).await;
            if answers
                .into_iter()
                .any(|stands| stands == Ok(Stands::Removed))
            {
                if was_admitted {
                    self.end().await;
                    return;
                }
                me.set_admission_lost(true);
            }
        }
    }

    async fn ask(&self, id: u64) -> Result<Stands, String> {
        let asked = async {
            let connection = self.links.to(id).urgent.connection().await?;
            connection.needs_version(VERSION_MEMBERS)?;
            let kinds = (kind::STANDING, kind::STANDS);
            connection.ask(kinds, &Standing {}, ANSWER_WAIT_MAX).await
        };
        asked.await.map_err(|error: CallError| error.to_string())
    }

    /// Whether this server is a member for good, as far as its log goes; that may have lost it since it
    /// was noted. An admission that only stands in its log goes with the leader that wrote it: the next
    /// one knows nothing of it, and nobody was removed.
    async fn was_admitted(&self) -> bool {
        let id = self.links.me().server.id;
        let admitted = self.raft.with_raft_state(move |state| {
            let committed = state.membership_state.committed();
            committed.membership().get_node(&id).is_some()
        });
        // an engine that has stopped does not ask to be taken in
        admitted.await.unwrap_or(true)
    }

    /// Takes part no more, now and after a restart.
    async fn end(&self) {
        self.raft.runtime_config().elect(false);
        let (data_dir, id) = (self.data_dir.clone(), self.links.me().server.id);
        let noted = spawn_blocking(move || identity::record_removed(&data_dir, id));
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(error = %chain(&error), "cannot note that this server was removed");
        }
        let reason = OpenError::Removed {
            node: id,
            path: self.data_dir.clone(),
        };
        self.queue.close(reason.to_string().into());
        self.fault.raise(reason.to_string());
    }
}
