//! Frames for tests, made by the timeline itself.

use std::sync::Arc;

use tidings_event::{Limits, NewEvent, Timestamp};
use tidings_timeline::{Batch, CommandGroup, FrameBatch, Settings, Stamper, StateMachine};

/// Makes batches of frames whose indexes follow each other from 1.
pub struct Frames {
    machine: StateMachine,
    stamper: Stamper,
    time: i64,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            machine: StateMachine::new(Settings::default()),
            stamper: Stamper::new("n1", "test", 7),
            time: 1_800_000_000_000_000,
        }
    }

    /// A batch of `count` frames, one event each: topics `T0` to `T4`, payloads of `bytes` bytes.
    pub fn batch(&mut self, count: usize, bytes: usize) -> Arc<FrameBatch> {
        self.time += 1_000_000;
        let time = Timestamp::from_unix_micros(self.time);
        self.stamper.set_time(time);
        let mut group = CommandGroup::new();
        for at in 0..count {
            let json = format!(
                r#"{{"Topic":"T{}","Type":"Made","Key":"k{at}","Payload":{{"Text":"{}"}}}}"#,
                at % 5,
                "x".repeat(bytes)
            );
            let event = NewEvent::parse(json.as_bytes()).unwrap();
            group
                .publish(&[event], &mut self.stamper, &Limits::default())
                .unwrap();
        }
        let batch = Batch {
            time,
            groups: vec![group.into_bytes()],
        };
        self.machine.apply(&batch).unwrap().frames.unwrap()
    }
}
