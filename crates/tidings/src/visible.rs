//! Text of others, made harmless for a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text with everything escaped that would act on a terminal instead of being shown: control
/// characters (escape sequences, line ends), and characters that reorder or hide text.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            character if acts(character) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
            }
            character => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            // Zero-width and direction marks, embeddings and isolates, separators, the byte order
            // mark, and the tag block (Unicode category Cf, as far as it changes what is seen).
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_act_is_shown() {
        assert_eq!(visible("plain Zürich 東京"), "plain Zürich 東京");
        assert_eq!(visible("a\u{1b}]0;title\u{7}b"), "a\\u{1b}]0;title\\u{7}b");
        assert_eq!(
            visible("one\r\ntwo\tthree\u{9b}31m"),
            "one\\r\\ntwo\\tthree\\u{9b}31m"
        );
        assert_eq!(visible("user\u{202e}txt.exe"), "user\\u{202e}txt.exe");
    }
}
