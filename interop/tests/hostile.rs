//! Bad input, slow clients, stuck readers: the agent answers, and serves others meanwhile.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use tidings_interop::{Agent, AgentOptions, Pipeline, Response, Stream, connect};

/// What anybody who behaves may have to wait, whatever others do. Generous: test machines are slow.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is sent of a line that never ends: far more than the limit of 8 MiB and what sockets hold.
const ENDLESS_LINE_MIB: usize = 256;
/// What the agent may grow by meanwhile: the line up to its limit, in a buffer that doubles, and as
/// much again for everything else.
const ENDLESS_LINE_GROWTH_MAX: u64 = 32 << 20;

fn job(key: &str) -> Value {
    json!({ "Topic": "Job", "Type": "Changed", "Key": key, "Payload": { "ID": key } })
}

/// Publish and follow as a normal user does, who asks for what is theirs; the longest wait.
fn normal_traffic(agent: &Agent, rounds: usize) -> Result<Duration> {
    let mut stream = agent.stream("/v1/event/stream?from=now&topic=Normal")?;
    stream.next_line()?;
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let started = Instant::now();
        let event = json!({ "Topic": "Normal", "Type": "Published", "Key": round.to_string() });
        let index = agent.publish(&[event])?;
        loop {
            let frame = stream.next_frame()?;
            if frame["Index"] == index {
                break;
            }
        }
        longest = longest.max(started.elapsed());
    }
    Ok(longest)
}

fn assert_normal(agent: &Agent, rounds: usize) -> Result<()> {
    let longest = normal_traffic(agent, rounds)?;
    ensure!(
        longest < PATIENCE,
        "publishing and reading one event took {longest:?}"
    );
    Ok(())
}

/// Resident memory of the agent, in bytes.
fn resident_bytes(agent: &Agent) -> Result<u64> {
    memory_bytes(agent, "VmRSS:")
}

/// From now on the peak is counted anew.
fn forget_peak(agent: &Agent) -> Result<()> {
    // proc(5): 5 sets the peak of the resident memory to what it is.
    std::fs::write(format!("/proc/{}/clear_refs", agent.pid()), "5")
        .context("cannot set the peak of the agent's memory back")
}

/// The most that it was since then.
fn resident_bytes_peak(agent: &Agent) -> Result<u64> {
    memory_bytes(agent, "VmHWM:")
}

fn memory_bytes(agent: &Agent, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .with_context(|| format!("no {name}"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// A number that the agent tells of itself.
fn metric(agent: &Agent, name: &str) -> Result<u64> {
    let text = agent.request("GET", "/v1/metrics", &[], b"")?.text();
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .with_context(|| format!("no {name} in the metrics"))
}

/// Wait until a counter of the agent has reached `wanted`.
fn await_metric(agent: &Agent, name: &str, wanted: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let value = metric(agent, name)?;
        if value >= wanted {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{name} is {value} and not {wanted}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn g9_truncated_requests_change_nothing() -> Result<()> {
    let agent = Agent::start()?;
    let before = agent.publish(&[job("before")])?;
    let body = r#"{"Events":[{"Topic":"Job","Type":"Changed","Payload":{"a":1}}]}"#;
    let whole = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for length in 0..whole.len() {
        let mut socket = connect(agent.address())?;
        socket.write_all(&whole.as_bytes()[..length])?;
        socket.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        // Closed without a word, reset, or told off: all are fine. Taken for good is not.
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            !answer.starts_with("HTTP/1.1 2"),
            "{length} of {} bytes gave {answer}",
            whole.len()
        );
    }
    assert_eq!(
        agent.publish(&[job("after")])?,
        before + 1,
        "a truncated request was taken"
    );
    Ok(())
}

#[test]
fn g9_bytes_that_are_no_http_are_harmless() -> Result<()> {
    let agent = Agent::start()?;
    let tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice();
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\x00\xff\xff\xff\xff\xff".as_slice();
    let zeros = [0_u8; 4096];
    let garbage: Vec<u8> = (0..65_536_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let smuggled = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let huge_chunk = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx";
    for bytes in [tls_hello, http2, &zeros, &garbage, smuggled, huge_chunk] {
        let mut socket = connect(agent.address())?;
        // It may hang up while we still send.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        ensure!(
            !answer.starts_with(b"HTTP/1.1 2"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_normal(&agent, 3)
}

#[test]
fn g9_oversized_input_is_refused_with_a_reason() -> Result<()> {
    let agent = Agent::start()?;
    let json_type = [("Content-Type", "application/json")];

    let event = json!({ "Events": [{ "Topic": "Job", "Type": "Changed", "Payload": { "Text": "x".repeat(1 << 20) } }] });
    let answer = agent.request(
        "POST",
        "/v1/events",
        &json_type,
        event.to_string().as_bytes(),
    )?;
    assert_eq!(
        (answer.status, answer.error_code()?.as_str()),
        (413, "event_too_large"),
        "{}",
        answer.text()
    );

    let many: Vec<Value> = (0..4_097).map(|number| job(&number.to_string())).collect();
    let answer = agent.request(
        "POST",
        "/v1/events",
        &json_type,
        json!({ "Events": many }).to_string().as_bytes(),
    )?;
    assert_eq!(
        (answer.status, answer.error_code()?.as_str()),
        (413, "too_many_events"),
        "{}",
        answer.text()
    );

    let endless = vec![b' '; 64 << 20];
    let answer = agent.request("POST", "/v1/events", &json_type, &endless)?;
    assert_eq!(answer.status, 413, "{}", answer.text());

    let long_query = format!("/v1/event/stream?topic={}", "x".repeat(20_000));
    let answer = agent.request("GET", &long_query, &[], b"")?;
    ensure!(
        (400..500).contains(&answer.status),
        "a long query gave {}: {}",
        answer.status,
        answer.text()
    );

    let mut socket = connect(agent.address())?;
    let header = format!(
        "GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n",
        "x".repeat(1 << 20)
    );
    let _ = socket.write_all(header.as_bytes());
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    ensure!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "a header of 1 MiB was taken"
    );
    assert_normal(&agent, 3)
}

#[test]
fn g9_a_line_without_end_is_refused_and_earlier_lines_stand() -> Result<()> {
    let agent = Agent::start()?;
    let mut pipeline = Pipeline::open(agent.address())?;
    pipeline.send(format!("{}\n", job("good")).as_bytes())?;
    let answer = pipeline.next_answer()?.context("no answer")?;
    assert!(answer["Index"].is_u64(), "{answer}");
    forget_peak(&agent)?;
    let before = resident_bytes(&agent)?;
    let piece = vec![b'x'; 1 << 20];
    let sent = (0..ENDLESS_LINE_MIB).all(|_| pipeline.send(&piece).is_ok());
    // Told off, then closed; or closed at once when our own writing stood in the way.
    match pipeline.next_answer() {
        Ok(Some(answer)) => assert_eq!(answer["Error"]["Code"], "line_too_long", "{answer}"),
        Ok(None) => bail!("the line was passed over without a word"),
        Err(error) => ensure!(
            !sent,
            "all {ENDLESS_LINE_MIB} MiB of a line were taken, and then: {error:#}"
        ),
    }
    let grown = resident_bytes_peak(&agent)?.saturating_sub(before);
    ensure!(
        grown < ENDLESS_LINE_GROWTH_MAX,
        "a line without end grew the agent by {grown} bytes"
    );
    assert_normal(&agent, 3)
}

#[test]
fn g9_wrong_types_are_refused_with_a_code_and_a_sentence() -> Result<()> {
    let agent = Agent::start()?;
    let before = agent.publish(&[job("before")])?;
    let bodies = [
        "",
        "null",
        "[]",
        "7",
        "{",
        "{\"Events\":[]}",
        "{\"Events\":{}}",
        "{\"Events\":[null]}",
        "{\"Events\":[{}]}",
        "{\"Events\":[{\"Topic\":\"Job\"}]}",
        "{\"Events\":[{\"Topic\":7,\"Type\":\"T\"}]}",
        "{\"Events\":[{\"Topic\":\"a:b\",\"Type\":\"T\"}]}",
        "{\"Events\":[{\"Topic\":\"*\",\"Type\":\"T\"}]}",
        "{\"Events\":[{\"Topic\":\"\",\"Type\":\"T\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"Payload\":\"text\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"Payload\":[1]}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"FilterKeys\":\"web\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"FilterKeys\":[1]}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"Time\":\"yesterday\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"Unknown\":1}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"\\ud800\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\",\"Id\":\"a\"},{\"Topic\":\"Job\",\"Type\":\"T\",\"Id\":\"a\"}]}",
        "{\"Events\":[{\"Topic\":\"Job\",\"Type\":\"T\"}]} trailing",
    ];
    let deep = format!(
        "{{\"Events\":[{{\"Topic\":\"Job\",\"Type\":\"T\",\"Payload\":{}{}}}]}}",
        "{\"a\":".repeat(100_000),
        "}".repeat(100_000)
    );
    let headers = [("Content-Type", "application/json")];
    for body in bodies.into_iter().chain([deep.as_str()]) {
        let shown = &body[..body.len().min(100)];
        let answer = agent.request("POST", "/v1/events", &headers, body.as_bytes())?;
        assert_eq!(answer.status, 400, "{shown} gave {}", answer.text());
        let said: Value = serde_json::from_slice(&answer.body)?;
        assert!(
            said["Error"]["Code"]
                .as_str()
                .is_some_and(|code| !code.is_empty()),
            "{shown}: {said}"
        );
        assert!(
            said["Error"]["Message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{shown}: {said}"
        );
    }
    let not_utf8 = b"{\"Events\":[{\"Topic\":\"\xff\xfe\",\"Type\":\"T\"}]}";
    assert_eq!(
        agent
            .request("POST", "/v1/events", &headers, not_utf8)?
            .status,
        400
    );

    let routes: [(&str, &str, u16); 6] = [
        ("GET", "/v1/no/such/route", 404),
        ("GET", "/../../etc/passwd", 404),
        ("DELETE", "/v1/events", 405),
        ("GET", "/v1/event/stream?filter=this+is+not+CEL+((", 400),
        ("GET", "/v1/event/stream?from=sometimes", 400),
        ("GET", "/v1/event/stream?format=xml", 400),
    ];
    for (method, target, status) in routes {
        let answer = agent.request(method, target, &[], b"")?;
        assert_eq!(
            answer.status,
            status,
            "{method} {target}: {}",
            answer.text()
        );
    }
    assert_eq!(
        agent.publish(&[job("after")])?,
        before + 1,
        "something of this was taken"
    );
    Ok(())
}

#[test]
fn g8_thousands_of_slow_connections_do_not_stand_in_the_way() -> Result<()> {
    let connections: u64 = 10_000;
    // This process needs a few for itself, the agent likewise.
    let needed = connections + 1_000;
    let limit = raise_open_files(needed)?;
    ensure!(
        limit >= needed,
        "this test needs {needed} open files, and {limit} are allowed: raise the hard limit, which `ulimit -Hn` shows"
    );
    let agent = Agent::start_with(AgentOptions {
        // None of them may be ended before the last has come, however slow the machine is.
        config: "[http]\nheader_timeout = \"5m\"\n".into(),
        ..AgentOptions::default()
    })?;
    assert_normal(&agent, 5)?;

    let started = Instant::now();
    let mut slow = Vec::new();
    for number in 0..connections {
        let mut socket = TcpStream::connect_timeout(&agent.address(), PATIENCE)
            .with_context(|| format!("connection {number} of {connections}"))?;
        socket.write_all(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nX-")?;
        slow.push(socket);
    }
    println!(
        "{connections} slow connections after {:?}",
        started.elapsed()
    );
    await_metric(&agent, "tidings_http_connections ", connections)?;
    assert_normal(&agent, 20)?;
    // They go on, a byte each.
    for socket in &mut slow {
        socket.write_all(b"a")?;
    }
    assert_normal(&agent, 20)?;
    let open = metric(&agent, "tidings_http_connections ")?;
    ensure!(
        open >= connections,
        "{open} connections are open, and {connections} were opened"
    );
    drop(slow);
    assert_normal(&agent, 5)
}

/// Raise this process's limit of open files, which the agent inherits, up to what is wanted; the limit
/// in force.
fn raise_open_files(wanted: u64) -> Result<u64> {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: Some(wanted),
        // No limit at all is none to be lowered.
        maximum: now.maximum.map(|maximum| maximum.max(wanted)),
    };
    if now.current.is_none_or(|current| current >= wanted)
        || setrlimit(Resource::Nofile, raised).is_ok()
    {
        return Ok(wanted);
    }
    // Not root: up to the hard limit.
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        },
    )
    .context("cannot raise the limit of open files")?;
    now.maximum
        .context("there is a hard limit, or raising would have worked")
}

#[test]
fn g9_a_header_that_never_ends_is_cut_off() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[http]\nheader_timeout = \"1s\"\n".into(),
        ..AgentOptions::default()
    })?;
    let mut socket = connect(agent.address())?;
    socket.write_all(b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nX-")?;
    let started = Instant::now();
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let waited = started.elapsed();
    ensure!(waited < PATIENCE, "the connection was open for {waited:?}");
    ensure!(
        !answer.starts_with(b"HTTP/1.1 2"),
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Publish `count` events with 8 KiB payloads through one pipeline; the last index.
fn publish_bulk(agent: &Agent, count: usize) -> Result<u64> {
    let text = "x".repeat(8 << 10);
    let line = format!(
        "{}\n",
        json!({ "Topic": "Bulk", "Type": "Written", "Payload": { "Text": text } })
    );
    let mut pipeline = Pipeline::open(agent.address())?;
    let mut last = 0;
    let mut sender = pipeline.sender()?;
    thread::scope(|scope| {
        let sending = scope.spawn(move || -> Result<()> {
            for _ in 0..count {
                sender.send(line.as_bytes())?;
            }
            sender.finish()
        });
        while let Some(answer) = pipeline.next_answer()? {
            last = answer["Index"]
                .as_u64()
                .with_context(|| format!("refused: {answer}"))?;
        }
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?
    })?;
    Ok(last)
}

#[test]
fn g8_a_reader_that_stops_reading_costs_only_itself() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[http]\nwrite_stall = \"1s\"\n\n[broker]\nring_bytes = \"4MiB\"\n".into(),
        ..AgentOptions::default()
    })?;
    assert_normal(&agent, 5)?;
    let stuck: Vec<Stream> = (0..20)
        .map(|_| {
            let mut stream = agent.stream("/v1/event/stream?from=now")?;
            stream.next_line()?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let before = resident_bytes(&agent)?;

    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let normal = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                assert_normal(&agent, 5)?;
            }
            Ok(())
        });
        let written = publish_bulk(&agent, 6_000);
        over.store(true, Ordering::Relaxed);
        normal
            .join()
            .map_err(|_| anyhow::anyhow!("the normal user panicked"))??;
        written.map(drop)
    })?;

    // Reading again before the limit has passed would make a slow reader of a stuck one.
    await_metric(
        &agent,
        "tidings_http_connections_stalled_total",
        stuck.len() as u64,
    )?;
    let grown = resident_bytes(&agent)?.saturating_sub(before);
    ensure!(
        grown < 128 << 20,
        "48 MB for 20 stuck readers grew the agent by {grown} bytes"
    );
    for mut stream in stuck {
        // What lies in the socket's buffers still comes; then the cut shows as an error. An idle
        // stream would end in a heartbeat.
        let cut = loop {
            match stream.next_line() {
                Ok(Some(line)) if line == b"{}" => bail!("a reader that had stopped reading lives"),
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        ensure!(
            cut,
            "a reader that had stopped reading was given a clean end"
        );
    }
    assert_normal(&agent, 5)
}

#[test]
fn g4_g8_a_reader_behind_the_ring_goes_on_from_disk_without_a_gap() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[broker]\nring_bytes = \"4MiB\"\n".into(),
        ..AgentOptions::default()
    })?;
    let first = agent.publish(&[job("first")])?;
    let mut late = agent.stream("/v1/event/stream?from=beginning")?;
    assert_eq!(late.next_frame()?["Index"], first);
    // 40 MB: more than the ring and all socket buffers hold together.
    let last = publish_bulk(&agent, 5_000)?;
    for expected in first + 1..=last {
        let frame = late.next_frame()?;
        ensure!(
            frame["Index"] == expected,
            "frame {} came where {expected} follows",
            frame["Index"]
        );
    }
    // And it is live again.
    let index = agent.publish(&[job("live")])?;
    assert_eq!(late.next_frame()?["Index"], index);
    Ok(())
}

#[test]
fn g9_a_pipeline_that_never_reads_its_answers_stops_itself() -> Result<()> {
    let agent = Agent::start_with(AgentOptions {
        config: "[http]\nwrite_stall = \"1s\"\n".into(),
        ..AgentOptions::default()
    })?;
    let pipeline = Pipeline::open(agent.address())?;
    let mut sender = pipeline.sender()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let sending = scope.spawn(|| {
            let lines = format!("{}\n", job("flood")).repeat(1_000);
            // Ends when the agent stops taking or hangs up.
            while !over.load(Ordering::Relaxed) {
                if sender.send(lines.as_bytes()).is_err() {
                    return;
                }
            }
        });
        // The agent hangs up, and says so in its numbers.
        let end = Instant::now() + Duration::from_secs(30);
        let mut is_cut = false;
        let mut outcome = Ok(());
        while outcome.is_ok() && !is_cut && Instant::now() < end {
            outcome = assert_normal(&agent, 3);
            is_cut = sending.is_finished()
                || metric(&agent, "tidings_http_connections_stalled_total ")? >= 1;
        }
        over.store(true, Ordering::Relaxed);
        pipeline.abort();
        sending
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        outcome?;
        ensure!(
            is_cut,
            "a publisher that reads no answers was neither stopped nor cut off"
        );
        Ok(())
    })?;
    ensure!(
        resident_bytes(&agent)? < 768 << 20,
        "answers that nobody reads are kept in memory"
    );
    assert_normal(&agent, 3)
}

#[test]
fn an_unknown_method_gets_an_answer() -> Result<()> {
    let agent = Agent::start()?;
    let mut socket = connect(agent.address())?;
    socket
        .write_all(b"BREW /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let answer = Response::read(&mut std::io::BufReader::new(socket))?;
    assert_eq!(answer.status, 405, "{}", answer.text());
    Ok(())
}
