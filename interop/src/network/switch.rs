//! An Ethernet switch in this process: a thread for each port, and one for frames that wait.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::ioctl::{Setter, ioctl, opcode};

/// The longest frame: the hosts' cards take 9,000 bytes and a head.
const FRAME_BYTES_MAX: usize = 16 * 1024;
/// Frames that wait for their time; more are lost, as in any switch.
const WAITING_MAX: usize = 16 * 1024;
/// How soon a thread notices that the switch is to end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// Our cards' addresses: a locally administered number (IEEE 802), the last byte counts.
const MAC: [u8; 5] = [0x02, 0, 0, 0, 0x7d];

/// linux/if_tun.h
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// What one direction between two ports does to frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Link {
    /// Nothing passes.
    pub cut: bool,
    /// Every frame takes so long …
    pub delay: Duration,
    /// … and up to so much more or less, each for itself: frames may overtake each other.
    pub jitter: Duration,
    /// Of 1,000 frames so many are lost.
    pub lost_per_mille: u32,
}

/// One end of a TAP device: what the kernel sends comes out, what goes in it receives.
pub struct Port {
    tap: File,
    number: u8,
}

/// See the module.
pub struct Switch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    taps: Vec<File>,
    /// `links[from][to]`
    links: Mutex<Vec<Vec<Link>>>,
    waiting: Mutex<BinaryHeap<Reverse<Waiting>>>,
    arrived: Condvar,
    stops: AtomicBool,
    dropped: AtomicU64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Instant,
    to: usize,
    frame: Vec<u8>,
}

// === impl Port ===

impl Port {
    /// Makes `eth0` in the calling thread's network namespace.
    pub fn open(number: usize) -> Result<Self> {
        const DEVICE: &str = "/dev/net/tun";
        let tap = File::options()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| {
                format!(
                    "cannot open {DEVICE}, which this test needs to join its network namespaces: \
                     load the module tun, or give the container that device"
                )
            })?;
        let mut name = [0; 16];
        name[..4].copy_from_slice(b"eth0");
        let request = InterfaceRequest {
            name,
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        // SAFETY: TUNSETIFF reads a `struct ifreq`, which is what it gets, and the kernel keeps no
        // pointer to it.
        #[expect(unsafe_code, reason = "a TAP device is made by an ioctl")]
        let made = unsafe { ioctl(&tap, Setter::<TUNSETIFF, _>::new(request)) };
        made.context("cannot make a TAP device, which this test needs: run it as root")?;
        rustix::fs::fcntl_setfl(&tap, OFlags::NONBLOCK)?;
        Ok(Self {
            tap,
            number: u8::try_from(number)?,
        })
    }

    /// The address that the card has to have, for the switch to find it.
    pub fn mac_text(&self) -> String {
        let bytes = MAC.iter().chain([&self.number]);
        let bytes: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    }
}

// === impl Switch ===

impl Switch {
    /// Forwards between these ports from now on; the first one has the number 0, and so on.
    pub fn start(ports: Vec<Port>) -> Result<Self> {
        let count = ports.len();
        let shared = Arc::new(Shared {
            taps: ports.into_iter().map(|port| port.tap).collect(),
            links: Mutex::new(vec![vec![Link::default(); count]; count]),
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            stops: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        });
        let mut threads = Vec::new();
        for from in 0..count {
            let shared = shared.clone();
            threads.push(thread::spawn(move || shared.forward(from)));
        }
        threads.push(thread::spawn({
            let shared = shared.clone();
            move || shared.release()
        }));
        Ok(Self { shared, threads })
    }

    /// Changes what happens on the way from one port to another.
    pub fn change(&self, from: usize, to: usize, how: impl FnOnce(&mut Link)) {
        how(&mut lock(&self.shared.links)[from][to]);
    }

    /// Frames that were dropped.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Relaxed);
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Takes what one port sends, until the end.
    fn forward(&self, from: usize) {
        // Any seed would do: what is lost is random to those who talk.
        let mut chance = 0x9e37_79b9_7f4a_7c15 ^ (from as u64 + 1);
        let mut frame = vec![0; FRAME_BYTES_MAX];
        let mut tap = &self.taps[from];
        while !self.stops.load(Ordering::Relaxed) {
            match tap.read(&mut frame) {
                Ok(length) => self.pass(from, &frame[..length], &mut chance),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let mut ready = [PollFd::new(tap, PollFlags::IN)];
                    // Whatever it ends with, the next read tells.
                    let _ = poll(&mut ready, Some(&LOOK));
                }
                // The card is being set up, or its host goes down.
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn pass(&self, from: usize, frame: &[u8], chance: &mut u64) {
        let Some(target) = frame.get(..6) else {
            return;
        };
        // One of ours goes to its port; what is for all, or many, to all.
        let only = target
            .starts_with(&MAC)
            .then(|| usize::from(target[MAC.len()]));
        let others = (0..self.taps.len()).filter(|to| *to != from);
        for to in others.filter(|to| only.is_none_or(|only| only == *to)) {
            let link = lock(&self.links)[from][to];
            let lost = link.cut || next(chance) % 1_000 < u64::from(link.lost_per_mille);
            if lost {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            } else if link.delay.is_zero() && link.jitter.is_zero() {
                self.send(to, frame);
            } else {
                self.hold(link, to, frame, chance);
            }
        }
    }

    fn hold(&self, link: Link, to: usize, frame: &[u8], chance: &mut u64) {
        let swing = u64::try_from(2 * link.jitter.as_micros()).unwrap_or(u64::MAX);
        let more = Duration::from_micros(next(chance) % swing.saturating_add(1));
        let due = Instant::now() + (link.delay + more).saturating_sub(link.jitter);
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= WAITING_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push(Reverse(Waiting {
            due,
            to,
            frame: frame.to_vec(),
        }));
        self.arrived.notify_one();
    }

    /// Sends what has waited long enough, until the end.
    fn release(&self) {
        let mut waiting = lock(&self.waiting);
        while !self.stops.load(Ordering::Relaxed) {
            let now = Instant::now();
            let due = waiting.peek().map(|Reverse(first)| first.due);
            let wait = match due {
                Some(due) if due <= now => {
                    if let Some(Reverse(first)) = waiting.pop() {
                        self.send(first.to, &first.frame);
                    }
                    continue;
                }
                Some(due) => due - now,
                None => Duration::from_millis(50),
            };
            let woken = self.arrived.wait_timeout(waiting, wait);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn send(&self, to: usize, frame: &[u8]) {
        // A card that does not take it loses it, as any would.
        let _ = (&self.taps[to]).write(frame);
    }
}

/// The next of a row of numbers that look random (xorshift64).
fn next(chance: &mut u64) -> u64 {
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    *chance
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
