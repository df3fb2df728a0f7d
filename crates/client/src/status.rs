//! What an agent tells about itself.

use reqwest::Method;
use serde_json::Value;

use crate::client::{Client, Here};
use crate::error::ClientError;

/// The answer of `/v1/status`, as it came: an agent of a later version may tell more.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(Value);

impl Status {
    /// The whole answer.
    pub fn as_value(&self) -> &Value {
        &self.0
    }

    /// The value at a JSON pointer such as `/Raft/Role`, when it is told.
    pub fn get(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer).filter(|value| !value.is_null())
    }
}

impl Client {
    /// Asks the agent how it is.
    ///
    /// # Errors
    /// When it does not answer, or refuses.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let ask = |here: Here| async move {
            let url = here.url(&["v1", "status"], &[]);
            here.exchange_json(here.request(Method::GET, url)).await
        };
        self.anywhere(ask).await.map(Status)
    }
}
