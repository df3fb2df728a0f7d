use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A moment in microseconds since 1970-01-01T00:00:00Z; written as RFC 3339 in UTC with six digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A time as it is written: ASCII.
pub type TimeText = [u8; Timestamp::TEXT_BYTES];

/// A text that is no RFC 3339 time, or a time that cannot be written with four-digit years.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an RFC 3339 time between the years 0 and 9999, such as 2026-11-22T07:45:47Z"
)]
pub struct TimestampError {
    /// What was given.
    pub text: String,
}

impl Timestamp {
    /// The start of the year 0.
    pub const MIN: Timestamp = Timestamp(-62_167_219_200_000_000);
    /// The end of the year 9999.
    pub const MAX: Timestamp = Timestamp(253_402_207_200_999_999);
    /// How many bytes the text takes.
    pub const TEXT_BYTES: usize = 27;

    /// The moment `micros` after the epoch; moments that have no four-digit year become the nearest
    /// that has.
    pub fn from_unix_micros(micros: i64) -> Timestamp {
        Timestamp(micros).clamp(Timestamp::MIN, Timestamp::MAX)
    }

    /// Microseconds since the epoch.
    pub const fn as_unix_micros(self) -> i64 {
        self.0
    }

    /// Milliseconds since the epoch; 0 for anything before it.
    pub fn as_unix_millis(self) -> u64 {
        u64::try_from(self.0 / 1_000).unwrap_or(0)
    }

    /// The text, without allocation: every event bears one.
    pub fn text(self) -> TimeText {
        let days = self.0.div_euclid(86_400_000_000);
        let mut rest = self.0.rem_euclid(86_400_000_000) as u64;
        let (year, month, day) = civil_from_days(days);
        let mut out = *b"0000-00-00T00:00:00.000000Z";
        put_digits(&mut out[0..4], year as u64);
        put_digits(&mut out[5..7], month);
        put_digits(&mut out[8..10], day);
        put_digits(&mut out[20..26], rest % 1_000_000);
        rest /= 1_000_000;
        put_digits(&mut out[17..19], rest % 60);
        rest /= 60;
        put_digits(&mut out[14..16], rest % 60);
        put_digits(&mut out[11..13], rest / 60);
        out
    }
}

/// Writes `value` right-aligned with leading zeros.
fn put_digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Day number since the epoch to (year, month, day) in the proleptic Gregorian calendar.
///
/// The year is counted from March, so that the leap day is its last; 400 years are 146,097 days.
fn civil_from_days(days: i64) -> (i64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month as u64, day as u64)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).expect("digits and separators are ASCII"))
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Timestamp, TimestampError> {
        let wrong = || TimestampError {
            text: text.chars().take(64).collect(),
        };
        let moment: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
        let micros = Timestamp(moment.as_microsecond());
        if micros < Timestamp::MIN || micros > Timestamp::MAX {
            return Err(wrong());
        }
        Ok(micros)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_has_six_digits_and_utc() {
        assert_eq!(
            Timestamp::from_unix_micros(0).to_string(),
            "1970-01-01T00:00:00.000000Z"
        );
        assert_eq!(
            Timestamp::from_unix_micros(1_795_333_547_123_456).to_string(),
            "2026-11-22T07:45:47.123456Z"
        );
        assert_eq!(Timestamp::MIN.to_string(), "0000-01-01T00:00:00.000000Z");
    }

    #[test]
    fn offsets_are_turned_into_utc() {
        let time: Timestamp = "2026-11-22T08:45:47.5+01:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-22T07:45:47.500000Z");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "yesterday", "2026-11-22", "2026-11-22T07:45:47"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_agrees_with_an_independent_calendar(micros in Timestamp::MIN.0..=Timestamp::MAX.0) {
            let ours = Timestamp::from_unix_micros(micros);
            let theirs = jiff::Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(ours.to_string(), format!("{theirs:.6}"));
            prop_assert_eq!(ours.to_string().parse::<Timestamp>().unwrap(), ours);
        }
    }
}
