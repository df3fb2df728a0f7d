//! What tidings has to reach beside the others, and whether it did.
//!
//! Targets are ratios within one run: absolute numbers say more about the
//! machine than about the program.

use serde::Serialize;

use crate::peers::Peer;
use crate::results::Results;
use crate::workloads::{ADDED_CASES, Measure, SHARED_CASE, Workload};

/// Those that store what they deliver and are run as their users run them.
const ALTERNATIVES: [Peer; 3] = [Peer::Nats, Peer::RedisAlways, Peer::Etcd];

const PUBLISH_REDIS_RATIO_MIN: f64 = 1.5;
const PUBLISH_ETCD_RATIO_MIN: f64 = 10.0;
const FANOUT_RATIO_MIN: f64 = 2.5;
const FANOUT_BARE_RATIO_MIN: f64 = 0.7;
const REPLAY_RATIO_MIN: f64 = 3.0;
const FILTERED_RATIO_MIN: f64 = 5.0;
const LATENCY_RATIO_MAX: f64 = 1.0;
const IDLE_KIB_MAX: f64 = 21.0;
const CLUSTER_PUBLISH_NATS_RATIO_MIN: f64 = 1.0;
const FAILOVER_MS_MAX: f64 = 1_500.0;
const CATCH_UP_MB_RATE_MIN: f64 = 50.0;
const RELAY_ADDED_US_MAX: f64 = 1_000.0;
const RELAY_STREAMS_MAX: f64 = 1.0;
/// Subscribers from which on the fan-out has targets.
const FANOUT_SUBSCRIBERS_MIN: usize = 10;

/// How one target came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was.
    Reached,
    /// It was not.
    Short,
    /// One of the two numbers is missing.
    Unmeasured,
}

/// One target with what was found.
#[derive(Clone, Debug, Serialize)]
pub struct Target {
    /// What is compared.
    pub what: String,
    /// The bound, with its direction.
    pub bound: String,
    /// What was found.
    pub found: Option<f64>,
    /// Whether that is within the bound.
    pub verdict: Verdict,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn new(what: String, unit: &str, bound: Bound, found: Option<f64>) -> Self {
        let verdict = match (found, bound) {
            (None, _) => Verdict::Unmeasured,
            (Some(found), Bound::AtLeast(least)) if found >= least => Verdict::Reached,
            (Some(found), Bound::AtMost(most)) if found <= most => Verdict::Reached,
            _ => Verdict::Short,
        };
        let bound = match bound {
            Bound::AtLeast(least) => format!("≥ {least}{unit}"),
            Bound::AtMost(most) => format!("≤ {most}{unit}"),
        };
        Self {
            what,
            bound,
            found,
            verdict,
        }
    }
}

/// All targets of the workloads that ran.
pub fn targets(results: &Results) -> Vec<Target> {
    Workload::ALL
        .into_iter()
        .flat_map(|workload| {
            results
                .cases(workload)
                .into_iter()
                .flat_map(move |case| of_case(results, workload, case))
        })
        .collect()
}

fn of_case(results: &Results, workload: Workload, case: &str) -> Vec<Target> {
    let ours = |number| results.median(workload, case, Peer::Tidings, number);
    let rate = |peer| results.median(workload, case, peer, |measure| measure.rate);
    let best = || {
        ALTERNATIVES
            .into_iter()
            .filter_map(rate)
            .max_by(f64::total_cmp)
    };
    let ratio_to = |what: &str, least: f64, theirs: Option<f64>| {
        Target::new(
            format!("{} {case} ÷ {what}", workload.name()),
            " ×",
            Bound::AtLeast(least),
            ratio(rate(Peer::Tidings), theirs),
        )
    };
    const BEST: &str = "best of nats, redis-always, etcd";
    let ours_is = |unit: &str, bound: Bound, number: fn(&Measure) -> Option<f64>| {
        let what = format!("{} {case}", workload.name());
        Target::new(what, unit, bound, ours(number))
    };
    match workload {
        Workload::Publish if results.deployment.is_cluster() && case == "16 × 64" => {
            vec![
                ratio_to("etcd", PUBLISH_ETCD_RATIO_MIN, rate(Peer::Etcd)),
                ratio_to("nats", CLUSTER_PUBLISH_NATS_RATIO_MIN, rate(Peer::Nats)),
            ]
        }
        Workload::Publish if case == "16 × 64" => vec![
            ratio_to(
                "redis-always",
                PUBLISH_REDIS_RATIO_MIN,
                rate(Peer::RedisAlways),
            ),
            ratio_to("etcd", PUBLISH_ETCD_RATIO_MIN, rate(Peer::Etcd)),
        ],
        Workload::Fanout
            if case
                .parse()
                .is_ok_and(|count: usize| count >= FANOUT_SUBSCRIBERS_MIN) =>
        {
            vec![
                ratio_to(BEST, FANOUT_RATIO_MIN, best()),
                ratio_to("bare", FANOUT_BARE_RATIO_MIN, rate(Peer::Bare)),
            ]
        }
        Workload::Replay => vec![ratio_to(BEST, REPLAY_RATIO_MIN, best())],
        Workload::Filtered => vec![ratio_to(BEST, FILTERED_RATIO_MIN, best())],
        Workload::Latency => {
            let p50: fn(&Measure) -> Option<f64> = |measure| measure.p50_us;
            vec![Target::new(
                "latency p50 ÷ redis-always".to_owned(),
                " ×",
                Bound::AtMost(LATENCY_RATIO_MAX),
                ratio(
                    ours(p50),
                    results.median(workload, case, Peer::RedisAlways, p50),
                ),
            )]
        }
        Workload::Memory => vec![Target::new(
            format!("memory of one of {case} idle subscribers"),
            " KiB",
            Bound::AtMost(IDLE_KIB_MAX),
            ours(|measure| measure.kib),
        )],
        Workload::Failover => vec![ours_is(" ms", Bound::AtMost(FAILOVER_MS_MAX), |measure| {
            measure.gap_ms
        })],
        Workload::CatchUp => vec![ours_is(
            " MB/s",
            Bound::AtLeast(CATCH_UP_MB_RATE_MIN),
            |measure| measure.mb_rate,
        )],
        Workload::Relay if case == ADDED_CASES[1] => vec![Target::new(
            "relay, added to the median by an agent".to_owned(),
            " µs",
            Bound::AtMost(RELAY_ADDED_US_MAX),
            added_us(results),
        )],
        Workload::Relay if case == SHARED_CASE => vec![Target::new(
            format!(
                "relay, streams of the servers for {} subscribers of an agent",
                results.scale.relay_subscribers
            ),
            "",
            Bound::AtMost(RELAY_STREAMS_MAX),
            ours(|measure| measure.streams),
        )],
        Workload::Publish | Workload::Fanout | Workload::Relay => Vec::new(),
    }
}

/// What an agent adds to the median time from send to receipt.
fn added_us(results: &Results) -> Option<f64> {
    let p50 = |case| {
        results.median(Workload::Relay, case, Peer::Tidings, |measure| {
            measure.p50_us
        })
    };
    let [direct, relayed] = ADDED_CASES;
    Some(p50(relayed)? - p50(direct)?)
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    let theirs = theirs.filter(|theirs| *theirs > 0.0)?;
    Some(ours? / theirs)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::deployment::Deployment;
    use crate::machine::Description;
    use crate::workloads::Scale;

    /// Results of these (workload, case, peer, measure).
    pub fn results(cells: Vec<(Workload, &str, Peer, Measure)>) -> Results {
        let mut results = Results {
            deployment: Deployment::Single,
            machine: Description::read(),
            limits: Vec::new(),
            versions: Default::default(),
            rounds: 1,
            quick: false,
            scale: Scale::full(),
            payload_bytes: 300,
            line_bytes: 500,
            cells: Vec::new(),
            failures: Vec::new(),
        };
        for (workload, case, peer, measure) in cells {
            results.add(workload, case.to_owned(), peer, measure);
        }
        results
    }

    /// A measure that is only a rate.
    pub fn rate(rate: f64) -> Measure {
        Measure {
            rate: Some(rate),
            ..Measure::default()
        }
    }

    #[test]
    fn a_ratio_is_taken_to_the_best_alternative() {
        let results = results(vec![
            (Workload::Fanout, "10", Peer::Tidings, rate(5_000.0)),
            (Workload::Fanout, "10", Peer::Nats, rate(1_000.0)),
            (Workload::Fanout, "10", Peer::RedisAlways, rate(2_000.0)),
            (Workload::Fanout, "10", Peer::RedisEverysec, rate(9_000.0)),
            (Workload::Fanout, "10", Peer::Bare, rate(8_000.0)),
            (Workload::Fanout, "1", Peer::Tidings, rate(1.0)),
        ]);
        let found: Vec<_> = targets(&results)
            .into_iter()
            .map(|target| (target.found, target.verdict))
            .collect();
        assert_eq!(
            found,
            vec![(Some(2.5), Verdict::Reached), (Some(0.625), Verdict::Short)]
        );
    }

    #[test]
    fn less_is_better_for_latency_and_memory() {
        let p50 = |p50_us| Measure {
            p50_us: Some(p50_us),
            ..Measure::default()
        };
        let kib = Measure {
            kib: Some(21.5),
            ..Measure::default()
        };
        let results = results(vec![
            (Workload::Latency, "x", Peer::Tidings, p50(400.0)),
            (Workload::Latency, "x", Peer::RedisAlways, p50(500.0)),
            (Workload::Memory, "1000", Peer::Tidings, kib),
        ]);
        let verdicts: Vec<_> = targets(&results)
            .into_iter()
            .map(|target| target.verdict)
            .collect();
        assert_eq!(verdicts, vec![Verdict::Reached, Verdict::Short]);
    }

    #[test]
    fn a_cluster_has_targets_of_its_own() {
        let p50 = |p50_us| Measure {
            p50_us: Some(p50_us),
            ..Measure::default()
        };
        let gap = |gap_ms| Measure {
            gap_ms: Some(gap_ms),
            ..Measure::default()
        };
        let [direct, relayed] = ADDED_CASES;
        let mut results = results(vec![
            (Workload::Publish, "16 × 64", Peer::Tidings, rate(90.0)),
            (Workload::Publish, "16 × 64", Peer::Nats, rate(100.0)),
            (Workload::Publish, "16 × 64", Peer::Etcd, rate(9.0)),
            (Workload::Failover, "x", Peer::Tidings, gap(1_400.0)),
            (Workload::Failover, "x", Peer::Tidings, gap(1_700.0)),
            (Workload::Relay, direct, Peer::Tidings, p50(300.0)),
            (Workload::Relay, relayed, Peer::Tidings, p50(900.0)),
        ]);
        results.deployment = Deployment::Cluster { servers: 3 };
        let found: Vec<_> = targets(&results)
            .into_iter()
            .map(|target| (target.found, target.verdict))
            .collect();
        assert_eq!(
            found,
            vec![
                (Some(10.0), Verdict::Reached),
                (Some(0.9), Verdict::Short),
                (Some(1_550.0), Verdict::Short),
                (Some(600.0), Verdict::Reached),
            ]
        );
    }

    #[test]
    fn a_missing_side_is_unmeasured() {
        let results = results(vec![(Workload::Replay, "1000", Peer::Tidings, rate(1.0))]);
        assert_eq!(targets(&results)[0].verdict, Verdict::Unmeasured);
    }
}
