use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tidings_event::Timestamp;
use tidings_timeline::{Stamper, StateView};
use tokio::time::Instant;
use ulid::Ulid;

use crate::auth::Authorizer;
use crate::closing::Closing;
use crate::config::ApiConfig;
use crate::metrics::Metrics;
use crate::timeline::Timeline;

/// The `Source` of events that come in over HTTP and name none.
const SOURCE: &str = "api";

/// What every handler shares.
pub(crate) struct App {
    pub(crate) config: ApiConfig,
    pub(crate) timeline: Arc<dyn Timeline>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) authorizer: Authorizer,
    /// Begun when the server shuts down: streams end by it.
    pub(crate) closing: Closing,
    pub(crate) started: Instant,
}

impl App {
    pub(crate) fn new(timeline: Arc<dyn Timeline>, config: ApiConfig) -> App {
        App {
            authorizer: Authorizer::new(config.http.token.clone()),
            config,
            timeline,
            metrics: Arc::new(Metrics::default()),
            closing: Closing::default(),
            started: Instant::now(),
        }
    }

    /// Gives ids and times to events of one request or connection whose publisher gave none.
    pub(crate) fn stamper(&self) -> Stamper {
        let mut stamper = Stamper::new(
            self.config.node_name.as_str(),
            SOURCE,
            Ulid::generate().random(),
        );
        stamper.set_time(now());
        stamper
    }

    pub(crate) fn state(&self) -> Arc<StateView> {
        self.timeline.state()
    }
}

/// The time by this machine's clock.
pub(crate) fn now() -> Timestamp {
    let micros = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    Timestamp::from_unix_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
