//! A network namespace that only this process knows.

use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::thread;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The calling thread's network namespace, as a file that stands for it.
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace: it is there as long as this value or a process in it.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes an empty one.
    ///
    /// # Errors
    /// When this process may not.
    pub fn new() -> Result<Self> {
        // On a thread of its own, which is the only one to move.
        on_a_thread(|| {
            // SAFETY: what `unshare` can break is a file table that threads share, and no other flag
            // than that of the network is given.
            #[expect(unsafe_code, reason = "std has no call for it")]
            let made = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            made.context(
                "cannot make a network namespace, which this test needs to part servers from each \
                 other: run it as root, outside of a sandbox that forbids it; the tests of \
                 `--test cluster` need none",
            )?;
            let file = File::open(OWN).context("cannot open a network namespace")?;
            Ok(Self { file })
        })?
    }

    /// Runs something in it, on a thread of its own; programs that it starts stay there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            move_to(&self.file)?;
            Ok(work())
        })?
    }

    /// Moves the calling thread into it, until the value that comes back ends.
    pub fn enter(&self) -> Result<Entered> {
        let home = File::open(OWN).context("cannot open a network namespace")?;
        move_to(&self.file)?;
        Ok(Entered {
            home,
            stays_on_its_thread: PhantomData,
        })
    }
}

/// The calling thread is in another namespace as long as this lives.
pub struct Entered {
    home: File,
    stays_on_its_thread: PhantomData<*const ()>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // It was there before, and nothing takes it away.
        let _ = move_to(&self.home);
    }
}

fn move_to(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot enter a network namespace")
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .map_err(|_| anyhow!("what was done in a network namespace panicked"))
}
