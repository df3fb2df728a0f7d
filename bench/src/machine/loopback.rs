//! TCP through the loopback device.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const WRITE_BYTES: usize = 256 * 1024;
const MESSAGE_BYTES: usize = 300;

fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Bytes a second through one stream.
pub fn stream(duration: Duration) -> Result<f64> {
    let (mut near, mut far) = pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let data = vec![b'x'; WRITE_BYTES];
            let from = Instant::now();
            // Ends by itself when the reader has gone.
            while from.elapsed() < duration && near.write_all(&data).is_ok() {}
        });
        let mut buffer = vec![0; WRITE_BYTES];
        let from = Instant::now();
        let mut bytes = 0;
        loop {
            match far.read(&mut buffer).context("read from the loopback")? {
                0 => return Ok(bytes as f64 / from.elapsed().as_secs_f64()),
                read => bytes += read,
            }
        }
    })
}

/// The median round trip of a small message, in microseconds.
pub fn round_trip(duration: Duration) -> Result<f64> {
    let (mut near, mut far) = pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut message = [0; MESSAGE_BYTES];
            while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
        });
        let mut message = [b'x'; MESSAGE_BYTES];
        let mut times = Vec::new();
        let from = Instant::now();
        while from.elapsed() < duration {
            let sent = Instant::now();
            near.write_all(&message)?;
            near.read_exact(&mut message)?;
            times.push(sent.elapsed().as_nanos() as u64);
        }
        drop(near);
        times.sort_unstable();
        let middle = times.get(times.len() / 2).context("no round trip ended")?;
        Ok(*middle as f64 / 1e3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_give_a_number() {
        assert!(stream(Duration::from_millis(30)).unwrap() > 0.0);
        assert!(round_trip(Duration::from_millis(30)).unwrap() > 0.0);
    }
}
