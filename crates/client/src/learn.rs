//! Learning the other servers from one that answers.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;

use crate::addresses::{ADDRESSES_MAX, is_local};
use crate::client::{Client, Here};
use crate::config::ClientConfig;
use crate::error::ClientError;

/// Requests after which a client counts as one that stays: a command that asks once and ends does not
/// ask for servers that it will not need.
const ANSWERS_BEFORE: u32 = 2;

/// Longest wait for the list. Nobody waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// When the servers were asked for.
#[derive(Debug, Default)]
pub(crate) struct Learning(Mutex<Asked>);

#[derive(Debug, Default)]
struct Asked {
    answers: u32,
    last: Option<Instant>,
}

impl Learning {
    /// Whether it is time to ask; if so it counts as done.
    fn is_due(&self, every: Duration, stays: bool, now: Instant) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.answers = asked.answers.saturating_add(1);
        if !stays && asked.answers <= ANSWERS_BEFORE {
            return false;
        }
        if asked.last.is_some_and(|last| now < last + every) {
            return false;
        }
        asked.last = Some(now);
        true
    }
}

/// The answer of `/v1/servers`, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Servers {
    servers: Vec<Server>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    #[serde(default)]
    http: String,
}

impl Client {
    /// Asks the server that answered for the others, in the background, when it is time to. `stays`
    /// for whoever has a connection that should outlive its server.
    pub(crate) fn learn_from(&self, here: &Here, stays: bool) {
        let Some(every) = self.config().learn_servers_every else {
            return;
        };
        if !self.learning().is_due(every, stays, Instant::now()) {
            return;
        }
        let (client, here) = (self.clone(), here.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(LIST_TIMEOUT, list(&here)).await {
                Ok(Ok(urls)) => client.addresses().learn(urls),
                // Whoever does not know the list is not asked more often for it.
                Ok(Err(error)) => tracing::debug!(%error, "no list of servers"),
                Err(_) => tracing::debug!("no list of servers in time"),
            }
        });
    }
}

async fn list(here: &Here) -> Result<Vec<Url>, ClientError> {
    let url = here.url(&["v1", "servers"], &[]);
    let answer: Servers = here.exchange_json(here.request(Method::GET, url)).await?;
    Ok(usable(&answer, here.target().is_local()))
}

/// The addresses that this client can use. One that means the server's own machine is none, unless
/// that is this machine too: a token would be shown to whoever listens here.
fn usable(answer: &Servers, from_this_machine: bool) -> Vec<Url> {
    answer
        .servers
        .iter()
        .filter(|server| !server.http.is_empty())
        .filter_map(|server| ClientConfig::parse_address(&server.http).ok())
        .filter(|url| from_this_machine || !is_local(url))
        .take(ADDRESSES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_without_a_usable_address_are_passed_over() {
        let text = r#"{"Servers":[{"Name":"a","Http":"10.0.0.1:7480"},{"Name":"b","Http":""},{"Name":"c"},
            {"Name":"d","Http":"https://h"},{"Name":"e","Http":"127.0.0.1:7480"}],"Leader":"a"}"#;
        let answer: Servers = serde_json::from_str(text).unwrap();
        let texts = |from_here| -> Vec<String> {
            let urls = usable(&answer, from_here);
            urls.iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(false), ["http://10.0.0.1:7480/"]);
        assert_eq!(
            texts(true),
            ["http://10.0.0.1:7480/", "http://127.0.0.1:7480/"]
        );
    }

    #[test]
    fn is_asked_for_once_in_a_while_by_those_who_stay() {
        let (learning, now) = (Learning::default(), Instant::now());
        let every = Duration::from_secs(60);
        let due = |stays, after| learning.is_due(every, stays, now + Duration::from_secs(after));
        assert!(!due(false, 0));
        assert!(due(true, 0));
        assert!(!due(true, 59));
        assert!(due(false, 60), "it has answered thrice");
    }
}
