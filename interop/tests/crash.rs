//! `kill -9` while publishers write, again and again.
//!
//! `cargo xtask crash --rounds N` runs this against a release build.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tidings_interop::{Agent, Pipeline, process, tidings};

const PUBLISHERS: usize = 16;
/// Transactions that a publisher has sent and not yet seen answered.
const IN_FLIGHT_MAX: usize = 64;
/// How long the publishers write in round n: from just after the start to well under way.
const WRITING_MILLISECONDS: [u64; 5] = [40, 400, 900, 150, 650];

/// One publisher's account of a round.
struct Account {
    /// How many lines it has sent, numbered from 0.
    sent: usize,
    /// The index of each line that was acknowledged: of the first `acknowledged.len()` sent.
    acknowledged: Vec<u64>,
}

fn rounds() -> Result<usize> {
    match std::env::var("TIDINGS_CRASH_ROUNDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("TIDINGS_CRASH_ROUNDS is {text:?}")),
        Err(_) => Ok(5),
    }
}

fn id(round: usize, publisher: usize, number: usize) -> String {
    format!("r{round}-p{publisher}-n{number}")
}

fn line(round: usize, publisher: usize, number: usize) -> String {
    format!(
        "{{\"Topic\":\"Crash\",\"Type\":\"Written\",\"Key\":\"p{publisher}\",\"Id\":\"{}\",\
         \"Payload\":{{\"Round\":{round},\"Number\":{number}}}}}\n",
        id(round, publisher, number)
    )
}

/// Write until the agent is gone.
fn publish(agent: std::net::SocketAddr, round: usize, publisher: usize) -> Result<Account> {
    let mut account = Account {
        sent: 0,
        acknowledged: Vec::new(),
    };
    // In the shortest rounds the blow may fall before this publisher has begun.
    let Ok(mut pipeline) = Pipeline::open(agent) else {
        return Ok(account);
    };
    loop {
        // Fill the window with one write, then wait for one answer: sends and reads overlap.
        let mut lines = String::new();
        while account.sent - account.acknowledged.len() < IN_FLIGHT_MAX {
            lines += &line(round, publisher, account.sent);
            account.sent += 1;
        }
        if pipeline.send(lines.as_bytes()).is_err() {
            return Ok(account);
        }
        for _ in 0..IN_FLIGHT_MAX / 2 {
            match pipeline.next_answer() {
                Ok(Some(answer)) => match answer["Index"].as_u64() {
                    Some(index) => account.acknowledged.push(index),
                    None => bail!("publisher {publisher} was refused: {answer}"),
                },
                Ok(None) | Err(_) => return Ok(account),
            }
        }
    }
}

/// What one pass over the timeline from an index up to another found: (index, id) of each event.
fn read(agent: &Agent, from: u64, to: u64) -> Result<Vec<(u64, String)>> {
    let mut stream = agent.stream(&format!("/v1/event/stream?index={from}"))?;
    let mut found = Vec::new();
    let mut expected = from;
    while expected <= to {
        let frame = stream.next_frame()?;
        ensure!(
            frame["Index"] == expected,
            "frame {} came where {expected} follows",
            frame["Index"]
        );
        for event in frame["Events"]
            .as_array()
            .context("a frame has no events")?
        {
            ensure!(
                event["Index"] == expected,
                "an event bears another index than its frame {expected}"
            );
            found.push((
                expected,
                event["Id"]
                    .as_str()
                    .context("an event has no id")?
                    .to_owned(),
            ));
        }
        expected += 1;
    }
    Ok(found)
}

#[test]
fn g2_g3_kill_9_under_load_loses_and_repeats_nothing() -> Result<()> {
    let rounds = rounds()?;
    let mut agent = Agent::start()?;
    let mut places: HashMap<String, u64> = HashMap::new();
    let mut next =
        agent.publish_text(r#"{"Events":[{"Topic":"Crash","Type":"Begin","Id":"begin"}]}"#)? + 1;
    let mut acknowledged_in_all = 0;

    for round in 0..rounds {
        let address = agent.address();
        let publishers: Vec<_> = (0..PUBLISHERS)
            .map(|publisher| thread::spawn(move || publish(address, round, publisher)))
            .collect();
        // Not a wait for a condition: when the blow falls is what the rounds vary.
        thread::sleep(Duration::from_millis(
            WRITING_MILLISECONDS[round % WRITING_MILLISECONDS.len()],
        ));
        agent.kill()?;
        let mut accounts = Vec::new();
        for publisher in publishers {
            accounts.push(
                publisher
                    .join()
                    .map_err(|_| anyhow::anyhow!("a publisher panicked"))??,
            );
        }

        let restarted = Instant::now();
        agent.restart()?;
        let recovery = restarted.elapsed();
        let mark = format!("mark-{round}");
        let end = agent.publish_text(&format!(
            r#"{{"Events":[{{"Topic":"Crash","Type":"Mark","Id":"{mark}"}}]}}"#
        ))?;

        let found = read(&agent, next, end)?;
        let mut last_number = [None; PUBLISHERS];
        for (index, found_id) in &found {
            ensure!(
                places.insert(found_id.clone(), *index).is_none(),
                "round {round}: {found_id} is there twice, again at {index}"
            );
            if let Some((publisher, number)) = sender(found_id, round)? {
                ensure!(
                    last_number[publisher] < Some(number),
                    "round {round}: {found_id} comes after number {:?} of its publisher",
                    last_number[publisher]
                );
                last_number[publisher] = Some(number);
            }
        }
        for (publisher, account) in accounts.iter().enumerate() {
            for (number, index) in account.acknowledged.iter().enumerate() {
                let acknowledged = id(round, publisher, number);
                ensure!(
                    places.get(&acknowledged) == Some(index),
                    "round {round}: {acknowledged} was acknowledged at {index} and is at {:?}",
                    places.get(&acknowledged)
                );
            }
        }

        next = end + 1;
        let resent = resend_unanswered(&agent, round, &accounts, &mut places, &mut next)?;
        let acknowledged: usize = accounts
            .iter()
            .map(|account| account.acknowledged.len())
            .sum();
        acknowledged_in_all += acknowledged;
        println!(
            "round {round}: {acknowledged} acknowledged, {resent} without an answer, \
             {end} frames, ready again after {} ms",
            recovery.as_millis()
        );
    }
    ensure!(
        acknowledged_in_all > rounds,
        "the publishers wrote next to nothing: {acknowledged_in_all} events"
    );

    // The whole of it once more, and the files without the agent.
    let all = read(&agent, 1, next - 1)?;
    let ours = all.iter().filter(|(_, id)| places.contains_key(id)).count();
    assert_eq!(
        ours,
        places.len(),
        "events that were there after a restart have gone"
    );
    agent.stop()?;
    let verify = process::output(
        std::process::Command::new(tidings()?)
            .args(["verify", "--data-dir"])
            .arg(agent.data_dir()),
    )?;
    ensure!(
        verify.status.success(),
        "verify found a fault:\n{}{}",
        String::from_utf8_lossy(&verify.stdout),
        String::from_utf8_lossy(&verify.stderr)
    );
    Ok(())
}

/// The publisher and number of an event of this round.
fn sender(id: &str, round: usize) -> Result<Option<(usize, usize)>> {
    let Some(rest) = id.strip_prefix(&format!("r{round}-p")) else {
        return Ok(None);
    };
    let (publisher, number) = rest.split_once("-n").context("an id of another form")?;
    Ok(Some((publisher.parse()?, number.parse()?)))
}

/// A publisher that got no answer sends again: what was stored gives its first index, the rest is new.
fn resend_unanswered(
    agent: &Agent,
    round: usize,
    accounts: &[Account],
    places: &mut HashMap<String, u64>,
    next: &mut u64,
) -> Result<usize> {
    let mut resent = Vec::new();
    let mut pipeline = Pipeline::open(agent.address())?;
    for (publisher, account) in accounts.iter().enumerate() {
        for number in account.acknowledged.len()..account.sent {
            pipeline.send(line(round, publisher, number).as_bytes())?;
            resent.push(id(round, publisher, number));
        }
    }
    pipeline.finish()?;
    for resent in &resent {
        let answer: Value = pipeline.next_answer()?.context("an answer is missing")?;
        let index = answer["Index"]
            .as_u64()
            .with_context(|| format!("{resent} was refused: {answer}"))?;
        match places.get(resent) {
            Some(first) => ensure!(
                index == *first && answer["Duplicate"] == true,
                "{resent} is at {first} and was answered {answer}"
            ),
            None => {
                ensure!(index == *next, "{resent} got index {index}, not {next}");
                *next += 1;
                places.insert(resent.clone(), index);
            }
        }
    }
    Ok(resent.len())
}
