//! What all hosts of a simulation share: the clock, chance, and which disks there are.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
pub use tokio::time::Instant;
use ulid::Ulid;

use super::disk::Disk;
use super::net::Net;
use super::rng::Rng;

/// What the clocks show when a simulation begins: in the year 2027.
const BEGINNING: Duration = Duration::from_secs(1_800_000_000);
/// How long work takes for which an ordinary server has a thread that may wait, at most.
const WORK_MICROS_MAX: u64 = 1_500;

struct World {
    rng: Rng,
    begun: Instant,
    net: Arc<Net>,
    /// By the first part of their paths.
    disks: BTreeMap<String, Arc<Disk>>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| {
        work(
            world
                .as_mut()
                .expect("a simulation has begun on this thread"),
        )
    })
}

/// Begins a simulation on this thread, in a tokio runtime whose clock is paused.
pub fn begin(seed: u64) {
    let mut rng = Rng::new(seed);
    WORLD.set(Some(World {
        net: Net::new(rng.fork("net")),
        rng,
        begun: Instant::now(),
        disks: BTreeMap::new(),
    }));
}

/// Forgets the simulation of this thread, its disks too.
pub fn end() {
    WORLD.take();
}

/// How long the simulation has been going on.
#[must_use]
pub fn elapsed() -> Duration {
    with(|world| world.begun.elapsed())
}

/// What a right clock shows.
#[must_use]
pub fn since_epoch() -> Duration {
    BEGINNING + elapsed()
}

/// A sequence of its own for somebody.
#[must_use]
pub fn fork(name: &str) -> Rng {
    with(|world| world.rng.fork(name))
}

/// The network.
#[must_use]
pub fn net() -> Arc<Net> {
    with(|world| world.net.clone())
}

/// The next number of chance.
#[must_use]
pub fn random() -> u64 {
    with(|world| world.rng.number())
}

/// A name that nobody else gives: the time, and chance.
#[must_use]
pub fn ulid() -> Ulid {
    let chance = u128::from(random()) << 64 | u128::from(random());
    Ulid::from_parts(since_epoch().as_millis() as u64, chance)
}

/// The number of this process: all are alike.
#[must_use]
pub fn process_id() -> u32 {
    1
}

/// Does work that may wait: in a task, after a while.
pub fn spawn_blocking<F, T>(work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let pause = Duration::from_micros(with(|world| world.rng.within(0..WORK_MICROS_MAX)));
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        work()
    })
}

/// As [`spawn_blocking`]: there is one runtime.
pub fn spawn_blocking_on<F, T>(_: &Handle, work: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    spawn_blocking(work)
}

/// Runs a future that waits for the disk now and then.
pub fn spawn_blocking_future<F>(home: &Handle, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    home.spawn(future)
}

/// Does something after a while.
pub fn later(pause: Duration, work: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        work();
    });
}

/// Puts a disk where paths begin with `/name`.
pub fn mount(name: &str, disk: &Arc<Disk>) {
    with(|world| world.disks.insert(name.to_owned(), disk.clone()));
}

/// Takes a disk away; files of it that are open stay as they are.
pub fn unmount(name: &str) -> Option<Arc<Disk>> {
    with(|world| world.disks.remove(name))
}

/// The disk that a path lies on.
pub(super) fn disk_of(path: &Path) -> io::Result<Arc<Disk>> {
    let name = path.components().find_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    let disk = name.and_then(|name| with(|world| world.disks.get(name).cloned()));
    disk.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// How long the disk that a path lies on takes for a flush now.
#[must_use]
pub fn flush_pause(path: &Path) -> Duration {
    disk_of(path).map_or(Duration::ZERO, |disk| disk.flush_pause())
}

/// Waits as long as the disk that a path lies on takes for a flush now.
pub async fn flush_takes(path: &Path) {
    tokio::time::sleep(flush_pause(path)).await;
}
