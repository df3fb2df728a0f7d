//! gRPC's framing of messages inside an HTTP/2 stream.

use super::ProtocolError;

/// One byte "compressed", four bytes length.
const PREFIX_BYTES: usize = 5;

/// Joins messages that come in several DATA frames.
#[derive(Default)]
pub struct GrpcMessages {
    partial: Vec<u8>,
}

impl GrpcMessages {
    /// Appends one message with its prefix.
    pub fn put(out: &mut Vec<u8>, message: &[u8]) {
        out.push(0);
        out.extend_from_slice(&(message.len() as u32).to_be_bytes());
        out.extend_from_slice(message);
    }

    /// Calls `each` for every message that ends in `data`.
    ///
    /// # Errors
    ///
    /// Those of `each`, and a compressed message, which nobody asked for.
    pub fn receive(
        &mut self,
        data: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        if self.partial.is_empty() {
            let used = Self::whole(data, &mut each)?;
            self.partial.extend_from_slice(&data[used..]);
        } else {
            self.partial.extend_from_slice(data);
            let used = Self::whole(&self.partial, &mut each)?;
            self.partial.drain(..used);
        }
        Ok(())
    }

    fn whole(
        data: &[u8],
        each: &mut impl FnMut(&[u8]) -> Result<(), ProtocolError>,
    ) -> Result<usize, ProtocolError> {
        let mut at = 0;
        while let Some(prefix) = data.get(at..at + PREFIX_BYTES) {
            if prefix[0] != 0 {
                return Err(ProtocolError::unexpected("a plain message", prefix));
            }
            let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            let Some(message) = data.get(at + PREFIX_BYTES..at + PREFIX_BYTES + length) else {
                break;
            };
            each(message)?;
            at += PREFIX_BYTES + length;
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_joined_however_the_frames_fall() {
        let mut stream = Vec::new();
        GrpcMessages::put(&mut stream, b"first");
        GrpcMessages::put(&mut stream, b"");
        GrpcMessages::put(&mut stream, b"the third one");
        for step in 1..stream.len() {
            let mut messages = GrpcMessages::default();
            let mut found = Vec::new();
            for data in stream.chunks(step) {
                messages
                    .receive(data, |message| {
                        found.push(message.to_vec());
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(
                found,
                vec![b"first".to_vec(), Vec::new(), b"the third one".to_vec()]
            );
        }
    }
}
