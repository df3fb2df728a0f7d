use http::HeaderMap;
use tidings_timeline::SenderNumber;
use ulid::{ULID_LEN, Ulid};

use crate::error::ApiError;

/// Bears who sends, the epoch of its count, and the number of the request's first transaction.
pub(crate) const SENDER_HEADER: &str = "x-tidings-sender";

/// Reads `X-Tidings-Sender: ID EPOCH FIRST`.
///
/// # Errors
/// 400 when it is there and is not that.
pub(crate) fn sender_of(headers: &HeaderMap) -> Result<Option<SenderNumber>, ApiError> {
    let Some(value) = headers.get(SENDER_HEADER) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(parse);
    parsed.map(Some).ok_or_else(|| {
        ApiError::bad_request(
            "sender_invalid",
            "X-Tidings-Sender is not ID EPOCH FIRST: give a ULID, the microseconds since 1970 at which the epoch began, and the number of the first transaction, from 1 on",
        )
    })
}

fn parse(text: &str) -> Option<SenderNumber> {
    let mut parts = text.split(' ');
    let (id, epoch, first) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || id.len() != ULID_LEN {
        return None;
    }
    let sender = SenderNumber {
        sender: Ulid::from_string(id).ok()?.0,
        epoch: epoch.parse().ok()?,
        number: first.parse().ok()?,
    };
    (sender.number > 0).then_some(sender)
}

/// The number of the next transaction.
pub(crate) fn next(of: SenderNumber) -> SenderNumber {
    SenderNumber {
        // At the end of all numbers the last one comes again, and is a duplicate.
        number: of.number.saturating_add(1),
        ..of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_three_words() {
        let headers = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(SENDER_HEADER, text.parse().unwrap());
            headers
        };
        let given = sender_of(&headers("00000000000000000000000007 3 1")).unwrap();
        let expected = SenderNumber {
            sender: 7,
            epoch: 3,
            number: 1,
        };
        assert_eq!(given, Some(expected));
        assert_eq!(next(expected).number, 2);
        assert_eq!(sender_of(&HeaderMap::new()).unwrap(), None);
        for wrong in [
            "",
            "00000000000000000000000007",
            "00000000000000000000000007 3",
            "00000000000000000000000007 3 0",
            "00000000000000000000000007 3 -1",
            "00000000000000000000000007 3 1 1",
            "0000000000000000000000000U 3 1",
            "7 3 1",
            "00000000000000000000000007 3 99999999999999999999",
        ] {
            let error = sender_of(&headers(wrong)).unwrap_err();
            assert_eq!(error.code, "sender_invalid", "{wrong}");
        }
    }
}
