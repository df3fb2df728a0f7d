//! How durations and sizes are spelled: one number, one unit.
//!
//! Durations: `250ms`, `30s`, `5m`, `12h`, `7d`. Sizes: `512B`, `64KiB`, `64MiB`, `2GiB`, `1TiB`.
//! What is printed is what can be read, in the largest unit that divides evenly.

use std::time::Duration;

/// Units of durations with their length in milliseconds, largest first.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("d", 24 * 3600 * 1000),
    ("h", 3600 * 1000),
    ("m", 60 * 1000),
    ("s", 1000),
    ("ms", 1),
];

/// Units of sizes in bytes, largest first.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Reads a duration; the error says what is wrong and what would be right.
pub(crate) fn read_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let right = "write a number and a unit, as \"250ms\", \"30s\", \"5m\", \"12h\" or \"7d\"";
    let Some((_, millis)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() && !number.is_empty() {
            format!("\"{text}\" has no unit: {right}")
        } else {
            format!("\"{text}\" is not a duration: {right}")
        });
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is not a duration: {right}"))?;
    number
        .checked_mul(*millis)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("\"{text}\" is longer than can be counted"))
}

/// Reads a size in bytes; the error says what is wrong and what would be right.
pub(crate) fn read_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let right =
        "write bytes as a number, or a number and a unit, as \"64KiB\", \"64MiB\" or \"2GiB\"";
    let bytes = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, bytes)) => *bytes,
        None if unit.is_empty() && !number.is_empty() => 1,
        None => {
            // "MB" is read as 10^6 by some and 2^20 by others; neither is guessed.
            let near = SIZE_UNITS
                .iter()
                .find(|(name, _)| {
                    name.replace('i', "").eq_ignore_ascii_case(unit) && unit.len() > 1
                })
                .or_else(|| {
                    SIZE_UNITS.iter().find(|(name, _)| {
                        name.eq_ignore_ascii_case(unit)
                            || (unit.len() == 1 && name[..1].eq_ignore_ascii_case(unit))
                    })
                });
            return Err(match near {
                Some((name, _)) if !number.is_empty() => {
                    format!("\"{text}\" is not a size: write \"{number}{name}\"")
                }
                _ => format!("\"{text}\" is not a size: {right}"),
            });
        }
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("\"{text}\" is not a size: {right}"))?;
    number
        .checked_mul(bytes)
        .ok_or_else(|| format!("\"{text}\" is more than can be counted"))
}

/// A duration as [`read_duration`] reads it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    show(millis, DURATION_UNITS, "0s")
}

/// A size as [`read_size`] reads it.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, SIZE_UNITS, "0B")
}

fn show(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    if number == 0 {
        return zero.to_owned();
    }
    for (name, one) in units {
        if number.is_multiple_of(*one) {
            return format!("{}{name}", number / one);
        }
    }
    unreachable!("the last unit is 1")
}

/// Leading digits and the rest, blanks between them dropped.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_shown_alike() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("90s", 90_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
        ] {
            let read = read_duration(text).expect(text);
            assert_eq!(read, Duration::from_millis(millis));
            assert_eq!(show_duration(read), text);
        }
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(read_duration(" 30 s "), Ok(Duration::from_secs(30)));
    }

    #[test]
    fn sizes_are_read_and_shown_alike() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("64MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(read_size(text), Ok(bytes));
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(read_size("4096"), Ok(4096));
        assert_eq!(show_size(4097), "4097B");
    }

    #[test]
    fn wrong_spellings_say_what_would_be_right() {
        let says = |result: Result<u64, String>| result.expect_err("refused");
        assert_eq!(
            says(read_size("64MB")),
            "\"64MB\" is not a size: write \"64MiB\""
        );
        assert_eq!(
            says(read_size("64m")),
            "\"64m\" is not a size: write \"64MiB\""
        );
        assert!(says(read_size("many")).contains("write bytes as a number"));
        assert!(says(read_size("-1")).contains("is not a size"));
        assert!(says(read_size("99999999TiB")).contains("more than can be counted"));
        let says = |text| read_duration(text).expect_err("refused");
        assert!(says("30").starts_with("\"30\" has no unit: write"));
        assert!(says("30 parsecs").contains("is not a duration"));
        assert!(says("").contains("is not a duration"));
        assert!(says("1.5h").contains("is not a duration"));
        assert!(says("999999999999999999d").contains("longer than can be counted"));
    }
}
