//! The servers that hold the timeline, and changes of that.

use std::time::Duration;

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::client::{Client, Here};
use crate::error::ClientError;

/// Beyond the request timeout: a server that is removed or promoted is a change that a majority must
/// agree to, twice.
const CHANGE_EXTRA: Duration = Duration::from_secs(30);

/// One of the servers that hold the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Server {
    /// Its number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where the other servers reach it.
    #[serde(default)]
    pub peer: String,
    /// Where clients reach it; empty when it does not say.
    #[serde(default)]
    pub http: String,
    /// `voter`, `learner` or `standby`.
    pub role: String,
    /// Whether it leads.
    pub leader: bool,
    /// Milliseconds since it was last heard of, as far as the server that was asked knows.
    #[serde(default)]
    pub last_contact_ms: Option<u64>,
    /// The last log entry that it is known to have; known to the leader.
    #[serde(default)]
    pub matched: Option<u64>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Servers {
    /// In the order of their numbers.
    pub servers: Vec<Server>,
    /// Who leads, when that is known.
    #[serde(default)]
    pub leader: Option<String>,
}

/// The answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServersChanged {
    /// Who leads afterwards, when that is known.
    #[serde(default)]
    pub leader: Option<String>,
}

impl Client {
    /// Asks which servers hold the timeline.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn servers(&self) -> Result<Servers, ClientError> {
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "servers"], &[]);
            here.exchange_json(here.request(Method::GET, url)).await
        };
        self.anywhere(ask).await
    }

    /// Gives a vote to a server that has none. It is named by its name or its number.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `servers_refused` when it cannot be done as things are,
    /// and `change_unfinished` when its end was not seen.
    pub async fn promote_server(&self, name: &str) -> Result<ServersChanged, ClientError> {
        self.change_servers(Method::POST, &["v1", "servers", name, "promote"], &[])
            .await
    }

    /// Takes a server out, for good.
    ///
    /// # Errors
    /// As [`promote_server`](Client::promote_server).
    pub async fn remove_server(&self, name: &str) -> Result<ServersChanged, ClientError> {
        self.change_servers(Method::DELETE, &["v1", "servers", name], &[])
            .await
    }

    /// Lets another server lead: this one, or the one that has most of the log.
    ///
    /// # Errors
    /// As [`promote_server`](Client::promote_server).
    pub async fn transfer_leader(&self, to: Option<&str>) -> Result<ServersChanged, ClientError> {
        let query: Vec<(&str, &str)> = to.iter().map(|to| ("to", *to)).collect();
        self.change_servers(Method::POST, &["v1", "servers", "transfer-leader"], &query)
            .await
    }

    /// Each of them may be asked twice: what is done already is done.
    async fn change_servers(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<ServersChanged, ClientError> {
        let ask = |here: Here| {
            let request = here.request(method.clone(), here.url(path, query));
            async move {
                let (_, body) = here.exchange(request, CHANGE_EXTRA).await?;
                here.decode(&body)
            }
        };
        self.anywhere(ask).await
    }
}
