//! `epoll` as the raft loop sleeps in it: peer sockets by a number each, and the doorbell.
//!
//! Sockets are level-triggered: what a round leaves unread wakes the next one at once, so that each round may take a bounded
//! share of a flood.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use crate::doorbell::Doorbell;

/// Number of the doorbell.
const BELL: u64 = u64::MAX;

/// Events taken at a time; the rest comes at once afterwards.
const EVENTS_MAX: usize = 64;

/// Which happenings of a socket wake the loop, beside its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    Readable,
    ReadableOrWritable,
}

impl Interest {
    fn flags(self) -> EventFlags {
        match self {
            Interest::Readable => EventFlags::IN | EventFlags::RDHUP,
            Interest::ReadableOrWritable => EventFlags::IN | EventFlags::RDHUP | EventFlags::OUT,
        }
    }
}

/// What happened to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) number: u64,
    /// It can be read, or has ended.
    pub(super) readable: bool,
    pub(super) writable: bool,
}

pub(super) struct Poller {
    epoll: OwnedFd,
    bell: Doorbell,
}

impl Poller {
    pub(super) fn new(bell: Doorbell) -> io::Result<Poller> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        // Edge-triggered: each ring is one event, and nobody needs to read the counter.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
        Ok(Poller { epoll, bell })
    }

    pub(super) fn add(&self, socket: &impl AsFd, number: u64) -> io::Result<()> {
        assert_ne!(number, BELL, "the number is the doorbell's");
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(number), Interest::Readable.flags())?)
    }

    pub(super) fn change(&self, socket: &impl AsFd, number: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(number), interest.flags())?)
    }

    /// Sleeps until something happens, the bell rings or the time is over; says what happened to sockets. A closed socket is
    /// never named again.
    pub(super) fn wait(&mut self, timeout: Duration, happened: &mut Vec<Happened>) {
        let timeout = if self.bell.may_sleep() { timeout } else { Duration::ZERO };
        let timeout = Timespec::try_from(timeout).expect("ticks are short");
        let mut room = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        let events: &[Event] = match epoll::wait(&self.epoll, &mut room[..], Some(&timeout)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &[],
            Err(error) => panic!("epoll of the raft loop: {error}"),
        };
        self.bell.awake();
        happened.extend(events.iter().filter(|event| event.data.u64() != BELL).map(|event| {
            let flags = event.flags;
            Happened {
                number: event.data.u64(),
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                writable: flags.contains(EventFlags::OUT),
            }
        }));
    }
}
