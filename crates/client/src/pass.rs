//! Requests of others that are handed on as they came.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use reqwest::header::HeaderMap;
use reqwest::{Body, Method};

use crate::client::{Client, Here};
use crate::error::{ClientError, TransportCause};

/// A request of somebody else.
#[derive(Clone, Debug)]
pub struct PassedRequest {
    /// What is to be done.
    pub method: Method,
    /// Path and query, as they came.
    pub target: String,
    /// What it bears; the client adds its token.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
    /// How long the head of the answer may take beyond the request timeout: a blocking query.
    pub extra: Duration,
}

/// The answer to it, whatever its status says.
#[derive(Debug)]
pub struct PassedAnswer {
    response: reqwest::Response,
    /// Who gave it.
    pub address: String,
}

impl PassedAnswer {
    /// Its status.
    pub fn status(&self) -> reqwest::StatusCode {
        self.response.status()
    }

    /// What it bears.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Its body as it comes.
    pub fn into_body(self) -> impl Stream<Item = Result<Bytes, TransportCause>> + Send {
        self.response
            .bytes_stream()
            .map_err(|error| TransportCause::of(&error))
    }
}

impl Client {
    /// Hands a request on to a server that answers. One that only reads is asked of another when a
    /// server fails; a change only when it certainly was not made at the one before. Every answer that
    /// says something about what was asked, refusals too, is handed back as it is.
    ///
    /// # Errors
    /// When no server answers; for a change also when it is not known whether it was made.
    pub async fn pass(&self, request: &PassedRequest) -> Result<PassedAnswer, ClientError> {
        let reads = request.method == Method::GET || request.method == Method::HEAD;
        let answer = self.anywhere(|here| async move {
            match pass_at(&here, request).await {
                Err(error) if !reads && error.is_transient() && !error.did_not_happen() => {
                    Ok(Err(error))
                }
                answer => answer.map(Ok),
            }
        });
        answer.await?
    }
}

impl Client {
    /// Hands on what is posted to a path and still comes, once, to the server that is asked now.
    ///
    /// # Errors
    /// When that server does not answer.
    pub async fn pass_stream<S>(
        &self,
        target: &str,
        headers: HeaderMap,
        body: S,
    ) -> Result<PassedAnswer, ClientError>
    where
        S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
    {
        let here = self.here();
        let sent = here
            .request(Method::POST, here.target_url(target))
            .headers(headers)
            .body(Body::wrap_stream(body))
            .send();
        // The head of the answer may come long after the beginning of the body.
        let answer = sent
            .await
            .map_err(|error| here.transport_error(here.config().request_timeout, error));
        match answer {
            Ok(response) => Ok(PassedAnswer {
                response,
                address: here.address().to_owned(),
            }),
            Err(error) => {
                here.failed(&error);
                Err(error)
            }
        }
    }
}

async fn pass_at(here: &Here, request: &PassedRequest) -> Result<PassedAnswer, ClientError> {
    let url = here.target_url(&request.target);
    let limit = here.config().request_timeout + request.extra;
    let sent = here
        .request(request.method.clone(), url)
        .headers(request.headers.clone())
        .body(request.body.clone())
        .send();
    let response = tokio::time::timeout(limit, sent)
        .await
        .map_err(|_| ClientError::TimedOut {
            address: here.address().to_owned(),
            limit,
        })?
        .map_err(|error| here.transport_error(limit, error))?;
    let address = here.address().to_owned();
    if matches!(response.status().as_u16(), 502..=504) {
        // What the server says of itself decides whether another is asked.
        let error = here.refusal(response).await;
        return Err(error);
    }
    Ok(PassedAnswer { response, address })
}
