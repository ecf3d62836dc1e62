//! Where an RX ring stands, and the order in which its reservations are published: the part of the ring that its
//! writers share, under its lock, and nothing more.
//!
//! A writer *claims* a range of the ring, writes outside the lock, and *completes* the claim. Whoever completes the
//! oldest one publishes all that are complete. A claim that will not be used is *withdrawn*, or shortened, if nothing
//! was claimed after it. While there is no claim, chains may be written and published under the lock, and *stepped over*.
//!
//! It knows nothing of formats and memory, so that `tests/model_receive.rs` can run this very file under a model
//! checker.

use super::ledger::{Ledger, Range, Ticket};
use super::spot::{Cursor, Spot};

/// Positions; they outlast the ring object.
#[derive(Debug)]
pub(super) struct Order {
    /// The next chain to reserve.
    pub next: Cursor,
    /// Where its used element will go.
    pub used: Spot,
    /// The spot that the last reservation found no chain at, or would have gone on at.
    pub frontier: Spot,
    ledger: Ledger,
}

/// A reservation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    ticket: Ticket,
    /// Its first chain.
    avail: Spot,
    /// The used element of that.
    pub used: Spot,
}

impl Order {
    /// A ring of `size` slots, where nothing is reserved.
    pub fn new(next: Spot, used: Spot, size: u16) -> Order {
        Order {
            next: Cursor {
                spot: next,
                seen: next.index,
            },
            used,
            frontier: next,
            ledger: Ledger::new(usize::from(size)),
        }
    }

    /// Whether nothing can be claimed until something is published.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.ledger.is_full()
    }

    /// Whether everything that was claimed is published.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.ledger.is_empty()
    }

    /// The chains up to `next` were published without a claim, the used elements up to `used`. The order must be idle.
    #[inline]
    pub fn step_over(&mut self, next: Cursor, used: Spot) {
        debug_assert!(self.is_idle());
        self.next = next;
        self.frontier = next.spot;
        self.used = used;
    }

    /// Claims the `slots` slots from `avail` on, which the cursor has been moved behind.
    #[inline]
    pub fn claim(
        &mut self,
        avail: Spot,
        slots: u16,
        advance: impl FnOnce(Spot, u16) -> Spot,
    ) -> Claim {
        let used = self.used;
        let ticket = self.ledger.push(Range { from: used, slots });
        self.used = advance(used, slots);
        Claim {
            ticket,
            avail,
            used,
        }
    }

    /// What was claimed is written: hands all that may be seen now to `publish`, from the oldest on.
    #[inline]
    pub fn complete(&mut self, claim: &Claim, mut publish: impl FnMut(Range)) {
        self.ledger.finish(claim.ticket);
        while let Some(range) = self.ledger.pop() {
            publish(range);
        }
    }

    /// Takes the claim back; false if something was claimed after it, and it has to be completed.
    pub fn withdraw(&mut self, claim: &Claim) -> bool {
        if !self.ledger.is_newest(claim.ticket) {
            return false;
        }
        self.ledger.withdraw(claim.ticket);
        self.next.spot = claim.avail;
        self.frontier = claim.avail;
        self.used = claim.used;
        true
    }

    /// Takes all but the first `slots` slots of the claim back; false if something was claimed after it.
    pub fn shorten(
        &mut self,
        claim: &Claim,
        slots: u16,
        advance: impl Fn(Spot, u16) -> Spot,
    ) -> bool {
        if !self.ledger.is_newest(claim.ticket) {
            return false;
        }
        self.ledger.shorten(claim.ticket, slots);
        self.next.spot = advance(claim.avail, slots);
        self.frontier = self.next.spot;
        self.used = advance(claim.used, slots);
        true
    }
}
