//! That a run is what its seed says, and that nothing is wrong where nothing goes wrong.

use tidings_sim::{Scenario, Trace, run};

/// The same seed is the same run, event by event.
#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 1_003, 2_003] {
        let scenario = Scenario::of(seed);
        let first = run(&scenario, &Trace::default());
        let second = run(&scenario, &Trace::default());
        assert!(first.events > 50, "seed {seed} does something");
        assert_eq!(
            (first.digest, first.events, first.elapsed),
            (second.digest, second.events, second.elapsed),
            "seed {seed}"
        );
        let other = run(&Scenario::of(seed + 1), &Trace::default());
        assert_ne!(first.digest, other.digest, "another seed is another run");
    }
}

/// Without faults everything that was published is there, on servers that never ended.
#[test]
fn g1_g2_g3_g4_g5_hold_where_nothing_goes_wrong() {
    let mut handed = 0;
    for seed in 0..3 {
        let scenario = Scenario::of(seed).without_faults();
        let outcome = run(&scenario, &Trace::default());
        assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
        assert!(outcome.acknowledged > 20, "seed {seed}: {outcome:?}");
        handed += outcome.handed;
    }
    assert!(handed > 60, "agents take something: {handed}");
}

/// G1 to G5, `cas` and liveness, under faults; many more by `cargo xtask sim --seeds N`.
#[test]
fn g1_g2_g3_g4_g5_hold_under_faults() {
    for seed in 0..20 {
        let outcome = run(&Scenario::of(seed), &Trace::default());
        assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    }
}
