//! What servers say to each other, byte by byte.

use tokio::{io::AsyncReadExt, net::TcpStream};

/// The greeting of a stranger: versions 1 to 1, no timeline, server 5 without name and address, fresh,
/// expects nobody.
pub const STRANGER: [u8; 11] = [1, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0];

/// The same of one that speaks version 2, and says nothing more of itself.
pub const STRANGER_OF_VERSION_2: [u8; 18] = [1, 2, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// The body of the next message.
pub async fn read_one(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await.unwrap();
    let bytes = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let mut body = vec![0; bytes as usize];
    stream.read_exact(&mut body).await.unwrap();
    body
}

/// A message.
pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = b"td\x01".to_vec();
    frame.push(kind);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}
