use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use tidings_event::Timestamp;
use tidings_timeline::{Stamper, StateView};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use ulid::Ulid;

use crate::auth::Authorizer;
use crate::closing::Closing;
use crate::config::ApiConfig;
use crate::history::DIGESTS_AT_ONCE_MAX;
use crate::metrics::Metrics;
use crate::snapshot::SnapshotPlaces;
use crate::timeline::Timeline;

/// The `Source` of events that come in over HTTP and name none.
const SOURCE: &str = "api";

/// Bears the id of the timeline: a reader that finds another one than before must begin anew.
const TIMELINE_HEADER: &str = "x-tidings-timeline";

/// What outlives a server: its counts, its age, and what it has handed out of things that there is
/// only so much of. Handed to the server that takes over when the configuration changes, so that
/// counting goes on and limits hold for both together.
#[derive(Clone, Debug)]
pub struct ApiShared {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) started: Instant,
}

impl ApiShared {
    /// Nothing counted, started now.
    pub fn new() -> ApiShared {
        ApiShared {
            metrics: Arc::new(Metrics::default()),
            started: Instant::now(),
        }
    }
}

impl Default for ApiShared {
    fn default() -> ApiShared {
        ApiShared::new()
    }
}

/// Says which timeline an answer is about, once that is known.
pub(crate) fn name_timeline(headers: &mut HeaderMap, view: &StateView) {
    let text = view.timeline.map(|timeline| timeline.to_string());
    if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(TIMELINE_HEADER, value);
    }
}

/// What every handler shares.
pub(crate) struct App {
    pub(crate) config: ApiConfig,
    pub(crate) timeline: Arc<dyn Timeline>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) authorizer: Authorizer,
    /// Begun when the server shuts down: streams end by it.
    pub(crate) closing: Closing,
    pub(crate) started: Instant,
    /// A permit for each comparison of the history that is being made.
    pub(crate) digests: Semaphore,
    pub(crate) snapshots: SnapshotPlaces,
}

impl App {
    pub(crate) fn new(timeline: Arc<dyn Timeline>, config: ApiConfig, shared: &ApiShared) -> App {
        App {
            authorizer: Authorizer::new(&config.http),
            config,
            timeline,
            metrics: Arc::clone(&shared.metrics),
            closing: Closing::default(),
            started: shared.started,
            digests: Semaphore::new(DIGESTS_AT_ONCE_MAX),
            snapshots: SnapshotPlaces::new(),
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
