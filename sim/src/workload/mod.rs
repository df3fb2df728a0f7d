//! The programs that use a cluster.

pub(crate) mod follower;
pub(crate) mod handing;
pub(crate) mod publisher;
pub(crate) mod reader;
pub(crate) mod setter;

use std::sync::Arc;
use std::time::Duration;

use tidings_event::Timestamp;
use tidings_host::simulated::{Rng, world};
use tidings_timeline::Stamper;

use crate::cluster::Cluster;
use crate::server::Server;

/// How long a program waits for an answer before it asks elsewhere.
pub(crate) const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// One of the servers.
pub(crate) fn any_server(cluster: &Cluster, rng: &mut Rng) -> Arc<Server> {
    let servers = cluster.servers();
    servers[rng.place(servers.len())].clone()
}

pub(crate) fn stamper(name: &str) -> Stamper {
    let mut stamper = Stamper::new(name, "sim", u128::from(world::random()));
    let now = world::since_epoch().as_micros() as i64;
    stamper.set_time(Timestamp::from_unix_micros(now));
    stamper
}
