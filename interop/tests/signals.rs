//! What the signals of an operator do to the real agent.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use tidings_interop::{Agent, AgentOptions, connect};

const RELOADED: &str = "the configuration was reloaded";
const NOT_RELOADED: &str = "the configuration was not reloaded";

fn serves_streams(agent: &Agent) -> Result<bool> {
    // An agent that serves them refuses this one for its parameter.
    let answer = agent.request("GET", "/v1/event/stream?from=nowhere", &[], b"")?;
    Ok(answer.status != 500)
}

fn await_streams(agent: &Agent, wanted: bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while serves_streams(agent)? != wanted {
        ensure!(Instant::now() < deadline, "streams are not {wanted}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn sighup_reads_the_files_anew() -> Result<()> {
    let mut agent = Agent::start()?;
    ensure!(serves_streams(&agent)?, "streams are off");
    agent.reload("[stream]\nenabled = false\n")?;
    agent.await_log(RELOADED, 1)?;
    await_streams(&agent, false)?;

    // A wrong file changes nothing, and is told with its place.
    agent.reload("[stream]\nenabled = true\nbacklog_frames = \"many\"\n")?;
    agent.await_log(NOT_RELOADED, 1)?;
    agent.await_log("test.toml:3:", 1)?;
    ensure!(!serves_streams(&agent)?, "half of a wrong file was taken");

    // The level changes: what this reload says of itself is below it.
    agent.reload("[log]\nlevel = \"warn\"\n[stream]\nenabled = true\n")?;
    await_streams(&agent, true)?;
    agent.reload("[log]\nlevel = \"info\"\n")?;
    agent.await_log(RELOADED, 2)?;
    let told = agent.log().matches(RELOADED).count();
    ensure!(told == 2, "three reloads were told in spite of the level");

    agent.publish(&[json!({ "Topic": "T", "Type": "t" })])?;
    agent.stop()
}

#[test]
fn sighup_with_the_same_files_takes_a_new_token() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        token: Some("the-first-token-0123456789".into()),
        ..AgentOptions::default()
    })?;
    let status = |token| -> Result<u16> {
        let header = [("X-Nomad-Token", token)];
        let answer = tidings_interop::request(agent.address(), "GET", "/v1/status", &header, b"")?;
        Ok(answer.status)
    };
    assert_eq!(status("the-second-token-0123456789")?, 403);
    agent.write_token("the-second-token-0123456789")?;
    agent.signal(Signal::HUP)?;
    agent.await_log(RELOADED, 1)?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while status("the-second-token-0123456789")? != 200 {
        ensure!(Instant::now() < deadline, "the new token is not taken");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(status("the-first-token-0123456789")?, 403);
    Ok(())
}

#[test]
fn a_second_interrupt_ends_it_at_once() -> Result<()> {
    let mut agent = Agent::start_with(AgentOptions {
        config: "[http]\nshutdown_grace = \"5m\"\n".into(),
        ..AgentOptions::default()
    })?;
    // A request that does not end, which a stop waits for.
    let mut unfinished = connect(agent.address())?;
    unfinished.write_all(
        b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    )?;
    // It is served behind this one's answer at the latest.
    agent.get_json("/v1/status")?;
    agent.signal(Signal::INT)?;
    agent.await_log("a second signal ends it at once", 1)?;
    let started = Instant::now();
    agent.signal(Signal::INT)?;
    let status = agent.await_end()?;
    assert_eq!(status.code(), Some(130), "{status}");
    ensure!(
        started.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        started.elapsed()
    );
    Ok(())
}
