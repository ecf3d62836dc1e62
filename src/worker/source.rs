//! A queue that a worker serves, as its thread sees it: what announces its work.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vmm_sys_util::eventfd::EventFd;

use super::load::LoadPort;
use super::snapshot::{QueueProgress, TxQueue};
use crate::sys::eventfd;
use crate::uplink::{Link, LinkQueue};
use crate::virtqueue::TxRing;

/// Where the frames of a queue come from.
pub enum Source {
    /// A guest's ring; without a kick it is looked at again and again.
    Ring {
        /// The ring.
        ring: Arc<TxRing>,
        /// What the guest kicks.
        kick: Option<Arc<EventFd>>,
        /// What stays with the ring from worker to worker.
        progress: Arc<QueueProgress>,
    },
    /// A queue of a device of the host.
    Link(Arc<Link>),
    /// A generator.
    Load(Arc<LoadPort>),
}

impl Source {
    /// A ring that a guest sends to.
    pub fn ring(queue: &TxQueue) -> Self {
        Self::Ring {
            ring: Arc::clone(&queue.ring),
            kick: queue.kick.clone(),
            progress: Arc::clone(&queue.progress),
        }
    }

    /// Whether there was ever anything in the ring, be it another worker that found it.
    pub fn was_found(&self) -> bool {
        match self {
            Self::Ring { progress, .. } => progress.found.load(Ordering::Relaxed),
            Self::Link(_) | Self::Load(_) => true,
        }
    }

    /// Notes that there was something in the ring.
    pub fn note_found(&self) {
        if let Self::Ring { progress, .. } = self {
            progress.found.store(true, Ordering::Relaxed);
        }
    }

    /// The descriptor that becomes readable when there is something to do.
    pub fn event(&self, index: usize) -> Option<RawFd> {
        match self {
            Self::Ring { kick, .. } => kick.as_ref().map(AsRawFd::as_raw_fd),
            Self::Link(link) => link.queues().get(index).map(AsRawFd::as_raw_fd),
            Self::Load(load) => load.event(),
        }
    }

    /// How often the guest has kicked. Nobody reads the counter, so it holds them all; a guess would do, too.
    pub fn kicks(&self) -> u64 {
        match self {
            Self::Ring {
                kick: Some(kick), ..
            } => eventfd::count(kick).unwrap_or(0),
            _ => 0,
        }
    }

    /// Whether the same descriptor announces work of both.
    pub fn wakes_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ring { kick: Some(a), .. }, Self::Ring { kick: Some(b), .. }) => {
                Arc::ptr_eq(a, b)
            }
            (Self::Ring { kick: None, .. }, Self::Ring { kick: None, .. }) => true,
            _ => self.is(other),
        }
    }

    /// Whether both are the same object.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ring { ring: a, .. }, Self::Ring { ring: b, .. }) => Arc::ptr_eq(a, b),
            (Self::Link(a), Self::Link(b)) => Arc::ptr_eq(a, b),
            (Self::Load(a), Self::Load(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether nobody announces its work.
    pub fn is_kickless(&self) -> bool {
        matches!(self, Self::Ring { kick: None, .. })
    }

    /// Spares the other end the announcements: the queue is looked at anyway.
    pub fn disable_announcements(&self, index: usize) {
        match self {
            Self::Ring { ring, .. } => {
                if let Some(mut ring) = ring.try_lock() {
                    ring.disable_kicks();
                }
            }
            Self::Link(link) => {
                if let Some(queue) = link.queues().get(index) {
                    queue.disable_calls();
                }
            }
            // Orders are rare.
            Self::Load(_) => {}
        }
    }

    /// Lets the other end announce its frames again; whether it has sent something meanwhile.
    pub fn has_work(&self, index: usize) -> bool {
        match self {
            // A broken ring shows in the next turn, so it keeps its place for one more, and so does one that
            // another worker holds.
            Self::Ring { ring, .. } => ring
                .try_lock()
                .is_none_or(|mut ring| ring.enable_kicks().unwrap_or(true)),
            // It was read until it was empty; what comes from then on is an event of its own.
            Self::Link(link) => link
                .queues()
                .get(index)
                .is_some_and(LinkQueue::enable_calls),
            Self::Load(load) => load.has_work(),
        }
    }
}
