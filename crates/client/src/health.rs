//! Whether an agent lives and is ready.

use std::time::Duration;

use reqwest::Method;

use crate::client::Client;
use crate::error::ClientError;

/// What an agent says about itself to a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Why it takes no requests now; `None` when it is ready.
    pub not_ready: Option<String>,
}

impl Health {
    /// Whether it takes requests.
    pub fn is_ready(&self) -> bool {
        self.not_ready.is_none()
    }
}

impl Client {
    /// Asks the agent whether it is ready.
    ///
    /// # Errors
    /// When it does not answer at all.
    pub async fn health(&self) -> Result<Health, ClientError> {
        let here = self.here();
        let url = here.url(&["v1", "health", "ready"], &[]);
        let answer = here.exchange(here.request(Method::GET, url), Duration::ZERO);
        match answer.await {
            Ok(_) => Ok(Health { not_ready: None }),
            Err(ClientError::Refused {
                status: 503,
                message,
                ..
            }) => Ok(Health {
                not_ready: Some(message),
            }),
            Err(error) => Err(error),
        }
    }
}
