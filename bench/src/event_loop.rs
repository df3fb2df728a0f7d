//! One thread, one epoll, thousands of connections: the load generator.
//!
//! A generator that costs as much as the server would measure itself. So
//! there are no tasks and no queues: bytes are read into one shared buffer,
//! decoded in place, and what is to be sent is written at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::protocol::ProtocolError;

/// One read takes at most so much; large enough to amortise the call, small
/// enough to stay in the cache.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Connections looked at per wait.
const READY_MAX: usize = 1_024;
/// How long one connection may take to be accepted.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const TIMER_TOKEN: u64 = u64::MAX;

/// Decodes what arrives.
pub trait Handler {
    /// `data` begins where the last call stopped using bytes; returns how
    /// many bytes were used. What has to be answered goes into `out`.
    ///
    /// # Errors
    ///
    /// The connection cannot go on.
    fn receive(
        &mut self,
        token: usize,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, ProtocolError>;
}

struct Link {
    socket: TcpStream,
    /// Received bytes that were not whole enough to be used.
    rest: Vec<u8>,
    unsent: Vec<u8>,
    unsent_from: usize,
    waits_to_write: bool,
}

impl Link {
    /// Writes until nothing is left (`true`) or the socket is full.
    fn write(&mut self) -> std::io::Result<bool> {
        while self.unsent_from < self.unsent.len() {
            match self.socket.write(&self.unsent[self.unsent_from..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.unsent_from += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.unsent.clear();
        self.unsent_from = 0;
        Ok(true)
    }
}

/// The connections and the epoll that watches them.
pub struct EventLoop {
    epoll: OwnedFd,
    links: Vec<Link>,
    ready: Vec<epoll::Event>,
    buffer: Vec<u8>,
    timer: Option<OwnedFd>,
}

impl EventLoop {
    /// Without connections.
    pub fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("create an epoll")?,
            links: Vec::new(),
            ready: Vec::with_capacity(READY_MAX),
            buffer: vec![0; READ_BYTES_MAX],
            timer: None,
        })
    }

    /// Connects; the tokens count up from 0.
    pub fn connect(&mut self, address: SocketAddr) -> Result<usize> {
        let token = self.links.len();
        let socket = TcpStream::connect_timeout(&address, CONNECT_LIMIT)
            .with_context(|| format!("connection {token} to {address}"))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(token as u64),
            epoll::EventFlags::IN,
        )?;
        self.links.push(Link {
            socket,
            rest: Vec::new(),
            unsent: Vec::new(),
            unsent_from: 0,
            waits_to_write: false,
        });
        Ok(token)
    }

    /// From now on `turn` returns at least every `period` and counts how many
    /// periods have passed.
    pub fn tick_every(&mut self, period: Duration) -> Result<()> {
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let period = Timespec {
            tv_sec: period.as_secs() as i64,
            tv_nsec: i64::from(period.subsec_nanos()),
        };
        timerfd_settime(
            &timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec {
                it_interval: period,
                it_value: period,
            },
        )?;
        epoll::add(
            &self.epoll,
            &timer,
            epoll::EventData::new_u64(TIMER_TOKEN),
            epoll::EventFlags::IN,
        )?;
        self.timer = Some(timer);
        Ok(())
    }

    /// What will be sent to this connection; `flush` sends it.
    pub fn out(&mut self, token: usize) -> &mut Vec<u8> {
        &mut self.links[token].unsent
    }

    /// Sends what `out` holds, now or when the socket has room.
    pub fn flush(&mut self, token: usize) -> Result<()> {
        let link = &mut self.links[token];
        if link.unsent.is_empty() {
            return Ok(());
        }
        let done = link
            .write()
            .with_context(|| format!("write to connection {token}"))?;
        if done == link.waits_to_write {
            link.waits_to_write = !done;
            let mut flags = epoll::EventFlags::IN;
            if !done {
                flags |= epoll::EventFlags::OUT;
            }
            epoll::modify(
                &self.epoll,
                &link.socket,
                epoll::EventData::new_u64(token as u64),
                flags,
            )?;
        }
        Ok(())
    }

    /// Waits for at most `limit`, handles all that is ready once, and returns
    /// how many timer periods have passed.
    ///
    /// # Errors
    ///
    /// A server closed a connection, or `handler` failed.
    pub fn turn(&mut self, limit: Duration, handler: &mut impl Handler) -> Result<u64> {
        let timeout = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        self.ready.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.ready),
            Some(&timeout),
        ) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(0),
            Err(error) => return Err(error).context("wait for the servers"),
        }
        let mut ticks = 0;
        for at in 0..self.ready.len() {
            let event = self.ready[at];
            let token = event.data.u64();
            if token == TIMER_TOKEN {
                ticks += self.read_timer()?;
                continue;
            }
            let token = token as usize;
            // A copy: the kernel's structure is packed.
            let flags = event.flags;
            if flags
                .intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
            {
                self.read(token, handler)?;
            }
            self.flush(token)?;
        }
        Ok(ticks)
    }

    fn read_timer(&self) -> Result<u64> {
        let Some(timer) = &self.timer else {
            return Ok(0);
        };
        let mut count = [0; 8];
        match rustix::io::read(timer, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(error) => Err(error).context("read the timer"),
        }
    }

    fn read(&mut self, token: usize, handler: &mut impl Handler) -> Result<()> {
        let link = &mut self.links[token];
        let kept = link.rest.len();
        if self.buffer.len() < kept + READ_BYTES_MAX {
            self.buffer.resize(kept + READ_BYTES_MAX, 0);
        }
        self.buffer[..kept].copy_from_slice(&link.rest);
        let read = match link
            .socket
            .read(&mut self.buffer[kept..kept + READ_BYTES_MAX])
        {
            Ok(0) => bail!("the server closed connection {token}"),
            Ok(read) => read,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("read from connection {token}"));
            }
        };
        let data = &self.buffer[..kept + read];
        let used = handler
            .receive(token, data, &mut link.unsent)
            .with_context(|| format!("connection {token}"))?;
        link.rest.clear();
        link.rest.extend_from_slice(&data[used..]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Uses bytes four at a time and answers each four with one.
    struct Fours(Vec<u8>);

    impl Handler for Fours {
        fn receive(
            &mut self,
            _token: usize,
            data: &[u8],
            out: &mut Vec<u8>,
        ) -> Result<usize, ProtocolError> {
            let used = data.len() / 4 * 4;
            self.0.extend_from_slice(&data[..used]);
            out.extend(std::iter::repeat_n(b'!', used / 4));
            Ok(used)
        }
    }

    #[test]
    fn unused_bytes_come_again_and_answers_are_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut events = EventLoop::new().unwrap();
        let token = events.connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let mut handler = Fours(Vec::new());
        peer.write_all(b"abcdef").unwrap();
        while handler.0.len() < 4 {
            events.turn(Duration::from_secs(1), &mut handler).unwrap();
        }
        peer.write_all(b"gh").unwrap();
        while handler.0.len() < 8 {
            events.turn(Duration::from_secs(1), &mut handler).unwrap();
        }
        events.out(token).extend_from_slice(b"?");
        events.flush(token).unwrap();
        let mut answer = [0; 3];
        peer.read_exact(&mut answer).unwrap();
        assert_eq!((&handler.0[..], &answer), (&b"abcdefgh"[..], b"!!?"));
    }

    #[test]
    fn a_closed_connection_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut events = EventLoop::new().unwrap();
        events.connect(listener.local_addr().unwrap()).unwrap();
        drop(listener.accept().unwrap());
        let error = events
            .turn(Duration::from_secs(1), &mut Fours(Vec::new()))
            .unwrap_err();
        assert!(error.to_string().contains("closed connection 0"));
    }
}
