//! Entries of the state, one at a time.

use std::future::Future;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidings_event::{Index, Timestamp};

use crate::client::{Client, Here};
use crate::error::ClientError;

/// What is known under a topic, namespace and key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// What it is about.
    pub topic: String,
    /// Whose.
    pub namespace: String,
    /// Which one.
    pub key: String,
    /// When it came to be.
    pub create_index: Index,
    /// When it changed last; what `cas` is compared with.
    pub modify_index: Index,
    /// The time of that change.
    pub time: Timestamp,
    /// What it is: a JSON object, as it was put.
    pub payload: Box<RawValue>,
}

/// How an entry is put.
#[derive(Clone, Debug, Default)]
pub struct PutOptions {
    /// `None` takes the client's namespace.
    pub namespace: Option<String>,
    /// Only when the entry's `modify_index` is this; [`Index::ZERO`] only when there is no entry.
    pub compare_and_set: Option<Index>,
    /// The type of the event that tells of the change; `EntryPut` unless given.
    pub event_type: Option<String>,
}

/// The answer to a change.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Changed {
    index: Index,
}

impl Client {
    /// The entry, or `None` when there is none.
    ///
    /// # Errors
    /// When the agent does not answer, or refuses.
    pub async fn state_get(
        &self,
        topic: &str,
        key: &str,
        namespace: Option<&str>,
    ) -> Result<Option<Entry>, ClientError> {
        let query = self.namespace_query(namespace);
        let query = &query;
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "state", topic, key], query);
            here.exchange_json(here.request(Method::GET, url)).await
        };
        absent_is_none(self.anywhere(ask).await)
    }

    /// Puts an entry; its payload is a JSON object. Gives the index of the change.
    ///
    /// Asked of another server only when it is certain that the one before did nothing: a second put
    /// would be a second event, and with `compare_and_set` a repeat would be refused although the first
    /// try had succeeded.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `cas_mismatch` when the comparison failed.
    pub async fn state_put(
        &self,
        topic: &str,
        key: &str,
        payload: &RawValue,
        options: &PutOptions,
    ) -> Result<Index, ClientError> {
        let mut query = self.namespace_query(options.namespace.as_deref());
        let expected = options.compare_and_set.map(|index| index.to_string());
        query.extend(expected.iter().map(|index| ("cas", index.as_str())));
        query.extend(
            options
                .event_type
                .iter()
                .map(|name| ("type", name.as_str())),
        );
        let query = &query;
        let ask = |here: Here| async move {
            let request = here
                .request(Method::PUT, here.url(&["v1", "state", topic, key], query))
                .header(CONTENT_TYPE, "application/json")
                .body(payload.get().to_owned());
            here.exchange_json::<Changed>(request).await
        };
        Ok(self.once(ask).await?.index)
    }

    /// Deletes an entry. Gives the index of the change, or `None` when there was no entry.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the code `cas_mismatch` when `compare_and_set` is given and is
    /// not the entry's `modify_index`.
    pub async fn state_delete(
        &self,
        topic: &str,
        key: &str,
        options: &PutOptions,
    ) -> Result<Option<Index>, ClientError> {
        let mut query = self.namespace_query(options.namespace.as_deref());
        let expected = options.compare_and_set.map(|index| index.to_string());
        query.extend(expected.iter().map(|index| ("cas", index.as_str())));
        query.extend(
            options
                .event_type
                .iter()
                .map(|name| ("type", name.as_str())),
        );
        let query = &query;
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "state", topic, key], query);
            here.exchange_json::<Changed>(here.request(Method::DELETE, url))
                .await
        };
        let answer = absent_is_none(self.once(ask).await)?;
        Ok(answer.map(|changed| changed.index))
    }

    /// As [`anywhere`](Self::anywhere), for what must not be done twice: another server is asked only
    /// when the one before certainly did nothing.
    async fn once<T, A>(&self, ask: impl Fn(Here) -> A) -> Result<T, ClientError>
    where
        A: Future<Output = Result<T, ClientError>>,
    {
        let answer = self.anywhere(|here| {
            let asked = ask(here);
            async move {
                match asked.await {
                    Err(error) if error.is_transient() && !error.did_not_happen() => Ok(Err(error)),
                    answer => answer.map(Ok),
                }
            }
        });
        answer.await?
    }

    pub(crate) fn namespace_query<'a>(
        &'a self,
        namespace: Option<&'a str>,
    ) -> Vec<(&'static str, &'a str)> {
        let namespace = namespace.or(self.config().namespace.as_deref());
        namespace
            .map(|name| ("namespace", name))
            .into_iter()
            .collect()
    }
}

fn absent_is_none<T>(answer: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        // A 404 without it comes from something that is no agent, or does not know the route.
        Err(error) if error.code() == Some("no_entry") => Ok(None),
        Err(error) => Err(error),
    }
}
