use std::time::Duration;

use tidings_event::{Index, Timestamp};
use tidings_timeline::RetentionSettings;

/// A segment of the history, as far as retention looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub first: Index,
    pub last: Index,
    pub bytes: u64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
    pub sealed: bool,
}

/// How much history is kept at least; `None` is without limit. What any limit lets go may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Frames younger than this are kept.
    pub age: Option<Duration>,
    /// The newest frames that make up this many bytes are kept.
    pub bytes: Option<u64>,
    /// The newest so many frames are kept.
    pub frames: Option<u64>,
}

impl From<&RetentionSettings> for Keep {
    fn from(settings: &RetentionSettings) -> Keep {
        let limit = |number: u64| (number > 0).then_some(number);
        Keep {
            age: limit(settings.age_s).map(Duration::from_secs),
            bytes: limit(settings.bytes),
            frames: limit(settings.frames),
        }
    }
}

/// What the leader should propose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Close the segment that is written to, so that it can go once it is old.
    pub seal: bool,
    /// Let go of everything before this frame.
    pub oldest: Option<Index>,
}

/// What to let go of: whole sealed segments, from the oldest on, while what remains still holds as
/// much as any of the limits asks for.
///
/// While space is `short`, nothing can be added that would make up for a segment that goes: then
/// segments go as long as there is more than a limit asks for, and the newest is closed when it is
/// more by itself.
pub(crate) fn plan(segments: &[Extent], keep: Keep, now: Timestamp, short: bool) -> Plan {
    let too_old = |time: Timestamp| {
        keep.age.is_some_and(|age| {
            let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            time.as_unix_micros() < now.as_unix_micros().saturating_sub(age)
        })
    };
    let frames_of = |segment: &Extent| segment.last.get() + 1 - segment.first.get();
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut frames: u64 = segments.iter().map(frames_of).sum();
    let mut oldest = None;
    for segment in segments.iter().take_while(|segment| segment.sealed) {
        let large = keep
            .bytes
            .is_some_and(|least| bytes - segment.bytes >= least || short && bytes > least);
        let many = keep
            .frames
            .is_some_and(|least| frames - frames_of(segment) >= least || short && frames > least);
        if !(large || many || too_old(segment.last_time)) {
            break;
        }
        bytes -= segment.bytes;
        frames -= frames_of(segment);
        oldest = Some(segment.last.next());
    }
    let too_much = short
        && (keep.bytes.is_some_and(|least| bytes > least)
            || keep.frames.is_some_and(|least| frames > least));
    let seal = segments.last().is_some_and(|active| {
        !active.sealed && frames_of(active) > 0 && (too_old(active.first_time) || too_much)
    });
    Plan { seal, oldest }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    /// Three segments of ten frames and 100 bytes, written from second 0, 10 and 20 on.
    fn segments() -> Vec<Extent> {
        (0..3)
            .map(|n| Extent {
                first: Index(n * 10 + 1),
                last: Index(n * 10 + 10),
                bytes: 100,
                first_time: Timestamp::from_unix_micros(n as i64 * 10 * SECOND),
                last_time: Timestamp::from_unix_micros((n as i64 * 10 + 9) * SECOND),
                sealed: n < 2,
            })
            .collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros(second * SECOND)
    }

    #[test]
    fn without_limits_everything_stays() {
        assert_eq!(
            plan(&segments(), Keep::default(), at(1_000_000), false),
            Plan::default()
        );
        assert_eq!(
            plan(
                &[],
                Keep {
                    bytes: Some(0),
                    ..Keep::default()
                },
                at(0),
                false
            ),
            Plan::default()
        );
    }

    #[test]
    fn age_counts_from_the_last_frame_of_a_segment() {
        let keep = Keep {
            age: Some(Duration::from_secs(20)),
            ..Keep::default()
        };
        assert_eq!(plan(&segments(), keep, at(29), false).oldest, None);
        assert_eq!(
            plan(&segments(), keep, at(30), false).oldest,
            Some(Index(11))
        );
        assert_eq!(
            plan(&segments(), keep, at(40), false),
            Plan {
                seal: false,
                oldest: Some(Index(21))
            }
        );
        assert_eq!(
            plan(&segments(), keep, at(41), false),
            Plan {
                seal: true,
                oldest: Some(Index(21))
            }
        );
    }

    #[test]
    fn bytes_and_frames_are_kept_at_least() {
        let bytes = |least| Keep {
            bytes: Some(least),
            ..Keep::default()
        };
        assert_eq!(plan(&segments(), bytes(201), at(30), false).oldest, None);
        assert_eq!(
            plan(&segments(), bytes(200), at(30), false).oldest,
            Some(Index(11))
        );
        assert_eq!(
            plan(&segments(), bytes(100), at(30), false).oldest,
            Some(Index(21))
        );
        assert_eq!(
            plan(&segments(), bytes(1), at(30), false).oldest,
            Some(Index(21))
        );

        let frames = |least| Keep {
            frames: Some(least),
            ..Keep::default()
        };
        assert_eq!(plan(&segments(), frames(21), at(30), false).oldest, None);
        assert_eq!(
            plan(&segments(), frames(20), at(30), false).oldest,
            Some(Index(11))
        );
        assert_eq!(
            plan(&segments(), frames(1), at(30), false).oldest,
            Some(Index(21))
        );
    }

    #[test]
    fn a_clock_that_stands_wrong_cuts_nothing_off() {
        let keep = Keep {
            age: Some(Duration::from_secs(20)),
            ..Keep::default()
        };
        assert_eq!(
            plan(&segments(), keep, Timestamp::MIN, false),
            Plan::default()
        );
        let forever = Keep {
            age: Some(Duration::MAX),
            ..Keep::default()
        };
        assert_eq!(
            plan(&segments(), forever, Timestamp::MAX, false),
            Plan::default()
        );
    }

    #[test]
    fn while_space_is_short_a_limit_is_a_bound() {
        let frames = |least| Keep {
            frames: Some(least),
            ..Keep::default()
        };
        let short = |least| plan(&segments(), frames(least), at(30), true);
        assert_eq!(short(30), Plan::default());
        let first = Plan {
            seal: false,
            oldest: Some(Index(11)),
        };
        assert_eq!(short(29), first);
        assert_eq!(short(20), first);
        // The newest alone is more than is asked for.
        let all = Plan {
            seal: true,
            oldest: Some(Index(21)),
        };
        assert_eq!(short(9), all);
        let bytes = Keep {
            bytes: Some(99),
            ..Keep::default()
        };
        assert_eq!(plan(&segments(), bytes, at(30), true), all);
        assert_eq!(
            plan(&segments(), Keep::default(), at(30), true),
            Plan::default()
        );
    }
}
