//! A queue that a worker serves, as its thread sees it: what announces its work.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use super::load::LoadPort;
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
    },
    /// A queue of a device of the host.
    Link(Arc<Link>),
    /// A generator.
    Load(Arc<LoadPort>),
}

impl Source {
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
