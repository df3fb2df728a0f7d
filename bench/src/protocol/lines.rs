//! Cuts a body that comes in pieces into lines.

use super::ProtocolError;

/// Joins the line that a piece ended within with its continuation.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    last_bytes: usize,
}

impl Lines {
    /// Calls `each` for every line that ends in `piece`, with its newline.
    ///
    /// Lines of a stream mostly have the length of the line before them, so
    /// that length is tried before the newline is searched: a burst of equal
    /// lines is cut without reading all of its bytes. A wrong guess (two
    /// shorter lines in the place of one) is no line that `each` accepts,
    /// as it checks where the payload is and which sequence number it has.
    ///
    /// # Errors
    ///
    /// Those of `each`.
    pub fn cut(
        &mut self,
        piece: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        let mut at = 0;
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', piece) else {
                self.partial.extend_from_slice(piece);
                return Ok(());
            };
            at = end + 1;
            self.partial.extend_from_slice(&piece[..at]);
            self.last_bytes = self.partial.len();
            each(&self.partial)?;
            self.partial.clear();
        }
        loop {
            let rest = &piece[at..];
            let guess = self.last_bytes;
            let bytes = if guess > 0 && rest.get(guess - 1) == Some(&b'\n') {
                guess
            } else {
                match memchr::memchr(b'\n', rest) {
                    Some(end) => end + 1,
                    None => {
                        self.partial.extend_from_slice(rest);
                        return Ok(());
                    }
                }
            };
            self.last_bytes = bytes;
            each(&rest[..bytes])?;
            at += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_the_pieces_fall() {
        let text = b"one\ntwo\nthree\nfour\nfive\nsixteen\n";
        for step in 1..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in text.chunks(step) {
                lines
                    .cut(piece, |line| {
                        found.push(String::from_utf8_lossy(line).into_owned());
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(found.concat().as_bytes(), text, "in steps of {step} bytes");
            assert!(found.iter().all(|line| line.ends_with('\n')));
        }
    }
}
