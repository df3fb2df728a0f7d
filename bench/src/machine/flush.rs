//! Group commit: writers hand records to one flusher, which writes all that
//! wait and then makes them durable with one `fdatasync`.
//!
//! The file is filled with zeros before: a flush that changes the file's size
//! also commits the file system's journal.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const RECORD: [u8; 300] = [b'r'; 300];
const FILE_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Default)]
struct State {
    queue: Vec<u8>,
    enqueued: u64,
    durable: u64,
    ended: bool,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    queued: Condvar,
    flushed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records a second.
pub fn group_commit(
    folder: &Path,
    writers: usize,
    in_flight: usize,
    duration: Duration,
) -> Result<f64> {
    let path = folder.join("group-commit");
    let file = zero_filled(&path).with_context(|| format!("prepare {}", path.display()))?;
    let shared = Shared::default();
    let from = Instant::now();
    let records = std::thread::scope(|scope| {
        let flusher = scope.spawn(|| flush_until_ended(&shared, &file));
        for _ in 0..writers {
            scope.spawn(|| write_until_ended(&shared, in_flight));
        }
        while from.elapsed() < duration && !flusher.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let durable = shared.lock().durable;
        let rate = durable as f64 / from.elapsed().as_secs_f64();
        shared.lock().ended = true;
        shared.queued.notify_all();
        shared.flushed.notify_all();
        match flusher.join() {
            Ok(result) => result.map(|()| rate),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    fs::remove_file(&path)?;
    Ok(records?)
}

fn zero_filled(path: &Path) -> std::io::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)?;
    let zeros = vec![0; 1024 * 1024];
    for _ in 0..FILE_BYTES / zeros.len() as u64 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn flush_until_ended(shared: &Shared, file: &File) -> std::io::Result<()> {
    let mut batch = Vec::new();
    let mut at = 0;
    loop {
        let upto = {
            let mut state = shared.lock();
            while state.queue.is_empty() && !state.ended {
                state = shared
                    .queued
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return Ok(());
            }
            batch.clear();
            std::mem::swap(&mut batch, &mut state.queue);
            state.enqueued
        };
        if at + batch.len() as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&batch, at)?;
        file.sync_data()?;
        at += batch.len() as u64;
        shared.lock().durable = upto;
        shared.flushed.notify_all();
    }
}

fn write_until_ended(shared: &Shared, in_flight: usize) {
    let mut mine = VecDeque::with_capacity(in_flight);
    let mut state = shared.lock();
    while !state.ended {
        while mine.front().is_some_and(|record| *record <= state.durable) {
            mine.pop_front();
        }
        if mine.len() == in_flight {
            state = shared
                .flushed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        while mine.len() < in_flight {
            state.queue.extend_from_slice(&RECORD);
            state.enqueued += 1;
            mine.push_back(state.enqueued);
        }
        shared.queued.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_durable_and_the_file_goes() {
        let folder = tempfile::tempdir().unwrap();
        let rate = group_commit(folder.path(), 2, 4, Duration::from_millis(50)).unwrap();
        assert!(rate > 0.0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
