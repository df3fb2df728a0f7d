//! One stream from a server for each set of topics, shared by all who follow it here.
//!
//! ```text
//!  server ══ one stream of the topics, all namespaces ══▶ Shared ──▶ View: a filter ──▶ Ring ──▶ reader
//!                                                            │                            └───▶ reader
//!                                                            └─────▶ View … ──▶ Ring ──▶ reader
//!  server ── a stream of its own, for a reader that is behind the ring, until it meets it ──▶ reader
//! ```
//!
//! A frame is looked at once for each filter, not once for each reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidings_api::UpstreamFailure;
use tidings_client::{ClientError, EventStream, From, StreamEvent, StreamRequest};
use tidings_event::{Filter, Index, Selected};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::relay::failure;
use crate::ring::Ring;
use crate::servers::Servers;

/// How long a stream, and what is kept of it, outlives its last reader: a reader that comes back finds
/// what it missed.
const LINGER: Duration = Duration::from_secs(60);

/// The pause before a stream that ended just now is looked for again.
const AGAIN_PAUSE: Duration = Duration::from_millis(20);

/// How often it is looked for those that nobody reads.
const SWEEP: Duration = Duration::from_secs(10);

/// All shared streams. A handle.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<HubInner>,
}

struct HubInner {
    servers: Servers,
    upstreams_max: usize,
    ring_bytes: usize,
    shared: Mutex<BTreeMap<Vec<String>, Arc<Shared>>>,
    timeline: watch::Sender<Option<String>>,
    newest: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// One stream and what is made of it.
pub(crate) struct Shared {
    topics: Vec<String>,
    state: Mutex<State>,
    /// Whether it is known where it is.
    begun: watch::Sender<Begun>,
    ring_bytes: usize,
}

#[derive(Clone, Debug)]
enum Begun {
    NotYet,
    Yes,
    /// It ended; by a refusal, which others would get as well.
    Over(Option<UpstreamFailure>),
}

/// Why there is nothing to follow.
pub(crate) enum NoView {
    /// No server said in time where it is.
    NotInTime,
    /// One refused.
    Refused(UpstreamFailure),
}

struct State {
    position: Index,
    views: Vec<Viewed>,
    /// Since when there is none.
    empty_since: Option<Instant>,
    /// Nobody may join any more.
    is_over: bool,
}

struct Viewed {
    view: Arc<View>,
    unused_since: Option<Instant>,
}

/// What the readers of one filter share.
pub(crate) struct View {
    key: ViewKey,
    filter: Filter,
    pub(crate) ring: Mutex<Ring>,
}

/// What tells one filter from another: topics, namespace and expression as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ViewKey {
    pub(crate) topics: Vec<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) expression: Option<String>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HubStatus {
    pub(crate) upstreams: usize,
    pub(crate) views: usize,
}

/// Topics in one form: sorted, each once, nothing when they are all.
pub(crate) fn canonical(topics: &[String]) -> Vec<String> {
    let trim = |topic: &String| topic.strip_suffix(":*").unwrap_or(topic).to_owned();
    let mut topics: Vec<String> = topics.iter().map(trim).collect();
    if topics.iter().any(|topic| topic == "*" || topic.is_empty()) {
        return Vec::new();
    }
    topics.sort();
    topics.dedup();
    topics
}

impl Hub {
    pub(crate) fn new(
        servers: Servers,
        upstreams_max: usize,
        ring_bytes: usize,
        newest: Arc<AtomicU64>,
        stop: CancellationToken,
    ) -> Hub {
        Hub {
            inner: Arc::new(HubInner {
                servers,
                upstreams_max,
                ring_bytes,
                shared: Mutex::new(BTreeMap::new()),
                timeline: watch::Sender::new(None),
                newest,
                stop,
            }),
        }
    }

    /// The timeline that is followed, once it is known.
    pub(crate) fn timeline(&self) -> Option<String> {
        self.inner.timeline.borrow().clone()
    }

    pub(crate) fn status(&self) -> HubStatus {
        let shared = self.inner.shared.lock();
        HubStatus {
            upstreams: shared.len(),
            views: shared
                .values()
                .map(|shared| shared.state.lock().views.len())
                .sum(),
        }
    }

    /// What is shared by those who want this. Done when it is known where it is.
    pub(crate) async fn view(
        &self,
        key: ViewKey,
        filter: &Filter,
        wait: Duration,
    ) -> Result<Arc<View>, NoView> {
        let deadline = Instant::now() + wait;
        loop {
            let shared = self.shared_of(&key.topics);
            let mut begun = shared.begun.subscribe();
            let waited = begun.wait_for(|begun| !matches!(begun, Begun::NotYet));
            let begun = match tokio::time::timeout_at(deadline, waited).await {
                Ok(Ok(begun)) => begun.clone(),
                _ => return Err(NoView::NotInTime),
            };
            if let Begun::Over(Some(failure)) = begun {
                return Err(NoView::Refused(failure));
            }
            if let Some(view) = shared.view(&key, filter) {
                return Ok(view);
            }
            // It ended just now; the next one is found or begun.
            if Instant::now() >= deadline {
                return Err(NoView::NotInTime);
            }
            tokio::time::sleep(AGAIN_PAUSE).await;
        }
    }

    /// The stream of these topics; begun when there is none.
    fn shared_of(&self, topics: &[String]) -> Arc<Shared> {
        let mut all = self.inner.shared.lock();
        if let Some(shared) = all.get(topics) {
            return Arc::clone(shared);
        }
        // Beyond the limit the stream of everything is shared, too.
        let topics = match all.len() < self.inner.upstreams_max {
            true => topics.to_vec(),
            false => Vec::new(),
        };
        if let Some(shared) = all.get(&topics) {
            return Arc::clone(shared);
        }
        let shared = Arc::new(Shared {
            topics: topics.clone(),
            state: Mutex::new(State {
                position: Index::ZERO,
                views: Vec::new(),
                empty_since: None,
                is_over: false,
            }),
            begun: watch::Sender::new(Begun::NotYet),
            ring_bytes: self.inner.ring_bytes,
        });
        all.insert(topics, Arc::clone(&shared));
        let (hub, stop) = (self.clone(), self.inner.stop.clone());
        let task = Arc::clone(&shared);
        tokio::spawn(async move {
            let refused = tokio::select! {
                () = stop.cancelled() => None,
                refused = hub.feed(&task) => refused,
            };
            let mut all = hub.inner.shared.lock();
            all.retain(|_, other| !Arc::ptr_eq(other, &task));
            drop(all);
            task.end(refused);
        });
        shared
    }

    /// Follows until nobody reads any more, or it cannot be followed: then with the reason.
    async fn feed(&self, shared: &Shared) -> Option<UpstreamFailure> {
        let mut client = self.inner.servers.known().await;
        let mut from = From::Now;
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            let mut changes = self.inner.servers.changes();
            let mut stream = client.stream(StreamRequest {
                topics: shared.topics.clone(),
                namespace: Some(String::from("*")),
                from,
                filter: None,
                timeline: self.timeline(),
                strict: false,
            });
            client = loop {
                tokio::select! {
                    event = stream.next() => {
                        if let Err(refused) = self.take(shared, &stream, event) {
                            return refused;
                        }
                    }
                    _ = sweep.tick() => if shared.sweep(Instant::now()) {
                        return None;
                    },
                    Ok(()) = changes.changed() => {
                        if let Some(client) = self.inner.servers.client() {
                            break client;
                        }
                    }
                }
            };
            from = match stream.cursor() {
                Some(cursor) => From::Index(cursor.next()),
                None => From::Now,
            };
        }
    }

    /// Takes what came.
    ///
    /// # Errors
    /// When it is over, with the refusal when it was one.
    fn take(
        &self,
        shared: &Shared,
        stream: &EventStream,
        event: Option<Result<StreamEvent, ClientError>>,
    ) -> Result<(), Option<UpstreamFailure>> {
        if let Some(timeline) = stream.timeline() {
            self.inner.timeline.send_if_modified(|known| {
                let news = known.as_deref() != Some(timeline);
                if news {
                    *known = Some(timeline.to_owned());
                }
                news
            });
        }
        match event {
            Some(Ok(StreamEvent::Frame(line))) => {
                let index = line.index();
                let line = [line.line().as_ref(), b"\n"].concat();
                shared.push(index, Bytes::from(line));
                self.inner.newest.fetch_max(index.get(), Ordering::Relaxed);
            }
            Some(Ok(StreamEvent::Progress(index))) => {
                shared.advance(index);
                self.inner.newest.fetch_max(index.get(), Ordering::Relaxed);
            }
            Some(Ok(StreamEvent::Gap { next, .. })) => shared.cut(next),
            Some(Ok(StreamEvent::Reset { timeline, .. })) => {
                // Indexes mean something else now: those who read come again and see.
                self.inner.newest.store(0, Ordering::Relaxed);
                self.inner.timeline.send_replace(Some(timeline));
                return Err(None);
            }
            Some(Ok(StreamEvent::Reconnecting { error, .. })) => {
                tracing::debug!(%error, "a shared stream is begun again");
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::warn!(%error, "a shared stream is refused");
                return Err(Some(failure(error, true)));
            }
            None => return Err(None),
        }
        Ok(())
    }
}

impl Shared {
    /// The view of a filter, made when there is none; `None` when this is over.
    fn view(&self, key: &ViewKey, filter: &Filter) -> Option<Arc<View>> {
        let mut state = self.state.lock();
        if state.is_over {
            return None;
        }
        if let Some(viewed) = state
            .views
            .iter_mut()
            .find(|viewed| viewed.view.key == *key)
        {
            viewed.unused_since = None;
            return Some(Arc::clone(&viewed.view));
        }
        state.empty_since = None;
        let view = Arc::new(View {
            key: key.clone(),
            filter: filter.clone(),
            ring: Mutex::new(Ring::new(state.position, self.ring_bytes)),
        });
        state.views.push(Viewed {
            view: Arc::clone(&view),
            unused_since: None,
        });
        Some(view)
    }

    fn push(&self, index: Index, line: Bytes) {
        let mut state = self.state.lock();
        state.position = index;
        for Viewed { view, .. } in &state.views {
            let mut ring = view.ring.lock();
            match view.filter.select(&line) {
                Ok(Selected::All) => ring.push(index, line.clone()),
                Ok(Selected::Some(part)) => ring.push(index, part),
                Ok(Selected::None) => ring.advance(index),
                Err(error) => {
                    tracing::error!(%index, %error, "a frame is not in the form that is written: its readers begin anew");
                    ring.end();
                }
            }
        }
        drop(state);
        self.begin();
    }

    fn advance(&self, index: Index) {
        let mut state = self.state.lock();
        state.position = state.position.max(index);
        for Viewed { view, .. } in &state.views {
            view.ring.lock().advance(index);
        }
        drop(state);
        self.begin();
    }

    fn cut(&self, next: Index) {
        let state = self.state.lock();
        for Viewed { view, .. } in &state.views {
            view.ring.lock().cut(next);
        }
    }

    fn begin(&self) {
        self.begun.send_if_modified(|begun| {
            let news = matches!(begun, Begun::NotYet);
            if news {
                *begun = Begun::Yes;
            }
            news
        });
    }

    fn end(&self, refused: Option<UpstreamFailure>) {
        let mut state = self.state.lock();
        state.is_over = true;
        for Viewed { view, .. } in state.views.drain(..) {
            view.ring.lock().end();
        }
        drop(state);
        self.begun.send_replace(Begun::Over(refused));
    }

    /// Lets go of what nobody has read for a while. Whether that is everything.
    fn sweep(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.views.retain_mut(|viewed| {
            if Arc::strong_count(&viewed.view) > 1 {
                viewed.unused_since = None;
                return true;
            }
            let since = *viewed.unused_since.get_or_insert(now);
            now.duration_since(since) < LINGER
        });
        if !state.views.is_empty() {
            return false;
        }
        let since = *state.empty_since.get_or_insert(now);
        state.is_over |= now.duration_since(since) >= LINGER;
        state.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_have_one_form() {
        let form = |topics: &[&str]| {
            let topics: Vec<String> = topics.iter().map(ToString::to_string).collect();
            canonical(&topics)
        };
        assert_eq!(form(&["Job:web", "Alloc", "Job:web"]), ["Alloc", "Job:web"]);
        assert_eq!(form(&["Job:*"]), ["Job"]);
        for all in [&["*"][..], &[], &["Job", "*:*"]] {
            assert_eq!(form(all), [""; 0]);
        }
    }
}
