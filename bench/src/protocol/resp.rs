//! Redis' protocol: commands, single replies, and the reply of `XREAD`.

use std::io::Write;

use super::{ProtocolError, decimal};

/// Appends a command of these arguments.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    put_header(out, b'*', arguments.len());
    for argument in arguments {
        put_header(out, b'$', argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

fn put_header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    write!(out, "{number}\r\n").expect("a Vec takes all that is written");
}

/// One element of a reply.
#[derive(Debug, PartialEq, Eq)]
pub enum Resp<'a> {
    /// `$`: bytes.
    Bulk(&'a [u8]),
    /// `*`: so many elements follow.
    Array(usize),
    /// `+` or `:`: a short answer.
    Simple(&'a [u8]),
    /// `$-1` or `*-1`.
    Null,
}

/// The element at the start of `data` and its length; `None` when incomplete.
///
/// # Errors
///
/// An error reply (`-`), or bytes that are no element.
#[inline]
pub fn read_element(data: &[u8]) -> Result<Option<(Resp<'_>, usize)>, ProtocolError> {
    let Some(end) = memchr::memchr(b'\n', data) else {
        return Ok(None);
    };
    let bad = || ProtocolError::unexpected("a RESP element", data);
    let line = data[..end].strip_suffix(b"\r").ok_or_else(bad)?;
    let (kind, rest) = line.split_first().ok_or_else(bad)?;
    let after = end + 1;
    match kind {
        b'$' | b'*' if rest == b"-1" => Ok(Some((Resp::Null, after))),
        b'$' => {
            let bytes = decimal(rest).ok_or_else(bad)? as usize;
            if data.len() < after + bytes + 2 {
                return Ok(None);
            }
            Ok(Some((
                Resp::Bulk(&data[after..after + bytes]),
                after + bytes + 2,
            )))
        }
        b'*' => Ok(Some((
            Resp::Array(decimal(rest).ok_or_else(bad)? as usize),
            after,
        ))),
        b'+' | b':' => Ok(Some((Resp::Simple(rest), after))),
        b'-' => Err(ProtocolError::refused(rest)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        let mut out = Vec::new();
        command(&mut out, &[b"XADD", b"s"]);
        assert_eq!(out, b"*2\r\n$4\r\nXADD\r\n$1\r\ns\r\n");
    }

    #[test]
    fn elements_are_read_when_whole() {
        let data = b"$5\r\nhello\r\n*2\r\n:7\r\n$-1\r\n";
        assert_eq!(
            read_element(data).unwrap(),
            Some((Resp::Bulk(b"hello"), 11))
        );
        for cut in 0..11 {
            assert_eq!(read_element(&data[..cut]).unwrap(), None);
        }
        assert_eq!(
            read_element(&data[11..]).unwrap(),
            Some((Resp::Array(2), 4))
        );
        assert_eq!(
            read_element(&data[15..]).unwrap(),
            Some((Resp::Simple(b"7"), 4))
        );
        assert_eq!(read_element(&data[19..]).unwrap(), Some((Resp::Null, 5)));
    }

    #[test]
    fn an_error_reply_is_an_error() {
        let error = read_element(b"-OOM too much\r\n").unwrap_err();
        assert_eq!(error.to_string(), "the server refused: OOM too much");
    }
}
