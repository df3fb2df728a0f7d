//! Buffers for reading that are used again.
//!
//! A fresh buffer costs a page fault for every 4 KiB and a pass of zeroing; replaying from the page
//! cache spends a third of its time there. Buffers come back when the last reader of their bytes
//! is done.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

/// Sizes of buffers that are kept. What is read is at least a quarter of its buffer, so that a
/// slow reader does not hold on to much more than it reads. A follower's ordinary read, and the line
/// by which it may be longer, fit into half a MiB.
const CLASS_BYTES: [usize; 4] = [64 * 1024, 256 * 1024, 512 * 1024, 1024 * 1024];
/// Smaller reads get a buffer of their own size.
const POOLED_BYTES_MIN: usize = 16 * 1024;
/// Buffers kept for each size: at most 29 MiB in all.
const KEPT_MAX: usize = 16;

type Free = Arc<[Mutex<Vec<Vec<u8>>>; CLASS_BYTES.len()]>;

/// The buffers that nobody uses.
#[derive(Debug, Default)]
pub(crate) struct BufferPool {
    free: Free,
}

/// Bytes in a buffer that goes back to its pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Longer than `bytes`, all of it initialised.
    memory: Vec<u8>,
    bytes: usize,
    home: Option<(Free, usize)>,
}

impl BufferPool {
    /// A buffer of this size; its content is arbitrary.
    pub(crate) fn take(&self, bytes: usize) -> Buffer {
        let class = CLASS_BYTES.iter().position(|&class| bytes <= class);
        match class {
            Some(class) if bytes > POOLED_BYTES_MIN => {
                let memory = self.free[class].lock().pop();
                Buffer {
                    memory: memory.unwrap_or_else(|| vec![0; CLASS_BYTES[class]]),
                    bytes,
                    home: Some((Arc::clone(&self.free), class)),
                }
            }
            _ => Buffer {
                memory: vec![0; bytes],
                bytes,
                home: None,
            },
        }
    }
}

impl Buffer {
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }

    /// The bytes, shared; the buffer goes back when the last of them is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((free, class)) = self.home.take() {
            let mut kept = free[class].lock();
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_bytes_are_dropped() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(100_000);
        buffer.as_mut().fill(7);
        let bytes = buffer.into_bytes();
        let part = bytes.slice(5..10);
        drop(bytes);
        assert_eq!(pool.free[1].lock().len(), 0);
        assert_eq!(part, [7; 5][..]);
        drop(part);
        assert_eq!(pool.free[1].lock().len(), 1);
        assert_eq!(pool.take(70_000).as_ref().len(), 70_000);
        assert_eq!(pool.take(10).into_bytes().len(), 10);
    }
}
