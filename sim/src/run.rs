//! One run, from its seed to what is wrong with it.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Once};
use std::time::Duration;

use tidings_host::simulated::{self, Rng, world};
use tokio::runtime::{Builder, RngSeed};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use crate::agents;
use crate::checkers::{Violation, check};
use crate::cluster::Cluster;
use crate::nemesis::torment;
use crate::scenario::Scenario;
use crate::trace::{Trace, note};
use crate::workload::{follower, handing, publisher, reader, setter};

/// How long it may take, once nothing is wrong any more, until everybody is at rest and alike.
const REST_WAIT_MAX: Duration = Duration::from_secs(120);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// Of everything that happened, in order.
    pub digest: u64,
    /// How much that was.
    pub events: u64,
    /// How long it took by the clock of the simulation.
    pub elapsed: Duration,
    /// Transactions that were acknowledged.
    pub acknowledged: usize,
    /// Transactions that an agent answered as taken.
    pub handed: usize,
    /// The newest frame.
    pub frames: u64,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// How often it is looked whether something has panicked.
const PANIC_LOOK_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// What panicked on this thread first, since somebody looked.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Has panics noted, in whichever task, beside being told as usual.
fn note_panics() {
    static NOTED: Once = Once::new();
    NOTED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICKED.with_borrow_mut(|first| _ = first.get_or_insert_with(|| info.to_string()));
            usual(info);
        }));
    });
}

/// Returns once something has panicked, with what it said.
async fn panicked() -> String {
    loop {
        if let Some(what) = PANICKED.take() {
            return what;
        }
        time::sleep(PANIC_LOOK_INTERVAL).await;
    }
}

/// Runs a scenario on this thread.
#[must_use]
pub fn run(scenario: &Scenario, trace: &Trace) -> Outcome {
    note_panics();
    PANICKED.take();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&scenario.seed.to_le_bytes()))
        .build()
        .expect("a runtime");
    let ran = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            tokio::select! {
                biased;
                what = panicked() => Err(what),
                outcome = run_here(scenario.clone(), trace.clone()) => Ok(outcome),
            }
        })
    }));
    // Tasks that end now still find their disks.
    let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(runtime)));
    simulated::end();
    let what = match ran {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(what)) => what,
        Err(_) => PANICKED.take().unwrap_or_default(),
    };
    Outcome {
        seed: scenario.seed,
        digest: trace.digest(),
        events: trace.events(),
        elapsed: Duration::ZERO,
        acknowledged: 0,
        handed: 0,
        frames: 0,
        violations: vec![Violation {
            promise: "panic",
            at: Duration::ZERO,
            what,
        }],
    }
}

async fn run_here(scenario: Scenario, trace: Trace) -> Outcome {
    simulated::begin(scenario.seed);
    let seed = scenario.seed;
    let mut rng = Rng::new(seed);
    note!(trace, "{scenario:?}");
    let cluster = Cluster::new(scenario.clone(), trace.clone());
    for server in cluster.servers() {
        follower::watch(&cluster, &server);
        let (pause, server) = (Duration::from_millis(rng.within(0..2_000)), server.clone());
        tokio::spawn(async move {
            time::sleep(pause).await;
            server.start();
        });
    }
    let (end, ends) = watch::channel(false);
    let mut programs = JoinSet::new();
    for n in 0..scenario.publishers {
        let name = format!("p{n}");
        let rng = rng.fork(&name);
        programs.spawn(publisher::publish(cluster.clone(), name, rng, ends.clone()));
    }
    for n in 0..scenario.setters {
        let name = format!("s{n}");
        let rng = rng.fork(&name);
        programs.spawn(setter::set(cluster.clone(), name, rng, ends.clone()));
    }
    for n in 0..scenario.readers {
        let name = format!("r{n}");
        let rng = rng.fork(&name);
        programs.spawn(reader::read(cluster.clone(), name, rng, ends.clone()));
    }
    for n in 0..scenario.followers {
        let name = format!("f{n}");
        let rng = rng.fork(&name);
        follower::roam(&cluster, name, rng);
    }
    for agent in &cluster.agents {
        agent.start();
        for n in 0..scenario.agents.programs {
            let name = format!("{}{n}", agent.name);
            let rng = rng.fork(&name);
            let (agent, ends) = (agent.clone(), ends.clone());
            programs.spawn(handing::hand(cluster.clone(), agent, name, rng, ends));
        }
    }
    let agents_nemesis = agents::nemesis::torment(cluster.clone(), rng.fork("agents' nemesis"));
    tokio::join!(
        torment(cluster.clone(), rng.fork("nemesis")),
        agents_nemesis
    );

    // From here on everything must go well.
    end.send_replace(true);
    let rested = rest(&cluster, programs).await;
    if let Err(what) = rested {
        note!(trace, "no rest: {what}");
        cluster.evidence().violate("liveness", what);
    } else {
        judge(&cluster);
    }
    let mut evidence = cluster.evidence();
    note!(
        trace,
        "end: {} acknowledged, newest {}",
        evidence.acknowledged.len(),
        evidence.newest
    );
    Outcome {
        seed,
        digest: trace.digest(),
        events: trace.events(),
        elapsed: world::elapsed(),
        acknowledged: evidence.acknowledged.len(),
        handed: evidence.handed.iter().filter(|h| h.is_taken()).count(),
        frames: evidence.newest,
        violations: std::mem::take(&mut evidence.violations),
    }
}

/// Waits until every program has its answer and all servers have the same, or says what is missing.
async fn rest(cluster: &Arc<Cluster>, mut programs: JoinSet<()>) -> Result<(), String> {
    let give_up = Instant::now() + REST_WAIT_MAX;
    let answered = time::timeout(REST_WAIT_MAX, async {
        while programs.join_next().await.is_some() {}
    });
    let answered = answered.await.is_ok();
    let mut calm = 0;
    loop {
        cluster.start_removed();
        let unrest = match cluster.unrest() {
            Some(unrest) => Some(unrest),
            None if !answered => return Err("somebody still waits for an answer".to_owned()),
            None => None,
        };
        match unrest {
            None => calm += 1,
            Some(what) if Instant::now() >= give_up => return Err(what),
            Some(_) => calm = 0,
        }
        // Long enough that followers have what there is, and retention has nothing more to do.
        if calm == 10 {
            return Ok(());
        }
        time::sleep(Duration::from_secs(1)).await;
    }
}

fn judge(cluster: &Cluster) {
    let histories = cluster.histories();
    let servers = cluster.servers();
    let view = servers.iter().find_map(|server| server.access());
    let mut evidence = cluster.evidence();
    evidence.histories = histories;
    for server in servers.iter().filter(|server| server.access().is_none()) {
        if let Some(followed) = evidence.followed.get_mut(&follower::name_at(server)) {
            followed.ends_early = true;
        }
    }
    if let Some(access) = view {
        let view = access.replica.state();
        evidence.newest = view.index.get();
        evidence.oldest = view.oldest.get();
    }
    check(&mut evidence);
}
