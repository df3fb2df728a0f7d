//! What all rounds gave, and the medians.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::deployment::Deployment;
use crate::machine::{Description, Limits};
use crate::peers::Peer;
use crate::workloads::{Measure, Scale, Workload};

/// All rounds of one peer in one case of a workload.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// What was measured.
    pub workload: Workload,
    /// Its variant, as in the table's head.
    pub case: String,
    /// On what.
    pub peer: Peer,
    /// One measure a round.
    pub rounds: Vec<Measure>,
}

impl Cell {
    /// The median of one number over the rounds that have it.
    pub fn median(&self, number: fn(&Measure) -> Option<f64>) -> Option<f64> {
        median(self.rounds.iter().filter_map(number))
    }
}

/// The middle value; the mean of the middle two.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A workload that did not run to its end.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// What ran.
    pub workload: Workload,
    /// On what.
    pub peer: Peer,
    /// In which round, from 1.
    pub round: usize,
    /// Why it ended.
    pub reason: String,
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub struct Results {
    /// How the systems ran.
    pub deployment: Deployment,
    /// On what it ran.
    pub machine: Description,
    /// The machine's limits, one a round.
    pub limits: Vec<Limits>,
    /// What the programs say of their versions.
    pub versions: BTreeMap<&'static str, String>,
    /// Rounds asked for.
    pub rounds: usize,
    /// Whether times and sizes were those of a quick look.
    pub quick: bool,
    /// Times and sizes.
    pub scale: Scale,
    /// Bytes of every payload.
    pub payload_bytes: usize,
    /// Bytes of a line of the bare broadcaster and of tidings.
    pub line_bytes: usize,
    /// The measurements.
    pub cells: Vec<Cell>,
    /// What failed.
    pub failures: Vec<Failure>,
}

impl Results {
    /// Adds one round's measure.
    pub fn add(&mut self, workload: Workload, case: String, peer: Peer, measure: Measure) {
        let cell = self
            .cells
            .iter_mut()
            .find(|cell| cell.workload == workload && cell.case == case && cell.peer == peer);
        match cell {
            Some(cell) => cell.rounds.push(measure),
            None => self.cells.push(Cell {
                workload,
                case,
                peer,
                rounds: vec![measure],
            }),
        }
    }

    /// The cases of a workload, in the order in which they ran.
    pub fn cases(&self, workload: Workload) -> Vec<&str> {
        let mut cases = Vec::new();
        for cell in self.cells.iter().filter(|cell| cell.workload == workload) {
            if !cases.contains(&cell.case.as_str()) {
                cases.push(&cell.case);
            }
        }
        cases
    }

    /// The cell, if it was measured.
    pub fn cell(&self, workload: Workload, case: &str, peer: Peer) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.workload == workload && cell.case == case && cell.peer == peer)
    }

    /// The median of one number.
    pub fn median(
        &self,
        workload: Workload,
        case: &str,
        peer: Peer,
        number: fn(&Measure) -> Option<f64>,
    ) -> Option<f64> {
        self.cell(workload, case, peer)?.median(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }
}
