use openraft::{Raft, async_runtime::WatchReceiver};

use crate::{binding::Binding, machine::Machine, peers::Links};

/// Asks the voter that has most of the log to lead instead of this server; who that is. `None` when this
/// server does not lead, no other can be reached, or the engine has stopped.
pub(crate) async fn ask_to_lead(raft: &Raft<Binding, Machine>, links: &Links) -> Option<u64> {
    if !raft.is_leader() {
        return None;
    }
    let successor = {
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        let has = |id: &u64| metrics.replication.as_ref().and_then(|all| *all.get(id)?);
        // whoever has just stopped would be waited for in vain
        let others = voters.filter(|&id| id != metrics.id && links.is_open(id));
        others.max_by_key(has)
    }?;
    let asked = raft.trigger().transfer_leader(successor).await;
    asked.is_ok().then_some(successor)
}
