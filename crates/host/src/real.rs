//! The machine as it is.

use std::future::{Future, Ready, ready};
use std::path::Path;
pub use std::time::Instant;

pub use tokio::task::spawn_blocking;
use tokio::{runtime::Handle, task::JoinHandle};
use ulid::Ulid;

/// As [`spawn_blocking`], on a thread of another runtime than the caller's.
pub fn spawn_blocking_on<F, T>(home: &Handle, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    home.spawn_blocking(work)
}

/// Runs a future that waits for the disk now and then, on a thread that may; its tasks run at `home`.
pub fn spawn_blocking_future<F>(home: &Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let runtime = home.clone();
    home.spawn_blocking(move || runtime.block_on(future))
}

/// The while that a flush of a file at this path takes, where disks are simulated; here the flush
/// itself does.
pub fn flush_takes(_: &Path) -> Ready<()> {
    ready(())
}

/// A name that nobody else gives: the time, and chance.
#[must_use]
pub fn ulid() -> Ulid {
    Ulid::generate()
}

/// A number made of nothing but chance.
#[must_use]
pub fn random() -> u64 {
    // The lower half of a ULID is nothing but chance.
    Ulid::generate().0 as u64
}

/// The number of this process.
#[must_use]
pub fn process_id() -> u32 {
    std::process::id()
}
