//! Reads what is newest, at any of the servers.

use std::sync::Arc;
use std::time::Duration;

use tidings_host::simulated::{Rng, world};
use tokio::{sync::watch, time};

use super::any_server;
use crate::cluster::Cluster;
use crate::evidence::Read;
use crate::trace::note;

pub(crate) async fn read(
    cluster: Arc<Cluster>,
    name: String,
    mut rng: Rng,
    ends: watch::Receiver<bool>,
) {
    while !*ends.borrow() {
        time::sleep(Duration::from_millis(rng.within(5..1_000))).await;
        let server = any_server(&cluster, &mut rng);
        let Some(mut access) = server.access() else {
            continue;
        };
        let (asked, told) = (world::elapsed(), cluster.evidence().newest_told());
        let replica = access.replica.clone();
        let Some(Ok(())) = access.during(replica.read_barrier()).await else {
            continue;
        };
        let seen = replica.state().index.get();
        note!(
            cluster.trace,
            "{name}: {} has {seen}, and {told} was told",
            server.name
        );
        cluster.evidence().reads.push(Read {
            name: name.clone(),
            server: server.name.clone(),
            asked,
            told,
            seen,
        });
    }
}
