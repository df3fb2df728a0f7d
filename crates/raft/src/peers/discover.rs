use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use tokio::time;

use super::{
    connection::{CallError, exchange, strange_answer, unreachable},
    message::{Find, Found, FoundServer, VERSION_MAX, VERSION_MEMBERS, decode, encode, kind},
    tls::PeersTls,
    transport::{TcpTransport, Transport},
    wire::Wire,
};

/// How long a server may take to tell of the others.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Addresses that are asked; a cluster has a handful of servers.
const ADDRESSES_MAX: usize = 64;

/// A server, as it is told to whoever looks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its name.
    pub name: String,
    /// Where other servers reach it, `HOST:PORT`.
    pub peer: String,
    /// Where it answers clients; empty when it does not tell.
    pub http: String,
    /// Whether it leads.
    pub leader: bool,
}

/// Why no server was found: one sentence for each address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no server was found: {}", reasons.join("; "))]
pub struct DiscoverError {
    /// What was found instead, address by address.
    pub reasons: Vec<String>,
}

/// Asks the peer ports of some servers for all servers of their cluster, without being a server.
///
/// What they tell is put together; each tells what its own log has, and who leads as far as it knows.
///
/// # Errors
///
/// When none of the addresses answers.
pub async fn discover(
    addresses: &[String],
    tls: Option<&PeersTls>,
) -> Result<Vec<ServerInfo>, DiscoverError> {
    discover_over(&TcpTransport::dialing(), addresses, tls).await
}

/// As [`discover`], over another transport.
///
/// # Errors
///
/// When none of the addresses answers.
pub async fn discover_over(
    transport: &dyn Transport,
    addresses: &[String],
    tls: Option<&PeersTls>,
) -> Result<Vec<ServerInfo>, DiscoverError> {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    let asked = addresses
        .iter()
        .map(|address| ask(transport, address, tls))
        .collect::<Vec<_>>();
    let mut found: BTreeMap<u64, FoundServer> = BTreeMap::new();
    let mut reasons = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(answer) => {
                for server in answer.servers {
                    let known = found.entry(server.server.id);
                    let known = known.or_insert_with(|| server.clone());
                    known.leader |= server.leader;
                }
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    if found.is_empty() {
        return Err(DiscoverError { reasons });
    }
    let info = |found: FoundServer| ServerInfo {
        name: found.server.name,
        peer: found.server.address,
        http: found.http,
        leader: found.leader,
    };
    Ok(found.into_values().map(info).collect())
}

async fn ask(
    transport: &dyn Transport,
    address: &str,
    tls: Option<&PeersTls>,
) -> Result<Found, CallError> {
    let asked = async {
        let stream = Wire::dial_over(transport, tls, address).await;
        let mut stream = stream.map_err(unreachable(address))?;
        let find = Find {
            version_min: VERSION_MEMBERS,
            version_max: VERSION_MAX,
        };
        let find = encode(&find).map_err(CallError::not_sent)?;
        match exchange(&mut stream, address, kind::FIND, find).await? {
            (kind::FOUND, body) => decode(&body).map_err(CallError::not_sent),
            (found, _) => Err(strange_answer(address, found)),
        }
    };
    let answered = time::timeout(ANSWER_WAIT_MAX, asked).await;
    answered.unwrap_or_else(|_| {
        Err(CallError::not_sent(format_args!(
            "{address} did not answer within {} s",
            ANSWER_WAIT_MAX.as_secs()
        )))
    })
}
