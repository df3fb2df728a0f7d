use std::fmt::Write;
use std::time::Duration;

/// Reads an integer as Go's `strconv.Atoi` on a 64-bit machine.
///
/// # Errors
/// The text of Go's own error, which clients of Nomad see.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "strconv.Atoi: parsing {}: invalid syntax",
            quoted(text)
        ));
    }
    text.parse()
        .map_err(|_| format!("strconv.Atoi: parsing {}: value out of range", quoted(text)))
}

/// A text in quotes, as Go's `strconv.Quote` writes it.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if c < ' ' || c == '\x7f' => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Reads a duration as Go's `time.ParseDuration`: `5m`, `1h30m`, `1000ms`, `1.5s`, `0`.
///
/// Negative ones become zero; ones that do not fit become the greatest.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0_f64;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        if !digits.bytes().any(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += digits.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    if negative {
        return Some(Duration::ZERO);
    }
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_their_errors_are_those_of_go() {
        assert_eq!(parse_int("42"), Ok(42));
        assert_eq!(parse_int("-1"), Ok(-1));
        assert_eq!(parse_int("+7"), Ok(7));
        assert_eq!(parse_int("9223372036854775807"), Ok(i64::MAX));
        for (text, error) in [
            ("abc", "strconv.Atoi: parsing \"abc\": invalid syntax"),
            ("", "strconv.Atoi: parsing \"\": invalid syntax"),
            ("-", "strconv.Atoi: parsing \"-\": invalid syntax"),
            ("1.5", "strconv.Atoi: parsing \"1.5\": invalid syntax"),
            (
                "a\"\n\u{1}",
                "strconv.Atoi: parsing \"a\\\"\\n\\x01\": invalid syntax",
            ),
            (
                "9223372036854775808",
                "strconv.Atoi: parsing \"9223372036854775808\": value out of range",
            ),
        ] {
            assert_eq!(parse_int(text), Err(String::from(error)));
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("5m", Some(Duration::from_secs(300))),
            ("10s", Some(Duration::from_secs(10))),
            ("1000ms", Some(Duration::from_secs(1))),
            ("1h1m1s", Some(Duration::from_secs(3661))),
            ("1.5s", Some(Duration::from_millis(1500))),
            (".5s", Some(Duration::from_millis(500))),
            ("250us", Some(Duration::from_micros(250))),
            ("0", Some(Duration::ZERO)),
            ("-5s", Some(Duration::ZERO)),
            ("", None),
            ("5", None),
            ("s", None),
            (".s", None),
            ("5x", None),
            ("5s5", None),
            ("1..5s", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text}");
        }
    }
}
