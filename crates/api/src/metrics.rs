use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the publish latency's buckets, in microseconds: from one commit on a fast disk
/// to what a client still waits for.
const LATENCY_BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Gauge(AtomicU64);

impl Gauge {
    fn up(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    fn down(&self, by: u64) {
        self.0.fetch_sub(by, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, counted in fixed buckets.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    buckets: [AtomicU64; LATENCY_BOUNDS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Latency {
    pub(crate) fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = LATENCY_BOUNDS_US.iter().position(|bound| us <= *bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// Counts one thing in a gauge for as long as it lives, however it ends.
#[derive(Debug)]
pub(crate) struct Counted {
    metrics: Arc<Metrics>,
    gauge: fn(&Metrics) -> &Gauge,
}

impl Counted {
    pub(crate) fn new(metrics: &Arc<Metrics>, gauge: fn(&Metrics) -> &Gauge) -> Counted {
        gauge(metrics).up(1);
        Counted {
            metrics: Arc::clone(metrics),
            gauge,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.metrics).down(1);
    }
}

/// Bytes that one request has in memory, as a part of all that requests may have.
#[derive(Debug)]
pub(crate) struct Buffered {
    metrics: Arc<Metrics>,
    bytes: u64,
}

impl Buffered {
    pub(crate) fn nothing(metrics: &Arc<Metrics>) -> Buffered {
        Buffered {
            metrics: Arc::clone(metrics),
            bytes: 0,
        }
    }

    /// Sets what this request has; false, and nothing is changed, when all together would then
    /// have more than `most`.
    pub(crate) fn set(&mut self, bytes: usize, most: u64) -> bool {
        let bytes = bytes as u64;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            self.metrics.buffered_bytes.up(more);
            if self.metrics.buffered_bytes.get() > most {
                self.metrics.buffered_bytes.down(more);
                return false;
            }
        } else {
            self.metrics.buffered_bytes.down(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Buffered {
    fn drop(&mut self) {
        self.metrics.buffered_bytes.down(self.bytes);
    }
}

/// What the HTTP surface counts. No label depends on what clients send.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) connections_stalled: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) requests: Counter,
    pub(crate) requests_denied: Counter,
    pub(crate) answers_4xx: Counter,
    pub(crate) answers_5xx: Counter,
    pub(crate) streams_lines: Gauge,
    pub(crate) streams_sse: Gauge,
    pub(crate) streams_websocket: Gauge,
    pub(crate) stream_bytes: Counter,
    pub(crate) stream_gaps: Counter,
    pub(crate) stream_damaged: Counter,
    pub(crate) published_transactions: Counter,
    pub(crate) published_duplicates: Counter,
    pub(crate) published_spooled: Counter,
    pub(crate) publish_refused: Counter,
    pub(crate) publish_overloaded: Counter,
    pub(crate) state_changes: Counter,
    pub(crate) blocking_queries: Gauge,
    pub(crate) buffered_bytes: Gauge,
    pub(crate) publish_latency: Latency,
}

impl Metrics {
    /// All streams that are open now.
    pub(crate) fn streams(&self) -> u64 {
        self.streams_lines.get() + self.streams_sse.get() + self.streams_websocket.get()
    }

    /// Appends everything in the text format of Prometheus (version 0.0.4).
    pub(crate) fn render(&self, text: &mut Exposition) {
        text.gauge(
            "tidings_http_connections",
            "Connections open now.",
            self.connections.get(),
        );
        text.counter(
            "tidings_http_connections_accepted_total",
            "Connections that were accepted.",
            self.connections_accepted.get(),
        );
        text.counter(
            "tidings_http_connections_refused_total",
            "Connections that were closed because too many are open.",
            self.connections_refused.get(),
        );
        text.counter(
            "tidings_http_connections_stalled_total",
            "Connections and HTTP/2 streams that were cut because the peer stopped reading.",
            self.connections_stalled.get(),
        );
        text.counter(
            "tidings_http_accept_errors_total",
            "Times that the system could not give a new connection.",
            self.accept_errors.get(),
        );
        text.counter(
            "tidings_http_requests_total",
            "Requests.",
            self.requests.get(),
        );
        text.counter(
            "tidings_http_requests_denied_total",
            "Requests without sufficient authorization.",
            self.requests_denied.get(),
        );
        text.family(
            "tidings_http_errors_total",
            "counter",
            "Answers that told of an error.",
            &[
                ("class=\"4xx\"", self.answers_4xx.get()),
                ("class=\"5xx\"", self.answers_5xx.get()),
            ],
        );
        text.family(
            "tidings_streams",
            "gauge",
            "Streams open now.",
            &[
                ("kind=\"lines\"", self.streams_lines.get()),
                ("kind=\"sse\"", self.streams_sse.get()),
                ("kind=\"websocket\"", self.streams_websocket.get()),
            ],
        );
        text.counter(
            "tidings_stream_bytes_total",
            "Bytes of lines handed to streams.",
            self.stream_bytes.get(),
        );
        text.counter(
            "tidings_stream_gaps_total",
            "Times that retention overtook a stream.",
            self.stream_gaps.get(),
        );
        text.counter(
            "tidings_stream_damaged_total",
            "Streams that were cut because the history could not be read.",
            self.stream_damaged.get(),
        );
        text.counter(
            "tidings_published_transactions_total",
            "Transactions that got an index.",
            self.published_transactions.get(),
        );
        text.counter(
            "tidings_published_duplicates_total",
            "Transactions that had been published before.",
            self.published_duplicates.get(),
        );
        text.counter(
            "tidings_published_spooled_total",
            "Transactions that this agent keeps for the timeline, and said so.",
            self.published_spooled.get(),
        );
        text.counter(
            "tidings_publish_refused_total",
            "Transactions that were refused for what they contain.",
            self.publish_refused.get(),
        );
        text.counter(
            "tidings_publish_overloaded_total",
            "Times that a publisher was told to wait.",
            self.publish_overloaded.get(),
        );
        text.counter(
            "tidings_state_changes_total",
            "Entries that were put or deleted.",
            self.state_changes.get(),
        );
        text.gauge(
            "tidings_blocking_queries",
            "Queries that wait for a change now.",
            self.blocking_queries.get(),
        );
        text.gauge(
            "tidings_http_buffered_bytes",
            "Bytes of request bodies that are not complete yet.",
            self.buffered_bytes.get(),
        );
        text.latency(
            "tidings_publish_seconds",
            "From a whole request or group received to its outcome.",
            &self.publish_latency,
        );
    }
}

/// Text in the exposition format of Prometheus.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

/// A label as it stands in braces.
pub(crate) fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\");
    let value = value.replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{value}\"")
}

impl Exposition {
    pub(crate) fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help, &[("", value)]);
    }

    pub(crate) fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help, &[("", value)]);
    }

    /// One gauge for each of these labels; nothing when there are none.
    pub(crate) fn labelled(&mut self, name: &str, help: &str, values: &[(String, u64)]) {
        if !values.is_empty() {
            let values: Vec<(&str, u64)> = values
                .iter()
                .map(|(labels, value)| (labels.as_str(), *value))
                .collect();
            self.family(name, "gauge", help, &values);
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, values: &[(&str, u64)]) {
        self.head(name, kind, help);
        for (labels, value) in values {
            let _ = if labels.is_empty() {
                writeln!(self.0, "{name} {value}")
            } else {
                writeln!(self.0, "{name}{{{labels}}} {value}")
            };
        }
    }

    fn latency(&mut self, name: &str, help: &str, latency: &Latency) {
        self.head(name, "histogram", help);
        let mut below = 0;
        for (bound, bucket) in LATENCY_BOUNDS_US.iter().zip(&latency.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let seconds = *bound as f64 / 1e6;
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{seconds}\"}} {below}");
        }
        let count = latency.count.load(Ordering::Relaxed);
        let sum = latency.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(self.0, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(self.0, "{name}_sum {sum}\n{name}_count {count}");
    }

    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_text_whatever_it_holds() {
        assert_eq!(label("server", "n1"), r#"server="n1""#);
        assert_eq!(label("server", "a\"b\\c\nd"), r#"server="a\"b\\c\nd""#);
    }

    #[test]
    fn histogram_is_cumulative_and_ends_with_inf() {
        let metrics = Metrics::default();
        metrics.publish_latency.observe(Duration::from_micros(90));
        metrics.publish_latency.observe(Duration::from_millis(2));
        metrics.publish_latency.observe(Duration::from_secs(60));
        let mut text = Exposition::default();
        metrics.render(&mut text);
        let text = text.into_text();
        assert!(text.contains("tidings_publish_seconds_bucket{le=\"0.0001\"} 1\n"));
        assert!(text.contains("tidings_publish_seconds_bucket{le=\"0.0025\"} 2\n"));
        assert!(text.contains("tidings_publish_seconds_bucket{le=\"5\"} 2\n"));
        assert!(text.contains("tidings_publish_seconds_bucket{le=\"+Inf\"} 3\n"));
        assert!(text.contains("tidings_publish_seconds_count 3\n"));
        for line in text.lines() {
            assert!(
                line.starts_with('#') || line.split(' ').count() == 2,
                "{line}"
            );
        }
    }
}
