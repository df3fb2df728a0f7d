//! Three servers of one peer, each with its own data, and who of them leads.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Node, NodeStatus, Peer, etcd, nats, tidings};
use crate::process::free_addresses;

/// Starts `count` servers that know each other, and waits until clients can use them.
///
/// # Errors
///
/// One of them does not start, or this peer is not run as a cluster.
pub fn start(peer: Peer, program: &Path, folder: &Path, count: usize) -> Result<Vec<Node>> {
    match peer {
        Peer::Tidings => tidings_servers(program, folder, count),
        Peer::Nats => nats_servers(program, folder, count, false),
        Peer::NatsAlways => nats_servers(program, folder, count, true),
        Peer::Etcd => etcd_members(program, folder, count),
        _ => bail!("{peer} is not run as a cluster"),
    }
}

/// Asks who leads until somebody does; its place among the nodes.
///
/// # Errors
///
/// Nobody leads for too long.
pub fn await_leader(peer: Peer, nodes: &mut [Node]) -> Result<usize> {
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.address).collect();
    let first = nodes.first_mut().context("a cluster has servers")?;
    first.server.await_ready(|| match peer {
        Peer::Etcd => addresses
            .iter()
            .position(|address| etcd::leads(*address).is_ok_and(|leads| leads)),
        Peer::Nats | Peer::NatsAlways => {
            let leader = nats::stream_leader(addresses[0]).ok()??;
            names.iter().position(|name| *name == leader)
        }
        _ => addresses
            .iter()
            .position(|address| NodeStatus::ask(*address).is_ok_and(|status| status.leads)),
    })
}

fn name_of(number: usize) -> String {
    format!("n{number}")
}

fn tidings_servers(program: &Path, folder: &Path, count: usize) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(tidings_server(program, folder, number, count, &nodes)?);
    }
    for node in &mut nodes {
        let address = node.address;
        let ready = || tidings::get(address, "/v1/health/ready").ok();
        node.server.await_ready(ready)?;
    }
    Ok(nodes)
}

/// Starts one server that knows the others; it is not ready yet.
///
/// # Errors
///
/// It does not start.
pub fn tidings_server(
    program: &Path,
    folder: &Path,
    number: usize,
    expects: usize,
    others: &[Node],
) -> Result<Node> {
    let name = name_of(number);
    let mut arguments: Vec<OsString> = [
        "--server",
        "--bootstrap-expect",
        &expects.to_string(),
        "--peer",
        "127.0.0.1:0",
        "--node",
        &name,
    ]
    .map(OsString::from)
    .to_vec();
    arguments.extend(join(others));
    let (server, listening) = tidings::launch(program, &folder.join(&name), &arguments)?;
    if listening.peer.is_none() {
        bail!("a server of a cluster does not tell where its peers connect to");
    }
    Ok(Node {
        name,
        server,
        address: listening.http,
        peers: listening.peer,
    })
}

/// How an agent that holds no timeline is told where it comes from.
pub enum Source<'s> {
    /// One server of the cluster, by where its peers connect to; it tells of the others.
    Join(SocketAddr),
    /// Where clients connect to, as `relay.servers` has it.
    Clients(&'s [SocketAddr]),
}

/// Starts an agent that holds no timeline, and waits until it serves.
///
/// # Errors
///
/// It does not start.
pub fn tidings_agent(
    program: &Path,
    folder: &Path,
    name: &str,
    source: &Source<'_>,
) -> Result<Node> {
    let told: [OsString; 2] = match source {
        Source::Join(peer) => ["--join".into(), peer.to_string().into()],
        Source::Clients(addresses) => {
            let config = folder.join(format!("{name}.toml"));
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            std::fs::write(&config, format!("[relay]\nservers = {addresses:?}\n"))?;
            ["--config".into(), config.into()]
        }
    };
    let mut arguments: Vec<OsString> = vec!["--node".into(), name.into()];
    arguments.extend(told);
    let (mut server, listening) = tidings::launch(program, &folder.join(name), &arguments)?;
    server.await_ready(|| tidings::get(listening.http, "/v1/health/ready").ok())?;
    Ok(Node {
        name: name.to_owned(),
        server,
        address: listening.http,
        peers: None,
    })
}

fn join(others: &[Node]) -> impl Iterator<Item = OsString> {
    let addresses = others.iter().filter_map(|node| node.peers);
    addresses.flat_map(|address| ["--join".into(), address.to_string().into()])
}

/// For each server where its peers and where its clients connect to.
fn addresses(count: usize) -> Result<(Vec<SocketAddr>, Vec<SocketAddr>)> {
    let mut peers = free_addresses(2 * count)?;
    let clients = peers.split_off(count);
    Ok((peers, clients))
}

fn etcd_members(program: &Path, folder: &Path, count: usize) -> Result<Vec<Node>> {
    let names: Vec<String> = (0..count).map(name_of).collect();
    let (peers, clients) = addresses(count)?;
    let names_and_peers = names.iter().map(String::as_str).zip(peers.iter().copied());
    let cluster: Vec<(&str, SocketAddr)> = names_and_peers.collect();
    let mut nodes = Vec::new();
    for ((name, peers), address) in cluster.iter().zip(clients) {
        let folder = folder.join(name);
        nodes.push(Node {
            name: (*name).to_owned(),
            server: etcd::launch(program, &folder, name, (address, *peers), &cluster)?,
            address,
            peers: Some(*peers),
        });
    }
    for node in &mut nodes {
        // The client port opens when the cluster has a leader.
        node.server.await_listening(node.address)?;
    }
    Ok(nodes)
}

fn nats_servers(program: &Path, folder: &Path, count: usize, always: bool) -> Result<Vec<Node>> {
    let (routes, clients) = addresses(count)?;
    let urls: Vec<String> = routes
        .iter()
        .map(|route| format!("nats-route://{route}"))
        .collect();
    let mut nodes = Vec::new();
    for (number, (route, address)) in routes.iter().zip(clients).enumerate() {
        let name = name_of(number);
        let cluster = format!(
            "server_name: {name}\ncluster {{ name: bench\n listen: \"{route}\"\n routes: {urls:?} }}\n"
        );
        nodes.push(Node {
            server: nats::launch(program, &folder.join(&name), address, always, &cluster)?,
            name,
            address,
            peers: Some(*route),
        });
    }
    for node in &mut nodes {
        node.server.await_listening(node.address)?;
    }
    let first = nodes.first_mut().context("a cluster has servers")?;
    let address = first.address;
    first
        .server
        .await_ready(|| nats::create_stream(address, count).ok())?;
    Ok(nodes)
}
