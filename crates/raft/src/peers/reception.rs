//! Who gets a connection to this server, and who has to go when there are too many.
//!
//! ```text
//!  accepted ──▶ lobby: introduces itself ──▶ newcomer: of no server of the cluster, as far as is known
//!                 │ full: the oldest goes       │ full: refused
//!                                          └──▶ member: of a server of the cluster
//!                                               │ full: refused
//! ```
//!
//! Whoever opens connections by the hundred and says nothing pushes out its own: a server that introduces
//! itself has done so long before it is the oldest. And whoever introduces itself under a name of its own
//! takes no place of those that are in the cluster.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
    time,
};

use super::{
    message::{Refused, RefusedReason},
    serve::Service,
};
use crate::{config::PeersLimits, error::chain};

/// How long accepting waits after it failed, for instance for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Counts connections, and bounds them.
#[derive(Debug)]
pub(crate) struct Reception {
    limits: PeersLimits,
    lobby: Mutex<Lobby>,
    members: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    refused: AtomicU64,
}

/// Those that have not introduced themselves, the oldest first.
#[derive(Debug, Default)]
struct Lobby {
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
    next: u64,
}

/// A place in the lobby.
pub(crate) struct Entered {
    reception: Arc<Reception>,
    number: u64,
    /// Done when somebody else needs the place.
    pushed_out: oneshot::Receiver<()>,
}

// === impl Reception ===

impl Reception {
    pub fn new(limits: PeersLimits) -> Arc<Reception> {
        Arc::new(Reception {
            lobby: Mutex::default(),
            members: Arc::new(Semaphore::new(limits.connections_max)),
            newcomers: Arc::new(Semaphore::new(limits.newcomers_max)),
            refused: AtomicU64::new(0),
            limits,
        })
    }

    /// A place for somebody who is not known yet; the oldest gives way when there is none.
    fn enter(self: &Arc<Reception>) -> Entered {
        let (push_out, pushed_out) = oneshot::channel();
        let mut lobby = self.lobby.lock();
        if lobby.waiting.len() >= self.limits.strangers_max
            && let Some((_, oldest)) = lobby.waiting.pop_front()
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
            // it may be about to leave
            let _ = oldest.send(());
        }
        let number = lobby.next;
        lobby.next += 1;
        lobby.waiting.push_back((number, push_out));
        drop(lobby);
        Entered {
            reception: self.clone(),
            number,
            pushed_out,
        }
    }

    /// A place for a server that has introduced itself.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn admit(&self, is_member: bool) -> Result<OwnedSemaphorePermit, Refused> {
        let (places, most, of_whom) = match is_member {
            true => (&self.members, self.limits.connections_max, "servers of"),
            false => (
                &self.newcomers,
                self.limits.newcomers_max,
                "servers outside",
            ),
        };
        places.clone().try_acquire_owned().map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Refused {
                reason: RefusedReason::TooManyConnections,
                sentence: format!(
                    "this server has {most} connections from {of_whom} its cluster, as many as it \
                     takes: try again when some of them have ended"
                ),
            }
        })
    }

    /// What is told to whoever had to leave the lobby.
    pub fn pushed_out(&self) -> Refused {
        Refused {
            reason: RefusedReason::TooManyConnections,
            sentence: format!(
                "more than {} connections have not introduced themselves, and this one is the oldest \
                 of them: say hello sooner",
                self.limits.strangers_max
            ),
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        let members = self.limits.connections_max - self.members.available_permits();
        let newcomers = self.limits.newcomers_max - self.newcomers.available_permits();
        self.lobby.lock().waiting.len() + members + newcomers
    }

    /// Connections for which there was no place.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

// === impl Entered ===

impl Entered {
    /// Done when this one has to go.
    pub async fn pushed_out(&mut self) {
        // the other end goes with the place
        let _ = (&mut self.pushed_out).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut lobby = self.reception.lobby.lock();
        lobby.waiting.retain(|(number, _)| *number != self.number);
    }
}

/// Takes connections until it is dropped, and all of them with it.
pub(crate) async fn listen(service: Arc<Service>) {
    let transport = service.me.wire.transport.clone();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = transport.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection from another server");
                time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let entered = service.me.reception.enter();
        let service = service.clone();
        connections.spawn(async move {
            if let Err(error) = service.serve(stream, entered).await {
                tracing::warn!(%address, error = %chain(&error), "a server's connection was closed");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn reception() -> Arc<Reception> {
        Reception::new(PeersLimits {
            connections_max: 2,
            newcomers_max: 1,
            strangers_max: 2,
            ..PeersLimits::default()
        })
    }

    #[tokio::test]
    async fn the_oldest_who_says_nothing_makes_place() {
        let reception = reception();
        let mut first = reception.enter();
        let second = reception.enter();
        assert_eq!((reception.connections(), reception.refused()), (2, 0));
        drop(second);
        let mut third = reception.enter();
        assert!(first.pushed_out().now_or_never().is_none(), "at the limit");
        let _fourth = reception.enter();
        assert!(first.pushed_out().now_or_never().is_some(), "beyond it");
        assert!(third.pushed_out().now_or_never().is_none());
        assert_eq!((reception.connections(), reception.refused()), (2, 1));
        drop(first);
        assert_eq!(reception.connections(), 2);
    }

    #[tokio::test]
    async fn strangers_take_no_place_of_members() {
        let reception = reception();
        let newcomer = reception.admit(false).unwrap();
        let refused = reception.admit(false).unwrap_err();
        assert!(
            refused.sentence.contains("outside its cluster"),
            "{refused:?}"
        );
        let members = (
            reception.admit(true).unwrap(),
            reception.admit(true).unwrap(),
        );
        let refused = reception.admit(true).unwrap_err();
        assert_eq!(refused.reason, RefusedReason::TooManyConnections);
        assert_eq!((reception.connections(), reception.refused()), (3, 2));
        drop((newcomer, members));
        assert_eq!(reception.connections(), 0);
        assert!(reception.admit(false).is_ok());
    }
}
