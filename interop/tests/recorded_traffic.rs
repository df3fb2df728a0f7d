//! Traffic of a real Nomad goes in; the same comes out, event by event.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use serde_json::value::RawValue;
use tidings_interop::{
    Agent, GoClient, PythonClient, RECORDINGS, RecordedFrame, publish_recording, recorded_frames,
};

/// The fields of an event that are the publisher's; Index is the timeline's.
const PUBLISHED_FIELDS: [&str; 6] = ["Topic", "Type", "Key", "Namespace", "FilterKeys", "Payload"];

/// An agent that holds a recording.
struct Replay {
    agent: Agent,
    recorded: Vec<RecordedFrame>,
    indexes: Vec<u64>,
}

impl Replay {
    fn of(recording: &str) -> Result<Self> {
        let agent = Agent::start()?;
        let recorded = recorded_frames(recording)?;
        let indexes = publish_recording(&agent, &recorded)?;
        Ok(Self {
            agent,
            recorded,
            indexes,
        })
    }

    fn event_count(&self) -> usize {
        self.recorded.iter().map(|frame| frame.events.len()).sum()
    }

    /// Every recorded event with the index that it must have now.
    fn expected(&self) -> Vec<(u64, Value)> {
        let frames = self.indexes.iter().zip(&self.recorded);
        frames
            .flat_map(|(index, frame)| frame.decoded().into_iter().map(|event| (*index, event)))
            .collect()
    }
}

/// Compare one event with the recorded one: all fields but Index, and Index with the frame's.
fn assert_same_event(index: u64, recorded: &Value, came: &Value, fields: &[&str]) {
    for field in fields {
        assert_eq!(
            came[field], recorded[field],
            "field {field} of an event of frame {index}"
        );
    }
    assert_eq!(
        came["Index"], index,
        "the event's own index in frame {index}"
    );
}

/// All numbers as a Go program holds them that decodes into `any`.
fn with_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => number.as_f64().into(),
        Value::Array(items) => items.iter().map(with_floats).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), with_floats(value)))
            .collect(),
        other => other.clone(),
    }
}

#[test]
fn recorded_frames_come_out_as_they_went_in() -> Result<()> {
    for recording in RECORDINGS {
        let replay = Replay::of(recording)?;
        let mut stream = replay
            .agent
            .stream("/v1/event/stream?namespace=*&from=beginning")?;
        for (index, recorded) in replay.indexes.iter().zip(&replay.recorded) {
            let frame: Value = stream.next_frame()?;
            assert_eq!(frame["Index"], *index, "{recording}");
            let events = frame["Events"]
                .as_array()
                .context("a frame has no events")?;
            assert_eq!(
                events.len(),
                recorded.events.len(),
                "{recording}, frame {index}"
            );
            for (recorded, came) in recorded.decoded().iter().zip(events) {
                assert_same_event(*index, recorded, came, &PUBLISHED_FIELDS);
            }
        }
    }
    Ok(())
}

#[test]
fn payloads_keep_the_text_of_their_numbers_and_the_order_of_their_keys() -> Result<()> {
    #[derive(Default)]
    struct Payloads(Vec<String>);
    impl Payloads {
        fn add(&mut self, event: &RawValue) -> Result<()> {
            let fields: std::collections::BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(event.get())?;
            self.0.push(
                fields
                    .get("Payload")
                    .context("an event has no payload")?
                    .get()
                    .to_owned(),
            );
            Ok(())
        }
    }

    for recording in RECORDINGS {
        let replay = Replay::of(recording)?;
        let mut stream = replay
            .agent
            .stream("/v1/event/stream?namespace=*&from=beginning")?;
        for recorded in &replay.recorded {
            let text = stream.next_frame_text()?;
            let frame: std::collections::BTreeMap<String, Box<RawValue>> =
                serde_json::from_str(&text)?;
            let events: Vec<Box<RawValue>> =
                serde_json::from_str(frame.get("Events").context("a frame has no events")?.get())?;
            let mut came = Payloads::default();
            for event in &events {
                came.add(event)?;
            }
            // The recordings have no white space between tokens: equal means byte by byte.
            assert_eq!(came.0, recorded.payloads(), "{recording}");
        }
    }
    Ok(())
}

#[test]
fn python_nomad_reads_recorded_traffic_event_by_event() -> Result<()> {
    for recording in RECORDINGS {
        let replay = Replay::of(recording)?;
        let count = replay.event_count().to_string();
        let frames = PythonClient::start(&replay.agent, &["--namespace", "*", "--count", &count])?
            .finish()?
            .success()?;
        assert_eq!(frames.len(), replay.recorded.len(), "{recording}");
        let mut came = Vec::new();
        for frame in &frames {
            let frame: Value = serde_json::from_str(frame)?;
            came.extend(
                frame["Events"]
                    .as_array()
                    .context("a frame has no events")?
                    .clone(),
            );
        }
        let expected = replay.expected();
        ensure!(
            came.len() == expected.len(),
            "{} events came, not {}",
            came.len(),
            expected.len()
        );
        for ((index, recorded), came) in expected.iter().zip(&came) {
            assert_same_event(*index, recorded, came, &PUBLISHED_FIELDS);
        }
    }
    Ok(())
}

#[test]
fn go_client_reads_recorded_traffic_event_by_event() -> Result<()> {
    for recording in RECORDINGS {
        let replay = Replay::of(recording)?;
        let count = replay.event_count().to_string();
        let lines = GoClient::start(
            &replay.agent,
            &[("NOMAD_NAMESPACE", "*")],
            &["-count", &count, "dump"],
        )?
        .finish()?
        .success()?;
        let expected = replay.expected();
        assert_eq!(lines.len(), expected.len(), "{recording}");
        for ((index, recorded), line) in expected.iter().zip(&lines) {
            let came: Value = serde_json::from_str(line)?;
            // The library's Event has no Namespace, and its payload holds numbers as float64.
            let fields = ["Topic", "Type", "Key", "FilterKeys"];
            assert_same_event(*index, recorded, &came, &fields);
            assert_eq!(
                with_floats(&came["Payload"]),
                with_floats(&recorded["Payload"]),
                "frame {index}"
            );
        }
    }
    Ok(())
}

#[test]
fn go_client_prints_the_status_of_each_deployment() -> Result<()> {
    // The other recording is of a batch job, which has no deployments.
    let recording = RECORDINGS[0];
    let replay = Replay::of(recording)?;
    let expected: Vec<String> = replay
        .expected()
        .iter()
        .filter(|(_, event)| event["Topic"] == "Deployment")
        .map(|(_, event)| {
            let deployment = &event["Payload"]["Deployment"];
            let text = |field: &str| deployment[field].as_str().unwrap_or_default().to_owned();
            format!("{} {}", text("ID"), text("Status"))
        })
        .collect();
    ensure!(!expected.is_empty(), "{recording} has no deployments");
    let count = expected.len().to_string();
    let came = GoClient::start(&replay.agent, &[], &["-count", &count, "deployments"])?
        .finish()?
        .success()?;
    assert_eq!(came, expected, "{recording}");
    Ok(())
}
