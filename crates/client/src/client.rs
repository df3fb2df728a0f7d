//! One request and its answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::addresses::{Addresses, Target};
use crate::config::ClientConfig;
use crate::error::{ClientError, ConfigError, Tried};
use crate::learn::Learning;

/// Largest answer that is read into memory, in bytes. Lists come in pages far below it.
pub(crate) const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Largest error text that is read, in bytes: a sentence, whatever stands behind it.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// Longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// How often the kernel probes an idle connection, so that a machine that vanished is noticed on
/// requests without heartbeats (blocking lists, pipelined publishing).
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// How long an idle connection is kept for the next request: less than the 10 s after which the
/// agent closes it, so that a request is not written into a closing connection.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(5);

/// What may stand in a path segment as it is (RFC 3986 unreserved).
const PATH_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A client of one cluster. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    config: ClientConfig,
    addresses: Addresses,
    learning: Learning,
}

/// The client at one of its servers: a request and its answer belong to the same one.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    client: Client,
    target: Arc<Target>,
}

/// The agent's form of an error.
#[derive(Deserialize)]
struct RefusalBody {
    #[serde(rename = "Error")]
    error: RefusalFacts,
}

/// Code and sentence of an error, as they stand in answers and answer lines.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RefusalFacts {
    #[serde(rename = "Code")]
    pub(crate) code: String,
    #[serde(rename = "Message")]
    pub(crate) message: String,
}

impl Client {
    /// A client with these settings. Nothing is sent yet.
    ///
    /// # Errors
    /// When no address is given, or the token cannot be sent.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let addresses = Addresses::new(&config.addresses).ok_or(ConfigError::NoAddress)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &config.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.secret()))
                .map_err(|_| ConfigError::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(config.connect_timeout)
            .tcp_keepalive(TCP_KEEPALIVE)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .http1_only()
            // A token must not follow a redirect, nor a cluster's events a proxy.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(ConfigError::Setup)?;
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                config,
                addresses,
                learning: Learning::default(),
            }),
        })
    }

    /// A client with the settings of the environment, see [`ClientConfig::from_env`].
    ///
    /// # Errors
    /// When they are not usable.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::new(ClientConfig::from_env()?)
    }

    /// The settings it was made with.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// The address of the server that is asked now, as it is told to people.
    pub fn address(&self) -> String {
        self.here().address().to_owned()
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.inner.addresses
    }

    pub(crate) fn learning(&self) -> &Learning {
        &self.inner.learning
    }

    /// The server to ask now.
    pub(crate) fn here(&self) -> Here {
        Here {
            target: self.inner.addresses.choose(Instant::now()),
            client: self.clone(),
        }
    }

    /// Asks one server after the other until one answers, each at most once. For what may be asked
    /// twice.
    pub(crate) async fn anywhere<T, A>(&self, ask: impl Fn(Here) -> A) -> Result<T, ClientError>
    where
        A: Future<Output = Result<T, ClientError>>,
    {
        let mut tried = Tried::default();
        loop {
            let here = self.here();
            let error = match ask(here.clone()).await {
                Ok(answer) => {
                    here.worked(false);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let is_elsewhere = here.failed(&error);
            tried.note(here.address(), &error);
            if !is_elsewhere || tried.len() >= self.inner.addresses.len() {
                return Err(tried.into_error(error));
            }
            tracing::debug!(%error, address = here.address(), "asking another server");
        }
    }
}

impl Here {
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        self.client.config()
    }

    /// The server's address, as it is told to people.
    pub(crate) fn address(&self) -> &str {
        &self.target.text
    }

    /// The server answered. `stays` when it is by a connection that should outlive it.
    pub(crate) fn worked(&self, stays: bool) {
        self.client.addresses().worked(&self.target);
        self.client.learn_from(self, stays);
    }

    /// What was asked failed. When that is the server's doing it is left alone for a while. Says
    /// whether another server may do better at once.
    pub(crate) fn failed(&self, error: &ClientError) -> bool {
        error.is_of_the_server() && self.leave()
    }

    /// Leaves the server alone for a while. Says whether another one may be asked at once.
    pub(crate) fn leave(&self) -> bool {
        self.client.addresses().failed(&self.target, Instant::now())
    }

    /// The URL of a path below the agent's address; each segment is escaped as a whole.
    pub(crate) fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut path = self.target.url.path().trim_end_matches('/').to_owned();
        for segment in segments {
            path.push('/');
            path.extend(utf8_percent_encode(segment, PATH_SEGMENT));
        }
        let mut url = self.target.url.clone();
        url.set_path(&path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// The URL of a path and query as they came from somebody else.
    pub(crate) fn target_url(&self, target: &str) -> Url {
        let mut url = self.target.url.clone();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let base = self.target.url.path().trim_end_matches('/');
        url.set_path(&format!("{base}{path}"));
        url.set_query(query);
        url
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.inner.http.request(method, url)
    }

    /// Sends a request whose answer is small, within the request timeout plus `extra`.
    pub(crate) async fn exchange(
        &self,
        request: RequestBuilder,
        extra: Duration,
    ) -> Result<(HeaderMap, Bytes), ClientError> {
        let limit = self.client.inner.config.request_timeout + extra;
        let response = request
            .timeout(limit)
            .send()
            .await
            .map_err(|error| self.transport_error(limit, error))?;
        let mut response = self.accept(response).await?;
        let headers = std::mem::take(response.headers_mut());
        let body = self.read_body(response, ANSWER_BYTES_MAX).await?;
        Ok((headers, body))
    }

    /// Like [`exchange`](Self::exchange), with the answer read as JSON.
    pub(crate) async fn exchange_json<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T, ClientError> {
        let (_, body) = self.exchange(request, Duration::ZERO).await?;
        self.decode(&body)
    }

    pub(crate) fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|source| ClientError::Answer {
            address: self.address().to_owned(),
            source,
        })
    }

    /// Sends a request whose answer goes on and on: only its head is waited for, and bounded.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        self.open_within(request, Duration::ZERO).await
    }

    /// The same, with more time for the head.
    pub(crate) async fn open_within(
        &self,
        request: RequestBuilder,
        extra: Duration,
    ) -> Result<Response, ClientError> {
        let limit = self.client.inner.config.request_timeout + extra;
        let sent = tokio::time::timeout(limit, request.send()).await;
        let response = sent
            .map_err(|_| ClientError::TimedOut {
                address: self.address().to_owned(),
                limit,
            })?
            .map_err(|error| self.transport_error(limit, error))?;
        self.accept(response).await
    }

    pub(crate) fn transport_error(&self, limit: Duration, error: reqwest::Error) -> ClientError {
        ClientError::from_transport(self.address(), limit, error)
    }

    /// Passes a success on, and turns anything else into [`ClientError::Refused`].
    async fn accept(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await)
    }

    /// What an answer that is no success says.
    pub(crate) async fn refusal(&self, response: Response) -> ClientError {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        // The status is known; a body that cannot be read only costs the sentence.
        let limit = self.client.inner.config.request_timeout;
        let body = tokio::time::timeout(limit, self.read_body(response, REFUSAL_BYTES_MAX))
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
        let facts = match serde_json::from_slice::<RefusalBody>(&body) {
            Ok(body) => body.error,
            Err(_) => RefusalFacts {
                code: format!("http_{}", status.as_u16()),
                message: plain_sentence(&body, status),
            },
        };
        ClientError::Refused {
            status: status.as_u16(),
            code: facts.code,
            message: facts.message,
            retry_after,
        }
    }

    async fn read_body(&self, mut response: Response, limit: usize) -> Result<Bytes, ClientError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| {
            self.transport_error(self.client.inner.config.request_timeout, error)
        })? {
            if body.len() + chunk.len() > limit {
                return Err(ClientError::AnswerTooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// The error text of a route that speaks plain text, as one line.
fn plain_sentence(body: &[u8], status: reqwest::StatusCode) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|character| !character.is_control())
        .take(500)
        .collect();
    if line.is_empty() {
        status
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned()
    } else {
        line
    }
}

/// Whole seconds only: the other form, a date, needs clocks that agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::new(ClientConfig {
            addresses: vec![ClientConfig::parse_address(address).unwrap()],
            ..ClientConfig::default()
        })
        .unwrap()
    }

    #[test]
    fn urls_escape_each_segment_and_value() {
        let url = client("http://h:1/under/").here().url(
            &["v1", "state", "To pic", "a/b?c%"],
            &[("namespace", "a&b"), ("prefix", "ü")],
        );
        assert_eq!(
            url.as_str(),
            "http://h:1/under/v1/state/To%20pic/a%2Fb%3Fc%25?namespace=a%26b&prefix=%C3%BC"
        );
    }

    #[test]
    fn retry_after_is_seconds_and_bounded() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers)
        };
        assert_eq!(with("3"), Some(Duration::from_secs(3)));
        assert_eq!(with("99999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(with("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
