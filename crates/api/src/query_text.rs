use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The parameters of a query string, decoded, in their order.
///
/// Read as Go reads them: `+` is a space, a name may come more than once, one without `=` has an
/// empty value.
#[derive(Debug, Default)]
pub(crate) struct QueryText<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> QueryText<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> QueryText<'a> {
        let pairs = query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name), decode(value))
            })
            .collect();
        QueryText { pairs }
    }

    /// The first value of `name`; none when it is absent or empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    /// The first value of `name`, which may be empty.
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter(move |(given, _)| given == name)
            .map(|(_, value)| &**value)
    }

    /// Whether `name` is set: bare, `true` or `1`.
    ///
    /// # Errors
    /// The value, when it is something else than that, `false` or `0`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, &str> {
        match self.first(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(other),
        }
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['+', '%']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_repeat_and_text_is_decoded() {
        let query = QueryText::parse(Some(
            "topic=Job%3Aa&topic=%2A&x&filter=a+%3D%3D+%22b%22&&index=",
        ));
        assert_eq!(query.all("topic").collect::<Vec<_>>(), ["Job:a", "*"]);
        assert_eq!(query.get("filter"), Some("a == \"b\""));
        assert_eq!(query.flag("x"), Ok(true));
        assert_eq!(query.flag("y"), Ok(false));
        assert_eq!(query.flag("filter"), Err("a == \"b\""));
        assert_eq!((query.get("index"), query.first("index")), (None, Some("")));
    }
}
