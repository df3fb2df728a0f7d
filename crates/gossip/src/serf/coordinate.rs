//! Where we are in the space of network delays (Vivaldi): each measured round trip pulls us nearer to
//! the other node, or pushes us away.
//!
//! The numbers and the order of the steps are those of Serf's `coordinate` package, so that distances
//! between our nodes and theirs mean the same.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::chance::Chance;
use crate::name::Name;
use crate::wire::serf::{COORDINATE_DIMENSIONS, Coordinate};

// serf: coordinate/config.go `DefaultConfig`
const ERROR_MAX: f64 = 1.5;
const ERROR_WEIGHT: f64 = 0.25;
const POSITION_WEIGHT: f64 = 0.25;
const ADJUSTMENT_SAMPLES: usize = 20;
const HEIGHT_MIN: f64 = 1e-5;
const LATENCY_SAMPLES: usize = 3;
const GRAVITY_RHO: f64 = 150.0;

/// Longer round trips say nothing about the network (serf: coordinate/client.go `maxRTT`).
const ROUND_TRIP_MAX: Duration = Duration::from_secs(10);

/// Below this two numbers are as good as equal.
const NEARLY_ZERO: f64 = 1e-6;

type Vector = [f64; COORDINATE_DIMENSIONS];

/// Where nobody has been measured yet.
const ORIGIN: Coordinate = Coordinate {
    vec: [0.0; COORDINATE_DIMENSIONS],
    error: ERROR_MAX,
    adjustment: 0.0,
    height: HEIGHT_MIN,
};

/// Our own place, and what leads to it.
#[derive(Debug)]
pub struct CoordinateClient {
    own: Coordinate,
    adjustments: [f64; ADJUSTMENT_SAMPLES],
    adjustment_next: usize,
    /// The last round trips to each node, in seconds.
    latencies: BTreeMap<Name, Vec<f64>>,
    resets: u64,
}

impl Default for CoordinateClient {
    fn default() -> CoordinateClient {
        CoordinateClient {
            own: ORIGIN,
            adjustments: [0.0; ADJUSTMENT_SAMPLES],
            adjustment_next: 0,
            latencies: BTreeMap::new(),
            resets: 0,
        }
    }
}

impl CoordinateClient {
    /// Our own place.
    pub fn own(&self) -> &Coordinate {
        &self.own
    }

    /// How often we began anew because the numbers had come to nothing.
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Takes a measurement; whether it was one.
    pub fn update(
        &mut self,
        node: &Name,
        other: &Coordinate,
        round_trip: Duration,
        chance: &mut Chance,
    ) -> bool {
        if round_trip > ROUND_TRIP_MAX || !other.is_finite() {
            return false;
        }
        let seconds = self.filter_latency(node, round_trip.as_secs_f64());
        self.move_by(other, seconds, chance);
        self.adjust(other, seconds);
        self.pull_to_origin(chance);
        if !self.own.is_finite() {
            self.own = ORIGIN;
            self.adjustments = [0.0; ADJUSTMENT_SAMPLES];
            self.resets += 1;
        }
        true
    }

    /// Forgets a node.
    pub fn forget(&mut self, node: &Name) {
        self.latencies.remove(node);
    }

    /// The median of the last round trips: one that is far off says little.
    fn filter_latency(&mut self, node: &Name, seconds: f64) -> f64 {
        let samples = match self.latencies.get_mut(node) {
            Some(samples) => samples,
            None => self.latencies.entry(node.detached()).or_default(),
        };
        samples.push(seconds);
        if samples.len() > LATENCY_SAMPLES {
            samples.remove(0);
        }
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn move_by(&mut self, other: &Coordinate, seconds: f64, chance: &mut Chance) {
        let distance = distance_seconds(&self.own, other);
        let seconds = seconds.max(NEARLY_ZERO);
        let wrongness = (distance - seconds).abs() / seconds;
        let total_error = (self.own.error + other.error).max(NEARLY_ZERO);
        let weight = self.own.error / total_error;
        let share = ERROR_WEIGHT * weight;
        let error = share * wrongness + self.own.error * (1.0 - share);
        self.own.error = error.min(ERROR_MAX);
        let force = POSITION_WEIGHT * weight * (seconds - distance);
        self.own = pushed(&self.own, force, other, chance);
    }

    fn adjust(&mut self, other: &Coordinate, seconds: f64) {
        self.adjustments[self.adjustment_next] = seconds - raw_distance(&self.own, other);
        self.adjustment_next = (self.adjustment_next + 1) % ADJUSTMENT_SAMPLES;
        let sum: f64 = self.adjustments.iter().sum();
        self.own.adjustment = sum / (2.0 * ADJUSTMENT_SAMPLES as f64);
    }

    /// Without this the whole pool would drift away.
    fn pull_to_origin(&mut self, chance: &mut Chance) {
        let distance = distance_seconds(&ORIGIN, &self.own);
        let force = -(distance / GRAVITY_RHO).powi(2);
        self.own = pushed(&self.own, force, &ORIGIN, chance);
    }
}

/// The estimated round trip between two places.
pub fn distance(a: &Coordinate, b: &Coordinate) -> Duration {
    Duration::try_from_secs_f64(distance_seconds(a, b)).unwrap_or(Duration::ZERO)
}

fn distance_seconds(a: &Coordinate, b: &Coordinate) -> f64 {
    let raw = raw_distance(a, b);
    let adjusted = raw + a.adjustment + b.adjustment;
    if adjusted > 0.0 { adjusted } else { raw }
}

fn raw_distance(a: &Coordinate, b: &Coordinate) -> f64 {
    length(&difference(&a.vec, &b.vec)) + a.height + b.height
}

/// A place after a force away from another one.
fn pushed(from: &Coordinate, force: f64, other: &Coordinate, chance: &mut Chance) -> Coordinate {
    let mut to = *from;
    let apart = difference(&from.vec, &other.vec);
    let apart_length = length(&apart);
    let direction = if apart_length > NEARLY_ZERO {
        apart.map(|part| part / apart_length)
    } else {
        any_direction(chance)
    };
    for (place, part) in to.vec.iter_mut().zip(direction) {
        *place += part * force;
    }
    if apart_length > NEARLY_ZERO {
        let height = (from.height + other.height) * force / apart_length + from.height;
        to.height = height.max(HEIGHT_MIN);
    }
    to
}

/// Two nodes at one place must part in some direction.
fn any_direction(chance: &mut Chance) -> Vector {
    let mut direction = [0.0; COORDINATE_DIMENSIONS];
    for part in &mut direction {
        *part = (chance.number() >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
    }
    let length = length(&direction);
    if length > NEARLY_ZERO {
        return direction.map(|part| part / length);
    }
    direction[0] = 1.0;
    direction
}

fn difference(a: &Vector, b: &Vector) -> Vector {
    std::array::from_fn(|at| a[at] - b[at])
}

fn length(vector: &Vector) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nodes on a line, each pair as many milliseconds apart as their places.
    #[test]
    fn distances_come_near_to_the_measured_round_trips() {
        let places = [0.0_f64, 10.0, 30.0, 70.0];
        let mut chance = Chance::from_number(1);
        let mut clients: Vec<_> = places.map(|_| CoordinateClient::default()).into();
        for _ in 0..2_000 {
            let (a, b) = (chance.below(4), chance.below(4));
            let other = *clients[b].own();
            let round_trip = Duration::from_secs_f64((places[a] - places[b]).abs() / 1_000.0);
            if a != b {
                let name = Name::from(b.to_string());
                assert!(clients[a].update(&name, &other, round_trip, &mut chance));
            }
        }
        for a in 0..4 {
            for b in a + 1..4 {
                let estimated =
                    distance(clients[a].own(), clients[b].own()).as_secs_f64() * 1_000.0;
                let real = (places[a] - places[b]).abs();
                assert!(
                    (estimated - real).abs() < 3.0 + real * 0.15,
                    "{a} {b}: {estimated} ms"
                );
            }
        }
    }

    #[test]
    fn one_round_trip_that_is_far_off_does_not_count() {
        let mut client = CoordinateClient::default();
        let node = Name::from("a");
        assert_eq!(client.filter_latency(&node, 0.01), 0.01);
        client.filter_latency(&node, 0.01);
        assert_eq!(client.filter_latency(&node, 9.0), 0.01);
        client.forget(&node);
        assert_eq!(client.filter_latency(&node, 9.0), 9.0);
    }

    #[test]
    fn g9_measurements_that_say_nothing_are_refused() {
        let (mut client, mut chance) = (CoordinateClient::default(), Chance::from_number(1));
        let node = Name::from("a");
        let endless = Coordinate {
            height: f64::INFINITY,
            ..ORIGIN
        };
        assert!(!client.update(&node, &endless, Duration::from_millis(1), &mut chance));
        assert!(!client.update(&node, &ORIGIN, Duration::from_secs(11), &mut chance));
        let huge = Coordinate {
            vec: [f64::MAX; 8],
            error: 0.0,
            ..ORIGIN
        };
        client.update(&node, &huge, Duration::from_millis(1), &mut chance);
        assert!(client.own().is_finite());
        assert_eq!(client.resets(), 1);
        client.update(&node, &ORIGIN, Duration::from_millis(1), &mut chance);
        assert_eq!(client.resets(), 1, "nothing is left of it");
    }
}
