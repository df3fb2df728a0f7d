//! Disks that are full, and disks that lie.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tidings_interop::{Agent, AgentOptions, Response, Tmpfs, process, tidings};

fn event(number: usize) -> String {
    json!({ "Events": [{ "Topic": "Disk", "Type": "Written", "Key": number.to_string(),
                         "Id": format!("disk-{number}"), "Payload": { "Text": "x".repeat(4_000) } }] })
    .to_string()
}

fn publish(agent: &Agent, number: usize) -> Result<Response> {
    agent.request(
        "POST",
        "/v1/events",
        &[("Content-Type", "application/json")],
        event(number).as_bytes(),
    )
}

/// Publish until one is refused; the numbers acknowledged, and the refusal.
fn publish_until_refused(
    agent: &Agent,
    first: usize,
    most: usize,
) -> Result<(Vec<usize>, Response)> {
    let mut acknowledged = Vec::new();
    for number in first..first + most {
        let answer = publish(agent, number)?;
        if answer.status != 200 {
            return Ok((acknowledged, answer));
        }
        acknowledged.push(number);
    }
    anyhow::bail!("{most} events were taken on a full disk")
}

/// Publish one event as soon as it is taken.
fn publish_when_possible(agent: &Agent, number: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = publish(agent, number)?;
        if answer.status == 200 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "there is space again, and still: {}",
            answer.text()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

/// The numbers on the timeline, in its order.
fn numbers(agent: &Agent, last: usize) -> Result<Vec<usize>> {
    let mut stream = agent.stream("/v1/event/stream?from=beginning")?;
    let mut numbers = Vec::new();
    while numbers.last() != Some(&last) {
        let frame: Value = stream.next_frame()?;
        let key = frame["Events"][0]["Key"]
            .as_str()
            .context("an event has no key")?;
        numbers.push(key.parse()?);
    }
    Ok(numbers)
}

#[test]
fn g2_a_full_disk_refuses_new_events_and_keeps_the_old() -> Result<()> {
    let disk = Tmpfs::mount(256)?;
    let mut agent = Agent::start_with(AgentOptions {
        config: "[store]\nreserve_bytes = \"16MiB\"\n".into(),
        data_dir: Some(disk.path().join("data")),
        ..AgentOptions::default()
    })?;
    let mut acknowledged: Vec<usize> = (0..100).collect();
    for number in &acknowledged {
        assert_eq!(publish(&agent, *number)?.status, 200);
    }

    disk.fill_up_to(1 << 20)?;
    let (more, refusal) = publish_until_refused(&agent, 100, 10_000)?;
    acknowledged.extend(more);
    assert_eq!(refusal.error_code()?, "disk_full", "{}", refusal.text());
    assert!((500..600).contains(&refusal.status), "{}", refusal.status);

    // Reading goes on while writing cannot.
    let last = acknowledged
        .last()
        .copied()
        .context("nothing was acknowledged")?;
    assert_eq!(numbers(&agent, last)?, acknowledged);

    disk.give_back()?;
    publish_when_possible(&agent, 1_000_000)?;
    acknowledged.push(1_000_000);
    assert_eq!(numbers(&agent, 1_000_000)?, acknowledged);

    agent.kill()?;
    agent.restart()?;
    assert_eq!(numbers(&agent, 1_000_000)?, acknowledged);
    Ok(())
}

#[test]
fn a_shorter_retention_makes_room_on_a_full_disk() -> Result<()> {
    let disk = Tmpfs::mount(96)?;
    let config = "[store]\nreserve_bytes = \"16MiB\"\nsegment_bytes = \"1MiB\"\n";
    let agent = Agent::start_with(AgentOptions {
        config: config.into(),
        data_dir: Some(disk.path().join("data")),
        ..AgentOptions::default()
    })?;
    // Nothing but its own history fills the disk.
    let (acknowledged, refusal) = publish_until_refused(&agent, 0, 100_000)?;
    assert_eq!(refusal.error_code()?, "disk_full", "{}", refusal.text());
    agent.reload(&format!("{config}[retention]\nframes = 1000\n"))?;
    agent.await_log("the configuration was reloaded", 1)?;
    publish_when_possible(&agent, 1_000_000)?;
    let found = numbers(&agent, 1_000_000)?;
    ensure!(
        found.len() < acknowledged.len(),
        "all {} frames are still there",
        found.len()
    );
    Ok(())
}

#[test]
fn g2_a_disk_that_fills_up_in_the_middle_of_writing_loses_nothing_acknowledged() -> Result<()> {
    let disk = Tmpfs::mount(256)?;
    let mut agent = Agent::start_with(AgentOptions {
        config: "[store]\nreserve_bytes = \"16MiB\"\n".into(),
        data_dir: Some(disk.path().join("data")),
        ..AgentOptions::default()
    })?;
    // At least one, before somebody begins to take the space.
    assert_eq!(publish(&agent, 0)?.status, 200);
    let mut acknowledged = thread::scope(|scope| -> Result<Vec<usize>> {
        let publishing = scope.spawn(|| {
            let mut acknowledged = vec![0];
            for number in 1..1_000_000 {
                match publish(&agent, number) {
                    Ok(answer) if answer.status == 200 => acknowledged.push(number),
                    // Refused, or the agent has ended: what it acknowledged counts all the same.
                    Ok(_) | Err(_) => break,
                }
            }
            acknowledged
        });
        // Another program takes the very last byte while events are being written.
        while !publishing.is_finished() {
            disk.fill_up_to(0)?;
        }
        publishing
            .join()
            .map_err(|_| anyhow::anyhow!("the publisher panicked"))
    })?;
    disk.give_back()?;
    agent.kill()?;
    agent.restart()?;
    publish_when_possible(&agent, 1_000_000)?;
    acknowledged.push(1_000_000);
    let found = numbers(&agent, 1_000_000)?;
    // One more may be there: that which was being written when its publisher got no answer.
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|number| !found.contains(number))
        .collect();
    ensure!(lost.is_empty(), "acknowledged and gone: {lost:?}");
    ensure!(
        found.is_sorted_by(|a, b| a < b),
        "events came out of order or twice: {found:?}"
    );
    Ok(())
}

/// The history segments, oldest first.
fn segments(data_dir: &Path) -> Result<Vec<PathBuf>> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(data_dir.join("history"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "ndjson")
        {
            segments.push(path);
        }
    }
    segments.sort();
    Ok(segments)
}

/// Turn one bit in the middle of a file; where.
fn flip_byte(path: &Path) -> Result<u64> {
    let file = File::options().read(true).write(true).open(path)?;
    let offset = file.metadata()?.len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 0x04;
    file.write_all_at(&byte, offset)?;
    Ok(offset)
}

fn verify(data_dir: &Path) -> Result<(bool, String)> {
    let output = process::output(
        Command::new(tidings()?)
            .args(["verify", "--data-dir"])
            .arg(data_dir),
    )?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// The number after the word "offset" (or "byte"), where a message names one.
fn named_offsets(said: &str) -> Vec<u64> {
    said.split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn flipped_byte(config: &str, flip_first: bool) -> Result<()> {
    let mut agent = Agent::start_with(AgentOptions {
        config: config.into(),
        ..AgentOptions::default()
    })?;
    for number in 0..1_200 {
        assert_eq!(publish(&agent, number)?.status, 200);
    }
    agent.stop()?;
    let (sound, said) = verify(agent.data_dir())?;
    ensure!(sound, "verify finds a fault where there is none: {said}");

    let segments = segments(agent.data_dir())?;
    let damaged = if flip_first {
        segments.first()
    } else {
        segments.last()
    };
    let damaged = damaged.context("there is no segment")?;
    let name = damaged
        .file_name()
        .and_then(|name| name.to_str())
        .context("a segment has no name")?;
    let flipped_at = flip_byte(damaged)?;
    let line_bytes = 5_000;

    let (sound, said) = verify(agent.data_dir())?;
    ensure!(!sound, "verify does not see the flipped byte");
    ensure!(said.contains(name), "verify does not name {name}: {said}");
    let near = |offset: &u64| offset.abs_diff(flipped_at) <= line_bytes;
    ensure!(
        named_offsets(&said).iter().any(near),
        "verify names no place near {flipped_at}: {said}"
    );

    let said = agent.restart_refused()?;
    ensure!(
        said.contains(name),
        "the refusal does not name {name}: {said}"
    );
    ensure!(
        named_offsets(&said).iter().any(near),
        "the refusal names no place near {flipped_at}: {said}"
    );
    ensure!(
        said.contains("tidings verify"),
        "the refusal names no command that helps: {said}"
    );
    Ok(())
}

#[test]
fn a_flipped_byte_in_the_newest_segment_keeps_the_agent_from_starting() -> Result<()> {
    flipped_byte("", false)
}

#[test]
fn a_flipped_byte_in_a_sealed_segment_keeps_the_agent_from_starting() -> Result<()> {
    flipped_byte(
        "[store]\nsegment_bytes = \"1MiB\"\nverify_on_start = \"all\"\n",
        true,
    )
}

#[test]
fn a_second_agent_on_the_same_data_is_refused() -> Result<()> {
    let agent = Agent::start()?;
    let second = process::output(
        Command::new(tidings()?)
            .args(["agent", "--http", "127.0.0.1:0", "--data-dir"])
            .arg(agent.data_dir()),
    )?;
    ensure!(
        !second.status.success(),
        "a second agent started on the same data"
    );
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(
        said.contains("data"),
        "the refusal does not speak of the data directory: {said}"
    );
    agent.publish_text(&event(0))?;
    Ok(())
}
