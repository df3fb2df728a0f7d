//! Entries of a topic, page by page.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::HeaderMap;
use tidings_event::Index;

use crate::client::{Client, Here};
use crate::error::ClientError;
use crate::state::Entry;

/// A blocking list waits up to a sixteenth longer than it was asked to (Nomad: `rpc.go`,
/// `JitterFraction`), and so does its answer.
const WAIT_JITTER_FRACTION: u32 = 16;

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// One namespace, or `*` for all. `None` takes the client's.
    pub namespace: Option<String>,
    /// Only keys that begin with this.
    pub prefix: Option<String>,
    /// An expression (CEL) that an entry has to fulfil.
    pub filter: Option<String>,
    /// Entries of one page; `None` leaves it to the agent.
    pub per_page: Option<u32>,
}

/// Some entries of a topic, in the agent's order.
#[derive(Clone, Debug)]
pub struct StatePage {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The index of the last change of the topic; what a blocking list waits to be passed.
    pub index: Index,
    /// How to ask for the page behind this one; `None` on the last.
    pub next_token: Option<String>,
}

/// The pages of a list, one after another.
#[derive(Debug)]
pub struct StatePages {
    client: Client,
    topic: String,
    request: ListRequest,
    /// `None` before the first page, then the token of the next; `Some(None)` is the end.
    next: Option<Option<String>>,
}

/// Waiting for a change: the index that has to be passed, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocking {
    pub(crate) index: Index,
    pub(crate) wait: Duration,
}

impl Client {
    /// Lists the entries of a topic, page by page. Nothing is sent before the first
    /// [`StatePages::next`].
    ///
    /// Pages are asked for one after another; an entry that changes between two of them may be
    /// missed or come twice. A snapshot stream has no such seams.
    pub fn state_list(&self, topic: &str, request: ListRequest) -> StatePages {
        StatePages {
            client: self.clone(),
            topic: topic.to_owned(),
            request,
            next: None,
        }
    }

    /// Asks for one page.
    pub(crate) async fn state_page(
        &self,
        topic: &str,
        request: &ListRequest,
        next_token: Option<&str>,
        blocking: Option<Blocking>,
    ) -> Result<StatePage, ClientError> {
        let mut query = self.namespace_query(request.namespace.as_deref());
        let per_page = request.per_page.map(|count| count.to_string());
        let index = blocking.map(|blocking| blocking.index.to_string());
        let wait = blocking.map(|blocking| format!("{}ms", blocking.wait.as_millis()));
        for (name, value) in [
            ("prefix", request.prefix.as_deref()),
            ("filter", request.filter.as_deref()),
            ("per_page", per_page.as_deref()),
            ("next_token", next_token),
            ("index", index.as_deref()),
            ("wait", wait.as_deref()),
        ] {
            query.extend(value.map(|value| (name, value)));
        }
        let extra = blocking.map_or(Duration::ZERO, |blocking| {
            blocking.wait + blocking.wait / WAIT_JITTER_FRACTION
        });
        let query = &query;
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "state", topic], query);
            let (headers, body) = here.exchange(here.request(Method::GET, url), extra).await?;
            Ok((headers, here.decode(&body)?))
        };
        let (headers, entries) = self.anywhere(ask).await?;
        Ok(StatePage {
            entries,
            index: header_text(&headers, "x-nomad-index")
                .and_then(|text| text.parse().ok())
                .map_or(Index::ZERO, Index),
            next_token: header_text(&headers, "x-nomad-nexttoken")
                .filter(|token| !token.is_empty())
                .map(str::to_owned),
        })
    }
}

impl StatePages {
    /// The next page, `None` behind the last.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses. The next call asks for the same page again.
    pub async fn next(&mut self) -> Option<Result<StatePage, ClientError>> {
        let token = match &self.next {
            None => None,
            Some(Some(token)) => Some(token.as_str()),
            Some(None) => return None,
        };
        let page = self
            .client
            .state_page(&self.topic, &self.request, token, None);
        match page.await {
            Ok(page) => {
                self.next = Some(page.next_token.clone());
                Some(Ok(page))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
