use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use tidings_event::NewEvent;
use tidings_timeline::{CommandGroup, Commands, SenderNumber, Stamper};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::answer::Published;
use super::sender;
use crate::app::{self, App};
use crate::closing::ClosingWatch;
use crate::error::ApiError;
use crate::metrics::Buffered;
use crate::timeline::{Answer, ProposeFailure, Submitted};

/// Bytes of answers that are gathered before they are handed on.
const ANSWER_BYTES: usize = 32 << 10;

/// Lines of one group after which nothing more is gathered: lines that are refused take no bytes of
/// a group, but their answers take memory.
const GROUP_LINES: usize = 8_192;

/// `application/x-ndjson`: a transaction a line, answered a line each, in order, while further
/// lines still arrive.
pub(crate) async fn publish(
    app: Arc<App>,
    headers: &HeaderMap,
    sender: Option<SenderNumber>,
    body: Body,
) -> Response {
    let expects = headers.contains_key(header::EXPECT);
    let mut answers = Answers::new(app, sender, body);
    if expects {
        // The client wants to be told to go on before it sends anything: that is done by the
        // first read, and only as long as no answer has begun.
        std::future::poll_fn(|cx| answers.poll_first(cx)).await;
    }
    let mut response = Response::new(Body::new(answers));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The answers to a stream of lines, and what drives that stream: it is read only while answers
/// are taken and there is room, so nothing gathers here.
///
/// ```text
/// incoming ──lines──▶ group ──submit──▶ waiting (in order) ──outcomes──▶ answer lines
///     └─ not read while too much waits or the timeline is overloaded
/// ```
struct Answers {
    app: Arc<App>,
    incoming: Option<Body>,
    /// The beginning of a line whose end has not come.
    partial: BytesMut,
    /// Its bytes, among those of all requests.
    buffered: Buffered,
    /// When it began; its end has to come within a time.
    line_began: Option<Instant>,
    /// Set when the sender first pauses within a line; it may be early, never late.
    line_timer: Option<Pin<Box<Sleep>>>,
    /// The number of the next line, when the lines bear some.
    sender: Option<SenderNumber>,
    stamper: Stamper,
    /// What is being gathered.
    group: CommandGroup,
    /// How many bytes the group before had: the next one will have about as many.
    group_bytes: usize,
    slots: Vec<Slot>,
    submitting: Option<Submitting>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    out: BytesMut,
    closing: ClosingWatch,
}

/// How one line is answered.
enum Slot {
    /// By the next outcome of its group.
    Outcome,
    /// By this; nothing of it was proposed.
    Error(Box<ApiError>),
}

/// A group that has no place in the order yet.
struct Submitting {
    future: BoxFuture<'static, Result<Submitted, ProposeFailure>>,
    /// Kept to be submitted again when there was no room.
    group: Commands,
    slots: Vec<Slot>,
    since: Instant,
    retry: Option<Pin<Box<Sleep>>>,
}

/// A group that has its place.
struct Waiting {
    submitted: Option<Submitted>,
    slots: Vec<Slot>,
    bytes: usize,
    since: Instant,
}

impl Answers {
    fn new(app: Arc<App>, sender: Option<SenderNumber>, body: Body) -> Answers {
        Answers {
            incoming: Some(body),
            partial: BytesMut::new(),
            buffered: Buffered::nothing(&app.metrics),
            line_began: None,
            line_timer: None,
            sender,
            stamper: app.stamper(),
            group: CommandGroup::new(),
            group_bytes: 0,
            slots: Vec::new(),
            submitting: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            out: BytesMut::new(),
            closing: app.closing.watch(),
            app,
        }
    }

    /// Done when something came, or nothing will.
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.incoming.is_some() && self.slots.is_empty() && self.partial.is_empty() {
            if self.poll_incoming(cx).is_pending() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Whether more may be read.
    fn has_room(&self) -> bool {
        let config = &self.app.config.publish;
        self.submitting.is_none()
            && (self.waiting.is_empty()
                || (self.waiting.len() < config.groups_in_flight
                    && self.waiting_bytes < config.bytes_in_flight))
    }

    /// Takes what came next. Ready: ask again.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Pending;
        };
        match Pin::new(incoming).poll_frame(cx) {
            Poll::Pending => return self.poll_line_timeout(cx),
            Poll::Ready(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    self.take(&data);
                }
            }
            Poll::Ready(None) => {
                self.incoming = None;
                let last = self.partial.split().freeze();
                self.take_line(&last);
            }
            // The sender broke off: what it had sent up to the last whole line counts.
            Poll::Ready(Some(Err(_))) => self.end(),
        }
        self.watch_partial();
        Poll::Ready(())
    }

    /// Nothing more is read.
    fn end(&mut self) {
        self.incoming = None;
        self.partial = BytesMut::new();
        self.watch_partial();
    }

    /// Counts the line that has begun, and gives it its time.
    fn watch_partial(&mut self) {
        let config = &self.app.config.publish;
        if self.partial.is_empty() {
            self.line_began = None;
        } else {
            self.line_began.get_or_insert_with(Instant::now);
        }
        if !self.buffered.set(self.partial.len(), config.buffered_bytes) {
            self.app.metrics.publish_overloaded.one();
            self.refuse_rest(ApiError::bodies_overloaded());
        }
    }

    /// Ready: the line that has begun took too long, and the stream is over.
    fn poll_line_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(began) = self.line_began else {
            return Poll::Pending;
        };
        let due = began + self.app.config.publish.body_timeout;
        let timer = self
            .line_timer
            .get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if due <= Instant::now() {
                break;
            }
            // It was set for an earlier line.
            timer.as_mut().reset(due);
        }
        let seconds = self.app.config.publish.body_timeout.as_secs();
        self.refuse_rest(ApiError::body_timeout(format!(
            "the line was not complete after {seconds} s: the stream ends here"
        )));
        Poll::Ready(())
    }

    /// Cuts what came into lines.
    fn take(&mut self, data: &Bytes) {
        let now = app::now();
        self.stamper.set_time(now);
        // Commands are longer than their lines by what events are given here.
        self.group_bytes = self.group_bytes.max(data.len() + data.len() / 2);
        let mut rest: &[u8] = data;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.line_began = None;
            let (line, behind) = (&rest[..end], &rest[end + 1..]);
            if self.partial.is_empty() {
                self.take_line(line);
            } else {
                self.partial.extend_from_slice(line);
                let line = self.partial.split().freeze();
                self.take_line(&line);
            }
            if self.incoming.is_none() {
                return;
            }
            rest = behind;
        }
        if self.partial.len() + rest.len() > self.app.config.publish.line_bytes {
            self.refuse_long_line();
            return;
        }
        self.partial.extend_from_slice(rest);
    }

    fn take_line(&mut self, line: &[u8]) {
        if line.len() > self.app.config.publish.line_bytes {
            self.refuse_long_line();
            return;
        }
        if line.trim_ascii().is_empty() {
            return;
        }
        if self.group.is_empty() {
            self.group.reserve(self.group_bytes);
        }
        let limits = &self.app.config.limits;
        let taken = NewEvent::parse_line(line, limits).and_then(|events| match self.sender {
            None => self.group.publish(&events, &mut self.stamper, limits),
            Some(of) => self
                .group
                .publish_numbered(of, &events, &mut self.stamper, limits),
        });
        // A line that is refused has its number, too.
        self.sender = self.sender.map(sender::next);
        self.slots.push(match taken {
            Ok(()) => Slot::Outcome,
            Err(error) => {
                self.app.metrics.publish_refused.one();
                Slot::Error(Box::new(ApiError::from(error)))
            }
        });
    }

    /// Without its end nobody knows where the next line begins: the stream is over.
    fn refuse_long_line(&mut self) {
        let limit = self.app.config.publish.line_bytes;
        self.app.metrics.publish_refused.one();
        self.refuse_rest(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "line_too_long",
            format!(
                "the line has more than {limit} bytes: split its transaction; the stream ends here"
            ),
        ));
    }

    /// Answers the line that has begun, and reads nothing behind it.
    fn refuse_rest(&mut self, error: ApiError) {
        self.slots.push(Slot::Error(Box::new(error)));
        self.incoming = None;
        self.partial = BytesMut::new();
        self.line_began = None;
        // Nothing is always within the bound.
        self.buffered.set(0, 0);
    }

    /// Hands what was gathered to the timeline.
    fn submit(&mut self) {
        let slots = std::mem::take(&mut self.slots);
        let since = Instant::now();
        if self.group.is_empty() {
            self.waiting.push_back(Waiting {
                submitted: None,
                slots,
                bytes: 0,
                since,
            });
            return;
        }
        self.group_bytes = self.group.bytes_len();
        let group = std::mem::take(&mut self.group).complete();
        let future = self.app.timeline.submit(group.clone());
        self.submitting = Some(Submitting {
            future,
            group,
            slots,
            since,
            retry: None,
        });
    }

    /// Ready: the group has its place, or was answered.
    fn poll_submitting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(submitting) = &mut self.submitting else {
            return Poll::Pending;
        };
        loop {
            if let Some(retry) = &mut submitting.retry {
                if retry.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                submitting.retry = None;
                submitting.future = self.app.timeline.submit(submitting.group.clone());
            }
            let submitted = match submitting.future.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(ProposeFailure::Overloaded { retry_after })) => {
                    let wait = self.app.config.publish.overload_wait;
                    if submitting.since.elapsed() + retry_after <= wait {
                        submitting.retry = Some(Box::pin(sleep(retry_after)));
                        continue;
                    }
                    // Only now is the publisher told.
                    self.app.metrics.publish_overloaded.one();
                    failed(ProposeFailure::Overloaded { retry_after })
                }
                Poll::Ready(Err(failure)) => failed(failure),
                Poll::Ready(Ok(submitted)) => submitted,
            };
            let bytes = submitting.group.bytes_len();
            self.waiting_bytes += bytes;
            let (slots, since) = (std::mem::take(&mut submitting.slots), submitting.since);
            self.submitting = None;
            self.waiting.push_back(Waiting {
                submitted: Some(submitted),
                slots,
                bytes,
                since,
            });
            return Poll::Ready(());
        }
    }

    /// Ready: the first group that waits was answered.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(first) = self.waiting.front_mut() else {
            return Poll::Pending;
        };
        let outcomes = match &mut first.submitted {
            None => Ok(Vec::new()),
            Some(submitted) => match submitted.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(outcomes) => outcomes,
            },
        };
        if first.submitted.is_some() && outcomes.is_ok() {
            self.app
                .metrics
                .publish_latency
                .observe(first.since.elapsed());
        }
        self.waiting_bytes -= first.bytes;
        let slots = std::mem::take(&mut first.slots);
        self.waiting.pop_front();
        self.answer(slots, outcomes);
        Poll::Ready(())
    }

    fn answer(&mut self, slots: Vec<Slot>, outcomes: Result<Vec<Answer>, ProposeFailure>) {
        let (mut outcomes, failure) = match outcomes {
            Ok(outcomes) => (outcomes.into_iter(), None),
            Err(failure) => (Vec::new().into_iter(), Some(ApiError::from(failure))),
        };
        for slot in slots {
            let answer = match slot {
                Slot::Error(error) => Err(*error),
                Slot::Outcome => match (outcomes.next(), &failure) {
                    (Some(outcome), _) => Published::of(outcome, &self.app.metrics),
                    (None, Some(failure)) => Err(failure.clone()),
                    (None, None) => Err(ApiError::internal(
                        "the timeline gave no outcome for a line",
                    )),
                },
            };
            match answer {
                Ok(published) => published.push_line(&mut self.out),
                Err(error) => {
                    self.out
                        .extend_from_slice(error.to_json().to_string().as_bytes());
                    self.out.extend_from_slice(b"\n");
                }
            }
        }
    }
}

fn failed(failure: ProposeFailure) -> Submitted {
    Box::pin(std::future::ready(Err(failure)))
}

impl HttpBody for Answers {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        loop {
            let mut moved = this.poll_submitting(cx).is_ready();
            while this.out.len() < ANSWER_BYTES && this.poll_waiting(cx).is_ready() {
                moved = true;
            }
            // The server stops: what was taken is still answered, and nothing more is taken.
            if this.incoming.is_some() && this.closing.poll(cx) {
                this.end();
            }
            let mut dry = this.incoming.is_none();
            while !dry && this.has_room() {
                if this.group.bytes_len() >= this.app.config.publish.group_bytes
                    || this.slots.len() >= GROUP_LINES
                {
                    break;
                }
                match this.poll_incoming(cx) {
                    Poll::Ready(()) => moved = true,
                    Poll::Pending => dry = true,
                }
                dry |= this.incoming.is_none();
            }
            if !this.slots.is_empty() && this.has_room() {
                this.submit();
                moved = true;
            }
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(this.out.split().freeze()))));
            }
            let is_done = this.incoming.is_none()
                && this.slots.is_empty()
                && this.submitting.is_none()
                && this.waiting.is_empty();
            if is_done {
                return Poll::Ready(None);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}
